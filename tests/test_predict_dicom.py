"""DICOM in, DICOM-SEG or PNG out: every segment on the slice it was found in, compressed or not, seen as in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="DICOM is an extra")
pytest.importorskip("highdicom", reason="DICOM-SEG is an extra")

import dicom_files as files  # noqa: E402
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid  # noqa: E402

from tests.small_models import small_model  # noqa: E402
from thrifty.data.dicom import read_series  # noqa: E402
from thrifty.data.importing.items import Wishes  # noqa: E402
from thrifty.data.importing.run import import_data  # noqa: E402
from thrifty.data.segmentation_out import write_seg  # noqa: E402
from thrifty.data.voi import parse_window  # noqa: E402
from thrifty.errors import ThriftyError  # noqa: E402
from thrifty.predict import Predicted, predict_files  # noqa: E402
from thrifty.predictor import load  # noqa: E402

ORIENTATIONS = {"axial": files.AXIAL, "sagittal": (0, 1, 0, 0, 0, -1), "oblique": (0.96, 0.28, 0, -0.28, 0.96, 0)}
RESCALE = {"RescaleSlope": 2, "RescaleIntercept": -100}


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 900, (6, 12, 17)).astype(np.int16)


def series(folder: Path, values: np.ndarray, name: str = "axial", **tags: Any) -> list[Any]:
    """Slices 2.5 mm apart of pixels of 1.5 x 0.8 mm, under file names in another order; the stored values are not the CT's."""
    place = {
        "spacing": (1.5, 0.8),
        "step": 2.5,
        "origin": (-12.0, 31.0, 7.0),
        "PatientName": "Muster^Martin",
        "PatientID": "id 17",
    }
    return files.series(folder, values, ORIENTATIONS[name], **{**place, **RESCALE, **tags})


def segments(path: Path, uids: list[str], size: tuple[int, ...]) -> np.ndarray:
    """Class ids (slices, rows, columns) of a DICOM-SEG, each frame on the image that it names; `uids` of the slices in order."""
    seg = files.read(path)
    labels = np.zeros((len(uids), *size), np.uint8)
    for plane, group in zip(seg.pixel_array.reshape(-1, *size), seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[uids.index(f"{source.ReferencedSOPInstanceUID}{source.get('ReferencedFrameNumber', '')}")][plane > 0] = number
    return labels


def predicted(model: Path, inputs: Path, output: Path, **options: Any) -> Path:
    found = predict_files(model, inputs, output, **options)
    assert not found.failed and len(found.written) == 1
    return found.written[0]


@pytest.mark.parametrize(("name", "axis"), [("axial", 2), ("sagittal", 2), ("oblique", 0)])
def test_segments_lie_where_the_same_volume_as_nifti_has_them(tmp_path: Path, values: np.ndarray, name: str, axis: int) -> None:
    written = series(tmp_path / "s", values, name)
    model = small_model(tmp_path / "model", slice_axis=axis)
    path = predicted(model, tmp_path / "s", tmp_path / "out")
    seg = files.read(path)
    assert path.name == "s.dcm"
    assert seg.Modality == "SEG" and seg.PatientID == "id 17" and seg.StudyInstanceUID == written[0].StudyInstanceUID
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == [(1, "organ 1"), (2, "organ 2")]

    affine = read_series(sorted((tmp_path / "s").iterdir())).affine
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0) * 2.0 - 100, affine), tmp_path / "s.nii")
    predict_files(model, tmp_path / "s.nii", tmp_path / "labels.nii")
    expected = np.asarray(nibabel.load(tmp_path / "labels.nii").dataobj).transpose(2, 1, 0)
    assert len(np.unique(expected)) == 3
    np.testing.assert_array_equal(segments(path, [one.SOPInstanceUID for one in written], values.shape[1:]), expected)


def test_frames_of_one_file_get_their_own_segments(tmp_path: Path, values: np.ndarray) -> None:
    """The frames lie in another order in the file than in the patient, and each has a slope of its own."""
    stack, order, slopes = np.abs(values[:4, :, :16]).astype(np.uint16), (2, 0, 3, 1), (1.0, 0.5, 2.0, 4.0)
    path = files.enhanced(tmp_path / "s.dcm", stack, order, slopes, PatientID="id 17")
    model = small_model(tmp_path / "model")
    seg = predicted(model, path, tmp_path / "out")
    uid = files.read(path).SOPInstanceUID
    uids = [f"{uid}{order.index(k) + 1}" for k in range(4)]
    expected = [load(model)(one * slope) for one, slope in zip(stack, slopes, strict=True)]
    np.testing.assert_array_equal(segments(seg, uids, stack.shape[1:]), expected)


def test_a_network_of_pictures_gets_slices_as_they_are_shown(tmp_path: Path, values: np.ndarray) -> None:
    series(tmp_path / "s", values, "sagittal")
    model = small_model(tmp_path / "model")
    found = predict_files(model, tmp_path / "s", tmp_path / "out", format="png", probabilities=True)
    assert not found.failed
    for k, one in enumerate(values):
        labels = np.asarray(Image.open(tmp_path / "out" / "s" / f"{k:04d}.png"))
        np.testing.assert_array_equal(labels, load(model)(one * 2.0 - 100))
    assert np.load(tmp_path / "out" / "s_probabilities.npz")["probabilities"].shape == (6, 3, 12, 17)
    assert predict_files(model, tmp_path / "s", tmp_path / "out", format="png", probabilities=True).written == ()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_is_predicted_as_uncompressed(tmp_path: Path, values: np.ndarray, syntax: str) -> None:
    written = series(tmp_path / "plain", values)
    for k, path in enumerate(sorted((tmp_path / "plain").iterdir())):
        header = files.read(path)
        header.compress(syntax, generate_instance_uid=False)
        files.save(header, tmp_path / "small" / f"{k}.dcm")
        assert files.read(tmp_path / "small" / f"{k}.dcm").file_meta.TransferSyntaxUID == syntax
    model = small_model(tmp_path / "model", slice_axis=2)
    seen = []
    for name in ("plain", "small"):
        path = predicted(model, tmp_path / name, tmp_path / "out", probabilities=True, overwrite=True)
        labels = segments(path, [one.SOPInstanceUID for one in written], values.shape[1:])
        seen.append((labels, np.load(tmp_path / "out" / f"{name}_probabilities.npz")["probabilities"]))
    assert len(np.unique(seen[0][0])) == 3
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("window", ["300,900", "file"])
def test_a_window_shows_what_the_import_wrote_with_it(tmp_path: Path, values: np.ndarray, window: str) -> None:
    written = series(tmp_path / "in" / "s", values, WindowCenter=500, WindowWidth=700)
    files.segmentation(tmp_path / "in" / "seg.dcm", written, (values > 0).astype(np.uint8))
    import_data(tmp_path / "in", tmp_path / "set", Wishes(window=parse_window(window)))
    (image,) = (tmp_path / "set" / "imagesTr").iterdir()
    assert nibabel.load(image).get_data_dtype() == np.uint8
    model = small_model(tmp_path / "model", slice_axis=2)
    expected = np.asarray(nibabel.load(predicted(model, image, tmp_path / "labels")).dataobj).transpose(2, 1, 0)
    path = predicted(model, tmp_path / "in" / "s", tmp_path / "out", window=window)
    uids = [one.SOPInstanceUID for one in written]
    np.testing.assert_array_equal(segments(path, uids, values.shape[1:]), expected)
    plain = predicted(model, tmp_path / "in" / "s", tmp_path / "plain")
    assert (segments(plain, uids, values.shape[1:]) != expected).any()
    with pytest.raises(ThriftyError, match="window differ"):
        predict_files(model, tmp_path / "in" / "s", tmp_path / "out")


def test_windows_that_are_none(tmp_path: Path, values: np.ndarray) -> None:
    series(tmp_path / "s", values)
    model = small_model(tmp_path / "model")
    (reason,) = predict_files(model, tmp_path / "s", tmp_path / "out", window="file").failed.values()
    assert "without a window of their own" in reason and "CENTRE,WIDTH" in reason
    for text in ("wide", "40,0", "nan,400", "40"):
        with pytest.raises(ThriftyError, match="centre,width"):
            predict_files(model, tmp_path / "s", tmp_path / "out", window=text)


def test_nothing_found_is_a_segmentation_too(tmp_path: Path, values: np.ndarray) -> None:
    series(tmp_path / "s", values)
    source = read_series(sorted((tmp_path / "s").iterdir()))
    write_seg(tmp_path / "none.dcm", np.zeros(values.shape, np.uint8), source, ["background", "a"], "0" * 64)
    assert files.read(tmp_path / "none.dcm").pixel_array.max() == 0


def refused(found: Predicted) -> dict[str, str]:
    assert not found.written and not any(word in str(found.failed) for word in ("Muster", "id 17"))
    return {Path(name.split(" and ")[0]).parent.name: reason for name, reason in found.failed.items()}


def test_what_is_no_stack_is_refused_without_a_word_of_the_header(tmp_path: Path, values: np.ndarray) -> None:
    twice = series(tmp_path / "s", values)[2]
    twice.SOPInstanceUID = twice.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    files.save(twice, tmp_path / "s" / "again.dcm")
    damaged = files.read(tmp_path / "s" / "im000.dcm")
    damaged.SeriesInstanceUID, damaged.Rows = generate_uid(), 5000
    files.save(damaged, tmp_path / "t" / "broken.dcm")
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "empty.dcm").write_bytes(b"")
    (lacking := files.read(tmp_path / "s" / "im000.dcm")).SeriesInstanceUID = generate_uid()
    del lacking.FrameOfReferenceUID, lacking.PatientID
    files.save(lacking, tmp_path / "v" / "x.dcm")
    model = small_model(tmp_path / "model", slice_axis=2)
    reasons = refused(predict_files(model, [tmp_path / name for name in "stuv"], tmp_path / "out"))
    assert "two slices in the same place" in reasons["s"] and "(7 files)" in reasons["s"]
    assert "broken.dcm" in reasons["t"] and "empty.dcm" in reasons["u"]
    assert "x.dcm (no PatientID in its header)" in reasons["v"]
