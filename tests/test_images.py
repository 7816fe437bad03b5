"""Reading and preprocessing images."""

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffclf.images import ImageError, list_images, load_images, to_pixels
from diffclf.search import ErrorSource, compute_errors
from diffclf.trials import TrialList


def noise_image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def rgb(image):
    """The pixels (H, W, 3) of the one image loaded from what is given."""
    (loaded,) = load_images(image)
    assert loaded.mode == "RGB"
    return np.asarray(loaded)


# What an image may be


def test_every_kind_gives_the_same_pixels(tmp_path):
    picture = noise_image(12, 8)
    array = np.asarray(picture)
    picture.save(tmp_path / "a.png")
    channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        io.BytesIO((tmp_path / "a.png").read_bytes()),
        array.astype(np.uint16) * 257,
        array,
        array / 255,
        (array / 255).astype(np.float16),
        channels_first,
        channels_first / 255,
        (channels_first / 255).half(),
    ]
    for kind in kinds:
        assert np.array_equal(rgb(kind), array)
    kinds[4].seek(0)
    assert all(np.array_equal(np.asarray(image), array) for image in load_images(kinds))
    assert [name for _, name in list_images(kinds[1:4])] == [str(tmp_path / "a.png")] * 2 + ["images[2]"]
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(rgb(mask)[:, :, 1], 255 * np.eye(4))
    assert len(list_images(np.array([str(tmp_path / "a.png")] * 3))) == 3


def test_batches_and_iterables():
    stack = np.stack([np.asarray(noise_image(6, 5, seed)) for seed in range(3)])
    for batch in (stack, torch.from_numpy(stack).permute(0, 3, 1, 2), stack / 255, (image for image in stack)):
        assert np.array_equal(np.stack([np.asarray(image) for image in load_images(batch)]), stack)


def test_grey_becomes_rgb():
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    for kind in (grey, grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert np.array_equal(rgb(kind), np.stack([grey] * 3, axis=-1))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(rgb(tmp_path / "deep.png")[:, :, 1], np.arange(256).reshape(16, 16))
    assert np.array_equal(rgb(Image.fromarray(deep.astype(np.int32)))[:, :, 0], deep // 257)
    with pytest.raises(ImageError, match=r"must lie in \[0, 65535\], got -1"):
        load_images(Image.fromarray(np.array([[-1, 3]], dtype=np.int32)))


def test_alpha_shows_white(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (255, 0, 51)
    expected = [[200, 0, 0], [255, 255, 255], [244, 204, 204]]  # 51/255 = 0.2: 0.2 * 200 + 0.8 * 255, 0.8 * 255
    assert rgb(rgba)[0].tolist() == rgb(Image.fromarray(rgba))[0].tolist() == expected
    assert rgb(Image.new("LA", (1, 1), (10, 0)))[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    assert rgb(palette)[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert rgb(tmp_path / "palette.png")[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_other_modes_of_pictures():
    assert rgb(Image.fromarray(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    assert rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))[0, 0].tolist() == [255, 0, 0]
    assert rgb(Image.fromarray(np.full((2, 2), 0.2, dtype=np.float32)))[0, 0].tolist() == [51, 51, 51]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    noise_image(3, 2).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(rgb(tmp_path / "turned.png"), np.rot90(np.asarray(noise_image(3, 2)), k=-1))


def test_a_photograph_with_a_preview_is_its_first_picture(tmp_path):
    path = tmp_path / "telephone.jpg"
    noise_image(8, 8).save(path, format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with Image.open(path) as first:
        assert first.format == "MPO" and first.n_frames == 2
        assert np.array_equal(rgb(path), np.asarray(first))


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_an_ordinary_file_has_exactly_pillows_pixels(tmp_path, kind, mode):
    path = tmp_path / f"x.{kind}"
    try:
        noise_image(37, 29).convert(mode).save(path)
    except OSError:
        pytest.skip(f"no {kind} of mode {mode}")
    with Image.open(path) as opened:
        assert np.array_equal(rgb(path), np.asarray(opened.convert("RGB")))


# What it may not be


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match=f"{path} is a pipe, a socket or a device, expected an image file"):
            load_images(path)


def test_formats_that_are_not_meant_are_never_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n"
    (tmp_path / "disguised.png").write_bytes(eps)
    (tmp_path / "telephone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for kind in (tmp_path / "disguised.png", eps, io.BytesIO(eps)):
        with pytest.raises(ImageError, match=r"is not an image in one of the formats .*PPM$"):
            load_images(kind)
    heic = tmp_path / "telephone.heic"
    for kind in (heic, heic.read_bytes(), io.BytesIO(heic.read_bytes())):
        with pytest.raises(ImageError, match="it is a HEIC image; .* with the package pillow-heif"):
            load_images(kind)


def test_bad_files(tmp_path):
    good, jpeg = tmp_path / "good.png", tmp_path / "good.jpg"
    noise_image(40, 40).save(good)
    noise_image(40, 40).save(jpeg)
    for name, content, message in [
        ("empty.png", b"", r"empty\.png is empty \(0 bytes\)"),
        (
            "text.png",
            b"not an image",
            r"text\.png is not an image in one of the formats PNG, JPEG, .*, PPM$",
        ),
        ("short.png", good.read_bytes()[:-2000], r"short\.png is truncated or damaged"),
        ("short.jpg", jpeg.read_bytes()[:-400], r"short\.jpg is truncated or damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=message):
            load_images([good, tmp_path / name])
    with pytest.raises(ImageError, match="is a folder, expected an image file"):
        load_images(tmp_path)
    for unread in (load_images, list_images):
        with pytest.raises(FileNotFoundError, match=r"image not found: .*missing\.png"):
            unread([good, str(tmp_path / "missing.png")])


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_animations_are_refused(tmp_path, suffix):
    path = tmp_path / f"moving.{suffix}"
    noise_image(8, 8, 1).save(path, save_all=True, append_images=[noise_image(8, 8, 2), noise_image(8, 8, 3)])
    with pytest.raises(ImageError, match=rf"moving\.{suffix} is animated or has several pages \(3 frames\)"):
        load_images(path)
    with Image.open(path) as opened, pytest.raises(ImageError, match="animated"):
        load_images(opened)


@pytest.mark.parametrize(("width", "message"), [(10_001, "got 10001 x 10000"), (20_000, "exceeds limit")])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, width, message):
    def chunk(kind, content):
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = chunk(b"IHDR", width.to_bytes(4) + (10_000).to_bytes(4) + bytes([1, 0, 0, 0, 0]))  # one bit a pixel
    path = tmp_path / "large.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    # The data are missing, so that decoding them would give another message.
    with pytest.raises(ImageError, match=rf"large\.png must have at most 100,000,000 pixels.* {message}"):
        load_images(path)


def test_a_large_jpeg_file_is_scaled_down_while_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    Image.fromarray(np.kron(np.asarray(noise_image(12, 8)), np.ones((16, 16, 1), np.uint8))).save(path, quality=95)
    whole = rgb(path)
    monkeypatch.setattr("diffclf.images._LARGE_SIDE", 30)
    assert np.array_equal(rgb(path), whole)
    monkeypatch.setattr("diffclf.images._LARGE", 192 * 128 - 1)
    small = rgb(path)
    assert small.shape == (32, 48, 3), "a quarter; an eighth would have a side of 16, below 30"
    means = whole.reshape(32, 4, 48, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - means).mean() < 8


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
@pytest.mark.parametrize(("mode", "limit"), [("1", 5.5), ("RGB", 5.5), ("RGBA", 9), ("I;16", 11)])
def test_memory_of_a_small_file_with_many_pixels(tmp_path, mode, limit):
    """The limit is in bytes a pixel; a decoded RGB picture takes 4 of them."""
    n_side = 5000
    Image.new(mode, (n_side, n_side)).save(tmp_path / "x.png")
    peak = "int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    noise_image(8, 8).save(tmp_path / "small.png")
    script = "import re, sys; from diffclf.images import *; to_pixels(load_images(sys.argv[1])[0], 8); "
    script += f"before = {peak}; to_pixels(load_images(sys.argv[2])[0], 64); print({peak} - before)"
    command = [sys.executable, "-c", script, str(tmp_path / "small.png"), str(tmp_path / "x.png")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) * 1024 < limit * n_side**2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one image, got none"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one image, got none"),
        (np.zeros((0, 4, 3), np.uint8), r"not empty, got \(0, 4, 3\)"),
        (Image.new("RGB", (0, 4)), "image is empty, got 0 x 4 pixels"),
        (3, "images must be a PIL image, .* got int"),
        ([Image.new("RGB", (2, 2)), None], r"images\[1\] must be a PIL image, .* got NoneType"),
        (np.zeros((2, 4, 4, 5), np.uint8), r"images\[0\]: an array must be .* got \(4, 4, 5\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (torch.zeros(5, 4, 3), r"a tensor must be .* got \(5, 4, 3\)"),
        (np.full((4, 4), 1.5), r"must lie in \[0, 1\], got 1.5 to 1.5"),
        (np.full((4, 4), -0.1), r"must lie in \[0, 1\], got -0.1"),
        (torch.full((3, 4, 4), torch.nan), r"must lie in \[0, 1\], got nan"),
        (np.zeros((4, 4), np.int64), "must be uint8, uint16, bool, or floats .* got dtype int64"),
        (b"no image", "image is not an image in one of the formats"),
        ([np.zeros((2, 4, 4, 3), np.uint8)], r"images\[0\]: an array must be"),
    ],
)
def test_bad_values(bad, message):
    with pytest.raises(ImageError, match=message):
        load_images(bad)


# Pixels


def test_an_image_of_the_right_size_passes_exactly():
    image = noise_image(32, 32)
    pixels = to_pixels(image, 32)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 32, 32)
    assert np.array_equal(((pixels + 1) * 127.5).round().permute(1, 2, 0).numpy(), np.asarray(image))
    ends = to_pixels(Image.fromarray(np.array([[[0, 51, 255]]], dtype=np.uint8)), 1)
    assert torch.allclose(ends.flatten(), torch.tensor([-1.0, -0.6, 1.0])) and ends.min() == -1 and ends.max() == 1


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(12, 8, 2, 0), (8, 12, 0, 2), (11, 8, 2, 0), (8, 13, 0, 2)]
)
def test_the_crop_is_central(width, height, left, top):
    image = noise_image(width, height)
    # Odd margins: half rounds to even, as torchvision's CenterCrop has it (1.5 -> 2, 2.5 -> 2).
    expected = torch.from_numpy(np.array(image)[top : top + 8, left : left + 8]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(to_pixels(image, 8), expected)


@pytest.mark.parametrize("size", [(50, 50), (64, 44), (37, 91), (20, 16), (450, 30)])
def test_pixels_equal_transformers(size):
    # Sizes on which transformers' rounding of an odd margin (down) agrees with torchvision's (half to even).
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=32, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    )
    expected = processor(noise_image(*size), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(to_pixels(noise_image(*size), 32), expected, atol=1e-6)


def test_a_long_strip_costs_no_memory():
    strip = noise_image(1, 100_001)  # scaled whole it would have 26 thousand million pixels
    middle = Image.fromarray(np.asarray(strip)[50_000 - 8 : 50_001 + 8])
    assert torch.allclose(to_pixels(strip, 512), to_pixels(middle, 512), atol=0.02)
    turned = to_pixels(strip.transpose(Image.Transpose.ROTATE_90), 512)
    assert torch.allclose(turned, torch.rot90(to_pixels(strip, 512), dims=(1, 2)), atol=1e-6)
    long = noise_image(8, 8 * 17)  # cut where it does not show
    whole = long.resize((16, 16 * 17), Image.Resampling.BICUBIC).crop((0, 8 * 16, 16, 9 * 16))
    assert torch.equal(to_pixels(long, 16), to_pixels(whole, 16))


def cubic(values, size):
    """Return (h, w, 3) resampled along its first axis to whole numbers: Keys' cubic, a = -0.5, widened by the scale."""
    scale = len(values) / size
    widened, rows = max(scale, 1), []
    for centre in (np.arange(size) + 0.5) * scale:
        low, high = max(0, int(centre - 2 * widened + 0.5)), min(len(values), int(centre + 2 * widened + 0.5))
        x = abs((np.arange(low, high) + 0.5 - centre) / widened)
        weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        rows.append(np.tensordot(weights / weights.sum(), values[low:high], 1))
    return np.clip(np.rint(rows), 0, 255)


def halved(values):
    """Return (h, w, 3) with pairs of columns, then pairs of rows averaged, each rounded half up."""
    height, width = values.shape[:2]
    columns = np.floor(values.reshape(height, width // 2, 2, 3).mean(axis=2) + 0.5)
    return np.floor(columns.reshape(height // 2, 2, width // 2, 3).mean(axis=1) + 0.5)


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize(("height", "width"), [(37, 50), (50, 37), (20, 31), (63, 97), (140, 132), (68, 200)])
def test_pixels_are_the_papers_arithmetic(height, width, halve):
    """Short side to 32 by an antialiased cubic, centre crop, [-1, 1]; DiT: halved by averaging first, rounded down."""
    values = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    own = values.astype(float)
    while halve and min(own.shape[:2]) >= 64:
        own = halved(own)
    short = min(own.shape[:2])
    sides = [round(side * (32 / short)) if halve else int(32 * side / short) for side in own.shape[:2]]
    own = cubic(cubic(own.swapaxes(0, 1), sides[1]).swapaxes(0, 1), sides[0])
    top, left = ((side - 32) // 2 if halve else round((side - 32) / 2) for side in sides)
    expected = own[top : top + 32, left : left + 32].transpose(2, 0, 1) / 127.5 - 1
    difference = np.abs(to_pixels(Image.fromarray(values), 32, halve).numpy() - expected)
    assert difference.max() < 1.01 / 127.5 and difference.mean() < 0.02 / 127.5  # Pillow's weights have 22 bits


def test_the_dit_takes_halved_images_and_stable_diffusion_does_not(tiny_dit, tiny_sd):
    assert tiny_dit.halves_large_images and not tiny_sd.halves_large_images
    values = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    small = halved(values)[:, 8:40].astype(np.uint8)  # what a DiT for 32 x 32 pixels sees of these
    for model, prompts in ((tiny_dit, [0, 1]), (tiny_sd, ["a cat", "a dog"])):
        source = ErrorSource(model, prompts, TrialList([500]))
        one, other = (compute_errors(source, [image]) for image in (values, small))
        assert np.array_equal(one, other) == model.halves_large_images
