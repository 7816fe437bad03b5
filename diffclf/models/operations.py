"""Floating-point operations of one denoiser evaluation."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffclf.models.protocol import DiffusionModel

__all__ = ["count_operations"]


@torch.inference_mode()
def count_operations(model: DiffusionModel) -> int:
    """Return the operations of one denoiser evaluation: two per multiply-add of matrix products and convolutions."""
    x_t = torch.zeros(1, *model.latent_shape, device=model.device, dtype=model.dtype)
    cond = model.encode_prompts(["a photo"] if model.labels is None else [0])
    with FlopCounterMode(display=False) as counter:
        model.denoise(x_t, torch.zeros(1, dtype=torch.int64, device=model.device), cond)
    return counter.get_total_flops()
