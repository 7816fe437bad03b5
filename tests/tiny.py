"""Tiny randomly initialised pipelines, saved as pipelines lie on the hub."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffclf.mini.tokenizer import build_tokenizer

DIT_LABELS = ("t-shirt", "trouser", "pullover")
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def save_tiny_sd(path, prediction_type="epsilon", scheduler=DDIMScheduler, seed=0):
    """Save a Stable Diffusion pipeline for 32 x 32 images (latents 4 x 8 x 8) and return its directory.

    `scheduler` is a diffusers class, which gets the linear schedule of DDPM.
    """
    path = Path(path)
    tokenizer = build_tokenizer(path / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=16,
        )
        vae = tiny_autoencoder()
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=tiny_scheduler(scheduler, prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    # The hub's files are older than transformers 5, which writes tokenizer.json and drops a prefix of the weights.
    build_tokenizer(path / "tokenizer")
    (path / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    file = path / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return path


def save_tiny_dit(path, learns_variance=True):
    """Save a class-conditional DiT pipeline for 32 x 32 images (latents 4 x 8 x 8) and return its directory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8 if learns_variance else 4,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=len(DIT_LABELS),
        )
        vae = tiny_autoencoder()
    DiTPipeline(transformer=transformer, vae=vae, scheduler=tiny_scheduler(DDIMScheduler)).save_pretrained(path)
    # save_pretrained loses the names of the classes.
    edit_json(path / "model_index.json", id2label={str(index): label for index, label in enumerate(DIT_LABELS)})
    return path


def tiny_scheduler(scheduler, prediction_type="epsilon"):
    """A scheduler with the linear schedule, configured as Stable Diffusion's pipeline wants it."""
    settings = {**SCHEDULE, "prediction_type": prediction_type, "steps_offset": 1, "clip_sample": False}
    known = scheduler._get_init_keys(scheduler)
    return scheduler(**{key: value for key, value in settings.items() if key in known})


def tiny_autoencoder():
    """An autoencoder of 32 x 32 x 3 images to 8 x 8 x 4 latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.7,
    )


def edit_json(file, **changes):
    """Change entries of a JSON file."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    Path(file).write_text(json.dumps(content | changes, indent=2), encoding="utf-8")
