"""What a run will cost, before it starts: denoiser evaluations, minutes, downloads."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from diffclf.workbook.plan import Job
from diffclf.workbook.settings import kept_offline, read_profile

__all__ = ["downloads", "evaluations", "measure_rate", "remarks", "report_cost"]


def evaluations(job: Job, profile: str) -> int:
    """Return the budget of a notebook, its part per image in proportion to n_images where a parameter changes it."""
    budget, fixed = (int(job.settings.get(name, 0)) for name in ("evaluations", "fixed_evaluations"))
    sections = read_profile(profile)
    usual = {**sections.get("common", {}), **sections.get(job.name, {})}.get("n_images")
    chosen = job.settings.get("n_images")
    return fixed + round((budget - fixed) * chosen / usual) if usual and chosen else budget


def measure_rate(model: Any, seconds: float = 5.0) -> float:  # noqa: ANN401 (a DiffusionModel; any stand-in will do)
    """Return denoiser evaluations per second, measured for about that long in batches of up to 64.

    The batch doubles while a forward pass stays below a tenth of the time, so that a large model on a slow machine
    is measured, too.
    """
    import torch

    def forward(batch: int) -> float:
        began = time.perf_counter()
        noised = torch.zeros(batch, *model.latent_shape, device=model.device)
        timesteps = torch.full((batch,), 500, device=model.device)
        model.denoise(noised, timesteps, condition[:1].expand(batch, *condition.shape[1:]))
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter() - began

    with torch.inference_mode():
        condition = model.encode_prompts([""] if model.labels is None else [0])
        began, batch, rates = time.perf_counter(), 1, []
        forward(1)  # the first pass allocates
        while not rates or time.perf_counter() - began < seconds:
            spent = forward(batch)
            rates.append(batch / spent)
            if batch < 64 and spent < seconds / 10:
                batch, rates = batch * 2, []
    return sorted(rates)[len(rates) // 2]


def _on_disk(kind: str, name: str) -> bool:
    """Return whether a model or dataset is built in, a local folder, or in the hub's cache."""
    from diffclf.paths import data_dir

    if name.startswith("mini-") or Path(name).is_dir() or (data_dir() / "models" / name).is_dir():
        return True
    from huggingface_hub import constants

    from diffclf.datasets.hub import HUB

    hub_id = HUB[name].repo if name in HUB else name
    return (Path(constants.HF_HUB_CACHE) / f"{kind}s--{hub_id.replace('/', '--')}" / "snapshots").is_dir()


def downloads(job: Job) -> list[str]:
    """Return what a notebook will fetch, with its size where the profile knows it."""
    sizes = job.settings.get("download_gb", {})
    wanted = [(kind, str(job.settings[kind])) for kind in ("model", "dataset") if job.settings.get(kind)]
    return [
        name + (f" (about {sizes[name]} GB)" if name in sizes else "")
        for kind, name in wanted
        if not _on_disk(kind, name)
    ]


@cache
def _rate(name: str) -> float | str:
    """Return the measured rate of a model, or why there is none."""
    try:
        from diffclf.models import load_model

        with kept_offline():  # a dry run fetches nothing
            return measure_rate(load_model(name))
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def report_cost(jobs: Sequence[Job], profile: str, rate: Callable[[str], float | str] | None = None) -> list[list[str]]:
    """Return a row per notebook and one in total: name, evaluations, time, downloads.

    Args:
        jobs: the plan.
        profile: its profile.
        rate: evaluations per second of a model by name, or a text saying why it is not known; None: measured here.
    """
    rate = rate or _rate
    rows, total, seconds, fetched = [], 0, 0.0, []
    for job in jobs:
        count, missing = evaluations(job, profile), downloads(job)
        speed = "model not here" if missing and missing[0].startswith(job.settings["model"]) else None
        speed = speed or (rate(job.settings["model"]) if job.settings.get("model") else "no model")
        known = isinstance(speed, float)
        rows.append(
            [
                job.name,
                f"{count:,}",
                f"about {_minutes(count / speed)}" if known else f"not measured ({speed})",
                job.problem or ", ".join(missing) or "none",
            ]
        )
        total, seconds = total + count, seconds + (count / speed if known else float("nan"))
        fetched += [name for name in missing if name not in fetched]
    time_in_all = f"about {_minutes(seconds)}" if seconds == seconds else "not measured"  # noqa: PLR0124 (NaN)
    return [*rows, ["total", f"{total:,}", time_in_all, ", ".join(fetched) or "none"]]


def remarks(jobs: Sequence[Job]) -> list[str]:
    """Return what the rows leave unsaid: why a model has no measured time, and what a data set's name stands for."""
    from diffclf.datasets.hub import HUB

    said = []
    for job in jobs:
        for name in downloads(job):
            bare = name.partition(" (")[0]
            if bare == job.settings.get("model"):
                line = (
                    f"Time cannot be estimated: {bare} is not on this machine, so its speed here cannot be measured. "
                    "The first run downloads it; a folder that has it already can be given with -p model FOLDER."
                )
            elif bare in HUB:
                line = f"{bare}: {HUB[bare].repo} on the hub, {HUB[bare].licence}, downloaded by the first run."
            else:
                line = ""
            if line and line not in said:
                said.append(line)
    return said
