"""The common part of the models of text: from prompts to tokens, and from tokens to the states of a text encoder.

A pipeline has one or more text encoders, CLIP's or T5, each with a tokenizer of its own. Every prompt is padded to the
same number of tokens, so that the conditionings of all prompts have the same shape. No guidance anywhere: the
classifier compares conditional errors as they are.
"""

import json
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from diffclf.models.conditioning import Conditioning
from diffclf.models.latent import LatentDiffusionModel, list_prompts
from diffclf.models.protocol import ModelError, UnsupportedModelError

__all__ = ["TextModel", "check_unet"]

logger = logging.getLogger(__name__)

PROMPTS_AT_ONCE = 64
CLIP_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "num_hidden_layers")
SETTINGS = {
    "CLIPTextModel": CLIP_SETTINGS,
    "CLIPTextModelWithProjection": (*CLIP_SETTINGS, "eos_token_id"),  # the token whose state is the pooled embedding
    "T5EncoderModel": ("feed_forward_proj", "layer_norm_epsilon", "num_heads", "num_layers")
    + ("relative_attention_max_distance", "relative_attention_num_buckets"),
}
"""Class of a text encoder -> the settings that its weights do not show."""


class TextModel(LatentDiffusionModel):
    """A model of text. A prompt longer than a text encoder reads is cut, as in the pipeline; the log has a warning.

    Raises:
        ModelError: a tokenizer does not fit its text encoder.

    Attributes:
        text_encoders: name of the part -> text encoder, of those that the pipeline has.
        tokenizers: name of the text encoder -> its tokenizer.
        lengths: name of the text encoder -> tokens of every prompt, padding included.
        t5_length: tokens of every prompt for T5, which has no length of its own.
    """

    t5_length: ClassVar[int] = 0

    def __init__(self, pipeline: Any, network: torch.nn.Module, name: str) -> None:  # noqa: ANN401 (diffusers' type)
        super().__init__(pipeline, network, name)
        encoders = {part: getattr(pipeline, part) for part in self.parts if part.startswith("text_encoder")}
        self.text_encoders = {part: each.eval().requires_grad_(False) for part, each in encoders.items() if each}
        self.tokenizers = {part: getattr(pipeline, _tokenizer(part)) for part in self.text_encoders}
        self.lengths = {part: self._length(part) for part in self.text_encoders}

    def _length(self, part: str) -> int:
        """Return the tokens of every prompt for a text encoder, having checked that it can read them."""
        tokenizer, config = self.tokenizers[part], self.text_encoders[part].config
        if config.model_type == "t5":
            numbers = tokenizer.get_vocab()
            # Without its file of pieces, T5's tokenizer knows special tokens and the blank alone, and says nothing.
            if len(numbers) < len(tokenizer.all_special_tokens) + 2 or max(numbers.values()) >= config.vocab_size:
                message = f"{_tokenizer(part)} of {self.name} must have up to {config.vocab_size} pieces of words"
                raise ModelError(f"{message} (spiece.model or tokenizer.json), got {len(numbers)} tokens in all")
            return self.t5_length
        length, positions = tokenizer.model_max_length, config.max_position_embeddings
        if not isinstance(length, int) or not 3 <= length <= positions:
            message = f"{_tokenizer(part)} of {self.name} must have a model_max_length from 3 to the text encoder's"
            raise ModelError(f"{message} {positions} positions, got {length!r:.80}")
        return length

    @override
    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        texts = self._checked(prompts)
        parts = [self._encode(texts[i : i + PROMPTS_AT_ONCE]) for i in range(0, len(texts), PROMPTS_AT_ONCE)]
        return Conditioning({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    @abstractmethod
    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Return the tensors of the conditioning of a batch of prompts, one row per prompt."""

    def _text(self, prompt: str) -> str:
        """Return what the tokenizers get of a prompt."""
        return prompt

    def _checked(self, prompts: Sequence[str]) -> list[str]:
        """Return what the tokenizers get of prompts.

        Raises TypeError for another type than text, and ValueError if all text encoders read two prompts as the same.
        """
        prompts = list_prompts(prompts)
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt of {self.name} must be a string, got {prompt!r}")
        texts = [self._text(prompt) for prompt in prompts]
        ids = {part: tokenizer(texts, verbose=False).input_ids for part, tokenizer in self.tokenizers.items()}
        seen: dict[tuple, str] = {}
        for prompt, *rows in zip(prompts, *ids.values(), strict=True):
            lengths = self.lengths.values()
            for n, length in dict.fromkeys((len(row), length) for row, length in zip(rows, lengths, strict=True)):
                if n > length:
                    logger.warning("prompt has %d tokens; %s uses the first %d: %r", n, self.name, length, prompt)
            read = tuple(tuple(row[: length - 1]) for row, length in zip(rows, lengths, strict=True))
            other = seen.setdefault(read, prompt)
            if other != prompt:
                message = f"prompts must differ in the first {max(lengths)} tokens, case and blanks aside"
                raise ValueError(f"{message}; for {self.name} these are the same: {other!r} and {prompt!r}")
        return texts

    def _tokens(self, part: str, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the padded tokens of a batch of prompts for a text encoder, (n, L) int64, and 1 where one counts."""
        tokens = self.tokenizers[part](
            texts, padding="max_length", max_length=self.lengths[part], truncation=True, return_tensors="pt"
        )
        return tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)

    def _clip_states(self, part: str, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the states of CLIP's last layer but one, (n, L, D), and its first output: pooled where it projects."""
        output = self.text_encoders[part](self._tokens(part, texts)[0], output_hidden_states=True)
        return output.hidden_states[-2].to(self.dtype), output[0].to(self.dtype)

    @override
    def _more_for_fingerprint(self) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        settings = {}
        for part, encoder in self.text_encoders.items():
            settings[part] = {key: getattr(encoder.config, key) for key in SETTINGS[type(encoder).__name__]}
            tokenizer = self.tokenizers[part]
            rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules.get("merges", [])]
            settings[_tokenizer(part)] = [rules["vocab"], merges, self.lengths[part], tokenizer.pad_token_id]
        return dict(self.text_encoders), settings


def _tokenizer(part: str) -> str:
    """Return the name of a text encoder's tokenizer."""
    return part.replace("text_encoder", "tokenizer")


def check_unet(config: Any, name: str, added: Sequence[str | None]) -> None:  # noqa: ANN401 (diffusers' type)
    """Raise UnsupportedModelError if a U-Net wants other inputs than text; `added`: the embeddings that it may add."""
    extra = [key for key in ("class_embed_type", "time_cond_proj_dim") if config.get(key)]
    if config.get("addition_embed_type") not in added:
        extra.append(f"addition_embed_type {config.get('addition_embed_type')!r}")
    if extra:
        raise UnsupportedModelError(f"unet of {name} must be conditioned on text alone, got {', '.join(extra)}")
