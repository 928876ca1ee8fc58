"""Augmentation: the mask stays a map of class ids and moves with its image."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from thrifty.config import Augment
from thrifty.data.augment import augment

OFF = {"flip": 0.0, "affine": 0.0, "intensity": 0.0, "noise": 0.0}


def draw(images: torch.Tensor, masks: torch.Tensor, seed: int = 0, **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(images.clone(), masks.clone(), Augment(**{**OFF, **settings}), torch.Generator().manual_seed(seed))


def blobs(count: int = 16, height: int = 40, width: int = 56) -> tuple[torch.Tensor, torch.Tensor]:
    """Large smooth regions of classes 0, 1, 3; the image is a function of the mask: id * 10."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    one = ((rows - 12) ** 2 + (columns - 15) ** 2 < 90).long() + 3 * ((rows > 24) & (columns > 30)).long()
    masks = one.expand(count, height, width).contiguous()
    return masks[:, None].float() * 10, masks


def test_all_off_changes_nothing() -> None:
    images, masks = blobs()
    got = draw(images, masks)
    assert torch.equal(got[0], images) and torch.equal(got[1], masks)


@pytest.mark.parametrize("seed", range(4))
def test_image_and_mask_move_together(seed: int) -> None:
    images, masks = blobs()
    got, moved = draw(images, masks, seed, flip=0.5, affine=1.0, rotate_degrees=45, scale=0.3)
    assert moved.dtype == torch.int64
    assert set(moved.unique().tolist()) == {0, 1, 3}, "no class between two others appears"
    off = (got[:, 0] - moved * 10).abs()
    # Bilinear and nearest differ on edges alone: within half a step of id 3, and away from edges not at all.
    assert float((off > 15.001).float().mean()) < 0.002
    ids = moved[:, None].float()
    edge = torch.nn.functional.max_pool2d(ids, 5, 1, 2) + torch.nn.functional.max_pool2d(-ids, 5, 1, 2)
    inside = (edge[:, 0] == 0)[:, 2:-2, 2:-2]  # at the border an edge may lie just outside
    assert float(off[:, 2:-2, 2:-2][inside].max()) < 1e-3
    assert float(inside.float().mean()) > 0.5
    assert sum(not torch.equal(moved[k], masks[k]) for k in range(len(masks))) == len(masks)


def test_warp_against_scipy() -> None:
    from scipy.ndimage import affine_transform

    from thrifty.data import augment as module

    images = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 41, 57, generator=torch.Generator().manual_seed(1)), 5, 1, 2)
    masks = (images[:, 0] > 0).long()
    generator = torch.Generator().manual_seed(4)
    settings = Augment(rotate_degrees=30, scale=0.2)
    turn, zoom = 2 * torch.rand(2, 1, generator=torch.Generator().manual_seed(4)) - 1
    got, moved = module._warp(images, masks, settings, generator)
    angle, factor = np.deg2rad(float(turn) * 30), 1 + float(zoom) * 0.2
    # (row, column) of the output to those of the input
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / factor
    centre = np.array([20.0, 28.0])
    wanted = affine_transform(images[0, 0].numpy(), back, centre - back @ centre, order=1, mode="mirror")
    np.testing.assert_allclose(got[0, 0].numpy(), wanted, atol=1e-3)
    nearest = affine_transform(masks[0].numpy(), back, centre - back @ centre, order=0, mode="mirror")
    assert (nearest != moved[0].numpy()).mean() < 0.01


def test_flips_are_exact_and_about_as_often_as_asked() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3).expand(400, 1, 2, 3).contiguous()
    got, moved = draw(images, images[:, 0].long(), flip=0.5)
    assert torch.equal(got[:, 0].long(), moved)
    kinds = [images[0], images[0].flip(-1), images[0].flip(-2), images[0].flip(-1).flip(-2)]
    counts = [sum(torch.equal(image, kind) for image in got) for kind in kinds]
    assert sum(counts) == 400 and min(counts) > 70


def test_intensity_is_one_gain_and_offset_for_an_image() -> None:
    images = torch.randn(50, 2, 8, 8)
    masks = torch.zeros(50, 8, 8, dtype=torch.int64)
    got, moved = draw(images, masks, intensity=0.2)
    assert torch.equal(moved, masks)
    for before, after in zip(images, got, strict=True):
        gain, offset = np.polyfit(before.ravel().numpy(), after.ravel().numpy(), 1)
        np.testing.assert_allclose(after, before * gain + offset, atol=1e-4)
        assert abs(gain - 1) <= 0.2001 and abs(offset) <= 0.2001
    assert (got - images).std() > 0.05


def test_noise_is_as_strong_as_asked() -> None:
    images = torch.zeros(200, 1, 16, 16)
    got, _ = draw(images, images[:, 0].long(), noise=0.3)
    spread = got.std(dim=(1, 2, 3))
    assert 0.2 < float(spread.max()) < 0.36 and float(spread.min()) < 0.05
    assert abs(float(got.mean())) < 0.01


def test_share_of_warped_images() -> None:
    images, masks = blobs(300, 16, 16)
    images += torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    got, _ = draw(images, masks, affine=0.3, rotate_degrees=20, scale=0.1)
    untouched = sum(torch.equal(a, b) for a, b in zip(images, got, strict=True))
    assert abs(untouched / 300 - 0.7) < 0.1


def test_quick_enough_on_one_thread() -> None:
    """In CPU time, against eight small convolutions of the same batch: so it holds on a busy machine too."""
    images, masks = torch.randn(8, 1, 96, 96), torch.zeros(8, 96, 96, dtype=torch.int64)
    weights = torch.randn(16, 16, 3, 3)

    def convolve() -> None:
        x = images.expand(-1, 16, -1, -1)
        for _ in range(8):
            x = torch.nn.functional.conv2d(x, weights, padding=1)

    cost = seconds_of(lambda: draw(images, masks, 0, flip=0.5, affine=1.0, intensity=0.2, noise=0.05))
    assert cost < 0.5 * seconds_of(convolve)


def seconds_of(work: Callable[[], object]) -> float:
    """CPU time, the least of several."""
    found = []
    for _ in range(8):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)
