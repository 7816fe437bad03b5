"""DiT as a conditional density: eps_hat(x_t, t, c), where c is the index of a class.

The transformer's output has 2C channels: the prediction of eps, then the interpolation v of the learned variance,

    log Sigma = f log beta_t + (1 - f) log beta~_t,   f = (v + 1) / 2.

Source: Peebles and Xie (2023), with the variance of Nichol and Dhariwal (2021), Eq. 15.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from typing_extensions import override

from diffclf.models.conditioning import Conditioning, class_conditioning
from diffclf.models.latent import LatentDiffusionModel, list_prompts
from diffclf.models.protocol import ModelError

__all__ = ["DiTModel", "class_labels"]


def class_labels(id2label: Mapping[str, str] | None, n_classes: int, name: str) -> tuple[str, ...]:
    """Return the names of the classes in index order, all different, from the `id2label` of `model_index.json`.

    A name that several classes share gets its index: "crane (134)", "crane (517)", as in ImageNet. Without names the
    indices themselves are the names.

    Raises:
        ModelError: the keys are not "0", "1", ... up to at most n_classes - 1.
    """
    if not id2label:
        return tuple(str(index) for index in range(n_classes))
    keys = [str(index) for index in range(len(id2label))]
    if set(keys) != set(id2label) or len(keys) > n_classes:
        raise ModelError(f"id2label of {name} must name classes 0, 1, ... of {n_classes}, got keys {list(id2label)}")
    counts = Counter(id2label.values())
    return tuple(f"{id2label[key]} ({key})" if counts[id2label[key]] > 1 else id2label[key] for key in keys)


class DiTModel(LatentDiffusionModel):
    """A `DiTPipeline` behind the protocol of `DiffusionModel`.

    The pipeline is in one precision and on one device; `id2label` is the entry of its `model_index.json`.

    Raises:
        ModelError: id2label does not fit the network, or the network does not fit the autoencoder.

    Attributes:
        null_class: the index that stands for no class, one after the last; `encode_prompts` accepts it.
    """

    halves_large_images = True
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
        super().__init__(pipeline, pipeline.transformer, name)
        self.null_class = pipeline.transformer.config.num_embeds_ada_norm
        self.labels = class_labels(id2label, self.null_class, name)

    @override
    def encode_prompts(self, prompts: Sequence[str] | Sequence[int]) -> Conditioning:
        return class_conditioning(list_prompts(prompts), self.labels, self.null_class, self.device)

    @override
    def denoise(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        x_t, index = x_t.to(self.device, self.dtype), cond.tensors["class_index"].to(self.device)
        return self.network(x_t, timestep=t.to(self.device), class_labels=index).sample
