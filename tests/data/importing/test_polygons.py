"""COCO and label-me: shapes against closed formulas and Pillow, run lengths against their definition."""

import base64
import io
import json
import random
from pathlib import Path

import dicom_files as files
import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from thrifty.config import Data
from thrifty.data.importing.paint import packed_lengths, polygon, run_lengths
from thrifty.data.store import build_store

SIZE = (20, 30)


def lengths_of(mask: np.ndarray) -> list[int]:
    """COCO's definition: runs of 0 and 1 in turn, column after column, beginning with 0."""
    flat, counts, value = mask.ravel(order="F").tolist(), [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    """The inverse of what is tested, from the description of the format."""
    text = ""
    for k, count in enumerate(counts):
        value, more = count - (counts[k - 2] if k > 2 else 0), True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + (digit | (32 if more else 0)))
    return text


def test_a_known_packed_mask() -> None:
    """Digits worked out by hand: 6, 1, 40, then 4 as 4 - 1, 5 as 5 - 40 = -35."""
    assert packed_lengths("61X1" + "3" + "mN") == [6, 1, 40, 4, 5]


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths(seed: int) -> None:
    mask = np.random.default_rng(seed).random(SIZE) < (0.5, 0.05, 0.95, 0.0)[seed]
    counts = lengths_of(mask.astype(int))
    np.testing.assert_array_equal(run_lengths(counts, SIZE), mask)
    np.testing.assert_array_equal(run_lengths(packed_lengths(packed(counts)), SIZE), mask)


def test_bad_run_lengths() -> None:
    for counts in ([599], [601], [-1, 601], [300, 299, 2]):
        with pytest.raises(ValueError, match="600"):
            run_lengths(counts, SIZE)
    for text in ("\u00e9", " ", "o"):
        with pytest.raises(ValueError, match="compressed"):
            packed_lengths(text)


def test_a_rectangle_covers_the_pixels_within() -> None:
    want = np.zeros(SIZE, bool)
    want[3:9, 5:17] = True
    np.testing.assert_array_equal(polygon([(5, 3), (17, 3), (17, 9), (5, 9)], SIZE), want)
    assert not polygon([(5.6, 3.6), (6.4, 3.6), (6.4, 4.4), (5.6, 4.4)], SIZE).any()  # holds no centre of a pixel
    assert polygon([(-50, -50), (80, -50), (80, 80), (-50, 80)], SIZE).all()


def test_areas_are_those_of_the_shoelace_formula() -> None:
    chance = random.Random(0)
    for _ in range(20):
        angles = sorted(chance.uniform(0, 2 * np.pi) for _ in range(7))
        points = [(100 + 80 * np.cos(a), 90 + 70 * np.sin(a)) for a in angles]
        x, y = np.array(points).T
        area = 0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))
        around = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
        assert abs(polygon(points, (180, 200)).sum() - area) <= 0.5 * around
        drawn = Image.new("1", (200 * 8, 180 * 8))  # Pillow, eight times finer, asked at the centres of pixels
        ImageDraw.Draw(drawn).polygon([(8 * px, 8 * py) for px, py in points], fill=1)
        fine = np.asarray(drawn)[4::8, 4::8]
        assert (fine != polygon(points, (180, 200))).sum() <= 0.15 * around


def test_contours_of_real_masks_come_back(real_data) -> None:
    for path in sorted((real_data("BUSI") / "masks").iterdir())[:8]:
        mask = np.asarray(Image.open(path)) > 0
        back = np.zeros(mask.shape, bool)
        for line in find_contours(np.pad(mask, 1).astype(float), 0.5):
            back |= polygon([(x - 0.5, y - 0.5) for y, x in line], mask.shape)
        assert (back != mask).sum() <= 0.002 * mask.size


def coco(root: Path, noise, **more) -> Path:
    for k in range(3):
        files.save_picture(noise(*SIZE), root / "pics" / f"i{k}.png")
    mask = np.zeros(SIZE, int)
    mask[10:14, 20:25] = 1
    square = [5, 3, 17, 3, 17, 9, 5, 9]
    content = {
        "images": [{"id": 10 + k, "file_name": f"pics/i{k}.png", "width": 30, "height": 20} for k in range(3)],
        "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "vessel"}],
        "annotations": [
            {"image_id": 10, "category_id": 7, "segmentation": [square, [0, 0, 2, 0, 2, 2, 0, 2]]},
            {"image_id": 10, "category_id": 3, "segmentation": [[10, 5, 20, 5, 20, 12, 10, 12]]},
            {"image_id": 11, "category_id": 3, "segmentation": {"counts": lengths_of(mask), "size": list(SIZE)}},
            {"image_id": 11, "category_id": 3, "segmentation": {"counts": packed(lengths_of(mask)), "size": list(SIZE)}},
        ],
    }
    for key, rows in more.items():
        content[key] = [*content[key], *rows]
    (root / "set.json").write_text(json.dumps(content))
    return root / "set.json"


def test_coco(tmp_path: Path, imported, noise) -> None:
    """Categories are numbered by their ids; of overlapping objects the later wins, and the pixels are counted."""
    got = imported(coco(tmp_path / "in", noise))
    assert got.code == 0, got.err
    assert got.description["labels"] == {"background": 0, "vessel": 1, "cell": 2}
    want = np.zeros(SIZE, np.uint8)
    want[3:9, 5:17] = want[0:2, 0:2] = 2
    want[5:12, 10:20] = 1
    np.testing.assert_array_equal(got.picture("labelsTr/case_0001.png"), want)
    assert got.report["overlapping_pixels"] == got.report["rows"][0]["overlapping_pixels"] == 4 * 7
    second = got.picture("labelsTr/case_0002.png")
    assert second.sum() == 20 and second[10:14, 20:25].all()
    assert not got.picture("labelsTr/case_0003.png").any()
    assert "no objects: an empty mask" in got.report["rows"][2]["converted"]


def test_coco_with_regions(tmp_path: Path, imported, noise) -> None:
    got = imported(coco(tmp_path / "in", noise), "--overlaps", "regions")
    assert got.description["labels"] == {"background": 0, "vessel": [1, 3], "cell": [2, 3]}
    mask = got.picture("labelsTr/case_0001.png")
    assert (mask[5:9, 10:17] == 3).all() and (mask == 3).sum() == 28
    assert np.isin(mask, [1, 3]).sum() == 70 and np.isin(mask, [2, 3]).sum() == 72 + 4


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"annotations": [{"image_id": 12, "category_id": 9, "segmentation": [[0, 0, 1, 1, 2, 0]]}]}, "category"),
        ({"annotations": [{"image_id": 12, "category_id": 3, "segmentation": [[0, 0, 1, 1]]}]}, "three points"),
        ({"annotations": [{"image_id": 12, "category_id": 3, "segmentation": [[0, 0, 1, 1, 2]]}]}, "reshape"),
        ({"annotations": [{"image_id": 12, "category_id": 3, "segmentation": []}]}, "box without outline"),
        ({"annotations": [{"image_id": 12, "category_id": 3, "segmentation": {"counts": [1], "size": [20, 30]}}]}, "600"),
        ({"annotations": [{"image_id": 12, "category_id": 3, "segmentation": {"counts": [600], "size": [30, 20]}}]}, "30x20"),
        ({"images": [{"id": 99, "file_name": "../secret.png"}]}, "leave the data folder"),
        ({"images": [{"id": 99, "file_name": "/etc/passwd"}]}, "leave the data folder"),
        ({"images": [{"id": 99, "file_name": "gone.png"}]}, "not there"),
    ],
)
def test_coco_with_a_fault(tmp_path: Path, imported, noise, more, word: str) -> None:
    files.save_picture(noise(*SIZE), tmp_path / "secret.png")
    got = imported(coco(tmp_path / "in", noise, **more))
    assert got.code == 3 and len(got.report["refused"]) == 1
    assert word in got.report["refused"][0]["why"] or word == "reshape"


def test_labelme(tmp_path: Path, imported, noise) -> None:
    root = tmp_path / "in"
    bitmap = io.BytesIO()
    Image.fromarray(np.array([[0, 255, 255], [255, 255, 0]], np.uint8)).save(bitmap, "PNG")
    shapes = [
        [
            {"label": "b", "points": [[5, 3], [17, 3], [17, 9], [5, 9]], "shape_type": "polygon"},
            {"label": "a", "points": [[10, 5], [20, 12]], "shape_type": "rectangle"},
            {"label": "_background_", "points": [[5, 3], [7, 9]], "shape_type": "rectangle"},
        ],
        [
            {"label": "a", "points": [[15, 10], [15, 18]], "shape_type": "circle"},
            {"label": "b", "points": [[2, 1], [4, 2]], "shape_type": "mask",
             "mask": base64.b64encode(bitmap.getvalue()).decode()},
        ],
        [{"label": "a", "points": [[1, 1], [2, 2]], "shape_type": "line"}],
    ]  # fmt: skip
    for k, drawn in enumerate(shapes):
        files.save_picture(noise(*SIZE), root / "images" / f"i{k}.png")
        (root / "json").mkdir(exist_ok=True)
        place = f"..\\images\\i{k}.png" if k else "../images/i0.png"
        (root / "json" / f"i{k}.json").write_text(json.dumps({"shapes": drawn, "imagePath": place, "imageData": None}))
    (root / "json" / "out.json").write_text(json.dumps({"shapes": [], "imagePath": "../../secret.png"}))
    (root / "json" / "none.json").write_text("{")
    files.save_picture(noise(*SIZE), tmp_path / "secret.png")
    got = imported(root)
    assert got.code == 3 and got.report["cases"] == 2
    assert got.description["labels"] == {"background": 0, "a": 1, "b": 2}
    want = np.zeros(SIZE, np.uint8)
    want[3:9, 5:17] = 2
    want[5:12, 10:20] = 1
    want[3:9, 5:7] = 0
    np.testing.assert_array_equal(got.picture("labelsTr/case_0001.png"), want)
    second = got.picture("labelsTr/case_0002.png")
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    circle = np.hypot(rows - 10, columns - 15) < 8
    assert ((second == 1) != circle).sum() <= 8
    np.testing.assert_array_equal(second[1:3, 2:5], [[0, 2, 2], [2, 2, 0]])
    reasons = {row["what"]: row["why"] for row in got.report["refused"]}
    assert "line of 2 points" in reasons["json/i2.json"]
    assert "leave the data folder" in reasons["json/out.json"]
    assert "no label-me" in reasons["json/none.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"images": 3}', '{"images": [], "annotations": [], "categories": []}'])
def test_files_that_are_no_coco(tmp_path: Path, imported, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    got = imported(tmp_path / "a.json")
    assert got.code == 2 and got.err.count("\n") == 1


@pytest.mark.parametrize("classes", [7, 8])
def test_no_more_overlapping_classes_than_the_reader_takes(tmp_path: Path, imported, noise, classes: int) -> None:
    """What an import of as many as are allowed writes is read back; one more is refused before anything is written."""
    images = [{"id": k, "file_name": f"{k}.png", "height": 6, "width": 20} for k in range(4)]
    for row in images:
        files.save_picture(noise(6, 20), tmp_path / "in" / row["file_name"])
    box = [[2 * k, 0, 2 * k + 3, 0, 2 * k + 3, 6, 2 * k, 6] for k in range(classes)]
    objects = [{"image_id": row["id"], "category_id": k + 1, "segmentation": [box[k]]} for row in images for k in range(classes)]
    categories = [{"id": k + 1, "name": f"organ {k}"} for k in range(classes)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "in" / "a.json").write_text(json.dumps(content))
    got = imported(tmp_path / "in" / "a.json", "--overlaps", "regions")
    if classes == 8:
        assert got.code == 2 and "8 classes; at most 7 can overlap" in got.err
        return
    assert got.code == 0, got.err
    store = build_store(Data(source=str(got.target)), tmp_path / "store")
    np.testing.assert_array_equal(np.unique(store.masks), [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96])
