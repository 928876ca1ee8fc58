"""Depth-wise convolutions whose weight gradient is fast on a CPU, and point-wise ones as matrix products.

oneDNN computes the gradient of a depth-wise kernel of up to three columns some ten times faster than that of a wider or a
dilated one (measured on AVX2, channels_last: 5x5 18.8 ms, 5x3 1.3 ms, dilated 3x3 32 ms). The gradient of a tap depends on no
other tap, so a wide kernel's is put together from narrow strips of columns: the same sums.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP = 3
LEAST_PIXELS = 32 * 32
"""Below, the calls cost more than the sums."""


def depthwise(x: Tensor, kernel: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """(B, c, h, w) with a kernel (c, 1, k, k), k odd, to (B, c, h / stride, w / stride); zeros beyond the border."""
    reach = dilation * (kernel.shape[-1] - 1) + 1
    if stride > 1 or reach <= STRIP or not _strips_pay(x, kernel):
        return F.conv2d(x, kernel, None, stride, reach // 2, dilation, kernel.shape[0])
    return _InStrips.apply(x, _spread(kernel, dilation))  # type: ignore[return-value]


def _strips_pay(x: Tensor, kernel: Tensor) -> bool:
    trains = torch.is_grad_enabled() and kernel.requires_grad
    large = x.shape[2] * x.shape[3] >= LEAST_PIXELS
    return trains and large and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _spread(kernel: Tensor, dilation: int) -> Tensor:
    """The kernel without dilation that computes the same."""
    if dilation == 1:
        return kernel
    reach = dilation * (kernel.shape[-1] - 1) + 1
    wide = kernel.new_zeros(*kernel.shape[:2], reach, reach)
    wide[:, :, ::dilation, ::dilation] = kernel
    return wide


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """(B, c_in, h, w) with a weight (c_out, c_in, 1, 1) to (B, c_out, h, w).

    In channels_last on a CPU a matrix product over the pixels: its gradient with respect to x takes half the time of the
    convolution's.
    """
    pixels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if torch.is_grad_enabled() and x.device.type == "cpu" and pixels_last:
        return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0]).permute(0, 3, 1, 2)
    return F.conv2d(x, weight)


class _InStrips(torch.autograd.Function):
    """Stride 1, no dilation; x (B, c, h, w), kernel (c, 1, k, k), k odd and above 3."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, None, 1, kernel.shape[-1] // 2, 1, kernel.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:  # pyrefly: ignore[bad-override]
        (gradient,) = gradients
        x, kernel = ctx.saved_tensors
        reach = kernel.shape[-1]
        of_x = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_x = _gradients(gradient, x, kernel, reach // 2, reach // 2, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            of_kernel = torch.empty_like(kernel)
            for first in (*range(0, reach - STRIP, STRIP), reach - STRIP):
                shifted = F.pad(x, (reach // 2 - first, first + STRIP - 1 - reach // 2))
                columns = kernel[:, :, :, first : first + STRIP]
                strip = _gradients(gradient, shifted, columns, reach // 2, 0, [False, True, False])[1]
                of_kernel[:, :, :, first : first + STRIP] = strip
        return of_x, of_kernel


def _gradients(gradient: Tensor, x: Tensor, kernel: Tensor, rows: int, columns: int, wanted: list[bool]) -> Any:
    """Gradients of a depth-wise convolution with that padding: of x, of the kernel."""
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, [1, 1], [rows, columns], [1, 1], False, [0, 0], kernel.shape[0], wanted
    )
