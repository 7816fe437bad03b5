"""DiT as a conditional density: eps_hat(x_t, t, c), where c is the index of a class.

The transformer's output has 2C channels: the prediction of eps, then the interpolation v of the learned variance,

    log Sigma = f log beta_t + (1 - f) log beta~_t,   f = (v + 1) / 2.

Source: Peebles and Xie (2023), with the variance of Nichol and Dhariwal (2021), Eq. 15.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffclf.models.conditioning import Conditioning
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.protocol import ModelError

__all__ = ["DiTModel", "class_labels"]


def class_labels(id2label: Mapping[str, str] | None, n_classes: int, name: str) -> tuple[str, ...]:
    """Return the names of the classes in index order, all different.

    A name that several classes share gets its index: "crane (134)", "crane (517)", as in ImageNet. Without names the
    indices themselves are the names.

    Args:
        id2label: The entry of that name in `model_index.json`, which maps "0", "1", ... to names.
        n_classes: How many classes the network knows.
        name: The model's name, for messages.

    Raises:
        ModelError: the indices are not 0, 1, ... up to at most n_classes - 1.
    """
    if not id2label:
        return tuple(str(index) for index in range(n_classes))
    try:
        by_index = {int(index): str(label) for index, label in id2label.items()}
    except ValueError as error:
        raise ModelError(f"id2label of {name} must have indices as its keys: {error}") from error
    if sorted(by_index) != list(range(len(by_index))) or len(by_index) > n_classes:
        raise ModelError(
            f"id2label of {name} must name classes 0, 1, ... of {n_classes}, got {len(by_index)} names with indices "
            f"{min(by_index)} to {max(by_index)}"
        )
    counts = Counter(by_index.values())
    ordered = [(index, by_index[index]) for index in range(len(by_index))]
    return tuple(f"{label} ({index})" if counts[label] > 1 else label for index, label in ordered)


class DiTModel(LatentDiffusionModel):
    """A `DiTPipeline` behind the protocol of `DiffusionModel`.

    Its attributes are those of `DiffusionModel` and `LatentDiffusionModel`.

    Args:
        pipeline: A `DiTPipeline`, in one precision and on one device.
        name: What to call the model in messages and records.
        id2label: The entry of that name in the pipeline's `model_index.json`.

    Raises:
        ModelError: id2label does not fit the network.
        UnsupportedModelError: the parts do not fit together as a denoiser of the autoencoder's latents.

    Attributes:
        null_class: The index that stands for no class, one after the last.
    """

    kind = "DiTPipeline"
    parts = {
        # The first published DiTs call it Transformer2DModel; weights and outputs are the same.
        "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
    }
    index_entries = ("id2label",)

    def __init__(
        self,
        pipeline: Any,  # noqa: ANN401 (diffusers' type)
        name: str = "dit",
        id2label: Mapping[str, str] | None = None,
    ) -> None:
        """Take the pipeline over."""
        super().__init__(pipeline, pipeline.transformer, name)
        self.null_class = pipeline.transformer.config.num_embeds_ada_norm
        self.labels = class_labels(id2label, self.null_class, name)
        self._indices = {label: index for index, label in enumerate(self.labels)}

    def encode_prompts(self, prompts: Sequence[str] | Sequence[int]) -> Conditioning:
        """Return the indices of classes.

        Args:
            prompts: n names out of `labels`, or n indices; `null_class` is accepted too.

        Returns:
            "class_index": (n,), int64, on the model's device.

        Raises:
            TypeError: prompts are not a sequence.
            ModelError: an index is out of range, or a name is not one of `labels`.
        """
        indices = [self._index(prompt) for prompt in self._check_sequence(prompts)]
        return Conditioning({"class_index": torch.tensor(indices, dtype=torch.int64, device=self.device)})

    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """Return the transformer's raw output (b, 2C, H, W) for x_t (b, C, H, W), t (b,) and b conditionings."""
        x_t, index = x_t.to(self.device, self.dtype), cond.tensors["class_index"].to(self.device)
        return self.network(x_t, timestep=t.to(self.device), class_labels=index).sample

    def _index(self, prompt: str | int) -> int:
        """Return the class index of a name or an index."""
        if isinstance(prompt, str):
            if prompt not in self._indices:
                some = ", ".join(map(repr, self.labels[:10])) + (", ..." if len(self.labels) > 10 else "")
                raise ModelError(f"class of {self.name} must be one of {some}; got {prompt!r}")
            return self._indices[prompt]
        try:
            index = int(prompt)
        except (TypeError, ValueError):
            index = -1
        if isinstance(prompt, bool) or index != prompt:
            raise ModelError(f"class of {self.name} must be a name or an index, got {prompt!r}")
        if not (0 <= index < len(self.labels) or index == self.null_class):
            raise ModelError(f"class index of {self.name} must lie in [0, {len(self.labels)}), got {index}")
        return index
