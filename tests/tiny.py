"""Tiny randomly initialised pipelines and networks, saved as they lie on the hub, and folders of random images."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

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


def save_tiny_dit(path, learns_variance=True, labels=DIT_LABELS):
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
            num_embeds_ada_norm=len(labels),
        )
        vae = tiny_autoencoder()
    DiTPipeline(transformer=transformer, vae=vae, scheduler=tiny_scheduler(DDIMScheduler)).save_pretrained(path)
    # save_pretrained loses the names of the classes.
    edit_json(path / "model_index.json", id2label={str(index): label for index, label in enumerate(labels)})
    return path


def save_tiny_networks(path, labels):
    """Save a ResNet and a ViT for 32 x 32 images as networks lie on the hub; return their directories."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resnet = ResNetConfig(embedding_size=8, hidden_sizes=(8, 16), depths=(1, 1), layer_type="basic", **names)
        networks = {
            "resnet": ResNetForImageClassification(resnet),
            "vit": ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **layers, **names)),
        }
        for network in networks.values():  # random networks are never sure, and a filter needs sure ones
            list(network.classifier.parameters())[0].data *= 1000
    # Those of microsoft/resnet-50 and of facebook/deit-base-patch16-224, but for the size.
    processors = {
        "resnet": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
        "vit": ViTImageProcessorPil(
            size={"height": 36, "width": 36}, do_center_crop=True, crop_size={"height": 32, "width": 32}
        ),
    }
    for kind, network in networks.items():
        network.save_pretrained(Path(path) / kind)
        processors[kind].save_pretrained(Path(path) / kind)
    return [Path(path) / kind for kind in networks]


def save_class_folder(path, names, seed=0):
    """Save a folder with a folder per class: three random pictures of odd sizes and kinds in each; return it."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(names):
        (Path(path) / name).mkdir(parents=True)
        for (height, width), kind in {(33, 47): "RGB", (64 + number, 31): "L", (101, 77): "RGBA"}.items():
            pixels = rng.integers(0, 256, (height, width, len(kind)), dtype=np.uint8).squeeze()
            Image.fromarray(pixels, kind).save(Path(path) / name / f"{kind}.png")
    return Path(path)


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
