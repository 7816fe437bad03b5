"""What a model makes of prompts: a bundle of named tensors with one row per prompt.

Stable Diffusion needs the text encoder's hidden states alone, SDXL and SD3 a pooled embedding besides, DiT a class
index. Only the model that made a bundle looks at the names in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Conditioning"]


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
        rows = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(rows, dtype=torch.int64)
        if isinstance(rows, Tensor):
            rows = rows.to(next(iter(self.tensors.values())).device)
        return Conditioning({name: tensor[rows] for name, tensor in self.tensors.items()})
