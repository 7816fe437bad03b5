"""Stable Diffusion XL as a conditional density: eps_hat(x_t, t, c).

The conditioning c has the states of two CLIP text encoders side by side, each of its last layer but one, the pooled
embedding of the second, and six numbers on the image: its size before training resized it, the upper left corner of its
crop, and its size after. The numbers are the pipeline's own for an image of the model's size that was not cropped.

Source: Podell et al. 2023, arXiv 2307.01952, sections 2.1 and 2.2.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.text import TextModel, check_unet

__all__ = ["SDXLModel"]


class SDXLModel(TextModel):
    """A `StableDiffusionXLPipeline` behind the protocol of `DiffusionModel`.

    The pipeline is in one precision and on one device. The empty prompt is encoded as any other prompt is; the
    unconditional model of the pipeline, whose states are zero, is not among the prompts.

    Raises:
        UnsupportedModelError: the pipeline is not a plain text-to-image one (a refiner is none).
        ModelError: a tokenizer's length does not fit its text encoder.
    """

    kind = "StableDiffusionXLPipeline"
    parts = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (),
    }
    left_out = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def __init__(self, pipeline: Any, name: str = "sdxl") -> None:  # noqa: ANN401 (diffusers' type)
        super().__init__(pipeline, pipeline.unet, name)
        check_unet(pipeline.unet.config, name, added=("text_time",))
        self.network.to(memory_format=torch.channels_last)
        size = self.image_size
        self._sizes = torch.tensor([size, size, 0, 0, size, size], dtype=self.dtype, device=self.device)

    @override
    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        states, _ = self._clip_states("text_encoder", texts)
        states_2, pooled = self._clip_states("text_encoder_2", texts)
        return {"hidden_states": torch.cat([states, states_2], dim=-1), "pooled": pooled}

    @override
    def denoise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        x_t = x_t.to(self.device, self.dtype, memory_format=torch.channels_last)
        states, pooled = (cond.tensors[name].to(self.device, self.dtype) for name in ("hidden_states", "pooled"))
        added = {"text_embeds": pooled, "time_ids": self._sizes.expand(len(x_t), -1)}
        t = t.to(self.device)
        return self.network(x_t, t, encoder_hidden_states=states, added_cond_kwargs=added).sample
