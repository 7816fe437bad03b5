"""The device of a network: the CPU or a GPU with CUDA."""

import torch

from diffclf.models.protocol import ModelError

__all__ = ["choose_device"]

DEVICES = ("cpu", "cuda")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device to use, by default "cuda" if there is one, else "cpu".

    Raises ModelError for any other kind of device, and for a GPU that is not there.
    """
    n_cuda = torch.cuda.device_count()
    try:
        chosen = torch.device(("cuda" if n_cuda else "cpu") if device is None else device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        chosen = None
    if chosen is None or chosen.type not in DEVICES or chosen.type == "cuda" and (chosen.index or 0) >= n_cuda:
        raise ModelError(f"device must be cpu, cuda, cuda:0, ..., got {device!r}; CUDA devices here: {n_cuda}")
    return chosen
