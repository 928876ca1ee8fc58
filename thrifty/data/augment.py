"""Augmentation of a whole batch on its device, with kornia: flips, rotation and scale, intensity, noise."""

from __future__ import annotations

import torch
from torch import Tensor

from thrifty.config import Augment


def augment(images: Tensor, masks: Tensor, settings: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented images (B, C, h, w) and masks (B, h, w), in place. What is drawn depends on `generator` (on the CPU) alone.

    The mask goes through the same flips and the same warp as its image, by nearest neighbour, so it stays a map of class ids.
    What a rotation brings in from outside is the mirrored image, with its mirrored mask.
    """
    from kornia.geometry.transform import hflip, vflip

    for flip in (hflip, vflip):
        chosen = _chosen(len(images), settings.flip, generator)
        if chosen:
            images[chosen], masks[chosen] = flip(images[chosen]), flip(masks[chosen])
    chosen = _chosen(len(images), settings.affine, generator)
    if chosen and (settings.rotate_degrees or settings.scale):
        images[chosen], masks[chosen] = _warp(images[chosen], masks[chosen], settings, generator)
    if settings.intensity:
        gain, offset = (2 * torch.rand(2, len(images), 1, 1, 1, generator=generator) - 1) * settings.intensity
        images.mul_((1 + gain).to(images)).add_(offset.to(images))
    if settings.noise:
        sd = torch.rand(len(images), 1, 1, 1, generator=generator) * settings.noise
        images.add_(torch.randn(images.shape, generator=generator).to(images).mul_(sd.to(images)))
    return images, masks


def _chosen(count: int, share: float, generator: torch.Generator) -> list[int]:
    return torch.nonzero(torch.rand(count, generator=generator) < share).flatten().tolist()


def _warp(images: Tensor, masks: Tensor, settings: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rotates by up to +-rotate_degrees and scales by 1 +- scale about the centre of the patch."""
    from kornia.geometry.transform import get_rotation_matrix2d, warp_affine

    count, height, width = masks.shape
    turn, zoom = 2 * torch.rand(2, count, generator=generator) - 1
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(count, 2)
    scale = (1 + zoom * settings.scale)[:, None].expand(count, 2)
    matrix = get_rotation_matrix2d(centre, turn * settings.rotate_degrees, scale).to(images)
    size = (height, width)
    warped = warp_affine(images, matrix, size, mode="bilinear", padding_mode="reflection", align_corners=True)
    ids = masks[:, None].to(images.dtype)
    moved = warp_affine(ids, matrix, size, mode="nearest", padding_mode="reflection", align_corners=True)
    return warped, moved[:, 0].round().to(masks.dtype)
