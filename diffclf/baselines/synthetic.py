"""The baseline of synthetic data: a ResNet trained on a diffusion model's own samples, tested on real images.

The model draws images of every prompt with its own sampler; the prompt's class is their label. Nobody labels an image,
so the network is a zero-shot classifier, too.

The training images are mirrored at random and, with up to 64 pixels a side, shifted; larger ones are cropped:

    a crop has the area a H W, a ~ U(0.08, 1), and the ratio r of width to height, log r ~ U(-log 4/3, log 4/3);
    it is resized to 224 x 224; at the test the short side becomes 256, and the central 224 x 224 are seen

Sources:
    Li et al. 2023, arXiv 2303.16203, section 5.1 and appendix F.4 ("Synthetic SD data"): the kinds of augmentation. It
    gives no sizes; those here are the usual ones of a ResNet-50.
    Szegedy et al. 2015, arXiv 1409.4842, section 6 (the crops).
"""

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

from diffclf.baselines.fitting import SMALL, Epoch, Fit, fit
from diffclf.progress import progress

__all__ = [
    "augment",
    "build_processor",
    "build_resnet",
    "crop_boxes",
    "random_crop",
    "sample_images",
    "small_resnet",
    "train_on_images",
]

MAX_SHIFT = 2
CROP, SHORT_SIDE = 224, 256
AREAS, RATIO = (0.08, 1.0), 4 / 3
N_TRIES = 10


@torch.inference_mode()
def sample_images(
    pipe: Any,  # noqa: ANN401 (diffusers' type)
    prompts: Sequence[str],
    n_images: int,
    *,
    n_steps: int = 25,
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 50,
    folder: Path | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return samples of every prompt and the position of the prompt of each: (n, H, W, 3) and (n,).

    Args:
        pipe: a `StableDiffusionPipeline`.
        prompts: one per class.
        n_images: samples of each prompt.
        n_steps: of the pipeline's own sampler.
        guidance: scale of classifier-free guidance; 1 is none.
        seed: of the noise; sample i of a prompt does not depend on the batch size.
        batch_size: samples drawn together.
        folder: keeps the samples in one file, to which each finished batch is added; a killed call with the same
            pipeline and arguments goes on there. The samples are then read from this file when they are needed, so
            that they need not fit into memory.

    Raises:
        OSError: the file cannot be written (a full disk).
    """
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    asked = [(position, i) for position in range(len(prompts)) for i in range(n_images)]
    labels = np.array([position for position, _ in asked])

    def draw(start: int) -> Iterator[NDArray[np.uint8]]:
        """Yield batches of the samples from number `start` on."""
        for first in progress(range(start, len(asked), batch_size), desc="samples", unit="batch"):
            part = asked[first : first + batch_size]
            seeds = [int(np.random.SeedSequence([seed, *entry]).generate_state(1)[0]) for entry in part]
            found = pipe(
                [prompts[position] for position, _ in part],
                height=size,
                width=size,
                num_inference_steps=n_steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                output_type="np",
            ).images
            yield (found * 255).round().astype(np.uint8)

    if folder is None:
        return np.concatenate(list(draw(0))), labels
    settings = sha256(repr((list(prompts), n_images, n_steps, guidance, seed, batch_size)).encode()).hexdigest()[:16]
    path = folder / f"{settings}.uint8"
    folder.mkdir(parents=True, exist_ok=True)
    path.touch()
    with open(path, "r+b") as file:
        finished = file.seek(0, io.SEEK_END) // (size * size * 3)
        if finished < len(asked):  # a killed call may have left a part of its last batch
            finished -= finished % batch_size
        file.seek(finished * size * size * 3)
        for part in draw(finished):
            file.write(part.tobytes())
            file.flush()
    return np.memmap(path, np.uint8, "r+", shape=(len(asked), size, size, 3)), labels


def small_resnet(widths: Sequence[int], classnames: Sequence[str], depth: int = 1) -> ResNetForImageClassification:
    """Return an untrained ResNet for small images: a stage of `depth` basic blocks for each width."""
    options = {"hidden_sizes": list(widths), "depths": [depth] * len(widths), "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(embedding_size=widths[0], **options, **_labels(classnames)))


def build_resnet(classnames: Sequence[str], image_size: int) -> ResNetForImageClassification:
    """Return an untrained network: three stages of one basic block for images of up to 64 pixels, else a ResNet-50."""
    if image_size > SMALL:
        return ResNetForImageClassification(ResNetConfig(**_labels(classnames)))
    return small_resnet((16, 32, 64), classnames)


def _labels(classnames: Sequence[str]) -> dict[str, dict]:
    """Return the names of the classes as a network's configuration has them."""
    return {"id2label": dict(enumerate(classnames)), "label2id": {name: i for i, name in enumerate(classnames)}}


def build_processor(image_size: int) -> CLIPImageProcessorPil:
    """Return the preprocessing of a network for images of the diffusion model's size.

    Up to 64 pixels: that of the diffusion model (`diffclf.images.to_pixels`). Else see the module.
    """
    short, side = (SHORT_SIDE, CROP) if image_size > SMALL else (image_size, image_size)
    half = [0.5] * 3
    return CLIPImageProcessorPil(
        size={"shortest_edge": short}, crop_size={"height": side, "width": side}, image_mean=half, image_std=half
    )


def augment(images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Return pixels (n, 3, H, W) in [-1, 1] of images (n, H, W, 3); with a generator half are mirrored, all shifted.

    A shift is of up to 2 pixels per 32 in both directions; what comes in is black.
    """
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    if generator is None:
        return pixels
    flip = torch.rand(len(pixels), generator=generator) < 0.5
    pixels[flip] = pixels[flip].flip(-1)
    n, _, height, width = pixels.shape
    margin = MAX_SHIFT * height // 32
    padded = torch.nn.functional.pad(pixels, [margin] * 4, value=-1.0)
    down, right = torch.randint(2 * margin + 1, (2, n), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    return padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def crop_boxes(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return n random boxes (left, upper, right, lower) inside a square of `size` pixels, (n, 4) int64; see the module.

    Of ten proposed boxes the first that fits is taken. None fits for one image in 10^8; then the first is cut to size.
    """
    area = torch.empty(n, N_TRIES).uniform_(*AREAS, generator=generator) * size**2
    ratio = torch.empty(n, N_TRIES).uniform_(-1, 1, generator=generator).mul(math.log(RATIO)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=-1).round().long()  # (n, N_TRIES, 2)
    first = (sides <= size).all(dim=-1).int().argmax(dim=1)
    sides = sides[torch.arange(n), first].clamp(1, size)
    corners = (torch.rand(n, 2, generator=generator) * (size - sides + 1)).long()
    return torch.cat([corners, corners + sides], dim=1)


def random_crop(images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Return pixels (n, 3, 224, 224) in [-1, 1] of square images (n, S, S, 3) of more than 64 pixels.

    With a generator random crops, half of them mirrored; else what the network sees at the test (`build_processor`).
    """
    size = images.shape[1]
    pictures = [Image.fromarray(image) for image in images.numpy()]
    if generator is None:
        return build_processor(size)(pictures, return_tensors="pt")["pixel_values"]
    boxes, flips = crop_boxes(len(pictures), size, generator), torch.rand(len(pictures), generator=generator) < 0.5

    def cut(picture: Image.Image, box: list[int], flip: bool) -> NDArray[np.uint8]:
        part = picture.crop(box).resize((CROP, CROP), Image.Resampling.BICUBIC)
        return np.asarray(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else part)

    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run
        found = np.stack([*pool.map(cut, pictures, boxes.tolist(), flips.tolist())])
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def train_on_images(
    network: ResNetForImageClassification,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    how: Fit = Fit(),  # noqa: B008 (immutable)
    seed: int = 0,
) -> list[Epoch]:
    """Train a network in place on images (n, H, W, 3) with labels (n,), on crops if they have more than 64 pixels.

    See `fit`.
    """

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network(pixels).logits

    prepare = random_crop if images.shape[1] > SMALL else augment
    return fit(Logits(), torch.from_numpy(images), torch.from_numpy(labels), prepare, how=how, seed=seed)
