"""How many denoiser evaluations go through the network at once.

On a CPU one number suits all machines: 256 for small latents, where the work around the network must be spread over
many evaluations, 32 for large ones. On other devices the best number depends on the card and the model. It is measured
on the first use, in a few seconds, and stored in a file in the folder $DIFFCLF_CACHE; deleting the file forgets it.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from diffclf.files import write_json
from diffclf.models.protocol import DiffusionModel

__all__ = ["choose_batch_size", "measure_batch_size", "measure_rate"]

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
WORTH = 1.03  # a larger batch must give at least this many times the evaluations per second
SECONDS_A_PASS = 2.0  # the longest pass, so that the looks of a race do not wait for one batch
SMALL_LATENT = 4096  # elements
N_PASSES = 3


def choose_batch_size(model: DiffusionModel) -> int:
    """Return the batch size for a model on its device, measured at most once for each kind of both."""
    if model.device.type == "cpu":
        return 256 if math.prod(model.latent_shape) <= SMALL_LATENT else 32
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "diffclf"
    path = Path(os.environ.get("DIFFCLF_CACHE") or usual) / "batch_sizes.json"
    known, key = _read(path), _key(model)
    if key not in known:
        known = _read(path) | {key: measure_batch_size(model)}
        with suppress(OSError):  # a folder that cannot be written only costs the time of measuring again
            write_json(path, known)
    return int(known[key])


def measure_batch_size(model: DiffusionModel, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return the smallest of SIZES beyond which more evaluations at once are not worth it; the clock gives seconds.

    Sizes are tried in increasing order. The search ends at a size that is not faster per evaluation, takes too long a
    pass or does not fit into memory.
    """
    best, best_rate = SIZES[0], 0.0
    for size in SIZES:
        try:
            rate = measure_rate(model, size, clock)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rate < WORTH * best_rate or (best_rate and size / rate > SECONDS_A_PASS):
            break
        best, best_rate = size, rate
    return best


@torch.inference_mode()
def measure_rate(model: DiffusionModel, size: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return denoiser evaluations per second in batches of a size: the fastest pass, after one that is not counted."""
    x_t = torch.zeros(size, *model.latent_shape, device=model.device)
    t = torch.full((size,), len(model.schedule) // 2, device=model.device)
    cond = model.encode_prompts([""] if model.labels is None else [0])[torch.zeros(size, dtype=torch.int64)]
    seconds = []
    for _ in range(N_PASSES + 1):
        began = clock()
        model.denoise(x_t, t, cond)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds.append(clock() - began)
    return size / min(seconds[1:])


def _key(model: DiffusionModel) -> str:
    """Return what the best size depends on: the device, the kind and size of the network, its precision."""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device.type)
    network = getattr(model, "network", model)
    n_parameters = sum(p.numel() for p in network.parameters()) if isinstance(network, torch.nn.Module) else "?"
    shape = "x".join(map(str, model.latent_shape))
    return f"{device}, {type(network).__name__}, {n_parameters} parameters, {shape}, {model.dtype}"


def _read(path: Path) -> dict[str, int]:
    """Return the stored sizes; none if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
