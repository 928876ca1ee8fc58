"""DICOM files and series against pydicom's own functions, highdicom's geometry, and values chosen by hand."""

from pathlib import Path

import dicom_files as files
import numpy as np
import pytest
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from thrifty.data.cases import Unreadable
from thrifty.data.dicom import is_dicom, read_file, read_series
from thrifty.data.dicom_series import find_series

Y, X = np.mgrid[:24, :30]
GREY = (X * 5 + Y).astype(np.uint8)
DEEP = (GREY.astype(np.int32) * 100 - 6000).astype(np.int16)
COLOUR = np.stack([GREY, 255 - GREY, (Y * 9).astype(np.uint8)], axis=2)


def pixels(path: Path, **options) -> np.ndarray:
    """(rows, columns[, 3]) of a file with one slice."""
    values = read_file(path, **options).values
    assert len(values) == 1
    return values[0, ..., 0] if values.shape[3] == 1 else values[0]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
@pytest.mark.parametrize("image", [GREY, GREY.astype(np.uint16) * 250, DEEP, COLOUR], ids=["8", "16", "signed", "colour"])
def test_lossless_transfer_syntaxes(tmp_path: Path, syntax, image: np.ndarray) -> None:
    if syntax == JPEG2000Lossless and image.dtype == np.int16:
        pytest.skip("Pillow encodes no signed JPEG 2000")
    got = pixels(files.write(tmp_path / "a.dcm", image, syntax))
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_jpeg_is_near(tmp_path: Path, image: np.ndarray) -> None:
    got = pixels(files.write(tmp_path / "a.dcm", image, JPEGBaseline8Bit))
    assert np.abs(got.astype(int) - image).max() <= 8  # YBR taken for RGB would be off by more than 100


def test_colour_by_planes_and_ybr(tmp_path: Path) -> None:
    by_planes = np.moveaxis(COLOUR, 2, 0)
    path = files.write(tmp_path / "a.dcm", COLOUR, PlanarConfiguration=1, PixelData=by_planes.tobytes())
    np.testing.assert_array_equal(pixels(path), COLOUR)
    grey_in_ybr = np.full((4, 4, 3), 128, np.uint8)
    grey_in_ybr[..., 0] = np.arange(16).reshape(4, 4) * 10
    path = files.write(tmp_path / "b.dcm", grey_in_ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_array_equal(pixels(path), np.repeat(grey_in_ybr[..., :1], 3, axis=2))


def test_palette_becomes_colour(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    ramps = [np.array([0, 10, 255, 7], np.uint16) * 257, np.array([1, 2, 3, 4], np.uint16) * 257, np.zeros(4, np.uint16)]
    for name, ramp in zip(("Red", "Green", "Blue"), ramps, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = ramp.tobytes()
    indices = np.array([[0, 1], [2, 3]], np.uint8)
    got = read_file(files.write(tmp_path / "a.dcm", indices, **tags))
    np.testing.assert_array_equal(got.values[0, 0], [[0, 1, 0], [10, 2, 0]])
    np.testing.assert_array_equal(got.values[0, 1], [[255, 3, 0], [7, 4, 0]])
    assert any("PALETTE" in note for note in got.notes)


def test_rescale_keeps_whole_numbers_whole(tmp_path: Path) -> None:
    stored = (GREY.astype(np.uint16)) * 10
    got = pixels(files.write(tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024))
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, stored.astype(int) - 1024)
    half = pixels(files.write(tmp_path / "b.dcm", stored, RescaleSlope=0.25, RescaleIntercept=0))
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, stored / 4)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    """As in PET."""
    headers = files.series(tmp_path, np.stack([GREY, GREY]))
    for k, header in enumerate(headers):
        header.RescaleSlope, header.RescaleIntercept = k + 1, 0
        files.save(header, tmp_path / f"s{k}.dcm")
    got = read_series([tmp_path / "s1.dcm", tmp_path / "s0.dcm"])
    np.testing.assert_array_equal(got.values[..., 0], np.stack([GREY.astype(int), GREY.astype(int) * 2]))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_the_standard(tmp_path: Path, function: str) -> None:
    """pydicom's apply_windowing gives the stored bits' range; brought to 0..255 it must be ours."""
    tags = {"WindowCenter": [40, 300], "WindowWidth": [350, 9], "VOILUTFunction": function}
    path = files.write(tmp_path / "a.dcm", DEEP, RescaleSlope=1, RescaleIntercept=0, **tags)
    header = files.read(path)
    theirs = apply_windowing(header.pixel_array.astype(float), header)
    low, high = -32768, 32767
    expected = (theirs - low) / (high - low) * 255
    got = pixels(path, window="file")
    assert got.dtype == np.uint8 and 0 < (got == 255).mean() < 1
    assert np.abs(got - expected).max() <= 0.51
    if function == "LINEAR":
        np.testing.assert_array_equal(pixels(path, window=(40, 350)), got)
        assert (pixels(path, window=(1000, 350)) != got).any()


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a.dcm", GREY, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256)
    np.testing.assert_array_equal(pixels(path), 255 - GREY)
    np.testing.assert_array_equal(pixels(path, window="file"), 255 - GREY)
    twelve = GREY.astype(np.uint16) * 16
    path = files.write(tmp_path / "b.dcm", twelve, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(pixels(path), 4095 - twelve.astype(int))


def unit(vector) -> np.ndarray:
    return np.asarray(vector) / np.linalg.norm(vector)


OBLIQUE = unit([0.9, 0.3, -0.1])
OBLIQUE_DOWN = unit(np.cross(unit([0.2, -0.4, 0.9]), OBLIQUE))


@pytest.mark.parametrize(
    "cosines",
    [files.AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0), (*OBLIQUE, *OBLIQUE_DOWN)],
    ids=["axial", "sagittal", "coronal", "flipped", "oblique"],
)
def test_affine_is_that_of_highdicom(tmp_path: Path, cosines) -> None:
    """Every corner of every slice: pixel to mm by highdicom for that slice alone, LPS turned to RAS."""
    from highdicom.spatial import PixelToReferenceTransformer

    stack = np.random.default_rng(1).integers(0, 255, (5, 6, 9), dtype=np.uint8)
    headers = files.series(tmp_path, stack, cosines, spacing=(0.7, 1.3), step=2.5, origin=(-11.0, 23.0, 5.0))
    got = read_series(sorted(tmp_path.glob("*.dcm")))
    assert got.affine is not None and got.spacing_mm == (0.7, 1.3)
    volume = got.volume()
    for k, header in enumerate(headers):
        np.testing.assert_array_equal(volume[:, :, k, 0].T, stack[k])
        oracle = PixelToReferenceTransformer(header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing)
        for column, row in ((0, 0), (8, 0), (0, 5), (8, 5), (3, 2)):
            left, back, head = oracle(np.array([[column, row]]))[0]
            ours = got.affine @ [column, row, k, 1]
            np.testing.assert_allclose(ours[:3], [-left, -back, head], atol=1e-5)
            assert got.origins is not None
    np.testing.assert_allclose(got.origins, [(got.affine @ [0, 0, k, 1])[:3] for k in range(5)], atol=1e-5)


def test_axial_affine_by_hand(tmp_path: Path) -> None:
    """Columns grow to the left, rows to the back; RAS counts right and front."""
    files.series(tmp_path, np.zeros((2, 3, 4), np.uint8), spacing=(2.0, 3.0), step=5.0, origin=(10.0, 20.0, 30.0))
    got = read_series(list(tmp_path.glob("*.dcm")))
    np.testing.assert_allclose(got.affine, [[-3, 0, 0, -10], [0, -2, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])


def test_tilted_gantry_is_a_shear(tmp_path: Path) -> None:
    files.series(tmp_path, np.zeros((3, 4, 4), np.uint8), step=np.array([0.0, 1.0, 4.0]))
    got = read_series(list(tmp_path.glob("*.dcm")))
    np.testing.assert_allclose(got.affine[:3, 2], [0, -1, 4])
    assert any("tilted" in note for note in got.notes)


def test_slices_that_make_no_volume(tmp_path: Path) -> None:
    stack = np.zeros((4, 3, 3), np.uint8)
    files.series(tmp_path / "gap", stack, shuffle=False)
    (tmp_path / "gap" / "im002.dcm").unlink()
    with pytest.raises(Unreadable, match="uneven distances between slices, 1 to 2 mm"):
        read_series(sorted((tmp_path / "gap").iterdir()))
    assert len(read_series(sorted((tmp_path / "gap").iterdir()), as_volume=False).values) == 3
    files.series(tmp_path / "twice", stack, step=0.0)
    with pytest.raises(Unreadable, match="same place"):
        read_series(sorted((tmp_path / "twice").iterdir()))
    files.series(tmp_path / "turned", stack[:2], SeriesInstanceUID="1.9")
    files.write(tmp_path / "turned" / "x.dcm", stack[0], ImageOrientationPatient=[0, 1, 0, 0, 0, 1],
                ImagePositionPatient=[0, 0, 9], PixelSpacing=[1, 1])  # fmt: skip
    with pytest.raises(Unreadable, match="several directions"):
        read_series(sorted((tmp_path / "turned").iterdir()))


def test_series_are_told_apart(tmp_path: Path) -> None:
    """By series, by direction (localisers), and by echo where two slices lie in one place."""
    stack = np.zeros((3, 4, 4), np.uint8)
    files.series(tmp_path / "a", stack, SeriesInstanceUID="1.5", EchoNumbers=1)
    files.series(tmp_path / "b", stack + 1, SeriesInstanceUID="1.5", EchoNumbers=2)
    files.series(tmp_path / "c", stack + 2, (0, 1, 0, 0, 0, -1), SeriesInstanceUID="1.5")
    files.series(tmp_path / "d", stack + 3, SeriesInstanceUID="1.6", PatientID="two")
    files.write(tmp_path / "e.dcm", stack[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", SeriesInstanceUID="1.7")
    found, masks = find_series(tmp_path.rglob("*.dcm"), str)
    assert masks == []
    assert [{path.parent.name for path in one.files} for one in found][:4] == [{"a"}, {"b"}, {"c"}, {"d"}]
    assert found[0].patient == found[1].patient != found[3].patient


def test_many_frames_in_one_file(tmp_path: Path) -> None:
    """Enhanced files: positions and rescale in functional groups."""
    stack = np.random.default_rng(2).integers(0, 99, (3, 4, 6), dtype=np.uint16)
    got = read_file(files.enhanced(tmp_path / "a.dcm", stack, order=(2, 0, 1), slopes=(1, 2, 3)))
    np.testing.assert_array_equal(got.values[..., 0], stack * np.array([1, 2, 3])[:, None, None])
    assert got.frames == (1, 2, 0)
    np.testing.assert_allclose(got.affine[:3, 2], [0, 0, 3])


def test_bad_files_get_one_line_without_a_word_of_the_header(tmp_path: Path) -> None:
    secret = "SECRET"
    path = files.write(tmp_path / "a.dcm", GREY, PatientName=secret)
    whole = path.read_bytes()
    bad = {
        "cut": whole[: len(whole) - 200],
        "text": b"\0" * 128 + b"DICM" + b"no dicom at all",
        "odd": whole.replace(b"MONOCHROME2 ", b"SECRETCOLOR "),
    }
    for name, content in bad.items():
        (tmp_path / f"{name}.dcm").write_bytes(content)
        with pytest.raises(Unreadable) as caught:
            read_file(tmp_path / f"{name}.dcm", "file 7")
        assert "file 7" in str(caught.value) and secret not in str(caught.value) and "\n" not in str(caught.value)
    header = files.dataset(GREY)
    header.PixelData = files.encapsulate([b"\0" * 100])
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = HTJ2KLossless
    files.save(header, tmp_path / "ht.dcm")
    with pytest.raises(Unreadable, match=r"cannot be decoded.*file 9.*High-Throughput JPEG 2000.*1.2.840.10008.1.2.4.201"):
        read_file(tmp_path / "ht.dcm", "file 9")
    assert is_dicom(path) and not is_dicom(tmp_path / "nothing") and not is_dicom(Path(__file__))


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a.dcm", GREY, Rows=60000, Columns=60000)
    with pytest.raises(Unreadable, match=r"too large.*3,600,000,000"):
        read_file(path)
