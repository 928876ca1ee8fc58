"""The ops by name, each with its closed formulas for parameters and MACs. How they compute is in thrifty.nets.ops.

A user's own op is given as `module:Class`: a torch module built as Class(role, c_in, c_out) that halves ('down'), doubles
('up') or keeps ('normal') the size, with a static method params(role, c_in, c_out) -> int. It may have a static method
macs(role, c_in, c_out, height, width) -> int, the size being that of its output; without it no MACs can be counted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thrifty.errors import ThriftyError, nearest, one_line

ROLES = ("down", "up", "normal")
SQUEEZE_RATIO = 16


@dataclass(frozen=True)
class OwnFormulas:
    """The static methods of a user's own op."""

    params: Callable[[str, int, int], int]
    macs: Callable[[str, int, int, int, int], int] | None


@dataclass(frozen=True)
class Weights:
    """The trainable parameters of a part of a network, by how often one image is multiplied with each of them."""

    per_pixel: int = 0  # of a convolution: at every pixel of its output
    per_input_pixel: int = 0  # of a transposed convolution to twice the size: at every pixel of its input
    per_image: int = 0  # of squeeze-excite: one value of each channel
    norm: int = 0  # of norms, which are no multiply-accumulates
    added: int = 0  # a bias: no multiply-accumulate either

    def params(self) -> int:
        return self.per_pixel + self.per_input_pixel + self.per_image + self.norm + self.added

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image, as torch.utils.flop_counter counts them (convolutions and matrix products
        only, padding included), at an output of `height` x `width` pixels."""
        pixels = height * width
        return self.per_pixel * pixels + self.per_input_pixel * (pixels // 4) + self.per_image


@dataclass(frozen=True)
class Op:
    """One op. `kind` says how it computes; every op but 'none' ends in batch norm (2 parameters a channel).

    kinds: 'free' (pooling, up-sampling, identity: no convolution), 'none', 'conv' (dense k x k), 'squeeze_conv' (dense k x k,
    then squeeze-excite), 'dep_sep' (depth-wise, norm, ReLU, point-wise), 'sep' (depth-wise, point-wise), 'squeeze'
    (pooling as of its role, then squeeze-excite), 'own' (the user's).
    """

    name: str
    kind: str
    roles: tuple[str, ...]
    kernel: int = 1
    dilation: int = 1
    own: OwnFormulas | None = None

    @property
    def parameter_free(self) -> bool:
        return self.kind in ("free", "none")

    @property
    def has_macs(self) -> bool:
        """Whether its MACs have a formula: a user's own op may lack one."""
        return self.own is None or self.own.macs is not None

    def params(self, role: str, c_in: int, c_out: int) -> int:
        """Trainable parameters at `c_in` channels in and `c_out` out."""
        if self.own is not None:
            return self.own.params(role, c_in, c_out)
        return self._weights(role, c_in, c_out).params()

    def macs(self, role: str, c_in: int, c_out: int, height: int, width: int) -> int:
        """Multiply-accumulates of one image at an output of `height` x `width` pixels.

        Raises:
            ThriftyError: it is a user's own op without a formula for them.
        """
        if self.own is None:
            return self._weights(role, c_in, c_out).macs(height, width)
        if self.own.macs is None:
            raise ThriftyError(
                f"the MACs of the op '{self.name}' are unknown: "
                "give it a static method macs(role, c_in, c_out, height, width) -> int, the size being that of its output"
            )
        return self.own.macs(role, c_in, c_out, height, width)

    def _weights(self, role: str, c_in: int, c_out: int) -> Weights:
        if self.kind == "none":
            return Weights()
        area, kernel = self.kernel**2, 0
        if self.kind in ("conv", "squeeze_conv"):
            kernel, pointwise = area * c_in * c_out, 0
        elif self.kind in ("dep_sep", "sep"):
            kernel, pointwise = area * c_in, c_in * c_out
        else:
            pointwise = _adapter(c_in, c_out)
        norm = 2 * c_out + (2 * c_in if self.kind == "dep_sep" else 0)
        squeeze = squeeze_params(c_out) if self.kind in ("squeeze", "squeeze_conv") else 0
        # Up, the k x k convolutions are transposed, but for 'sep', which reads what the cell has up-sampled.
        if role == "up" and self.kind != "sep":
            return Weights(pointwise, kernel, squeeze, norm)
        return Weights(pointwise + kernel, 0, squeeze, norm)


def _adapter(c_in: int, c_out: int) -> int:
    """The 1x1 convolution of an op without one, where the width changes."""
    return 0 if c_in == c_out else c_in * c_out


def squeeze_hidden(channels: int) -> int:
    return max(1, channels // SQUEEZE_RATIO)


def squeeze_params(channels: int) -> int:
    """Squeeze-excite without bias: channels -> channels/16 -> channels (Hu 2018, eq. 3)."""
    return 2 * channels * squeeze_hidden(channels)


_REGISTRY: dict[str, Op] = {
    op.name: op
    for op in (
        Op("identity", "free", ("normal",)),
        Op("none", "none", ("normal",)),
        Op("avg_pool", "free", ("down",), kernel=3),
        Op("max_pool", "free", ("down",), kernel=3),
        Op("up_sample", "free", ("up",)),
        Op("squeeze", "squeeze", ROLES),
        Op("conv_3", "conv", ROLES, kernel=3),
        Op("dil2_conv_3", "conv", ROLES, kernel=3, dilation=2),
        Op("dil2_conv_5", "conv", ROLES, kernel=5, dilation=2),
        Op("dil3_conv_5", "conv", ROLES, kernel=5, dilation=3),
        Op("se_conv_3", "squeeze_conv", ROLES, kernel=3),
        Op("dep_sep_conv_3", "dep_sep", ROLES, kernel=3),
        Op("dep_sep_conv_5", "dep_sep", ROLES, kernel=5),
        Op("sep_conv_3", "sep", ROLES, kernel=3),
        Op("sep_conv_5", "sep", ROLES, kernel=5),
        Op("dil_sep_conv_3", "sep", ROLES, kernel=3, dilation=2),
    )
}


def names(role: str | None = None) -> tuple[str, ...]:
    """The registered ops, all or those of one role ('down', 'up', 'normal')."""
    return tuple(n for n, op in _REGISTRY.items() if role is None or role in op.roles)


def find(name: str) -> Op:
    """The op called `name`.

    Raises:
        ThriftyError: no op is registered under that name.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" in name:
        raise ThriftyError(f"the op '{name}' is code of the user's own: say allow_code: true in the study to run it")
    raise ThriftyError(f"unknown op '{name}'{nearest(name, _REGISTRY)} (known: {', '.join(_REGISTRY)})")


def register_own(name: str) -> Op:
    """Registers a user's op given as `module:Class`; imports that module.

    Raises:
        ThriftyError: it cannot be imported, or has no static params(role, c_in, c_out).
    """
    if name not in _REGISTRY:
        cls = own_class(name)
        params, macs = getattr(cls, "params", None), getattr(cls, "macs", None)
        if not callable(params):
            raise ThriftyError(f"the op '{name}' needs a static method params(role, c_in, c_out) -> int")
        _REGISTRY[name] = Op(name, "own", ROLES, own=OwnFormulas(params, macs if callable(macs) else None))
    return _REGISTRY[name]


def own_class(name: str) -> Any:
    """The class that `module:Class` names."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise ThriftyError(f"the op '{name}' cannot be imported: {one_line(error)}") from None
