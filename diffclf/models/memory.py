"""How much of a model lies on the device at the same time: the same numbers to rounding, in less memory.

    normal   the whole model lies on the device
    low      the network lies there; autoencoder and text encoders lie on the CPU, are moved to the device for each call
             and back after it, and the autoencoder takes one image at a time
    lowest   also, attention is computed one head of one evaluation at a time: slower, and of use only where PyTorch has
             no fused attention for the device, since fused attention never stores the scores

Tiles of an image would change the numbers (each has its own normalisation), so the autoencoder has none. The sampler
of a pipeline expects all parts on one device: with "low" on CUDA, a model classifies but its pipeline does not sample.
What these settings save on a GPU was not measured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from diffclf.models.protocol import ModelError

__all__ = ["MEMORY", "check_memory", "save_memory"]

MEMORY = ("normal", "low", "lowest")
PLAIN_ATTENTION = ("AttnProcessor", "AttnProcessor2_0")  # the only kinds that diffusers' sliced attention stands for


def check_memory(memory: str) -> None:
    """Raise ModelError unless memory is one of `MEMORY`."""
    if memory not in MEMORY:
        raise ModelError(f"memory must be one of {', '.join(MEMORY)}, got {memory!r:.80}")


def save_memory(pipeline: Any, network: nn.Module, memory: str, device: torch.device) -> None:  # noqa: ANN401
    """Set up the parts of a pipeline whose network lies on the device already; see the module's docstring.

    Raises ModelError unless memory is one of `MEMORY`.
    """
    check_memory(memory)
    if memory == "normal":
        return
    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and part is not network:
            for name in ("encode", "decode") if hasattr(part, "decode") else ("forward",):
                setattr(part, name, partial(_visit, part, device, getattr(part, name)))
    pipeline.vae.enable_slicing()
    if memory == "lowest":
        for module in network.modules():
            if type(getattr(module, "processor", None)).__name__ in PLAIN_ATTENTION:
                module.set_attention_slice(1)


def _visit(part: nn.Module, device: torch.device, call: Callable, *args: object, **options: object) -> object:
    """Call a method of a part that lies on the device for the time of the call."""
    part.to(device)
    try:
        return call(*args, **options)
    finally:
        part.to("cpu")
