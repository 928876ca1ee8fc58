"""network.onnx: raw pixels in, labels out; normalisation, padding by mirroring and the cut back are in the graph."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thrifty import __version__
from thrifty.export.check import Predict
from thrifty.export.meaning import meaning
from thrifty.export.program import known_warnings
from thrifty.model import Model

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

INPUT, LABELS, PROBABILITIES = "pixels", "labels", "probabilities"
AXES = {0: "batch", 2: "height", 3: "width"}


def save_graph(program: ExportedProgram, path: Path, model: Model, probabilities: bool) -> None:
    """Writes the ONNX of a program: input pixels (batch, channels, height, width) float32, output labels (batch, height, width)
    (of `labels_of`) and, where the program has them, probabilities (batch, classes, height, width)."""
    import onnx

    names = [LABELS, PROBABILITIES] if probabilities else [LABELS]
    with torch.no_grad(), known_warnings(), _without_remarks():
        made = torch.onnx.export(program, (), dynamo=True, input_names=[INPUT], output_names=names, verbose=False)
    assert made is not None  # since a program of ONNX was asked for
    onnx.save(_tidied(made.model_proto, model), path)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """torch.onnx logs that torchvision is missing, which thrifty never has."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _tidied(proto: ModelProto, model: Model) -> ModelProto:
    """Without the traces of the export (stack traces, paths of this machine), with names of the axes and what the model is."""
    import onnx

    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        axes = {0: "batch", 1: "height", 2: "width"} if value.name == LABELS else AXES
        for axis, name in axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    proto.producer_name, proto.producer_version = "thrifty", __version__
    graph.name = model.network.name
    use = "research only, not a medical device"
    onnx.helper.set_model_props(proto, {"labels": "\n".join(model.labels), "meaning": meaning(model), "use": use})
    return proto


def session(path: Path, threads: int = 1) -> Any:
    """An inference session of onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def graph_labels(path: Path) -> Predict:
    """Labels by an ONNX file."""
    running = session(path)

    def predict(pixels: np.ndarray) -> np.ndarray:
        return running.run([LABELS], {INPUT: pixels})[0]

    return predict
