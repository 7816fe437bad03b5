"""The filter of Stable Diffusion 2.0 on images of any kind.

    resolution   the shorter side in pixels; 512 or more passes
    quality      aesthetic score w . e / |e| + b, e the embedding of the image by CLIP ViT-L/14; above 4.5 passes
    flag         whether the safety checker of Stable Diffusion finds a concept

The paper takes the predicted probability of being unsafe, at most 0.1, and names no checkpoint of either predictor. The
safety checker of diffusers answers yes or no, so that the flag is another classifier than the paper's.

Source: Li et al. 2023, arXiv 2303.16203, Table 2; https://github.com/LAION-AI/aesthetic-predictor (the linear head).
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffclf.baselines.contrastive import ContrastiveClassifier
from diffclf.datasets.crawl import ATTRIBUTES
from diffclf.images import list_images, load_image
from diffclf.models.layout import READ_ERRORS, check_shards, first_line
from diffclf.models.loading import quiet
from diffclf.models.protocol import ModelError
from diffclf.progress import progress

__all__ = ["MIN_QUALITY", "MIN_RESOLUTION", "load_checker", "load_head", "measure_attributes"]

MIN_RESOLUTION, MIN_QUALITY = 512, 4.5
_HEAD = "aesthetic head {name} must be a file, or owner/name/file on the hub; LAION's is sa_0_4_vit_l_14_linear.pth of "
_HEAD += "https://github.com/LAION-AI/aesthetic-predictor; {reason}"

Checker = Callable[[list[Image.Image]], NDArray[np.bool_]]
"""n pictures -> (n,) which of them are flagged."""


def load_head(name: str | os.PathLike[str]) -> torch.nn.Linear:
    """Load the linear head that turns an embedding of length 1 into an aesthetic score.

    Args:
        name: a file that torch has saved, with `weight` (1, width) and `bias` (1,); or such a file of the hub,
            "owner/name/file". It is read without its code.

    Raises:
        ModelError: there is no such file, or it holds something else.
    """
    path = Path(name)
    if not path.is_file():
        if len(parts := Path(name).parts) < 3 or path.is_absolute():
            raise ModelError(_HEAD.format(name=name, reason="no such file"))
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
        except (OSError, ValueError) as error:
            raise ModelError(_HEAD.format(name=name, reason=first_line(error))) from error
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        head = torch.nn.Linear(weights["weight"].shape[-1], 1)
        head.load_state_dict(weights)
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise ModelError(
            f"aesthetic head {name} must hold weight (1, width) and bias (1,): {first_line(error)}"
        ) from error
    return head.float().eval()


def load_checker(name: str | os.PathLike[str], device: str | torch.device | None = None) -> Checker:
    """Load a safety checker of Stable Diffusion.

    Args:
        name: a folder in transformers' layout or a hub id, such as "CompVis/stable-diffusion-safety-checker".
        device: by default "cuda" if there is one, else "cpu".

    Raises:
        ModelError: there is no such network, or it lacks weights.
    """
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import AutoImageProcessor

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet():
        try:
            check_shards(Path(name), str(name))
            network, info = StableDiffusionSafetyChecker.from_pretrained(
                name, use_safetensors=True, output_loading_info=True
            )
            processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
        except READ_ERRORS as error:
            raise ModelError(f"safety checker {name} cannot be read: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"safety checker {name} lacks {len(missing)} of its weights: {', '.join(missing[:3])}")
    network = network.eval().to(device)

    def flagged(pictures: list[Image.Image]) -> NDArray[np.bool_]:
        pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(device)
        with quiet():  # it says that it blackens the images that it is given: here none
            _, found = network(clip_input=pixels, images=[np.zeros(0)] * len(pictures))
        return np.array(found)

    return flagged


@torch.inference_mode()
def measure_attributes(
    images: object,
    clip: ContrastiveClassifier,
    head: torch.nn.Linear,
    flagged: Checker,
    *,
    batch_size: int = 64,
    desc: str | None = "images",
) -> NDArray:
    """Return the attributes (n,), of type `ATTRIBUTES`, of images of any usual kind.

    Args:
        images: as for `diffclf.images.load_images`, in their original sizes; each batch is decoded once.
        clip: the CLIP that the head was trained for.
        head: of `load_head`.
        flagged: of `load_checker`.
        batch_size: images at a time.
        desc: words before the progress bar; None: no bar.

    Raises:
        ModelError: the head is of another width than the embeddings.
    """
    items, parts = list_images(images), []
    starts = range(0, len(items), batch_size)
    for start in progress(starts, desc=desc, unit="batch", enabled=desc is not None):
        pictures = [load_image(*item) for item in items[start : start + batch_size]]
        embeddings = clip.embed_images(pictures)
        if embeddings.shape[1] != head.in_features:
            got = f"embeddings of {clip.name} with {embeddings.shape[1]}"
            raise ModelError(f"the aesthetic head is for embeddings with {head.in_features} numbers, got {got}")
        part = np.empty(len(pictures), ATTRIBUTES)
        part["resolution"] = [min(picture.size) for picture in pictures]
        part["quality"] = head(embeddings)[:, 0].double().numpy()
        part["flag"] = flagged(pictures)
        parts.append(part)
    return np.concatenate(parts)
