"""Near-duplicates: real images, changed as exports change them, are found; different images of one set are not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize

from thrifty.config import Data
from thrifty.data.duplicates import SIDE, _shares, near_duplicates, perceptual_hash, thumbnail
from thrifty.data.report import describe, leak_error
from thrifty.data.splits import make_splits
from thrifty.data.store import build_store


def as_jpeg(values: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


CHANGES = {
    "jpeg": as_jpeg,
    "brighter": lambda v: np.clip(v * 1.15 + 8, 0, 255).astype(np.uint8),
    "smaller": lambda v: resize(v, [int(n * 0.7) for n in v.shape[:2]], anti_aliasing=True, preserve_range=True).astype(np.uint8),
    "noisy": lambda v: np.clip(v + np.random.default_rng(0).normal(0, 5, v.shape), 0, 255).astype(np.uint8),
}


def some_of(real_data, name: str, folder: Path, count: int) -> tuple[Path, list[str]]:
    """The first images of a real set, and all masks empty but one: nothing here hangs on masks."""
    paths = sorted((real_data(name) / "images").iterdir())[:count]
    for path in paths:
        values = np.asarray(Image.open(path))
        put(folder, path.stem, values)
    return folder, [path.stem for path in paths]


def put(folder: Path, name: str, values: np.ndarray) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / "images" / f"{name}.png")
    mask = np.zeros(values.shape[:2], np.uint8)
    mask[0, 0] = 255
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@pytest.mark.parametrize("name", ["DSB2018_96", "MSD_Hippocampus", "BUSI"])
def test_changed_copies_are_found_and_nothing_else(real_data, tmp_path: Path, name: str) -> None:
    folder, stems = some_of(real_data, name, tmp_path / "set", 24)
    expected = set()
    for k, (change, function) in enumerate(CHANGES.items()):
        put(folder, f"{stems[k]}_{change}", function(np.asarray(Image.open(folder / "images" / f"{stems[k]}.png"))))
        expected.add((stems[k], f"{stems[k]}_{change}"))
    store = build_store(Data(source=str(folder)), tmp_path / "store")
    assert {tuple(sorted(pair)) for pair in near_duplicates(store)} == expected
    report = describe(Data(source=str(folder), patch=32), store, make_splits(store, Data()))
    line = next(line for line in report.warnings() if "look the same (4 pairs" in line)
    assert f"{stems[0]} ~ {stems[0]}_jpeg" in line


def test_images_framed_alike_are_not_taken_for_copies(real_data, tmp_path: Path) -> None:
    """Fundus photographs: the same disc in the same frame, by plain hashes a quarter of all pairs."""
    folder, _ = some_of(real_data, "DRIVE", tmp_path / "set", 12)
    store = build_store(Data(source=str(folder)), tmp_path / "store")
    assert near_duplicates(store) == ()
    hashes = [perceptual_hash(thumbnail(store.image(i))) for i in range(12)]
    assert sum(np.bitwise_count(a ^ b) <= 8 for a in hashes for b in hashes) > 12 + 10


def test_copies_of_one_patient_are_fine(real_data, tmp_path: Path) -> None:
    folder, stems = some_of(real_data, "DSB2018_96", tmp_path / "set", 8)
    put(folder, "copy", as_jpeg(np.asarray(Image.open(folder / "images" / f"{stems[0]}.png"))))
    owners = "".join(f"{name},{stems[0] if name == 'copy' else name}\n" for name in [*stems, "copy"])
    (folder / "groups.csv").write_text("case,patient\n" + owners)
    assert near_duplicates(build_store(Data(source=str(folder)), tmp_path / "store")) == ()


def test_an_equal_file_under_two_patients_stops_a_study(real_data, tmp_path: Path, results) -> None:
    from thrifty import cli

    folder, stems = some_of(real_data, "DSB2018_96", tmp_path / "set", 8)
    put(folder, "copy", np.asarray(Image.open(folder / "images" / f"{stems[2]}.png")))
    store = build_store(Data(source=str(folder)), tmp_path / "store")
    assert stems[2] in (leak_error(store) or "")
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "dsb2018", f"data.source={folder}", "data.patch=32", "budgets=[6000]", "name=leak", "--no-timing"])
    assert ended.value.code == 2


def test_thumbnails_are_means_over_equal_areas() -> None:
    np.testing.assert_allclose(_shares(64), np.kron(np.eye(SIDE), [[0.5, 0.5]]))
    for size in (5, 32, 47, 301):
        shares = _shares(size)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(shares.sum(axis=0), SIDE / size, rtol=1e-4)
    assert not thumbnail(np.full((3, 40, 50), 7, np.uint8)).any()


def test_far_hashes_are_never_pairs() -> None:
    """Against every pair one by one."""
    from thrifty.data import duplicates

    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 300, dtype=np.uint64)
    for k in range(0, 300, 3):
        hashes[k] = hashes[(k * 7 + 1) % 300] ^ np.uint64(random.integers(0, 1024))
    patients = random.integers(0, 200, 300)
    before, duplicates.BLOCK = duplicates.BLOCK, 64
    try:
        got = duplicates._close(hashes, patients)
    finally:
        duplicates.BLOCK = before
    expected = {
        (i, j)
        for i in range(300)
        for j in range(i + 1, 300)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 8 and patients[i] != patients[j]
    }
    assert set(got) == expected and len(got) == len(expected) > 10
