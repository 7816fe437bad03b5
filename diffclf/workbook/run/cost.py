"""What a run will cost, before it starts: denoiser evaluations, time, downloads."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from math import isnan, nan
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from diffclf.bench.clock import compare
from diffclf.datasets.hub import HUB
from diffclf.models import load_model
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.workbook.display import text_table
from diffclf.workbook.provenance import duration
from diffclf.workbook.run.plan import Job

__all__ = ["cost_report", "downloads", "evaluations", "measure_rate"]


def evaluations(job: Job) -> int:
    """Return the denoiser evaluations of a notebook, computed by its module diffclf.experiments.eNN_name.

    Raises:
        ValueError: the module cannot be found.
    """
    module = f"diffclf.experiments.e{job.name}"
    try:
        return int(import_module(module).evaluations(job.settings))
    except ModuleNotFoundError as error:
        raise ValueError(f"{job.name} must have a module {module} with evaluations(settings): {error}") from None


@torch.inference_mode()
def measure_rate(model: DiffusionModel, seconds: float = 5.0) -> float:
    """Return denoiser evaluations per second, measured in about that time: in batches of 64, of fewer if it is slow."""
    cond = model.encode_prompts([""] if model.labels is None else [0])
    for size in (1, 2, 4, 8, 16, 32, 64):
        x_t = torch.zeros(size, *model.latent_shape, device=model.device)
        t = torch.full((size,), len(model.schedule) // 2, device=model.device)
        forward = partial(model.denoise, x_t, t, cond[[0] * size])
        spent = compare({"forward": forward}, [size], 3)["forward"]["seconds"]
        if size * spent > seconds / 16:
            break
    return 1 / spent


def _local(kind: str, name: str) -> str | None:
    """Return the name or folder from which a model or data set is read without a network; None: there is none."""
    if name.startswith("mini-") or Path(name).is_dir() or (data_dir() / "models" / name).is_dir():
        return name
    try:
        return snapshot_download(HUB[name].repo if name in HUB else name, repo_type=kind, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def downloads(job: Job) -> dict[str, str]:
    """Return the model and the data set that a notebook will fetch: name -> name, size and source where known."""
    found = {}
    for kind in ("model", "dataset"):
        name = job.settings[kind]
        if _local(kind, name) is None:
            size = job.settings.get("download_gb", {}).get(name)
            facts = [f"about {size} GB"] if size else []
            facts += [HUB[name].repo, HUB[name].licence] if name in HUB else []
            found[name] = f"{name} ({', '.join(facts)})" if facts else name
    return found


@cache
def _rate(name: str) -> float | str:
    """Return the measured rate of a model, or why there is none."""
    try:
        return measure_rate(load_model(_local("model", name)))
    except Exception as error:  # the cost of other notebooks is known, whatever is wrong with this model
        return f"{type(error).__name__}: {error}".splitlines()[0]


def cost_report(jobs: Sequence[Job], rate: Callable[[str], float | str] = _rate) -> str:
    """Return a table of evaluations, time and downloads, a line per notebook and one in total.

    `rate` returns evaluations per second of a model by name, or a text that says why the rate is not known.
    """
    rows, total, seconds, fetched = [], 0, 0.0, {}
    for job in jobs:
        if job.problem:
            rows.append([job.name, "–", "–", job.problem])
            continue
        count, missing, model = evaluations(job), downloads(job), job.settings["model"]
        speed = "model not here" if model in missing else rate(model)
        spent = count / speed if isinstance(speed, float) else nan
        in_words = f"not measured: {speed}" if isnan(spent) else f"about {duration(spent)}"
        rows.append([job.name, f"{count:,}", in_words, ", ".join(missing.values()) or "none"])
        total, seconds, fetched = total + count, seconds + spent, fetched | missing
    in_words = "not measured" if isnan(seconds) else f"about {duration(seconds)}"
    rows.append(["total", f"{total:,}", in_words, ", ".join(fetched.values()) or "none"])
    return text_table(rows, ["notebook", "evaluations", "time", "downloads"])
