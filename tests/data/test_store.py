"""What goes into a store comes out of it; a store that exists is whole."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from thrifty.config import Data, Phantoms
from thrifty.data.store import build_store, open_store
from thrifty.errors import ThriftyError


def test_pairs_of_varying_size(build, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    images["c2"], masks["c2"] = images["c2"][:7, :5], masks["c2"][:7, :5]
    store = build(write_pairs(images, masks))
    assert [case.name for case in store.cases] == sorted(images)
    assert (store.channels, store.classes, store.labels) == (1, 3, ("background", "class 1", "class 2"))
    for index, case in enumerate(store.cases):
        np.testing.assert_array_equal(store.image(index)[0], images[case.name])
        np.testing.assert_array_equal(store.mask(index), masks[case.name])
        assert (case.height, case.width) == images[case.name].shape
        assert store.places[index].class_pixels == tuple(np.bincount(masks[case.name].ravel(), minlength=3))
        assert case.patient == case.name and case.volume is None and case.spacing_mm is None


def test_arrays_are_read_only(build, some_cases, write_pairs) -> None:
    store = build(write_pairs(*some_cases()))
    for array in (store.image(0), store.mask(0)):
        with pytest.raises(ValueError, match="read-only"):
            array[..., 0, 0] = 1


def test_binary_masks_become_0_and_1(build, some_cases, write_pairs) -> None:
    images, masks = some_cases(top=1)
    masks["c0"][:] = 0
    masks["c1"][:] = 1
    store = build(write_pairs(images, {name: mask * 255 for name, mask in masks.items()}))
    assert (store.classes, store.labels) == (2, ("background", "foreground"))
    for index, name in enumerate(sorted(masks)):
        np.testing.assert_array_equal(store.mask(index), masks[name])
        assert sum(store.places[index].class_pixels[1:]) == masks[name].sum()
    assert store.present(0) == () and store.present(1) == (1,)


def test_masks_of_0_and_1_stay(build, some_cases, write_pairs) -> None:
    images, masks = some_cases(top=1)
    store = build(write_pairs(images, masks))
    assert store.classes == 2
    np.testing.assert_array_equal(store.mask(3), masks["c3"])


def test_mask_of_three_equal_channels(build, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    store = build(write_pairs(images, {name: np.stack([mask] * 3, axis=2) for name, mask in masks.items()}))
    np.testing.assert_array_equal(store.mask(2), masks["c2"])


def test_colour_and_alpha(build, some_cases, write_pairs) -> None:
    _, masks = some_cases()
    random = np.random.default_rng(2)
    colours = {name: random.integers(0, 255, (12, 10, 4 if name == "c1" else 3), dtype=np.uint8) for name in masks}
    colours["c1"][:, :, 3] = 255
    store = build(write_pairs(colours, masks))
    assert store.channels == 3
    for index, name in enumerate(sorted(colours)):
        np.testing.assert_array_equal(store.image(index), np.moveaxis(colours[name][:, :, :3], 2, 0))


def test_eight_and_sixteen_bits_are_joined(build, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    images["c3"] = images["c3"].astype(np.uint16) * 200
    store = build(write_pairs(images, masks))
    assert store.images.dtype == np.uint16
    assert store.decoded_types == {"uint8": 5, "uint16": 1}
    for index, name in enumerate(sorted(images)):
        np.testing.assert_array_equal(store.image(index)[0], images[name])


def test_groups_and_volumes(build, some_cases, write_pairs) -> None:
    groups = "\ufeffcase, patient,volume\n" + "".join(f"c{k},p{k // 2},v{k // 2}\n" for k in range(8))
    store = build(write_pairs(*some_cases(8), groups))
    assert [(c.patient, c.volume) for c in store.cases] == [(f"p{k // 2}", f"v{k // 2}") for k in range(8)]


def test_further_columns_of_groups_are_subgroups(build, some_cases, write_pairs) -> None:
    groups = "case,site,patient,phase\n" + "".join(f"c{k},{'' if k == 3 else f'site {k % 2}'},p{k},ED\n" for k in range(8))
    store = build(write_pairs(*some_cases(8), groups))
    assert [dict(c.subgroups).get("site") for c in store.cases] == [None if k == 3 else f"site {k % 2}" for k in range(8)]
    assert {dict(c.subgroups)["phase"] for c in store.cases} == {"ED"} and {c.volume for c in store.cases} == {None}


def test_other_files_are_passed_over(build, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    (folder / "images" / "Thumbs.db").write_bytes(b"x")
    (folder / "images" / ".DS_Store.png").write_bytes(b"x")
    assert len(build(folder).cases) == 6


@pytest.mark.parametrize("limit", [6, 7, 100])
def test_max_cases_takes_whole_patients(build, some_cases, write_pairs, limit: int) -> None:
    groups = "case,patient\n" + "".join(f"c{k},p{k % 6}\n" for k in range(9))  # three patients have two cases
    folder = write_pairs(*some_cases(9), groups)
    store = build(folder, max_cases=limit)
    assert limit - 1 <= len(store.cases) <= limit or len(store.cases) == 9
    for patient in {case.patient for case in store.cases}:
        number = int(patient[1:])
        assert sum(case.patient == patient for case in store.cases) == (2 if number < 3 else 1)
    again = build(folder, "again", max_cases=limit)
    assert again.cases == store.cases


def test_nnunet_pictures_of_two_channels(build, some_cases, write_nnunet) -> None:
    images, masks = some_cases()
    second = {name: 255 - image for name, image in images.items()}
    parts = {name: [images[name], second[name]] for name in images}
    store = build(write_nnunet(parts, masks, {"background": 0, "b": 2, "a": 1}))
    assert (store.channels, store.labels) == (2, ("background", "a", "b"))
    np.testing.assert_array_equal(store.image(4), np.stack([images["c4"], second["c4"]]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_become_slices(build, write_nnunet, axis: int) -> None:
    random = np.random.default_rng(0)
    size, zooms = (5, 6, 7), (0.5, 0.75, 3.0)
    volumes = {f"v{k}": [random.integers(-50, 99, size, dtype=np.int16) for _ in range(2)] for k in range(4)}
    masks = {name: random.integers(0, 3, size, dtype=np.uint8) for name in volumes}
    masks["v1"][:] = 0

    def save(values: np.ndarray, path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*zooms, 1.0])), path)

    folder = write_nnunet(volumes, masks, {"background": 0, "a": 1, "b": 2, "never": 3}, ".nii.gz", save)
    (folder / "groups.csv").write_text("case,patient\nv0,p0\nv1,p1\nv2,p2\nv3,p3\n")
    store = build(folder, slice_axis=axis)
    assert len(store.cases) == 4 * size[axis], "slices without foreground are kept"
    assert (store.classes, store.images.dtype) == (4, np.int16)
    rows, columns = (i for i in range(3) if i != axis)
    for index, case in enumerate(store.cases):
        number, k = divmod(index, size[axis])
        assert (case.name, case.volume, case.patient) == (f"v{number}_{'xyz'[axis]}{k:03d}", f"v{number}", f"p{number}")
        assert case.spacing_mm == (zooms[rows], zooms[columns])
        for channel in range(2):
            np.testing.assert_array_equal(store.image(index)[channel], volumes[f"v{number}"][channel].take(k, axis))
        np.testing.assert_array_equal(store.mask(index), masks[f"v{number}"].take(k, axis))


def test_same_data_same_fingerprint(build, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    folder = write_pairs(images, masks)
    first = build(folder)
    assert build(folder, "second").fingerprint == first.fingerprint
    changed = images["c2"].copy()
    changed[3, 3] ^= 1
    Image.fromarray(changed).save(folder / "images" / "c2.png")
    third = build(folder, "third")
    assert third.fingerprint != first.fingerprint
    Image.fromarray(images["c2"]).save(folder / "images" / "c2.png")
    (folder / "groups.csv").write_text("case,patient\n" + "".join(f"c{k},p{k // 5 + k}\n" for k in range(6)))
    assert build(folder, "fourth").fingerprint not in (first.fingerprint, third.fingerprint)


def test_a_store_that_is_there_is_opened(build, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    first = build(folder)
    for path in (folder / "images").iterdir():
        path.unlink()
    assert build(folder).fingerprint == first.fingerprint


def test_a_store_of_other_data_is_refused(build, tmp_path: Path) -> None:
    build("phantoms", phantoms=Phantoms(cases=8, patients=8, size=16))
    with pytest.raises(ThriftyError, match=r"holds other data: phantoms was .*now"):
        build("phantoms", phantoms=Phantoms(cases=8, patients=8, size=16, seed=1))
    with pytest.raises(ThriftyError, match="slice_axis was 2, now 1"):
        build("phantoms", phantoms=Phantoms(cases=8, patients=8, size=16), slice_axis=1)


def test_damaged_or_foreign_store_is_refused(build, some_cases, write_pairs, tmp_path: Path) -> None:
    build(write_pairs(*some_cases()))
    folder = tmp_path / "run" / "data"
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "schema": 99}))
    with pytest.raises(ThriftyError, match="schema 99"):
        open_store(folder)
    (folder / "index.json").write_text(json.dumps(index))
    os.truncate(folder / "masks.bin", 100)
    with pytest.raises(ThriftyError, match="another size"):
        open_store(folder)
    with pytest.raises(ThriftyError, match="no such file"):
        open_store(tmp_path / "nothing")


def test_only_whole_files_remain(build, some_cases, write_pairs, tmp_path: Path) -> None:
    build(write_pairs(*some_cases()))
    assert os.listdir(tmp_path / "run") == ["data"]
    assert sorted(os.listdir(tmp_path / "run" / "data")) == ["images.bin", "index.json", "masks.bin"]


def test_two_builders_at_once(some_cases, write_pairs, tmp_path: Path) -> None:
    data, target, prints = Data(source=str(write_pairs(*some_cases()))), tmp_path / "run" / "data", []
    threads = [threading.Thread(target=lambda: prints.append(build_store(data, target).fingerprint)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prints) == 4 and len(set(prints)) == 1
    assert os.listdir(tmp_path / "run") == ["data"]


def test_opens_in_another_process(build, some_cases, write_pairs, tmp_path: Path) -> None:
    images, masks = some_cases()
    build(write_pairs(images, masks))
    code = (
        "import sys; from pathlib import Path; from thrifty.data.store import open_store\n"
        "s = open_store(Path(sys.argv[1])); print(int(s.image(2).sum()), int(s.mask(5).sum()))\n"
        "heavy = {'torch', 'kornia', 'skimage', 'sklearn', 'nibabel', 'ray'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run" / "data")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split("\n")[:2] == [f"{images['c2'].sum()} {masks['c5'].sum()}", "[]"]


def test_indices(phantoms) -> None:
    names = [case.name for case in phantoms.cases]
    assert phantoms.indices(names[3:6]) == [3, 4, 5]
    with pytest.raises(ThriftyError, match="no case named phantom_001_7; did you mean 'phantom_001_0"):
        phantoms.indices(["phantom_001_7"])


def test_every_case_has_its_own_digest(phantoms) -> None:
    assert len({place.digest for place in phantoms.places}) == len(phantoms.cases)
