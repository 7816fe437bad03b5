"""Stable Diffusion 3 and 3.5 as a conditional density: the flow velocity u_hat(x_t, t, c) of a transformer (MMDiT).

    x_t = (1 - sigma_t) x0 + sigma_t eps,     u = eps - x0
    sigma_t = s u_t / (1 + (s - 1) u_t),      u_t = (t + 1) / T,  t = 0 .. T-1

s is the scheduler's `shift`: the larger s, the more of the T timesteps are noisy ones. With `use_dynamic_shifting` it
is the one that the pipeline computes from the number of image tokens. The network takes the time T sigma_t. The table
is computed here from the scheduler's configuration, since `scheduler.sigmas` changes whenever the pipeline samples.

The conditioning c has the states of two CLIP text encoders side by side, filled up with zeros to T5's width, then those
of T5, and the pooled embeddings of both CLIPs. T5 may be missing: its 256 tokens are then zero, as in the pipeline, and
as for the share of captions that training dropped.

Source: Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image synthesis", arXiv 2403.03206.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.models.text import TextModel
from diffclf.schedule import NoiseSchedule

__all__ = ["SD3Model", "flow_schedule"]

SCHEDULER = "FlowMatchEulerDiscreteScheduler"
TOKENS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


def flow_schedule(config: Mapping[str, Any], name: str, n_tokens: int | None = None) -> tuple[Tensor, NoiseSchedule]:
    """Return sigma (T,), float64 on the CPU, of a flow-matching scheduler's configuration, and its noise schedule.

    `n_tokens` is the number of image tokens, for dynamic shifting; None: the configuration's largest.

    Raises:
        UnsupportedModelError: time runs backwards (`invert_sigmas`).
        ModelError: the shift is not a finite number above 0.
    """
    if config.get("invert_sigmas"):
        raise UnsupportedModelError(f"scheduler of {name} must have invert_sigmas false, got true")
    shift = config.get("shift", 1.0)
    try:
        if config.get("use_dynamic_shifting"):
            small, large, low, high = (float(config.get(key) or TOKENS[key]) for key in TOKENS)
            mu = low + (high - low) * ((large if n_tokens is None else n_tokens) - small) / (large - small)
            shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        fits = 0 < shift < math.inf
    except (TypeError, ValueError, ArithmeticError):
        fits = False
    if not fits:
        raise ModelError(f"shift of the scheduler of {name} must be a finite number above 0, got {shift!r:.80}")
    n = config.get("num_train_timesteps", 1000)
    u = torch.arange(1, n + 1, dtype=torch.float64) / n
    sigma = shift * u / (1 + (shift - 1) * u)
    return sigma, NoiseSchedule.flow(sigma)


class SD3Model(TextModel):
    """A `StableDiffusion3Pipeline`, version 3 or 3.5, behind the protocol of `DiffusionModel`.

    The pipeline is in one precision and on one device. The empty prompt is the unconditional model's.

    Raises:
        UnsupportedModelError: the scheduler is of another kind.
        ModelError: a tokenizer does not fit its text encoder.
    """

    kind = "StableDiffusion3Pipeline"
    parts = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_3": ("T5TokenizerFast", "T5Tokenizer"),
        "scheduler": (SCHEDULER,),
    }
    optional = {"text_encoder_3": "tokenizer_3"}
    left_out = {"feature_extractor": None, "image_encoder": None}
    t5_length = 256

    def __init__(self, pipeline: Any, name: str = "sd3") -> None:  # noqa: ANN401 (diffusers' type)
        super().__init__(pipeline, pipeline.transformer, name)
        self.lengths["text_encoder_2"] = self.lengths["text_encoder"]  # the pipeline asks the first tokenizer alone
        self._times = (len(self.schedule) * self.schedule.sigma).to(self.device, torch.float32)

    @classmethod
    @override
    def read_schedule(
        cls, scheduler: object, name: str, config: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, NoiseSchedule]:
        if type(scheduler).__name__ != SCHEDULER:
            raise UnsupportedModelError(f"scheduler of {name} must be {SCHEDULER}, got {type(scheduler).__name__}")
        n_tokens = config and (config["sample_size"] // config["patch_size"]) ** 2
        return flow_schedule(scheduler.config, name, n_tokens)

    @override
    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        clips = [self._clip_states(part, texts) for part in ("text_encoder", "text_encoder_2")]
        states, width = torch.cat([states for states, _ in clips], dim=-1), self.network.config.joint_attention_dim
        if t5 := self.text_encoders.get("text_encoder_3"):
            last = t5(self._tokens("text_encoder_3", texts)[0])[0].to(self.dtype)
        else:
            last = states.new_zeros(len(texts), self.t5_length, width)
        states = pad(states, (0, width - states.shape[-1]))
        pooled = torch.cat([pooled for _, pooled in clips], dim=-1)
        return {"hidden_states": torch.cat([states, last], dim=1), "pooled": pooled}

    @override
    def denoise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        states, pooled = (cond.tensors[name].to(self.device, self.dtype) for name in ("hidden_states", "pooled"))
        return self.network(
            x_t.to(self.device, self.dtype),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=self._times[t.to(self.device)],
        ).sample
