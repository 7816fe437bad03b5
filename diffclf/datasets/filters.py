"""The filter of Stable Diffusion 2.0 on images of any kind.

    resolution   the shorter side in pixels; 512 or more passes
    quality      aesthetic score w . e / |e| + b, e the embedding of the image by CLIP ViT-L/14; above 4.5 passes
    flag         whether the safety checker of Stable Diffusion finds a concept

The score comes from a checkpoint in transformers' layout with the image tower of that CLIP and LAION's linear head,
"shunk031/aesthetics-predictor-v1-vit-large-patch14": the weights of `CLIPVisionModelWithProjection`, and those of the
head as `predictor`. The code beside the weights is not used. Not measured: the real weights were never loaded here.

The paper takes the predicted probability of being unsafe, at most 0.1, and names no checkpoint of either predictor. The
safety checker of diffusers answers yes or no, so that the flag is another classifier than the paper's.

Source: Li et al. 2023, arXiv 2303.16203, Table 2; https://github.com/LAION-AI/aesthetic-predictor (the linear head);
https://github.com/shunk031/simple-aesthetics-predictor (the layout).
"""

import os
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffclf.datasets.crawl import ATTRIBUTES
from diffclf.images import list_images, load_image
from diffclf.models.device import choose_device
from diffclf.models.image_network import load_image_network
from diffclf.models.loading import quiet
from diffclf.progress import progress

__all__ = ["MIN_QUALITY", "MIN_RESOLUTION", "load_checker", "load_critic", "measure_attributes"]

MIN_RESOLUTION, MIN_QUALITY = 512, 4.5
Critic = Callable[[list[Image.Image]], NDArray[np.float32]]
"""n pictures -> (n,) their aesthetic scores."""
Checker = Callable[[list[Image.Image]], NDArray[np.bool_]]
"""n pictures -> (n,) which of them are flagged."""


class AestheticPredictor(CLIPVisionModelWithProjection):
    """The image tower of a CLIP with a linear head on its embeddings of length 1."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.predictor = torch.nn.Linear(config.projection_dim, 1)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return (n,) scores of pixels (n, 3, S, S)."""
        embeddings = super().forward(pixel_values=pixel_values).image_embeds
        return self.predictor(torch.nn.functional.normalize(embeddings, dim=1))[:, 0]


def load_critic(name: str | os.PathLike[str], device: str | torch.device | None = None) -> Critic:
    """Load an aesthetic predictor.

    Args:
        name: a folder or a hub id with or without a revision, "shunk031/aesthetics-predictor-v1-vit-large-patch14".
        device: by default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: there is no such network, or it lacks weights.
    """
    network, processor = load_image_network(
        AestheticPredictor, os.fspath(name), f"aesthetic predictor {name}", choose_device(device)
    )

    @torch.inference_mode()
    def scores(pictures: list[Image.Image]) -> NDArray[np.float32]:
        pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(network.device)
        return network(pixels).cpu().numpy()

    return scores


def load_checker(name: str | os.PathLike[str], device: str | torch.device | None = None) -> Checker:
    """Load a safety checker of Stable Diffusion.

    Args:
        name: a folder in transformers' layout or a hub id, "CompVis/stable-diffusion-safety-checker@refs/pr/39": the
            main revision has pickles only.
        device: by default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: there is no such network, or it lacks weights.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    network, processor = load_image_network(
        StableDiffusionSafetyChecker, os.fspath(name), f"safety checker {name}", choose_device(device)
    )

    @torch.inference_mode()
    def flagged(pictures: list[Image.Image]) -> NDArray[np.bool_]:
        pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(network.device)
        with quiet():  # it says that it blackens the images that it is given: here none
            _, found = network(clip_input=pixels, images=[np.zeros(0)] * len(pictures))
        return np.array(found)

    return flagged


def measure_attributes(
    images: object, scores: Critic, flagged: Checker, *, batch_size: int = 64, desc: str | None = "images"
) -> NDArray:
    """Return the attributes (n,), of type `ATTRIBUTES`, of images of any usual kind.

    Args:
        images: as for `diffclf.images.load_images`, in their original sizes; each batch is decoded once.
        scores: of `load_critic`.
        flagged: of `load_checker`.
        batch_size: images at a time.
        desc: words before the progress bar; None: no bar.
    """
    items, parts = list_images(images), []
    starts = range(0, len(items), batch_size)
    for start in progress(starts, desc=desc, unit="batch", enabled=desc is not None):
        pictures = [load_image(*item) for item in items[start : start + batch_size]]
        part = np.empty(len(pictures), ATTRIBUTES)
        part["resolution"] = [min(picture.size) for picture in pictures]
        part["quality"] = scores(pictures)
        part["flag"] = flagged(pictures)
        parts.append(part)
    return np.concatenate(parts)
