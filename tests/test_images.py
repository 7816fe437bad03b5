"""Tests of reading and preprocessing images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffclf.images import ImageError, load_images, to_pixels


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def picture() -> Image.Image:
    """A 12 x 8 picture of random pixels."""
    return noise_image(12, 8)


def as_array(image: Image.Image) -> np.ndarray:
    """Return the pixels of an RGB image."""
    assert image.mode == "RGB"
    return np.asarray(image)


# What an image may be


def test_every_kind_gives_the_same_pixels(picture: Image.Image, tmp_path: Path) -> None:
    array = np.asarray(picture)
    path = tmp_path / "a.png"
    picture.save(path)
    channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [
        picture,
        path,
        str(path),
        array,
        array / 255,
        (array / 255).astype(np.float16),
        channels_first,
        channels_first / 255,
    ]
    for kind in kinds:
        (loaded,) = load_images(kind)
        assert np.array_equal(as_array(loaded), array)
    mixed = load_images(kinds)
    assert len(mixed) == len(kinds)
    assert all(np.array_equal(as_array(image), array) for image in mixed)


def test_batches_and_iterables(picture: Image.Image) -> None:
    stack = np.stack([np.asarray(noise_image(6, 5, seed)) for seed in range(3)])
    for batch in (stack, torch.from_numpy(stack).permute(0, 3, 1, 2), stack / 255, (image for image in stack)):
        loaded = load_images(batch)
        assert np.array_equal(np.stack([as_array(image) for image in loaded]), stack)


def test_grey_becomes_rgb() -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    expected = np.stack([grey] * 3, axis=-1)
    for kind in (grey, grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert np.array_equal(as_array(load_images(kind)[0]), expected)
    one_bit = Image.fromarray(np.array([[True, False]]))
    assert as_array(load_images(one_bit)[0])[0, :, 0].tolist() == [255, 0]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    assert np.array_equal(as_array(load_images(path)[0])[:, :, 1], np.arange(256).reshape(16, 16))
    assert np.array_equal(as_array(load_images(Image.fromarray(deep.astype(np.int32)))[0])[:, :, 0], deep // 257)
    with pytest.raises(ImageError, match=r"must lie in \[0, 65535\], got -1"):
        load_images(Image.fromarray(np.array([[-1, 3]], dtype=np.int32)))


def test_alpha_shows_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (255, 0, 51)
    expected = [[200, 0, 0], [255, 255, 255], [244, 204, 204]]  # 51/255 = 0.2: 0.2 * 200 + 0.8 * 255, 0.8 * 255
    assert as_array(load_images(rgba)[0])[0].tolist() == expected
    assert as_array(load_images(Image.fromarray(rgba))[0])[0].tolist() == expected
    grey_alpha = Image.merge("LA", [Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 0)])
    assert as_array(load_images(grey_alpha)[0])[0, 0].tolist() == [255, 255, 255]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert as_array(load_images(image)[0])[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    path = tmp_path / "palette.png"
    image.save(path, transparency=0)
    assert as_array(load_images(path)[0])[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_cmyk_and_float_pictures() -> None:
    assert as_array(load_images(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0])[0, 0].tolist() == [255, 0, 0]
    halves = Image.fromarray(np.full((2, 2), 0.2, dtype=np.float32))
    assert as_array(load_images(halves)[0])[0, 0].tolist() == [51, 51, 51]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = noise_image(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    assert np.array_equal(as_array(load_images(path)[0]), np.rot90(np.asarray(image), k=-1))


def test_a_photograph_with_a_preview_is_its_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "telephone.jpg"
    noise_image(8, 8).save(path, format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with Image.open(path) as first:
        assert first.format == "MPO" and first.n_frames == 2
        assert np.array_equal(as_array(load_images(path)[0]), np.asarray(first))


# What it may not be


def test_bad_files(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    noise_image(40, 40).save(good)
    jpeg = tmp_path / "good.jpg"
    noise_image(40, 40).save(jpeg)
    for name, content, message in [
        ("empty.png", b"", r"empty\.png is empty \(0 bytes\)"),
        ("text.png", b"not an image", r"text\.png is not an image that Pillow can read"),
        ("short.png", good.read_bytes()[:-2000], r"short\.png is truncated or damaged"),
        ("short.jpg", jpeg.read_bytes()[:-400], r"short\.jpg is truncated or damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=message):
            load_images([good, tmp_path / name])
    with pytest.raises(ImageError, match="is a folder, expected an image file"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"image not found: .*missing\.png"):
        load_images(str(tmp_path / "missing.png"))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving.{suffix}"
    noise_image(8, 8, 1).save(path, save_all=True, append_images=[noise_image(8, 8, 2), noise_image(8, 8, 3)])
    with pytest.raises(ImageError, match=rf"moving\.{suffix} is animated or has several pages \(3 frames\)"):
        load_images(path)
    with Image.open(path) as opened, pytest.raises(ImageError, match="animated"):
        load_images(opened)


@pytest.mark.parametrize("limit", [99, 40])  # Pillow itself warns above its limit, and refuses above twice the limit
def test_pillows_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = tmp_path / "large.png"
    noise_image(10, 10).save(path)
    assert len(load_images(path)) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=rf"large\.png is larger than Pillow's limit of {limit} pixels"):
        load_images(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one image, got none"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one image, got none"),
        (np.zeros((0, 4, 3), np.uint8), "image is empty"),
        (3, "images must be a PIL image, .* got int"),
        ([Image.new("RGB", (2, 2)), None], r"images\[1\] must be a PIL image, .* got NoneType"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"images\[0\]: an array must be .* got shape \(4, 4, 5\)"),
        (np.zeros(4, np.uint8), r"got shape \(4,\)"),
        (torch.zeros(5, 4, 3), r"a tensor must be .* got \(5, 4, 3\)"),
        (np.full((4, 4), 1.5), r"must lie in \[0, 1\], got 1.5 to 1.5"),
        (np.full((4, 4), -0.1), r"must lie in \[0, 1\], got -0.1"),
        (np.array([[0.5, np.nan]]), r"must lie in \[0, 1\], got nan"),
        (torch.full((3, 4, 4), torch.nan), r"must lie in \[0, 1\], got nan"),
        (np.zeros((4, 4), np.int64), "must be uint8, or floating point .* got dtype int64"),
        (np.zeros((4, 4), bool), "got dtype bool"),
        ([np.zeros((2, 4, 4, 3), np.uint8)], r"images\[0\]: an array must be"),
    ],
)
def test_bad_values(bad: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_images(bad)


# Pixels


def test_an_image_of_the_right_size_passes_exactly() -> None:
    image = noise_image(32, 32)
    pixels = to_pixels(image, 32)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 32, 32)
    assert torch.equal(
        ((pixels + 1) * 127.5).round().to(torch.uint8), torch.from_numpy(np.array(image)).permute(2, 0, 1)
    )
    ends = to_pixels(Image.fromarray(np.array([[[0, 51, 255]]], dtype=np.uint8)), 1)
    assert torch.allclose(ends.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    assert ends.min() == -1 and ends.max() == 1


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(12, 8, 2, 0), (8, 12, 0, 2), (11, 8, 2, 0), (8, 13, 0, 2)]
)
def test_the_crop_is_central(width: int, height: int, left: int, top: int) -> None:
    image = noise_image(width, height)
    # Odd margins: half rounds to even, as torchvision's CenterCrop has it (1.5 -> 2, 2.5 -> 2).
    expected = torch.from_numpy(np.array(image)[top : top + 8, left : left + 8]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(to_pixels(image, 8), expected)


@pytest.mark.parametrize("size", [(50, 50), (64, 44), (37, 91), (20, 16), (450, 30)])
def test_pixels_equal_transformers(size: tuple[int, int]) -> None:
    # Sizes on which transformers' rounding of an odd margin (down) agrees with torchvision's (half to even).
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=32, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )
    image = noise_image(*size)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(to_pixels(image, 32), expected, atol=1e-6)


def test_a_long_strip_costs_no_memory() -> None:
    strip = noise_image(1, 100_001)  # scaled whole it would have 26 thousand million pixels
    middle = Image.fromarray(np.asarray(strip)[50_000 - 8 : 50_001 + 8])
    assert torch.allclose(to_pixels(strip, 512), to_pixels(middle, 512), atol=0.02)
    turned = to_pixels(strip.transpose(Image.Transpose.ROTATE_90), 512)
    assert torch.allclose(turned, torch.rot90(to_pixels(strip, 512), dims=(1, 2)), atol=1e-6)


def test_a_strip_is_cut_where_it_does_not_show() -> None:
    strip = noise_image(8, 8 * 17)
    whole = strip.resize((16, 16 * 17), Image.Resampling.BICUBIC).crop((0, 8 * 16, 16, 9 * 16))
    assert torch.equal(to_pixels(strip, 16), to_pixels(whole, 16))
