"""Tiny randomly initialised pipelines and networks, saved as they lie on the hub, and folders of random images."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from diffclf.mini.clip import Size, build_clip
from diffclf.mini.export import export_clip
from diffclf.mini.tokenizer import WORDS, build_tokenizer

DIT_LABELS = ("t-shirt", "trouser", "pullover")
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


def save_tiny_sd(path, prediction_type="epsilon", scheduler=DDIMScheduler, seed=0):
    """Save a Stable Diffusion pipeline for 32 x 32 images (latents 4 x 8 x 8) and return its directory.

    `scheduler` is a diffusers class, which gets the linear schedule of DDPM.
    """
    path = Path(path)
    tokenizer = build_tokenizer(path / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = tiny_clip(CLIPTextModel, tokenizer)
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
    as_on_the_hub(path, "tokenizer", "text_encoder")
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


def save_tiny_sdxl(path, scheduler=EulerDiscreteScheduler, **settings):
    """Save a Stable Diffusion XL pipeline for 32 x 32 images and return its directory."""
    path = Path(path)
    tokenizers = {name: build_tokenizer(path / name) for name in ("tokenizer", "tokenizer_2")}
    tokenizers["tokenizer_2"].pad_token = "!"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        StableDiffusionXLPipeline(
            text_encoder=tiny_clip(CLIPTextModel, tokenizers["tokenizer"]),
            text_encoder_2=tiny_clip(CLIPTextModelWithProjection, tokenizers["tokenizer_2"], 24, projection_dim=12),
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(8, 16),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                norm_num_groups=4,
                attention_head_dim=(1, 2),
                cross_attention_dim=16 + 24,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 12,
            ),
            vae=tiny_autoencoder(),
            scheduler=tiny_scheduler(scheduler, **settings),
            **tokenizers,
        ).save_pretrained(path)
    as_on_the_hub(path, "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    return path


def save_tiny_sd3(path, t5=True, **settings):
    """Save a Stable Diffusion 3 pipeline for 32 x 32 images and return its directory; T5 may be missing."""
    path = Path(path)
    tokenizers = {name: build_tokenizer(path / name) for name in ("tokenizer", "tokenizer_2")}
    tokenizers["tokenizer_2"].pad_token = "!"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusion3Pipeline(
            text_encoder=tiny_clip(CLIPTextModelWithProjection, tokenizers["tokenizer"], projection_dim=12),
            text_encoder_2=tiny_clip(CLIPTextModelWithProjection, tokenizers["tokenizer_2"], 24, projection_dim=20),
            text_encoder_3=tiny_t5() if t5 else None,
            tokenizer_3=tiny_t5_tokenizer() if t5 else None,
            transformer=SD3Transformer2DModel(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=48,
                caption_projection_dim=16,
                pooled_projection_dim=12 + 20,
                pos_embed_max_size=12,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            vae=tiny_autoencoder(shift_factor=0.25, use_quant_conv=False, use_post_quant_conv=False),
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | settings),
            **tokenizers,
        )
        pipeline.save_pretrained(path)
    as_on_the_hub(path, "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    if t5:
        shard(pipeline.text_encoder_3, path / "text_encoder_3")
    return path


def save_tiny_pixart(path, sigma=False, sizes=True, scheduler=DPMSolverMultistepScheduler):
    """Save a PixArt pipeline for 32 x 32 images, alpha or Sigma, and return its directory; alpha may read sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
            text_encoder=tiny_t5(),
            tokenizer=tiny_t5_tokenizer(),
            transformer=PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                cross_attention_dim=24,
                sample_size=8,
                caption_channels=48,
                use_additional_conditions=sizes and not sigma,
            ),
            vae=tiny_autoencoder(),
            scheduler=tiny_scheduler(scheduler),
        )
        pipeline.save_pretrained(path)
    shard(pipeline.text_encoder, Path(path) / "text_encoder")
    # As in the repositories of the first PixArt models.
    edit_json(Path(path) / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit_json(Path(path) / "transformer" / "config.json", _class_name="Transformer2DModel", num_vector_embeds=None)
    return Path(path)


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
        "vit": ViTImageProcessorPil(size={"height": 32, "width": 32}),
    }
    for kind, network in networks.items():
        network.save_pretrained(Path(path) / kind)
        processors[kind].save_pretrained(Path(path) / kind)
    return [Path(path) / kind for kind in networks]


def save_tiny_clip(path):
    """Save a random CLIP for 32 x 32 images (embeddings of 64) and return its directory."""
    path = Path(path)
    tokenizer = build_tokenizer(path)
    size = Size(patch=8, width=16, depth=1, text_width=16, text_depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        export_clip(build_clip(size, len(tokenizer), tokenizer.eos_token_id, tokenizer.model_max_length), path)
    return path


def save_class_folder(path, names, seed=0):
    """Save a folder with a folder per class: three random pictures of odd sizes and kinds in each; return it."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(names):
        (Path(path) / name).mkdir(parents=True)
        for (height, width), kind in {(33, 47): "RGB", (64 + number, 31): "L", (101, 77): "RGBA"}.items():
            pixels = rng.integers(0, 256, (height, width, len(kind)), dtype=np.uint8).squeeze()
            Image.fromarray(pixels, kind).save(Path(path) / name / f"{kind}.png")
    return Path(path)


def tiny_scheduler(scheduler, prediction_type="epsilon", **more):
    """A scheduler with the linear schedule, configured as Stable Diffusion's pipeline wants it."""
    settings = {**SCHEDULE, "prediction_type": prediction_type, "steps_offset": 1, "clip_sample": False, **more}
    known = scheduler._get_init_keys(scheduler)
    return scheduler(**{key: value for key, value in settings.items() if key in known})


def tiny_clip(kind, tokenizer, width=16, **settings):
    """A random text encoder of CLIP for a tokenizer."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
    )


def tiny_t5_tokenizer():
    """T5's tokenizer with a piece per word of the miniature world, and one per letter."""
    pieces = [f"\u2581{word}" for word in WORDS] + ["\u2581", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-"]
    scores = [(piece, -1.0 - (len(piece) == 1)) for piece in dict.fromkeys(pieces)]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scores], model_max_length=512)


def tiny_t5():
    """A random T5 encoder for `tiny_t5_tokenizer`."""
    sizes = {"d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=256, feed_forward_proj="gated-gelu", **sizes))


def shard(network, folder):
    """Save a network anew, its weights in several files."""
    shutil.rmtree(folder)
    network.save_pretrained(folder, max_shard_size="40kB")


def as_on_the_hub(path, *parts):
    """Give CLIP's tokenizers and text encoders the form of transformers 4, in which the hub has them.

    transformers 5 writes tokenizer.json and drops a prefix of the weights.
    """
    for part in parts:
        if part.startswith("tokenizer"):
            build_tokenizer(path / part)
            (path / part / "tokenizer.json").unlink(missing_ok=True)
        else:
            file = path / part / "model.safetensors"
            plain = {key.removeprefix("text_model."): value for key, value in load_file(file).items()}
            named = {key if key.startswith("text_proj") else f"text_model.{key}": value for key, value in plain.items()}
            save_file(named, file, metadata={"format": "pt"})


def tiny_autoencoder(**settings):
    """An autoencoder of 32 x 32 x 3 images to 8 x 8 x 4 latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.7,
        **settings,
    )


def edit_json(file, **changes):
    """Change entries of a JSON file."""
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    Path(file).write_text(json.dumps(content | changes, indent=2), encoding="utf-8")
