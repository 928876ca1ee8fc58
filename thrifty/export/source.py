"""network.py: a trained network as one file of plain torch that imports nothing of thrifty.

The text is written for one genotype: only its ops are in it, and its forward pass is in straight lines. Modules have the names
of the network that was trained, so its weights.safetensors loads as it is.
"""

from __future__ import annotations

import inspect
from textwrap import dedent

from thrifty.errors import ThriftyError
from thrifty.export import pipeline
from thrifty.export.layers import cell_class, layer_classes, network_class
from thrifty.export.meaning import meaning
from thrifty.model import Model
from thrifty.nets import baselines
from thrifty.nets.build import NetworkSpec
from thrifty.space.genotype import CELL_TYPES, Genotype
from thrifty.space.path import total_stride

HEADER = '''\
"""{name}: {channels} channels in, {classes} classes out, {parameters:,} parameters. Research use only: not a medical device.

Made by thrifty {version}; needs torch, numpy and safetensors, not thrifty. The whole way from raw pixels to labels:

    pipeline = load("weights.safetensors")
    labels = pipeline(pixels)  # (B, {channels}, H, W) float32 as in the files, any size -> (B, H, W)

Labels are {meaning}.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
'''

FOOTER = '''\
STRIDE = {stride}
LABELS = {labels!r}
OVERLAPPING = {overlapping}
REGION_VALUES = {region_values}


def normalisation() -> nn.Module:
    """What the network was trained with."""
    return {normalisation}


def load_network(weights: str) -> Network:
    """The network alone: normalised images (B, {channels}, H, W) -> logits (B, {classes}, H, W), H and W multiples of STRIDE."""
    from safetensors.torch import load_file

    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()


def pipeline_of(network: Network, probabilities: bool = False) -> Pipeline:
    """Raw pixels to labels by a network, and to probabilities where asked for."""
    return Pipeline(network, STRIDE, normalisation(), probabilities, OVERLAPPING, REGION_VALUES).eval()


def load(weights: str, probabilities: bool = False) -> Pipeline:
    """The same with the weights of a file."""
    return pipeline_of(load_network(weights), probabilities)
'''


def network_source(model: Model, version: str) -> str:
    """The text of network.py.

    Raises:
        ThriftyError: the network has an op of the user's own, whose code is not thrifty's to copy.
    """
    spec = model.network
    header = HEADER.format(
        name=quoted(spec.name),
        channels=spec.channels,
        classes=spec.classes,
        parameters=spec.parameters,
        version=version,
        meaning=quoted(meaning(model)),
    )
    if spec.genotype is None:
        parts, stride = _baseline(spec), 2 ** (len(spec.filters or baselines.FILTERS) - 1)
    else:
        parts, stride = _derived(spec.genotype), total_stride(spec.genotype.levels)
        header = header.replace("from itertools import pairwise\n\n", "")
    footer = FOOTER.format(
        stride=stride,
        labels=model.labels,
        overlapping=model.overlapping,
        region_values=model.region_values,
        normalisation=normalisation_source(model),
        channels=spec.channels,
        classes=spec.classes,
    )
    return "\n\n".join(text.strip("\n") + "\n" for text in (header, *parts, _pipeline_text(), footer))


def quoted(text: str) -> str:
    """As it may stand in a docstring: names come from model.json, which may be anybody's, and must never become code."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def normalisation_source(model: Model) -> str:
    """The call that makes the normalisation of a model."""
    n = model.normalisation
    if n.kind == "case":
        return "CaseNormalisation()"
    return f"DatasetNormalisation(mean={list(n.mean)}, std={list(n.std)}, low={list(n.low)}, high={list(n.high)})"


def _derived(genotype: Genotype) -> list[str]:
    own = sorted({edge.op for t in CELL_TYPES for _, edge in genotype.cell(t).edges() if ":" in edge.op})
    if own:
        raise ThriftyError(
            f"network.py and the MONAI bundle cannot hold ops of the user's own ({', '.join(own)}); "
            "leave them out: --formats safetensors,pt2,onnx,int8,card"
        )
    return [*layer_classes(genotype), *(cell_class(genotype, t) for t in CELL_TYPES), network_class(genotype)]


def _baseline(spec: NetworkSpec) -> list[str]:
    """The classes of the baselines are plain torch already."""
    filters = spec.filters or baselines.FILTERS
    parts = [f"FILTERS = {filters}", inspect.getsource(baselines.block)]
    cls = baselines.UNet if spec.kind == "unet" else baselines.UNetPP
    parts += [inspect.getsource(baselines.inner_nodes)] if spec.kind == "unetpp" else []
    parts.append(inspect.getsource(cls))
    parts.append(
        dedent(f'''\
        class Network({cls.__name__}):
            """Images (B, {spec.channels}, H, W) -> logits (B, {spec.classes}, H, W)."""

            def __init__(self) -> None:
                super().__init__({spec.channels}, {spec.classes}, FILTERS)
        ''')
    )
    return parts


def _pipeline_text() -> str:
    """The module `pipeline` without its docstring and imports."""
    text = inspect.getsource(pipeline)
    return text[text.index("def place(") :]
