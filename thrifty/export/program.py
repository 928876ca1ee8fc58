"""network.pt2: the way from raw pixels to labels as a program of torch.export, with any batch and size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from thrifty.export.check import Predict, smallest_side
from thrifty.export.pipeline import CaseNormalisation, DatasetNormalisation, Pipeline
from thrifty.inference import stride_of
from thrifty.model import Model

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LARGEST_BATCH, LARGEST_SIDE = 4096, 16384  # bounds that torch.export wants; far beyond what fits into memory


def pipeline_of(network: nn.Module, model: Model, probabilities: bool) -> Pipeline:
    """Raw pixels to labels, with the normalisation of a model."""
    n = model.normalisation
    if n.kind == "case":
        normalise: nn.Module = CaseNormalisation()
    else:
        normalise = DatasetNormalisation(list(n.mean), list(n.std), list(n.low), list(n.high))
    network.to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    stride = stride_of(network)
    return Pipeline(network, stride, normalise, probabilities, model.overlapping, model.region_values).eval()


def traced(pipeline: Pipeline, channels: int) -> ExportedProgram:
    """The program of a pipeline; batch, rows and columns stay open (rows and columns from one more than the stride)."""
    from torch.export import Dim, export

    least = smallest_side(pipeline.network)
    sizes = {
        0: Dim("batch", min=1, max=LARGEST_BATCH),
        2: Dim("height", min=least, max=LARGEST_SIDE),
        3: Dim("width", min=least, max=LARGEST_SIDE),
    }
    example = torch.rand(2, channels, 2 * pipeline.stride + 3, 3 * pipeline.stride + 5)
    with torch.no_grad(), known_warnings():
        # Two guards on strides of memory that always hold cannot be proven for a size rounded up; so they stay in the program.
        program = export(pipeline, (example,), dynamic_shapes=(sizes,), prefer_deferred_runtime_asserts_over_guards=True)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):  # paths of this machine
            node.meta.pop(key, None)
    return program


def save_program(program: ExportedProgram, path: Path, model: Model) -> None:
    import json

    with known_warnings():
        torch.export.save(program, path, extra_files={"model.json": json.dumps(model.as_json())})


def program_labels(path: Path) -> Predict:
    """Labels by a .pt2 file."""
    with known_warnings():
        module = torch.export.load(path).module()

    def predict(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            out = module(torch.from_numpy(pixels))
        return (out[0] if isinstance(out, tuple) else out).numpy()

    return predict


@contextmanager
def known_warnings() -> Iterator[None]:
    """torch 2.13 copies its own tree specs in a way that it has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield
