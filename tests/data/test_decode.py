"""Every kind of file gives the numbers that were put in."""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from thrifty.data.cases import Unreadable
from thrifty.data.decode import BROKEN, NOT_FINITE, decode, ending_of, joined_type, stem_of, volume_size

GREY = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
COLOUR = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".TIFF", ".PNG"])
def test_grey_and_colour(tmp_path: Path, ending: str) -> None:
    for values in (GREY, COLOUR):
        Image.fromarray(values).save(tmp_path / f"a{ending}")
        got = decode(tmp_path / f"a{ending}").values
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, values.reshape(6, 5, -1))


def test_jpg_is_near(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 4
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    got = decode(tmp_path / "a.jpg").values
    assert got.shape == (16, 24, 1)
    assert np.abs(got[:, :, 0].astype(int) - smooth).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.putpixel((1, 2), (*picture.getpixel((1, 2))[:-1], 254))
    picture.save(tmp_path / "a.png")
    with pytest.raises(Unreadable, match=r"transparent.*a\.png"):
        decode(tmp_path / "a.png")


def test_a_transparent_palette_is_refused_for_images_and_kept_for_masks(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png", transparency=1)
    with pytest.raises(Unreadable, match="transparent"):
        decode(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", indexed=True).values[:, :, 0], [[0, 1], [2, 1]])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    for side, fine in ((31, True), (64, False), (40, False)):  # 1600 pixels: Pillow alone would only warn
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"a{ending}")
        if fine:
            decode(tmp_path / f"a{ending}")
        else:
            with pytest.raises(Unreadable, match="too large") as caught:
                decode(tmp_path / f"a{ending}")
            assert f"a{ending}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(tmp_path: Path, mode: str) -> None:
    Image.fromarray(COLOUR if mode == "RGBA" else GREY).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png").values, COLOUR if mode == "RGBA" else GREY[:, :, None])


def test_sixteen_bits(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", deep)
    tifffile.imwrite(tmp_path / "c.tif", COLOUR.astype(np.uint16) * 256, photometric="rgb")
    for name in ("a.png", "b.tif"):
        got = decode(tmp_path / name).values
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got[:, :, 0], deep)
    np.testing.assert_array_equal(decode(tmp_path / "c.tif").values, COLOUR.astype(np.uint16) * 256)


def test_sixteen_bit_colour_png_is_refused_rather_than_cut_to_eight(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOUR.astype(np.uint16) * 256)
    header = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(Unreadable, match="16 bit colour"):
        decode(tmp_path / "a.png")


def test_tif_of_many_kinds(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", GREY.astype(np.float64) / 3)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "white.tif", 255 - GREY, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "signed.tif", GREY.astype(np.int16) - 100)
    Image.fromarray(GREY).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(GREY > 100).save(tmp_path / "bits.tif", compression="group4")
    np.testing.assert_allclose(decode(tmp_path / "float.tif").values[:, :, 0], GREY / 3, rtol=1e-6)
    np.testing.assert_array_equal(decode(tmp_path / "planes.tif").values, COLOUR)
    np.testing.assert_array_equal(decode(tmp_path / "white.tif").values[:, :, 0], GREY)
    np.testing.assert_array_equal(decode(tmp_path / "signed.tif").values[:, :, 0], GREY.astype(int) - 100)
    np.testing.assert_array_equal(decode(tmp_path / "lzw.tif").values[:, :, 0], GREY)
    np.testing.assert_array_equal(decode(tmp_path / "bits.tif").values[:, :, 0] > 0, GREY > 100)


def test_palette_gives_colours_for_an_image_and_numbers_for_a_mask(tmp_path: Path) -> None:
    ids = (GREY // 8 % 3).astype(np.uint8)
    picture = Image.fromarray(ids, mode="L").convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * (253 * 3))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", indexed=True).values[:, :, 0], ids)
    np.testing.assert_array_equal(decode(tmp_path / "a.png").values[:, :, 0], (ids == 1) * 255)


def test_black_and_white_png(tmp_path: Path) -> None:
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png").values[:, :, 0], (GREY > 100).astype(np.uint8))


def test_volume_is_turned_to_canonical_axes(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # stored as z, x (flipped), y
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 3.0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "v.nii.gz")
    got = decode(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(got.values, values.transpose(1, 2, 0)[::-1])
    assert got.spacing_mm == (2.0, 3.0, 5.0)
    assert got.values.shape == volume_size(tmp_path / "v.nii.gz") == (3, 4, 2)


def test_scaled_volume_is_float(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -1)
    nibabel.save(image, tmp_path / "v.nii")
    got = decode(tmp_path / "v.nii").values
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.ravel(), np.arange(8) * 0.5 - 1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp", ".nii", ".nii.gz"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "noise"])
def test_broken_files_are_named(tmp_path: Path, suffix: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / f"broken{suffix}"
    values = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    if suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(values[:, :, None], np.eye(4)), path)
    else:
        Image.fromarray(values).save(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "noise": bytes(range(256)) * 4}[damage])
    with caplog.at_level(logging.CRITICAL), pytest.raises(Unreadable) as caught:
        decode(path)
    assert caught.value.kind == BROKEN
    assert caught.value.name.startswith(f"broken{suffix} (")
    assert str(tmp_path) not in caught.value.name
    if damage == "empty":
        assert "zero bytes" in caught.value.name


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_nan_and_infinity(tmp_path: Path, bad: float) -> None:
    values = GREY.astype(np.float64)
    values[2, 3] = bad
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(Unreadable) as caught:
        decode(tmp_path / "a.tif")
    assert caught.value.kind == NOT_FINITE


def test_several_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((7, 6, 5), np.uint8), photometric="minisblack")
    with pytest.raises(Unreadable, match="7x6x5"):
        decode(tmp_path / "a.tif")


def test_four_dimensional_volume_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(Unreadable, match="4x4x4x2"):
        decode(tmp_path / "v.nii.gz")


def test_names() -> None:
    assert ending_of("a.NII.GZ") == ".nii.gz"
    assert stem_of("a.b.nii.gz") == "a.b"
    assert ending_of("notes.txt") is None


def test_joined_types_lose_nothing() -> None:
    def joined(*names: str) -> str:
        return joined_type({np.dtype(n) for n in names}).name

    assert joined("uint8", "uint16") == "uint16"
    assert joined("uint8", "int16") == "int16"
    assert joined("uint16", "int16") == joined("uint8", "float32") == "float32"
