"""PixArt-alpha and PixArt-Sigma as conditional densities: a diffusion transformer (DiT) that reads T5's states.

The output has 2C channels, as DiT's: the prediction of eps, then the interpolation of the learned variance. The
conditioning has the states of T5 for the prompt in lower case, and a mask of the tokens that are no padding: the
network's cross-attention does not see the others. The first model for 1024 x 1024 pixels (alpha) also gets the image's
size and the ratio of its sides, which are always those of the model's own square images here.

Source: Chen et al. 2023, "PixArt-alpha", arXiv 2310.00426; Chen et al. 2024, "PixArt-Sigma", arXiv 2403.04692.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.text import TextModel

__all__ = ["PixArtAlphaModel", "PixArtSigmaModel"]


class PixArtAlphaModel(TextModel):
    """A `PixArtAlphaPipeline` behind the protocol of `DiffusionModel`.

    The pipeline is in one precision and on one device. Prompts are put into lower case and not cleaned further (the
    pipeline's `clean_caption=False`). The empty prompt is the unconditional model's.

    Raises:
        UnsupportedModelError: the network does not fit the autoencoder.
        ModelError: the tokenizer does not fit the text encoder.
    """

    kind = "PixArtAlphaPipeline"
    parts = {
        # The first published ones call it Transformer2DModel; weights and outputs are the same.
        "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (),
    }
    t5_length = 120

    def __init__(self, pipeline: Any, name: str = "pixart") -> None:  # noqa: ANN401 (diffusers' type)
        super().__init__(pipeline, pipeline.transformer, name)
        size, options = float(self.image_size), {"device": self.device, "dtype": self.dtype}
        self._sizes = {
            "resolution": torch.tensor([[size, size]], **options),
            "aspect_ratio": torch.ones(1, 1, **options),
        }

    @override
    def _text(self, prompt: str) -> str:
        return prompt.lower().strip()

    @override
    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        ids, mask = self._tokens("text_encoder", texts)
        states = self.text_encoders["text_encoder"](ids, attention_mask=mask)[0]
        return {"hidden_states": states.to(self.dtype), "mask": mask}

    @override
    def denoise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        sizes = {name: value.expand(len(x_t), -1) for name, value in self._sizes.items()}
        return self.network(
            x_t.to(self.device, self.dtype),
            encoder_hidden_states=cond.tensors["hidden_states"].to(self.device, self.dtype),
            encoder_attention_mask=cond.tensors["mask"].to(self.device),
            timestep=t.to(self.device),
            # Only a network that was trained with the sizes reads them.
            added_cond_kwargs=sizes if self.network.use_additional_conditions else dict.fromkeys(sizes),
        ).sample


class PixArtSigmaModel(PixArtAlphaModel):
    """A `PixArtSigmaPipeline` behind the protocol of `DiffusionModel`: PixArt with longer prompts."""

    kind = "PixArtSigmaPipeline"
    t5_length = 300
