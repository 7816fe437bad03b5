"""The precision of a model's numbers: its dtype, and whether float32 matrix products use TF32.

TF32 has float32's range and ten bits of mantissa; on CUDA devices that have it, matrix products are several times as
fast. It is a switch of PyTorch's for the whole process. `load_model(..., dtype="tf32")` turns it on and nothing turns
it off again. An error bank looks at the switch itself, so numbers with and without TF32 are never mixed, whoever has
set it. On a CPU "tf32" is float32. No speed and no accuracy with TF32 was measured.
"""

import torch

from diffclf.models.protocol import DiffusionModel, ModelError

__all__ = ["DTYPES", "choose_dtype", "precision"]

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype of a model's networks, by default float16 on CUDA and else float32; "tf32" sets the switch.

    Raises ModelError for any other dtype than those of `DTYPES`.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    name = dtype.removeprefix("torch.") if isinstance(dtype, str) else None
    chosen = DTYPES.get(name) if name is not None else dtype
    if chosen not in DTYPES.values():
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if name == "tf32" and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return chosen


def precision(model: DiffusionModel) -> str:
    """Return a model's dtype as text, with "TF32" after it where the autoencoder or the network may use it."""
    tf32 = torch.device(model.device).type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return f"{model.dtype} TF32" if tf32 else str(model.dtype)
