"""network_int8.onnx: static quantisation by onnxruntime, weights by channel, activations calibrated on training images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thrifty.data.labels import IGNORED, counted, label_map
from thrifty.export.check import Predict
from thrifty.export.graph import INPUT
from thrifty.metrics import foreground_dice
from thrifty.model import Model

QUANTISED = ("Conv", "ConvTranspose")  # by type of node; the rest, normalisation and labels with it, stays float


@dataclass(frozen=True)
class Loss:
    """Mean foreground Dice on cases with and without quantisation."""

    cases: int
    before: float
    after: float

    @property
    def points(self) -> float:
        """What quantisation costs, in points of Dice (hundredths)."""
        return 100 * (self.before - self.after)


class _Images:
    """The batches that onnxruntime calibrates on, one after the other."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.left = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.left, None)
        return None if batch is None else {INPUT: batch}


def save_quantised(graph: Path, path: Path, images: Sequence[np.ndarray], float_ends: bool = True) -> None:
    """Writes the int8 form of an ONNX file.

    Args:
        images: raw pixels (B, channels, H, W) float32 to calibrate on.
        float_ends: the first convolution, which reads the image, and the last, which gives the logits, stay float.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Images, CalibrationDataReader):
        pass

    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # onnxruntime warns on the root logger that its own steps were not done yet
    try:
        with tempfile.TemporaryDirectory() as folder:
            fused = Path(folder) / "fused.onnx"  # norms folded into convolutions
            quant_pre_process(str(graph), str(fused), skip_symbolic_shape=True)
            quantize_static(
                str(fused),
                str(path),
                Reader(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                # Seven bits: where the CPU has no VNNI, onnxruntime adds pairs of 8 bit products in 16 bits, which overflow.
                # Measured: 8 to 10 points of Dice lost with eight bits, 0.1 with seven.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_ends(fused) if float_ends else [],
            )
    finally:
        logging.root.setLevel(before)
    strip(path)


def strip(path: Path) -> None:
    """Takes the shapes that the quantiser noted for every tensor out of a file; they are more than half of a tiny network."""
    import onnx

    proto = onnx.load(path)
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(proto, path)


def _ends(graph: Path) -> list[str]:
    """The names of the first and the last convolution: the stem's and the classifier."""
    import onnx

    convolutions = [node.name for node in onnx.load(graph).graph.node if node.op_type == "Conv"]
    return [convolutions[0], convolutions[-1]]


def dice_loss(before: Predict, after: Predict, cases: Sequence[tuple[np.ndarray, np.ndarray]], model: Model) -> Loss:
    """Of two predictions of cases: (image (channels, H, W), mask (H, W) as stored)."""

    def mean(predict: Predict) -> float:
        found = [(predict(image[None].astype(np.float32))[0], mask) for image, mask in cases]
        return float(np.mean([label_dice(labels, mask, model) for labels, mask in found]))

    return Loss(len(cases), mean(before), mean(after))


def label_dice(labels: np.ndarray, mask: np.ndarray, model: Model) -> float:
    """Mean foreground Dice of exported labels (H, W) against a stored mask (H, W).

    A label map of regions does not say which classes it hides; it is compared with that of the mask, number by number.
    """
    values = model.region_values
    if not values:
        return foreground_dice(labels, mask, model.network.classes, overlapping=model.overlapping)
    numbers = [0, *sorted(set(values))]
    truth = np.where(counted(mask), np.searchsorted(numbers, label_map(mask, values)), IGNORED)
    return foreground_dice(np.searchsorted(numbers, labels), truth, len(numbers))


def as_json(loss: Loss) -> dict[str, Any]:
    return {"cases": loss.cases, "dice_float": loss.before, "dice_int8": loss.after, "loss_points": loss.points}
