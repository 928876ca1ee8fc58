"""`thrifty predict`: what comes out lies where what came in lies, and is what the network says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests.small_models import small_model
from thrifty.cli import main
from thrifty.data.decode import decode
from thrifty.data.groups import Group
from thrifty.data.pairs import decode_pair
from thrifty.errors import ThriftyError
from thrifty.model import load_model
from thrifty.predict import predict_files
from thrifty.predictor import Predictor, load
from thrifty.results import Trial, read_json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("models") / "volumes", slice_axis=2)


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("models") / "pictures")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    return (int(ended.value.code or 0), *capsys.readouterr())


def volume(path: Path, codes: str, tilt: float = 0.0, shape=(14, 19, 7), kind: type = nibabel.Nifti1Image) -> Path:
    """A random NIfTI volume with voxels of 0.7 x 1.3 x 4 mm, its axes turned to `codes` and tilted a little."""
    rng = np.random.default_rng(sum(map(ord, codes)))
    start, end = (nibabel.orientations.axcodes2ornt(c) for c in ("RAS", codes))
    turn = nibabel.orientations.ornt_transform(start, end)
    values = nibabel.orientations.apply_orientation(rng.integers(0, 900, shape).astype(np.int16), turn)
    c, s = np.cos(tilt), np.sin(tilt)
    tilted = np.array([[c, -s, 0, -20], [s, c, 0, 35], [0, 0, 1, 11], [0, 0, 0, 1]]) @ np.diag([0.7, 1.3, 4.0, 1.0])
    affine = tilted @ nibabel.orientations.inv_ornt_aff(turn, shape)
    image = kind(values, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Muster^Martin"
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    ("codes", "tilt", "axis", "name"),
    [
        ("RAS", 0.0, 2, "a.nii.gz"),
        ("LPS", 0.0, 2, "a.nii.gz"),
        ("PIR", 0.0, 0, "a.nii"),
        ("SLA", 0.2, 1, "a.nii.gz"),
        ("AIL", -0.3, 2, "a.nii"),
    ],
)
def test_nifti_comes_back_in_its_own_geometry(tmp_path: Path, codes: str, tilt: float, axis: int, name: str) -> None:
    """The slices are those that training makes of the file (`decode_pair`), and the way back is nibabel's own reorientation."""
    model = small_model(tmp_path / "model", slice_axis=axis)
    source, target = volume(tmp_path / name, codes, tilt), tmp_path / "out" / name
    predict_files(model, source, tmp_path / "out", probabilities=True, uncertainty=True)
    before, after = nibabel.load(source), nibabel.load(target)
    assert np.array_equal(after.affine, before.affine) and after.shape == before.shape and type(after) is type(before)
    assert after.get_data_dtype() == np.uint8 and after.header.get_zooms() == before.header.get_zooms()
    for key in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
        np.testing.assert_array_equal(after.header[key], before.header[key])
    assert bytes(after.header["descrip"]).strip(b"\0") == b"", "text of a header may name the patient"
    labels = np.asarray(nibabel.as_closest_canonical(after).dataobj)
    predictor = load(model)
    mask = tmp_path / f"mask_{name}"
    nibabel.save(nibabel.Nifti1Image(np.zeros(before.shape, np.uint8), before.affine), mask)
    samples = decode_pair("a", Group("p", None), (source,), mask, axis)
    assert len(samples) == labels.shape[axis]
    for k, sample in enumerate(samples):
        np.testing.assert_array_equal(labels.take(k, axis), predictor(sample.image[0]))
    assert len(np.unique(labels)) == 3, "a network that says one thing everywhere shows nothing"
    means = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / "a_probabilities.nii.gz")).get_fdata()
    np.testing.assert_array_equal(means.argmax(axis=3), labels)
    unsure = nibabel.load(tmp_path / "out" / "a_uncertainty.nii.gz")
    expected = stats.entropy(means, base=3, axis=3)
    np.testing.assert_allclose(nibabel.as_closest_canonical(unsure).get_fdata(), expected, atol=1e-5)
    assert np.array_equal(unsure.affine, before.affine)


def test_nifti_2_and_a_fourth_axis_of_one_are_kept(model: Path, tmp_path: Path) -> None:
    volume(tmp_path / "two.nii.gz", "LAS", kind=nibabel.Nifti2Image)
    four = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(9, 8, 2, 1)).astype(np.float32), np.diag([-2.0, 2, 2, 1]))
    nibabel.save(four, tmp_path / "four.nii")
    predict_files(model, [tmp_path / "two.nii.gz", tmp_path / "four.nii"], tmp_path / "out")
    assert isinstance(nibabel.load(tmp_path / "out" / "two.nii.gz"), nibabel.Nifti2Image)
    assert nibabel.load(tmp_path / "out" / "four.nii").shape == (9, 8, 2, 1)


def test_real_volumes(model: Path, tmp_path: Path, real_data) -> None:
    source = sorted((real_data("Dataset004_Hippocampus") / "imagesTs").glob("*.nii.gz"))[0]
    predict_files(model, source, tmp_path / "labels.nii.gz")
    before, after = nibabel.load(source), nibabel.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(after.affine, before.affine) and after.shape == before.shape


def test_pictures_of_every_kind_become_class_ids_of_their_size(of_pictures: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey, deep = rng.integers(0, 255, (33, 45), dtype=np.uint8), rng.integers(0, 60_000, (20, 31), dtype=np.uint16)
    source = tmp_path / "in"
    (source / "below").mkdir(parents=True)
    Image.fromarray(grey).save(source / "grey.png")
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(source / "saved_in_colour.png")
    Image.fromarray(deep).save(source / "below" / "deep.tif")
    (source / "notes.txt").write_text("no image")
    found = predict_files(of_pictures, source, tmp_path / "out", uncertainty=True)
    assert len(found.written) == 3 and not found.failed
    predictor = load(of_pictures)
    for name, image in (("grey", grey), ("saved_in_colour", grey), ("below/deep", deep)):
        with Image.open(tmp_path / "out" / f"{name}.png") as written:
            assert written.mode == "L"
            np.testing.assert_array_equal(np.asarray(written), predictor(image))
    unsure = np.load(tmp_path / "out" / "grey_uncertainty.npz")["uncertainty"]
    np.testing.assert_array_equal(unsure, predictor.uncertainty(grey))
    predict_files(of_pictures, source / "grey.png", tmp_path / "seen.png", visible=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "seen.png")), predictor(grey) * 127)


def test_real_pictures_in_colour(tmp_path: Path, real_data) -> None:
    model = small_model(tmp_path / "model", channels=3, classes=2)
    sources = sorted((real_data("DSB2018_96") / "images").iterdir())[:2]
    predict_files(model, sources, tmp_path / "out")
    for source in sources:
        image = np.asarray(Image.open(source))[:, :, :3]
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / source.name)), load(model)(image))


def test_one_file_for_each_channel(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model", channels=2)
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 255, (2, 18, 21), dtype=np.uint8)
    for k, part in enumerate(parts):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(part).save(tmp_path / "in" / f"case_{k:04d}.png")
    Image.fromarray(parts[0]).save(tmp_path / "in" / "lonely_0000.png")
    found = predict_files(model, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in found.written] == ["case.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(found.written[0])), load(model)(np.moveaxis(parts, 0, 2)))
    assert list(found.failed.values()) == [
        "files with other channels than the network: lonely_0000.png "
        "(1, needed: 2, or one file for each (<case>_0000, <case>_0001, ...))"
    ]


def test_a_bad_file_is_told_and_the_others_go_on(of_pictures: Path, tmp_path: Path, capsys) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)).save(source / "good.png")
    (source / "bad.png").write_bytes((source / "good.png").read_bytes()[:60])
    (source / "empty.dcm").write_bytes(b"")
    code, out, err = call(capsys, of_pictures, source, tmp_path / "out")
    assert code == 3 and "1 written, 2 failed" in out
    lines = err.splitlines()
    assert [line.startswith(f"error: {source}") for line in lines] == [True, True] and "Traceback" not in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.png", "predictions.json"]
    code, _, err = call(capsys, of_pictures, source / "bad.png", tmp_path / "other")
    assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{model}", "absent.png", "out"], "no such file or folder: absent.png"),
        (["absent", "{image}", "out"], "there is no folder absent"),
        (["{empty}", "{image}", "out"], "holds no trained network"),
        (["{model}", "{empty}", "out"], "nothing to predict"),
        (["{model}", "{image}", "{image}", "out"], "would both be written as 'a'"),
        (["{model}", "{image}", "out.nii.gz"], "is written as .png"),
        (["{model}", "{image}", "out", "--format", "gif"], "allowed are seg"),
        (["{model}", "{image}", "out", "--device", "gpu"], "allowed are auto, cpu and cuda"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    of_pictures: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (16, 16)).save("a.png")
    Path("nothing").mkdir()
    known = {"model": of_pictures, "image": "a.png", "empty": "nothing"}
    code, _, err = call(capsys, *(text.format(**known) for text in arguments))
    assert code == 2 and words in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "nothing"]


def test_what_is_there_is_kept_and_never_mixed(of_pictures: Path, model: Path, tmp_path: Path, capsys) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)).save(source / f"{name}.png")
    assert call(capsys, of_pictures, source, out)[0] == 0
    assert read_json(out / "predictions.json")["labels"] == ["background", "organ 1", "organ 2"]
    (out / "b.png").unlink()
    (out / "a.png").write_bytes(b"kept")
    code, said, _ = call(capsys, of_pictures, source, out)
    assert code == 0 and "1 written, 1 kept that were there already" in said and (out / "a.png").read_bytes() == b"kept"
    for other in ([model, source, out], [of_pictures, source, out, "--flips"]):
        code, _, err = call(capsys, *other)
        assert code == 2 and "predictions of another kind" in err and (out / "a.png").read_bytes() == b"kept"
    code, _, err = call(capsys, of_pictures, source / "a.png", out / "b.png")
    assert code == 2 and "is there already" in err
    assert call(capsys, of_pictures, source, out, "--flips", "--overwrite")[0] == 0
    assert decode(out / "a.png").values.shape == (16, 16, 1)
    (out / "predictions.json").unlink()
    assert "not from `thrifty predict`" in call(capsys, of_pictures, source, out)[2]


def test_an_ensemble_is_the_mean_of_probabilities_and_says_how_sure_it_is(tmp_path: Path) -> None:
    """Against the softmax of scipy, over members and mirror images."""
    from scipy.special import softmax

    folder = tmp_path / "found_1"
    for seed in (0, 1, 2):
        small_model(folder / f"seed_{seed}", seed)
    image = np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32)
    members = [load_model(Trial(folder / f"seed_{seed}"), torch.device("cpu")) for seed in (0, 1, 2)]
    views = {False: [()], True: [(), (0,), (1,), (0, 1)]}
    for flips, axes in views.items():
        found = []
        for network, model in members:
            normal = model.normalisation.apply(image[None])[0]
            for turned in axes:
                with torch.no_grad():
                    logits = network(torch.from_numpy(np.flip(normal, turned).copy())[None, None])[0].numpy()
                found.append(np.flip(softmax(logits, axis=0), [axis + 1 for axis in turned]))
        mean = np.mean(found, axis=0)
        ensemble = load(folder)
        np.testing.assert_allclose(ensemble.probabilities(image, flips), mean, atol=1e-5)
        clear = np.sort(mean, axis=0)[-1] - np.sort(mean, axis=0)[-2] > 1e-4
        np.testing.assert_array_equal(ensemble(image, flips)[clear], mean.argmax(axis=0)[clear])
        np.testing.assert_allclose(ensemble.uncertainty(image, flips), stats.entropy(mean, base=3, axis=0), atol=1e-4)


def test_one_network_predicts_what_its_evaluation_measured(tmp_path: Path) -> None:
    """Without flips the logits decide, not their softmax, and a large image goes through the window of the evaluation."""
    from thrifty.config import Evaluate
    from thrifty.inference import evaluating, labels_of, predict_logits

    folder = small_model(tmp_path / "m", window=32, overlap=0.25)
    network, model = load_model(Trial(folder), torch.device("cpu"))
    image = np.random.default_rng(0).normal(size=(70, 50)).astype(np.float32)
    settings = Evaluate(window=32, overlap=0.25)
    with evaluating(network):
        logits = predict_logits(network, torch.from_numpy(model.normalisation.apply(image[None]))[None], settings)
        whole = predict_logits(network, torch.from_numpy(model.normalisation.apply(image[None]))[None], Evaluate())
    predicted = load(folder)(image)
    np.testing.assert_array_equal(predicted, labels_of(logits)[0].numpy())
    assert (predicted != labels_of(whole)[0].numpy()).any()


def test_networks_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    small_model(tmp_path / "all" / "a")
    small_model(tmp_path / "all" / "b", classes=2)
    with pytest.raises(ThriftyError, match="are no ensemble"):
        load(tmp_path / "all")
    (tmp_path / "run" / "retrain").mkdir(parents=True)
    (tmp_path / "all").rename(tmp_path / "run" / "retrain" / "found_1")
    (tmp_path / "run" / "retrain" / "found_1" / "a").rename(tmp_path / "run" / "retrain" / "found_1" / "seed_0")
    with pytest.raises(ThriftyError, match=r"trained networks are in .*found_1"):
        load(tmp_path / "run")


def test_prediction_by_a_sliding_window_needs_nothing_of_the_search(of_pictures: Path, tmp_path: Path) -> None:
    """In a process of its own: no Ray, no Optuna, nothing that takes seconds to import."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 600), dtype=np.uint8)).save(tmp_path / "a.png")
    heavy = {
        "ray",
        "optuna",
        "monai",
        "kornia",
        "sklearn",
        "scipy.stats",
        "skimage",
        "matplotlib",
        "nibabel",
        "pydicom",
        "rich.progress",
    }
    code = (
        "import sys; from thrifty.cli import main\n"
        f"try: main(['predict', {str(of_pictures)!r}, {str(tmp_path / 'a.png')!r}, {str(tmp_path / 'o.png')!r}, '--flips'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.splitlines()[-1:] == ["[]"], ran.stderr
    assert (tmp_path / "o.png").is_file() and isinstance(load(of_pictures), Predictor)


def test_overlapping_classes_become_a_label_map_by_their_rule_or_bit_sets(tmp_path: Path) -> None:
    """Each class by its own sigmoid; the class that comes later in the rule lies over those before it (nnU-Net's regions)."""
    image = np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32)
    regions = load(small_model(tmp_path / "regions", classes=2, overlapping=True, region_values=(3, 1)))
    sets = load(small_model(tmp_path / "sets", classes=2, overlapping=True))
    network, model = load_model(Trial(tmp_path / "regions"), torch.device("cpu"))
    with torch.no_grad():
        outer, inner = network(torch.from_numpy(model.normalisation.apply(image[None]))[None])[0].numpy()
    assert all(claimed.any() for claimed in (outer > 0, inner > 0, (outer > 0) & (inner > 0), (outer <= 0) & (inner <= 0)))
    np.testing.assert_array_equal(regions(image), np.where(inner > 0, 1, np.where(outer > 0, 3, 0)))
    np.testing.assert_array_equal(sets(image), (outer > 0) + 2 * (inner > 0))
    expected = 1 / (1 + np.exp(-np.stack([outer, inner])))
    np.testing.assert_allclose(regions.probabilities(image), expected, atol=1e-5)
    unsure = np.mean([stats.entropy(np.stack([p, 1 - p]), base=2, axis=0) for p in expected], axis=0)
    np.testing.assert_allclose(regions.uncertainty(image), unsure, atol=1e-4)
    assert (regions.largest_label, sets.largest_label) == (3, 3)
    np.testing.assert_array_equal(regions(image, flips=True).shape, image.shape)


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for k, name in enumerate(names):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / name)
    return folder


def test_overwriting_that_is_interrupted_leaves_nothing_of_the_old_network(of_pictures, tmp_path: Path, monkeypatch) -> None:
    """The rerun goes on where the interrupted one was: what it ends with is what the new network says, of every file."""
    from thrifty import predict

    source, out, other = pictures(tmp_path / "in", "a.png", "b.png"), tmp_path / "out", small_model(tmp_path / "other", seed=5)
    predict_files(of_pictures, source, out, uncertainty=True)
    old = (out / "b.png").read_bytes()
    whole = predict.predict_item

    def interrupted(predictor, item, *more) -> None:
        if item.name == "b":
            raise KeyboardInterrupt
        whole(predictor, item, *more)

    monkeypatch.setattr(predict, "predict_item", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(other, source, out, overwrite=True)
    monkeypatch.undo()
    found = predict_files(other, source, out)
    assert [p.name for p in found.written] == ["b.png"] and [p.name for p in found.kept] == ["a.png"]
    for name in ("a.png", "b.png"):
        expected = load(other)(np.asarray(Image.open(source / name)))
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), expected)
    assert (out / "b.png").read_bytes() != old and not list(out.glob("*_uncertainty*"))


def test_overwriting_never_leaves_label_maps_of_two_networks(of_pictures, tmp_path: Path) -> None:
    source, out, other = pictures(tmp_path / "in", "a.png", "b.png"), tmp_path / "out", small_model(tmp_path / "other", seed=5)
    predict_files(of_pictures, source, out, uncertainty=True)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ThriftyError, match=r"b\.png.* of another kind"):
        predict_files(other, source / "a.png", out, overwrite=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    predict_files(of_pictures, source / "a.png", out, uncertainty=True, overwrite=True)  # the same network: both may stay
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_input_is_never_overwritten_by_its_own_prediction(of_pictures, tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", "a.png")
    before = (source / "a.png").read_bytes()
    with pytest.raises(ThriftyError, match="is an input"):
        predict_files(of_pictures, source / "a.png", source, overwrite=True)
    assert (source / "a.png").read_bytes() == before and [p.name for p in source.iterdir()] == ["a.png"]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_a_network_of_pictures_sees_of_a_volume_what_the_import_made_of_it(
    of_pictures: Path, tmp_path: Path, monkeypatch, codes: str
) -> None:
    """`data import --slices` and `predict` cut the same NIfTI into the same pixels, and the mask goes with them."""
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "masks").mkdir()
    source = volume(tmp_path / "in" / "images" / "a.nii.gz", codes)
    before = nibabel.load(source)
    mask = (np.asarray(before.dataobj) > 450).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, before.affine), tmp_path / "in" / "masks" / "a.nii.gz")
    with pytest.raises(SystemExit) as ended:
        main(["data", "import", str(tmp_path / "in"), str(tmp_path / "set"), "--slices"])
    assert not ended.value.code
    seen, maps = [], Predictor.maps

    def watched(self, slices, *more):
        seen.append(slices)
        return maps(self, slices, *more)

    monkeypatch.setattr(Predictor, "maps", watched)
    predict_files(of_pictures, source, tmp_path / "out")
    written = [decode(path).values[..., 0] for path in sorted((tmp_path / "set" / "imagesTr").iterdir())]
    assert len(written) == 7 and written[0].shape == (14, 19)
    np.testing.assert_array_equal(np.stack(written), seen[0][:, 0])
    masks = [decode(path).values[..., 0] for path in sorted((tmp_path / "set" / "labelsTr").iterdir())]
    np.testing.assert_array_equal(np.stack(masks), np.stack(written) > 450)
