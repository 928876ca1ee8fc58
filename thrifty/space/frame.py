"""The fixed parts of a network, which no search changes: stem, adapters and output convolutions of the cells, classifier."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from thrifty.errors import ThriftyError

CONVS = ("conv_1", "conv_3", "sep_3")
"""Convolutions of the frame: dense 1x1, dense 3x3, depth-wise 3x3 followed by a point-wise one. None has a bias."""


@dataclass(frozen=True)
class Frame:
    """Fixed parts of the networks of a space (method: a network is its frame plus what was searched)."""

    stem_kernel: int = 3
    stem_block: str = "sep_3"  # the two convolutions of the residual block of stem1
    input_conv: str = "conv_1"  # from the kept nodes of a row to the width, in up cells
    output_conv: str = "conv_1"  # from the inner nodes to the width, in all cells
    classifier_kernel: int = 3
    classifier_bias: bool = False
    row_factors: tuple[float, ...] = ()  # width of the full resolution, row 0, row 1, ... over the width; () is all 1

    def __post_init__(self) -> None:
        for name in ("stem_block", "input_conv", "output_conv"):
            if getattr(self, name) not in CONVS:
                raise ThriftyError(f"{name} is '{getattr(self, name)}', allowed are {', '.join(CONVS)}")
        for name in ("stem_kernel", "classifier_kernel"):
            kernel = getattr(self, name)
            if kernel not in (1, 3, 5, 7):
                raise ThriftyError(f"{name} is {kernel}, allowed are 1, 3, 5 and 7")
        if any(f <= 0 for f in self.row_factors):
            raise ThriftyError(f"row_factors are {self.row_factors}, each must be above 0")

    def widths(self, width: int, levels: int) -> tuple[int, ...]:
        """Channels of the full resolution, then of row 0 .. levels-1."""
        factors = self.row_factors or (1.0,)
        padded = [*factors, *[factors[-1]] * (levels + 1 - len(factors))][: levels + 1]
        return tuple(max(1, round(width * f)) for f in padded)

    def fits_partial(self, width: int, levels: int, partial: int) -> bool:
        """Whether ops can see 1/partial of the channels: that needs one width on all rows that is a multiple of it."""
        widths = self.widths(width, levels)
        return partial == 1 or (len(set(widths)) == 1 and widths[0] % partial == 0)

    def as_json(self) -> dict[str, Any]:
        """Without `classifier_bias` where there is none: genotypes of before there was the choice keep their hash."""
        values = {**asdict(self), "row_factors": list(self.row_factors)}
        return values if self.classifier_bias else {key: v for key, v in values.items() if key != "classifier_bias"}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Frame:
        values: dict[str, Any] = {**value, "row_factors": tuple(value["row_factors"])}
        return Frame(**values)


def conv_params(kind: str, c_in: int, c_out: int) -> int:
    """Parameters of a convolution of the frame, without the norm behind it."""
    if kind == "conv_1":
        return c_in * c_out
    if kind == "conv_3":
        return 9 * c_in * c_out
    return 9 * c_in + c_in * c_out
