"""Stable Diffusion 1 and 2 as a conditional density: eps_hat(x_t, t, c), where c are the text encoder's hidden states.

The conditioning of a prompt is what the pipeline itself computes: the last hidden states of the CLIP text encoder for
the prompt padded to the tokenizer's length.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.text import TextModel, check_unet

__all__ = ["StableDiffusionModel"]


class StableDiffusionModel(TextModel):
    """A `StableDiffusionPipeline` behind the protocol of `DiffusionModel`.

    The pipeline is of version 1 or 2, in one precision and on one device. The empty prompt is the unconditional
    model's.

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
        # "text" pools the same text embedding; other kinds want inputs that the pipeline does not give.
        check_unet(pipeline.unet.config, name, added=(None, "text"))
        # Convolutions of few channels on a CPU gain up to a third from it, and half precision on a GPU needs it.
        self.network.to(memory_format=torch.channels_last)
        self.text_encoder, self.tokenizer = self.text_encoders["text_encoder"], self.tokenizers["text_encoder"]
        # Only some text encoders were trained with the padding masked; their configuration says so.
        self._masked = bool(getattr(self.text_encoder.config, "use_attention_mask", False))

    @override
    def denoise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        x_t = x_t.to(self.device, self.dtype, memory_format=torch.channels_last)
        hidden_states = cond.tensors["hidden_states"].to(self.device, self.dtype)
        return self.network(x_t, t.to(self.device), encoder_hidden_states=hidden_states).sample

    @override
    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        ids, mask = self._tokens("text_encoder", texts)
        states = self.text_encoder(ids, attention_mask=mask if self._masked else None)[0]
        return {"hidden_states": states.to(self.dtype)}

    @override
    def _more_for_fingerprint(self) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        networks, settings = super()._more_for_fingerprint()
        # Stored results are known by the fingerprint without the padding's token.
        return networks, settings | {"tokenizer": settings["tokenizer"][:3], "text_mask": self._masked}
