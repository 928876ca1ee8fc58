"""The ops by name, each with its closed formula for parameters. How they compute is in thrifty.nets.ops.

A user's own op is given as `module:Class`: a torch module built as Class(role, c_in, c_out) that halves ('down'), doubles
('up') or keeps ('normal') the size, with a static method params(role, c_in, c_out) -> int.
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
    formula: Callable[[str, int, int], int] | None = None

    @property
    def parameter_free(self) -> bool:
        return self.kind in ("free", "none")

    def params(self, role: str, c_in: int, c_out: int) -> int:
        """Trainable parameters at `c_in` channels in and `c_out` out."""
        norm = 2 * c_out
        area = self.kernel**2
        if self.kind == "none":
            return 0
        if self.kind == "free":
            return norm + _adapter(c_in, c_out)
        if self.kind == "conv":
            return area * c_in * c_out + norm
        if self.kind == "squeeze_conv":
            return area * c_in * c_out + norm + squeeze_params(c_out)
        if self.kind == "dep_sep":
            return area * c_in + 2 * c_in + c_in * c_out + norm
        if self.kind == "sep":
            return area * c_in + c_in * c_out + norm
        if self.kind == "squeeze":
            return norm + _adapter(c_in, c_out) + squeeze_params(c_out)
        assert self.formula is not None
        return self.formula(role, c_in, c_out)


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
        formula = getattr(cls, "params", None)
        if not callable(formula):
            raise ThriftyError(f"the op '{name}' needs a static method params(role, c_in, c_out) -> int")
        _REGISTRY[name] = Op(name, "own", ROLES, formula=formula)
    return _REGISTRY[name]


def own_class(name: str) -> Any:
    """The class that `module:Class` names."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may fail in any way
        raise ThriftyError(f"the op '{name}' cannot be imported: {one_line(error)}") from None
