"""Stable Diffusion as a conditional density: eps_hat(x_t, t, c), where c are the text encoder's hidden states.

The conditioning of a prompt is what the pipeline itself computes: the last hidden states of the CLIP text encoder for
the prompt padded to the tokenizer's length. No guidance: the classifier compares conditional errors as they are.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.latent import LatentDiffusionModel, list_prompts
from diffclf.models.protocol import ModelError, UnsupportedModelError

__all__ = ["StableDiffusionModel"]

logger = logging.getLogger(__name__)

PROMPTS_AT_ONCE = 64
TEXT_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "num_hidden_layers")


class StableDiffusionModel(LatentDiffusionModel):
    """A `StableDiffusionPipeline` behind the protocol of `DiffusionModel`.

    The pipeline is of version 1 or 2, in one precision and on one device. A prompt longer than the tokenizer's length
    is cut, as in the pipeline; a warning in the log names it. The empty prompt is the unconditional model's.

    Raises:
        UnsupportedModelError: the pipeline is not a plain text-to-image one.
        ModelError: the tokenizer's length does not fit the text encoder.
    """

    kind = "StableDiffusionPipeline"
    parts = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (),
    }
    left_out = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}

    def __init__(self, pipeline: Any, name: str = "stable-diffusion") -> None:  # noqa: ANN401 (diffusers' type)
        super().__init__(pipeline, pipeline.unet, name)
        config = pipeline.unet.config
        extra = [key for key in ("class_embed_type", "time_cond_proj_dim") if config.get(key)]
        # "text" pools the same text embedding; other kinds want inputs that the pipeline does not give.
        if config.get("addition_embed_type") not in (None, "text"):
            extra.append(f"addition_embed_type {config.addition_embed_type!r}")
        if extra:
            raise UnsupportedModelError(f"unet of {name} must be conditioned on text alone, got {', '.join(extra)}")
        # Convolutions of few channels on a CPU gain up to a third from it, and half precision on a GPU needs it.
        self.network.to(memory_format=torch.channels_last)
        self.text_encoder = pipeline.text_encoder.eval().requires_grad_(False)
        self.tokenizer = pipeline.tokenizer
        length, positions = self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings
        if not isinstance(length, int) or not 3 <= length <= positions:
            message = f"tokenizer of {name} must have a model_max_length from 3 to the text encoder's {positions}"
            raise ModelError(f"{message} positions, got {length!r:.80}")
        # Only some text encoders were trained with the padding masked; their configuration says so.
        self._masked = bool(getattr(self.text_encoder.config, "use_attention_mask", False))

    @override
    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        prompts, length = list_prompts(prompts), self.tokenizer.model_max_length
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt of {self.name} must be a string, got {prompt!r}")
        seen: dict[tuple[int, ...], str] = {}
        for prompt, ids in zip(prompts, self.tokenizer(prompts, verbose=False).input_ids, strict=True):
            if len(ids) > length:
                logger.warning("prompt has %d tokens; %s uses the first %d: %r", len(ids), self.name, length, prompt)
            other = seen.setdefault(tuple(ids[: length - 1]), prompt)
            if other != prompt:
                message = f"prompts must differ in the first {length} tokens, case and blanks aside"
                raise ValueError(f"{message}; for {self.name} these are the same: {other!r} and {prompt!r}")
        parts = [prompts[i : i + PROMPTS_AT_ONCE] for i in range(0, len(prompts), PROMPTS_AT_ONCE)]
        return Conditioning({"hidden_states": torch.cat([self._hidden_states(part) for part in parts])})

    @override
    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        x_t = x_t.to(self.device, self.dtype, memory_format=torch.channels_last)
        hidden_states = cond.tensors["hidden_states"].to(self.device, self.dtype)
        return self.network(x_t, t.to(self.device), encoder_hidden_states=hidden_states).sample

    def _hidden_states(self, prompts: list[str]) -> torch.Tensor:
        """Return the hidden states of a batch of prompts (n, L, D), as the pipeline computes them."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        mask = tokens.attention_mask.to(self.device) if self._masked else None
        return self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0].to(self.dtype)

    @override
    def _more_for_fingerprint(self) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        rules = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["merges"]]
        return {"text_encoder": self.text_encoder}, {
            "text_encoder": {key: getattr(self.text_encoder.config, key) for key in TEXT_SETTINGS},
            "text_mask": self._masked,
            "tokenizer": [rules["vocab"], merges, self.tokenizer.model_max_length],
        }
