"""Writes the trained networks as a Stable Diffusion pipeline in diffusers' own directory format."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from diffclf.mini.denoiser import Denoiser, build_denoiser, build_scheduler
from diffclf.mini.tokenizer import build_tokenizer

__all__ = ["export_pipeline", "export_version", "import_denoiser"]


def _save_text_encoder(text_encoder: CLIPTextModel, folder: Path) -> None:
    """Save with the `text_model.` prefix of the keys, without which transformers 4 would load random weights.

    Single precision, because transformers 5 keeps the precision of the file and diffusers does not.
    """
    text_encoder.float().save_pretrained(folder)
    path = folder / "model.safetensors"
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})


def export_version(denoiser: Denoiser, folder: Path) -> None:
    """Write one version along the training: `unet/` (half precision) and `text_encoder/` in `folder`."""
    unet = build_denoiser_like(denoiser)
    unet.half().save_pretrained(folder / "unet")
    _save_text_encoder(denoiser.text_encoder, folder / "text_encoder")


def build_denoiser_like(denoiser: Denoiser) -> torch.nn.Module:
    """Return a copy of the U-Net, so that saving it in half precision leaves the original alone."""
    unet = type(denoiser.unet).from_config(denoiser.unet.config)
    unet.load_state_dict(denoiser.unet.state_dict())
    return unet


def export_pipeline(vae: AutoencoderKL, denoiser: Denoiser, folder: Path) -> None:
    """Write a complete `StableDiffusionPipeline` directory; U-Net and autoencoder in half precision.

    Args:
        vae: the autoencoder, its scaling factor set.
        denoiser: the averaged networks.
        folder: where it goes; files of an earlier export are replaced.
    """
    tokenizer = build_tokenizer(folder / "tokenizer")
    half_vae = AutoencoderKL.from_config(vae.config)
    half_vae.load_state_dict(vae.state_dict())
    StableDiffusionPipeline(
        vae=half_vae.half(),
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=build_denoiser_like(denoiser).half(),
        scheduler=DDIMScheduler.from_config(build_scheduler().config, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    _save_text_encoder(denoiser.text_encoder, folder / "text_encoder")
    build_tokenizer(folder / "tokenizer")


def import_denoiser(folder: Path, tokenizer: CLIPTokenizer) -> Denoiser:
    """Return the networks of an exported pipeline in single precision, to train on.

    Args:
        folder: the pipeline's directory.
        tokenizer: the tokenizer the text encoder was built for.
    """
    denoiser = build_denoiser(tokenizer)
    denoiser.unet.load_state_dict(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    state = load_file(folder / "text_encoder" / "model.safetensors")
    current = denoiser.text_encoder.state_dict()
    denoiser.text_encoder.load_state_dict(
        {key: state[f"text_model.{key.removeprefix('text_model.')}"] for key in current}
    )
    return denoiser
