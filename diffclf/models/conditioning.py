"""What a model makes of prompts: a bundle of named tensors with one row per prompt.

Stable Diffusion needs the text encoder's hidden states alone, SDXL and SD3 a pooled embedding besides, DiT a class
index. Only the model that made a bundle looks at the names in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Conditioning", "class_conditioning"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Conditionings of n prompts.

    Attributes:
        tensors: name -> (n, ...) tensor.

    Raises:
        ValueError: no tensors, or tensors of different lengths.
    """

    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"tensors must have one row per prompt each, got rows {lengths}")

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> "Conditioning":
        """Return the conditionings of some rows, in their order; a row may occur many times."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, dtype=torch.int64, device=next(iter(self.tensors.values())).device)
        return Conditioning({name: tensor[rows] for name, tensor in self.tensors.items()})


def class_conditioning(
    prompts: Iterable[str | int],
    labels: Sequence[str],
    null_class: int | None = None,
    device: torch.device | None = None,
) -> Conditioning:
    """Return "class_index", (n,) int64, of classes given by label or index; an index may also be the null class.

    Raises:
        ValueError: there is no such class.
    """
    by_label, indices = {label: index for index, label in enumerate(labels)}, []
    for prompt in prompts:
        index = by_label.get(prompt) if isinstance(prompt, str) else prompt
        if index is None or isinstance(index, bool) or not (index in range(len(labels)) or index == null_class):
            some = ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")
            raise ValueError(f"class must be one of {some} or an index below {len(labels)}, got {prompt!r}")
        indices.append(int(index))
    return Conditioning({"class_index": torch.tensor(indices, dtype=torch.int64, device=device)})
