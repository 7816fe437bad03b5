"""Large models at their true size, with random weights: do they run here, in how much memory and time?

The sizes are those of the published configurations; nothing is downloaded. Two things are smaller: the tokenizers have
the words of the miniature world, padded to the true length, and Stable Diffusion 3 has no T5, which would add 4.8
billion weights and is run once per prompt only. Errors of random weights mean nothing.
"""

import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from diffclf.evaluator import Evaluator
from diffclf.models.dit import DiTModel
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.loading import quiet
from diffclf.models.sd3 import SD3Model
from diffclf.models.sdxl import SDXLModel
from diffclf.models.stable_diffusion import StableDiffusionModel
from diffclf.trials import Trials, uniform

__all__ = ["TRUE_SIZES", "build_true_size", "measure_true_size"]

N_PROMPTS, N_TRIALS = 2, 2
TOKENS, VOCABULARY = 77, 49408
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_L |= {"hidden_act": "quick_gelu", "projection_dim": 768}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_H |= {"hidden_act": "gelu", "projection_dim": 512}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_G |= {"hidden_act": "gelu", "projection_dim": 1280}
WAYS = {"down": "DownEncoder", "up": "UpDecoder"}
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class TrueSize(NamedTuple):
    """A model's kind, and what its parts' published configurations have other than the classes' defaults."""

    kind: type[LatentDiffusionModel]
    network: dict[str, Any]
    vae: dict[str, Any]
    scheduler: tuple[str, dict[str, Any]]
    text_encoders: tuple[dict[str, Any], ...] = ()


TRUE_SIZES = {
    "dit-xl-2-256": TrueSize(
        DiTModel,
        {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 32, "patch_size": 2}
        | {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 1000},
        {"scaling_factor": 0.18215},
        ("DDIMScheduler", {"beta_start": 1e-4, "beta_end": 0.02}),
    ),
    "sd-2-base": TrueSize(
        StableDiffusionModel,
        {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20)}
        | {"cross_attention_dim": 1024, "use_linear_projection": True},
        {"scaling_factor": 0.18215},
        ("DDIMScheduler", SCALED_LINEAR | {"steps_offset": 1, "clip_sample": False}),
        (CLIP_H,),
    ),
    "sdxl": TrueSize(
        SDXLModel,
        {"sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20)}
        | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
        | {"up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")}
        | {"transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048, "use_linear_projection": True}
        | {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        | {"projection_class_embeddings_input_dim": 2816},
        {"scaling_factor": 0.13025},
        ("EulerDiscreteScheduler", SCALED_LINEAR),
        (CLIP_L, CLIP_G),
    ),
    "sd3-medium": TrueSize(
        SD3Model,
        {"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "in_channels": 16}
        | {"out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 1536}
        | {"pooled_projection_dim": 2048, "pos_embed_max_size": 192},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 16}
        | {"use_quant_conv": False, "use_post_quant_conv": False},
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        (CLIP_L, CLIP_G),
    ),
}
"""Name -> sizes, as in config.json of facebook/DiT-XL-2-256, stabilityai/stable-diffusion-2-base,
stabilityai/stable-diffusion-xl-base-1.0 and stabilityai/stable-diffusion-3-medium-diffusers."""


def build_true_size(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusionModel:
    """Return a model of `TRUE_SIZES` with random weights; raise ValueError for another name."""
    import diffusers
    import transformers

    from diffclf.mini.tokenizer import build_tokenizer

    if name not in TRUE_SIZES:
        raise ValueError(f"true size must be one of {', '.join(TRUE_SIZES)}, got {name!r}")
    kind, network, vae, (scheduler, settings), texts = TRUE_SIZES[name]
    vae = vae | {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    vae |= {f"{way}_block_types": (f"{block}Block2D",) * 4 for way, block in WAYS.items()}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that no network exists in float32 first
    try:
        part = next(part for part in kind.parts if part in ("unet", "transformer"))
        parts: dict[str, Any] = {part: getattr(diffusers, kind.parts[part][0])(**network)}
        for number, sizes in enumerate(texts, 1):
            suffix = "" if number == 1 else f"_{number}"
            with TemporaryDirectory() as folder:
                tokenizer = build_tokenizer(Path(folder))
            tokenizer.model_max_length = TOKENS
            ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
            config = transformers.CLIPTextConfig(vocab_size=VOCABULARY, **sizes, **ids)
            parts[f"text_encoder{suffix}"] = getattr(transformers, kind.parts[f"text_encoder{suffix}"][0])(config)
            parts[f"tokenizer{suffix}"] = tokenizer
        torch.set_default_dtype(torch.float32)
        parts["vae"] = diffusers.AutoencoderKL(**vae)
        parts["scheduler"] = getattr(diffusers, scheduler)(**settings)
    finally:
        torch.set_default_dtype(before)
    absent = dict.fromkeys(set(kind.parts) - set(parts))
    left_out = dict(kind.left_out) | ({"requires_safety_checker": False} if kind is StableDiffusionModel else {})
    with quiet():
        pipeline = getattr(diffusers, kind.kind)(**parts, **absent, **left_out)
        return kind(pipeline.to(device), name)


def measure_true_size(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, batch_size: int = 1
) -> dict[str, float | int | str]:
    """Build a model of `TRUE_SIZES`, compute the errors of one image, two prompts and two trials each; return the cost.

    Times are in seconds, of one run each. The peak is that of the process so far (on CUDA, of the device), in 10**9
    bytes.
    """
    marks = [time.perf_counter()]
    model = build_true_size(name, device, dtype)
    marks.append(time.perf_counter())
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, model.image_size, model.image_size, generator=generator) * 2 - 1
    x0 = model.encode_images(pixels)
    cond = model.encode_prompts(["a photo of a bag", "a photo of a boot"] if model.labels is None else [0, 1])
    marks.append(time.perf_counter())
    n_timesteps = len(model.schedule)
    trials = Trials(uniform(n_timesteps, n_timesteps)[:N_TRIALS], 0, 0, model.latent_shape)
    triples = np.argwhere(np.ones((1, N_PROMPTS, N_TRIALS)))
    Evaluator(model, ["l2"], batch_size).errors(x0, cond, [trials], triples)
    marks.append(time.perf_counter())
    cuda = model.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(model.device) if cuda else getrusage(RUSAGE_SELF).ru_maxrss * 1024
    build, encode, evaluate = np.diff(marks).tolist()
    return {
        "weights, billions": sum(weight.numel() for weight in model.network.parameters()) / 1e9,
        "dtype": str(dtype).removeprefix("torch."),
        "build, s": build,
        "image and prompts, s": encode,
        "s per evaluation": evaluate / len(triples),
        "peak, GB": peak / 1e9,
        "CPU threads": torch.get_num_threads(),
    }
