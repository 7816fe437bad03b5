"""The baseline of synthetic data: a ResNet trained on a diffusion model's own samples, tested on real images.

The model draws images of every prompt with its own sampler; the prompt's class is their label. Nobody labels an image,
so the network is a zero-shot classifier, too.

Source: Li et al. 2023, arXiv 2303.16203, section 5.1 and appendix F.4 ("Synthetic SD data").
"""

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

from diffclf.baselines.fitting import SMALL, Epoch, Fit, fit
from diffclf.files import write_whole
from diffclf.progress import progress

__all__ = ["augment", "build_processor", "build_resnet", "sample_images", "small_resnet", "train_on_images"]

MAX_SHIFT = 2


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
        folder: keeps each finished batch; a killed call with the same pipeline and arguments goes on there.
    """
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    asked = [(position, i) for position in range(len(prompts)) for i in range(n_images)]
    images = np.empty((len(asked), size, size, 3), dtype=np.uint8)
    settings = sha256(repr((list(prompts), n_images, n_steps, guidance, seed, batch_size)).encode()).hexdigest()[:16]
    for start in progress(range(0, len(asked), batch_size), desc="samples", unit="batch"):
        part = asked[start : start + batch_size]
        path = folder and folder / f"{settings}-{start}.npy"
        if path and path.is_file():
            images[start : start + len(part)] = np.load(path)
            continue
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
        images[start : start + len(part)] = (found * 255).round()
        if path:
            buffer = io.BytesIO()
            np.save(buffer, images[start : start + len(part)])
            write_whole(path, buffer.getvalue())
    return images, np.array([position for position, _ in asked])


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
    """Return the preprocessing of a network: that of the diffusion model (`diffclf.images.to_pixels`)."""
    side, half = image_size, [0.5] * 3
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=half, image_std=half
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


def train_on_images(
    network: ResNetForImageClassification,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    how: Fit = Fit(),  # noqa: B008 (immutable)
    seed: int = 0,
) -> list[Epoch]:
    """Train a network in place on images (n, H, W, 3) with labels (n,); see `fit`."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network(pixels).logits

    return fit(Logits(), torch.from_numpy(images), torch.from_numpy(labels), augment, how=how, seed=seed)
