"""Writes trained networks as pipelines in diffusers' own directory format.

The networks of a whole pipeline are turned to half precision in place; a version along the training is a copy.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, PreTrainedModel, ViTImageProcessorPil

from diffclf.baselines.synthetic import build_processor
from diffclf.files import write_json
from diffclf.mini.latents import build_scheduler
from diffclf.mini.tokenizer import build_tokenizer

__all__ = ["export_classifier", "export_clip", "export_dit", "export_stable_diffusion", "export_version"]


def _save_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    """Save with the `text_model.` prefix of the keys, without which transformers 4 would load random weights.

    Single precision, because transformers 5 keeps the precision of the file and diffusers does not.
    """
    text_encoder.float().save_pretrained(folder)
    path = folder / "model.safetensors"
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})


def export_version(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Write one version along the training: `unet/` (half precision) and `text_encoder/` in `folder`."""
    copy.deepcopy(unet).half().save_pretrained(folder / "unet")
    _save_text_encoder(text_encoder, folder / "text_encoder")


def export_stable_diffusion(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    folder: Path,
    scheduler: DDIMScheduler,
) -> None:
    """Write a `StableDiffusionPipeline` directory, U-Net and autoencoder in half precision."""
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(folder / "tokenizer"),
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    _save_text_encoder(text_encoder, folder / "text_encoder")
    build_tokenizer(folder / "tokenizer")  # save_pretrained removes the files that older releases read


def export_dit(vae: AutoencoderKL, transformer: DiTTransformer2DModel, labels: Sequence[str], folder: Path) -> None:
    """Write a `DiTPipeline` directory in half precision; the labels are the names of the classes in index order."""
    vae.register_to_config(_name_or_path="mini-sd")  # where it was read from is nobody's business
    DiTPipeline(transformer=transformer.half(), vae=vae.half(), scheduler=build_scheduler()).save_pretrained(folder)
    index = folder / "model_index.json"
    names = {str(number): label for number, label in enumerate(labels)}
    write_json(index, json.loads(index.read_text()) | {"id2label": names})  # save_pretrained loses the names


def export_classifier(network: PreTrainedModel, folder: Path) -> None:
    """Write a copy of a discriminative network in half precision, and its preprocessing, in transformers' format."""
    copy.deepcopy(network).half().save_pretrained(folder)
    size = network.config.image_size if hasattr(network.config, "image_size") else 32
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)


def export_clip(model: CLIPModel, folder: Path) -> None:
    """Write a copy of a CLIP in half precision, its preprocessing and its tokenizer, in transformers' format."""
    copy.deepcopy(model).half().save_pretrained(folder)
    build_processor(model.config.vision_config.image_size).save_pretrained(folder)
    build_tokenizer(folder).save_pretrained(folder)
    build_tokenizer(folder)  # save_pretrained removes the files that older releases read
