"""Tiny randomly initialised pipelines, saved exactly as pipelines lie on the hub."""

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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = (
    "a an photo of the red green blue sneaker bag shirt dress coat boot sandal trouser pullover to left right".split()
)
DIT_LABELS = ("t-shirt", "trouser", "pullover")
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def save_tiny_sd(path, prediction_type="epsilon", scheduler=DDIMScheduler, seed=0, **scheduler_config):
    """Save a Stable Diffusion pipeline for 32 x 32 images (latents 4 x 8 x 8) and return its directory.

    `scheduler` is a diffusers class, which gets the linear schedule of DDPM and `scheduler_config`.
    """
    path = Path(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(path / "tokenizer")
        text_encoder = tiny_text_encoder(tokenizer)
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
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=tiny_scheduler(scheduler, prediction_type, **scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(path)
    # The hub's files are older than transformers 5, which drops the prefix and writes tokenizer.json.
    add_text_prefix(path / "text_encoder" / "model.safetensors")
    write_tokenizer_files(path / "tokenizer")
    (path / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    return path


def save_tiny_dit(path, labels=DIT_LABELS, scheduler=DDIMScheduler, seed=0, learns_variance=True):
    """Save a class-conditional DiT pipeline for 32 x 32 images (latents 4 x 8 x 8) and return its directory."""
    path = Path(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8 if learns_variance else 4,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=len(labels),
        )
        vae = tiny_autoencoder()
    DiTPipeline(transformer=transformer, vae=vae, scheduler=tiny_scheduler(scheduler)).save_pretrained(path)
    # save_pretrained loses the names of the classes.
    edit_json(path / "model_index.json", id2label={str(index): label for index, label in enumerate(labels)})
    return path


def tiny_scheduler(scheduler, prediction_type="epsilon", **config):
    """A scheduler with the linear schedule, configured as Stable Diffusion's pipeline wants it."""
    settings = {**SCHEDULE, "prediction_type": prediction_type, "steps_offset": 1, "clip_sample": False, **config}
    known = scheduler._get_init_keys(scheduler)
    return scheduler(**{key: value for key, value in settings.items() if key in known or key in config})


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


def tiny_text_encoder(tokenizer):
    """A text encoder of width 16 for a tokenizer."""
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
    return CLIPTextModel(config).eval()


def tiny_tokenizer(path):
    """A CLIP tokenizer that knows WORDS as one token each and spells the rest, 16 tokens long."""
    write_tokenizer_files(path)
    return CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=16)


def write_tokenizer_files(path):
    """Write vocab.json and merges.txt: byte symbols, then the chain of merges of every word."""
    path.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    merges = []
    for word in WORDS:
        left, *rest = [*word[:-1], word[-1] + "</w>"]
        for right in rest:
            if (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
            left += right
    vocab = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def add_text_prefix(file):
    """Name the weights of a text encoder as transformers 4 does."""
    weights = load_file(file)
    save_file(
        {"text_model." + key.removeprefix("text_model."): value for key, value in weights.items()},
        file,
        metadata={"format": "pt"},
    )


def edit_json(file, **changes):
    """Change entries of a JSON file."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    Path(file).write_text(json.dumps(content | changes, indent=2), encoding="utf-8")
