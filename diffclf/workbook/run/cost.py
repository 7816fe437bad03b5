"""What a run will cost, before it starts: denoiser evaluations, time, downloads."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from math import isnan, nan
from pathlib import Path
from statistics import median
from time import monotonic

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError

from diffclf.datasets.compositional import REVISION, WINOGROUND
from diffclf.datasets.hub import HUB, lacking
from diffclf.models import ModelError, UnsupportedModelError, load_model
from diffclf.models.batch_size import measure_rate
from diffclf.models.layout import HUB_ID, INDEX, hub_folder
from diffclf.models.mirrors import hub_name
from diffclf.paths import embedded_models
from diffclf.texttable import text_table
from diffclf.workbook.provenance import duration
from diffclf.workbook.run.plan import Job

__all__ = ["cost_report", "downloads", "evaluations", "local_place", "measured_rate", "named_by"]

KINDS = dict.fromkeys(
    ("model", "class_model", "networks", "filters", "twins", "checkpoints", "filter_network", "captioner"), "model"
) | {"opponents": "model"}
KINDS |= dict.fromkeys(("dataset", "class_dataset", "sets", "more_tasks", "shifted", "tasks", "growth"), "dataset")
"""Settings that name models or data sets: one name, a list, a mapping to names, or one from names to their sizes."""


def evaluations(job: Job) -> int:
    """Return the denoiser evaluations of a notebook, computed by its module diffclf.experiments.eNN_name.

    Raises ValueError if there is no such module.
    """
    module = f"diffclf.experiments.e{job.name}"
    try:
        return int(import_module(module).evaluations(job.settings))
    except ModuleNotFoundError as error:
        raise ValueError(f"{job.name} must have a module {module} with evaluations(settings): {error}") from None
    except Exception as error:  # whatever class the arithmetic with a malformed setting ends in
        raise ValueError(f"evaluations of {job.name} cannot be computed from its settings: {_named(error)}") from error


def _named(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def local_place(kind: str, name: str) -> str | None:
    """Return the name or folder from which a model or data set is read without a network; None: there is none."""
    repository, _, revision = hub_name(name).partition("@")
    if name.startswith("mini-") or Path(name).is_dir() or repository in embedded_models("*.json"):
        return name
    if name in HUB:
        return None if lacking(name) else name
    if not HUB_ID.fullmatch(hub_name(name)):
        return None
    at = {"repo_type": kind, "revision": (REVISION if name == WINOGROUND else revision) or None}
    try:
        if kind == "model" and isinstance(try_to_load_from_cache(repository, INDEX, **at), str):
            with suppress(UnsupportedModelError):  # it is here; loading it says what is wrong
                return str(hub_folder(hub_name(name), local_only=True))  # of which not all files are downloaded
        return snapshot_download(repository, **at, local_files_only=True)
    except (LocalEntryNotFoundError, ModelError):
        return None


def named_by(job: Job) -> list[tuple[str, str]]:
    """Return (kind, name) of the models and data sets in a notebook's settings."""
    found = []
    for setting in (name for name in KINDS if name in job.settings):
        value = job.settings[setting]
        several = [value] if isinstance(value, str) else value
        if isinstance(value, Mapping):
            several = [size_or_name if isinstance(size_or_name, str) else name for name, size_or_name in value.items()]
        if not isinstance(several, list | tuple) or not all(isinstance(name, str) for name in several):
            raise ValueError(f"{setting} of {job.name} must name models or data sets, got {value!r:.80}")
        found += [(KINDS[setting], name) for name in several if name and "{" not in name]  # {}: made from the task
    return found


def downloads(job: Job) -> dict[str, str]:
    """Return the models and data sets that a notebook will fetch: name -> name, size and source where known."""
    found = {}
    for kind, name in named_by(job):
        if local_place(kind, name) is None:
            size = HUB[name].download_gb if name in HUB else job.settings.get("download_gb", {}).get(name)
            facts = [f"about {size} GB"] if size else []
            facts += [HUB[name].repo, HUB[name].licence] if name in HUB else []
            found[name] = f"{name} ({', '.join(facts)})" if facts else name
    return found


@cache
def measured_rate(name: str, seconds: float = 0.0) -> float | str:
    """Return evaluations per second of a model that is here, or why there is no rate.

    It is the median over `seconds`, or one measurement, in batches of 64, or fewer if the model is slow.
    """
    try:
        model, began = load_model(local_place("model", name)), monotonic()
        for size in (1, 4, 16, 64):
            rates = [measure_rate(model, size)]
            if size / rates[0] > 0.3:
                break
        while monotonic() - began < seconds:
            rates.append(measure_rate(model, size))
        return median(rates)
    except Exception as error:  # the cost of other notebooks is known, whatever is wrong with this model
        return _named(error)


def cost_report(
    jobs: Sequence[Job], rate: Callable[[str], float | str] = measured_rate, with_downloads: bool = True
) -> str:
    """Return a table of evaluations, time and perhaps downloads, a line per notebook and one in total.

    `rate` returns evaluations per second of a model by name, or a text that says why the rate is not known.
    """
    rows, total, seconds, fetched = [["notebook", "evaluations", "time", "downloads"]], 0, 0.0, {}
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
    return text_table(rows if with_downloads else [row[:3] for row in rows])
