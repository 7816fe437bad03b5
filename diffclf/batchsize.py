"""How many denoiser evaluations go through the network at once.

On a CPU one number suits all machines: 256 for small latents, where the work around the network must be spread over
many evaluations, 32 for large ones. On other devices the best depends on the card and the model; it is measured on the
first use, a few seconds, and remembered in a file. `DIFFCLF_CACHE` names its folder; deleting the file forgets.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from diffclf.models.protocol import DiffusionModel

__all__ = ["choose_batch_size", "measure_batch_size"]

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
WORTH = 1.03  # times as many evaluations per second, for a larger batch to be taken
SECONDS_A_PASS = 2.0  # at most, so that a race's looks do not wait for one batch

_SMALL_LATENT = 4096


def usual_batch_size(model: DiffusionModel) -> int:
    """Return the size that suits a CPU: 256 for latents of up to 4096 elements, 32 for larger ones."""
    return 256 if np.prod(model.latent_shape) <= _SMALL_LATENT else 32


def choose_batch_size(model: DiffusionModel) -> int:
    """Return the batch size for a model on its device, measured at most once for each kind of both."""
    if model.device.type == "cpu":
        return usual_batch_size(model)
    path, key = _memory(), _key(model)
    known = _read(path)
    if key not in known:
        known = _read(path) | {key: measure_batch_size(model)}
        _write(path, known)
    return int(known[key])


@torch.inference_mode()
def measure_batch_size(
    model: DiffusionModel,
    sizes: Sequence[int] = SIZES,
    *,
    clock: Callable[[], float] = time.perf_counter,
    n_passes: int = 3,
) -> int:
    """Return the smallest of the sizes beyond which more evaluations at once are not worth it.

    Sizes are tried in increasing order, the first pass of each not counted. A size that is not faster per evaluation,
    takes too long a pass or does not fit into memory ends the search.

    Args:
        model: the model.
        sizes: increasing.
        clock: seconds.
        n_passes: timed passes per size; the fastest counts.
    """
    cond = model.encode_prompts([""] if model.labels is None else [0])
    best, best_rate = sizes[0], 0.0
    for size in sizes:
        x_t = torch.zeros(size, *model.latent_shape, device=model.device)
        t = torch.full((size,), len(model.alphas_cumprod) // 2, device=model.device)
        c = cond[:1].expand(size, *cond.shape[1:])
        try:
            seconds = min([_pass(model, x_t, t, c, clock) for _ in range(n_passes + 1)][1:])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if size / seconds < WORTH * best_rate or (best_rate and seconds > SECONDS_A_PASS):
            break
        best, best_rate = size, size / seconds
    return best


def _pass(
    model: DiffusionModel, x_t: torch.Tensor, t: torch.Tensor, cond: torch.Tensor, clock: Callable[[], float]
) -> float:
    began = clock()
    model.denoise(x_t, t, cond)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return clock() - began


def _key(model: DiffusionModel) -> str:
    """Return what the best size depends on: the device, the kind and size of the network, its precision."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device.type)
    n_parameters = sum(p.numel() for p in model.network.parameters())
    shape = "x".join(map(str, model.latent_shape))
    return f"{device}, {type(model.network).__name__}, {n_parameters} parameters, {shape}, {model.dtype}"


def _memory() -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffclf"
    return Path(os.environ.get("DIFFCLF_CACHE") or usual) / "batch_sizes.json"


def _read(path: Path) -> dict[str, int]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def _write(path: Path, known: dict[str, int]) -> None:
    """Remember; a folder that cannot be written is no reason to stop."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError:
        return
