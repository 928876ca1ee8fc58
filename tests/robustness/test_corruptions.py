"""What each corruption does to an image, against closed formulas; and that truth and image turn together."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from thrifty.data.labels import IGNORED
from thrifty.robustness.corruptions import CORRUPTIONS, Corruption, generator, percentiles, worsened_image, worsened_mask

BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}
IMAGE = np.random.default_rng(0).normal(100, 20, (2, 41, 41)).astype(np.float32)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "robustness.md"


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_the_same_for_a_case_and_worse_with_strength(corruption: Corruption) -> None:
    smooth = np.stack([np.add.outer(np.arange(40.0), 3 * np.arange(48.0) % 50)] * 2).astype(np.uint8)
    found = [worsened_image(corruption, smooth, s, "a") for s in corruption.strengths]
    assert len(corruption.strengths) == 5 and all(image.shape == smooth.shape and image.dtype == np.float32 for image in found)
    again = worsened_image(corruption, smooth, corruption.strengths[2], "a")
    assert np.array_equal(found[2], again)
    changes = [float(np.abs(image - smooth).mean()) for image in found]
    assert changes == sorted(changes) and changes[0] > 0
    text = DOCS.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {corruption.name} ")]
    assert ", ".join(f"{s:g}" for s in corruption.strengths) in line, "the table of the documentation"


def test_cases_and_corruptions_draw_differently() -> None:
    first, second = (worsened_image(BY_NAME["noise"], IMAGE, 0.1, case) for case in ("a", "b"))
    assert not np.array_equal(first, second)
    draws = {generator(corruption, "a").integers(2**60) for corruption in CORRUPTIONS}
    assert len(draws) == len(CORRUPTIONS)


def test_noise_and_contrast_are_in_the_units_that_are_stated() -> None:
    low, high = percentiles(IMAGE)
    noisy = worsened_image(BY_NAME["noise"], IMAGE, 0.2, "a")
    assert (noisy - IMAGE).std(axis=(1, 2)) == pytest.approx(0.2 * (high - low).ravel(), rel=0.05)
    weak, strong = (worsened_image(BY_NAME["noise"], IMAGE, s, "a") - IMAGE for s in (0.1, 0.2))
    assert np.allclose(2 * weak, strong, atol=1e-3), "one pattern at every strength"
    grey = worsened_image(BY_NAME["contrast"], IMAGE, 0.7, "a")
    assert np.allclose(grey.mean(axis=(1, 2)), IMAGE.mean(axis=(1, 2)), atol=1e-3)
    assert grey.std(axis=(1, 2)) == pytest.approx(0.3 * IMAGE.std(axis=(1, 2)), rel=1e-4)


def test_blur_has_the_width_that_is_stated() -> None:
    point = np.zeros((1, 41, 41), np.float32)
    point[0, 20, 20] = 1
    spread = worsened_image(BY_NAME["blur"], point, 2.0, "a")[0].astype(np.float64)
    along = np.arange(41) - 20
    assert spread.sum() == pytest.approx(1, abs=1e-4)
    assert (spread.sum(axis=1) * along**2).sum() == pytest.approx(4, rel=0.02), "variance in pixels squared"


def test_bias_field_is_smooth_positive_and_as_large_as_stated() -> None:
    flat = np.concatenate([np.full((1, 60, 60), 50.0), np.full((1, 60, 60), 50.0)])
    flat[:, :1] = 0.0  # percentile 0.5 is then 0, and the field is all that changes
    found = worsened_image(BY_NAME["bias_field"], flat, 0.6, "a")[:, 1:]
    field = np.log(found / 50)
    assert 0.5 < np.abs(field).max() <= 0.6 + 1e-5 and np.array_equal(found[0], found[1]), "all channels alike"
    rows, columns = (np.abs(np.diff(field, axis=axis)).max() for axis in (1, 2))
    assert max(rows, columns) < 0.1, "no jumps"
    assert np.linalg.matrix_rank(field[0], tol=1e-4) <= 4, "a polynomial of degree 3 in rows and columns"


def test_resolution_keeps_a_ramp_and_loses_what_is_finer_than_its_pixels() -> None:
    ramp = np.broadcast_to(np.arange(48.0), (1, 32, 48))
    assert np.abs(worsened_image(BY_NAME["resolution"], ramp, 2.0, "a") - ramp)[:, :, 4:-4].max() < 0.1
    checks = (np.add.outer(np.arange(32), np.arange(48)) % 2)[None].astype(np.uint8)
    assert np.abs(worsened_image(BY_NAME["resolution"], checks, 4.0, "a") - 0.5).max() < 0.05


def side(case: str) -> int:
    """To which side a case is turned, as numpy counts quarter turns."""
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 8] = 1
    return 1 if worsened_mask(BY_NAME["rotation"], mask, 90.0, case)[0, 4] else -1


@pytest.mark.parametrize("case", ["a", "b", "c", "d", "e"])
def test_a_quarter_turn_is_that_of_numpy_for_image_and_mask(case: str) -> None:
    rotation, mask = BY_NAME["rotation"], np.random.default_rng(1).integers(0, 3, (41, 41)).astype(np.uint8)
    turns = side(case)
    assert np.allclose(worsened_image(rotation, IMAGE, 90.0, case), np.rot90(IMAGE, turns, (1, 2)), atol=1e-2)
    found = worsened_mask(rotation, mask, 90.0, case)
    inside = found != IGNORED  # rounding may put the outermost line outside
    assert inside[1:-1, 1:-1].all() and np.array_equal(found[inside], np.rot90(mask, turns)[inside])


def test_both_sides_come() -> None:
    assert {side(case) for case in "abcdefgh"} == {1, -1}


@pytest.mark.parametrize("degrees", BY_NAME["rotation"].strengths)
def test_image_and_mask_turn_together_and_what_comes_from_outside_is_ignored(degrees: float) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[8:20, 30:55] = 1
    image = worsened_image(BY_NAME["rotation"], 100 * mask[None], degrees, "case")[0]
    turned = worsened_mask(BY_NAME["rotation"], mask, degrees, "case")
    inside = turned != IGNORED
    assert ((image > 50) == (turned == 1))[inside].mean() > 0.99
    corner = math.hypot(20, 30) * math.sin(math.radians(degrees))  # how far the corners move
    assert not inside[0, 0] or corner < 3
    assert inside[20, 30] and inside.mean() < 1


def test_a_turn_is_one_in_millimetres() -> None:
    mask = np.zeros((41, 41), np.uint8)
    mask[20 + 5, 20] = 1  # 10 mm below the centre
    turned = worsened_mask(BY_NAME["rotation"], mask, 90.0, "a", (2.0, 1.0))
    rows, columns = np.nonzero(turned == 1)
    assert set(rows) == {20} and set(np.abs(columns - 20)) <= {9, 10, 11}, "10 mm to a side"


def test_other_corruptions_leave_the_mask() -> None:
    mask = np.arange(9, dtype=np.uint8).reshape(3, 3)
    for corruption in CORRUPTIONS:
        if corruption.name != "rotation":
            assert worsened_mask(corruption, mask, corruption.strengths[-1], "a") is mask
