"""What `check` says of a data set."""

import numpy as np
import pytest

from thrifty.config import Data
from thrifty.data.report import describe, leak_error, most_levels
from thrifty.data.splits import Splits, make_splits


def splits_of(store) -> Splits:
    return make_splits(store, Data())


def test_numbers(build, some_cases, write_pairs) -> None:
    images, masks = some_cases(8, (20, 30))
    for k, name in enumerate(masks):
        masks[name][:] = 0
        if k:
            masks[name][2:8, 2:8] = 1  # 36 pixels
            masks[name][12, 12] = 1  # a small object, and one that touches it by a corner
            masks[name][13, 13] = 1
    masks["c3"][15:19, 20:29] = 2
    images["c7"], masks["c7"] = images["c7"][:10], masks["c7"][:10]
    store = build(write_pairs(images, masks))
    got = describe(Data(source="x", patch=16), store, splits_of(store))
    assert (got.cases, got.patients, got.channels, got.dtype, got.empty_masks) == (8, 8, 1, "uint8", 1)
    assert got.heights == (10, 20, 20) and got.widths == (30, 30, 30)
    pixels = 7 * 600 + 300
    assert got.classes[1].pixel_share == pytest.approx((6 * 38 + 36) / pixels)
    assert got.classes[2].pixel_share == pytest.approx(36 / pixels)
    assert [item.cases for item in got.classes] == [8, 7, 1]
    assert [item.objects for item in got.classes] == [0, 13, 1]
    assert [item.small_objects for item in got.classes] == [0, 6, 0]
    assert got.classes[1].median_object_pixels == 36
    assert got.smaller_than_patch == 1
    assert sum(cases for _, cases in got.sets.values()) == 8
    text = "\n".join(got.lines())
    for fragment in (
        "8 cases of 8 patients",
        "height 10, 20, 20",
        "empty masks: 1 of 8",
        "class 2 (class 2)",
        "has no case with class",
    ):
        assert fragment in text
    assert "spacing_mm: unknown" in text


def test_the_same_image_under_two_patients(build, some_cases, write_pairs) -> None:
    images, masks = some_cases(8)
    images["c5"] = images["c1"].copy()
    images["c6"] = images["c7"] = np.zeros_like(images["c6"])  # flat images are equal without being leaks
    images["c3"] = images["c2"].copy()  # of one patient
    groups = "case,patient\n" + "".join(f"c{k},p{2 if k == 3 else k}\n" for k in range(8))
    store = build(write_pairs(images, masks, groups))
    splits = Splits(weights=("c1", "c0"), architecture=("c2",), selection=("c4",), test=("c5",))
    got = describe(Data(source="x"), store, splits)
    assert got.leaks == (("c1", "c5"),)
    assert got.leaks_across_sets == 1
    assert got.left_out == 3
    error = leak_error(store)
    assert error is not None and "(1 times): c1 = c5" in error and "groups.csv" in error
    assert not any("look the same" in line for line in got.warnings())  # it is told once, as the error it is


def test_clean_data_has_no_warnings(phantoms) -> None:
    got = describe(Data(patch=32), phantoms, splits_of(phantoms))
    assert got.warnings() == []
    assert any("organ 3" in line for line in got.lines())


def test_mixed_types_and_brightness(build, some_cases, write_pairs) -> None:
    images, masks = some_cases(8)
    images["c3"] = images["c3"].astype(np.uint16) * 200
    store = build(write_pairs(images, masks))
    text = " ".join(describe(Data(source="x", patch=8), store, splits_of(store)).warnings())
    assert "1 uint16, 7 uint8" in text and "times as bright" in text
    quiet = " ".join(describe(Data(source="x", patch=8, normalisation="case"), store, splits_of(store)).warnings())
    assert "times as bright" not in quiet


@pytest.mark.parametrize(
    ("patch", "levels"), [((64, 64), 4), ((32, 48), 3), ((96, 96), 4), ((128, 256), 5), ((16, 16), 2), ((15, 99), 2), ((7, 7), 2)]
)
def test_levels(patch: tuple[int, int], levels: int) -> None:
    assert most_levels(patch) == levels
    assert levels == 2 or min(patch) / 2**levels >= 4  # 2 is the least that a network has
    assert min(patch) / 2 ** (levels + 1) < 4


def test_too_deep_says_what_to_do(phantoms) -> None:
    got = describe(Data(patch=32), phantoms, splits_of(phantoms))
    assert got.too_deep(3) is None
    text = got.too_deep(5)
    assert text is not None and "at most 3 levels" in text and "patch of 128" in text
