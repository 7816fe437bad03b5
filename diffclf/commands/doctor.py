"""`diffclf doctor`: what the notebooks of a profile lack, and how long they will take, before anything starts.

It looks at this machine only: the hub is not asked, and nothing is downloaded.
"""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diffclf.commands.extras import require
from diffclf.commands.options import add_notebook_arguments, positive
from diffclf.texttable import plural

if TYPE_CHECKING:
    from diffclf.workbook.run.plan import Job

__all__ = ["add_arguments", "run"]

ENTRY_BYTES = 12  # of an evaluation in an error bank, at most: three losses in float32
SPARE_GB = 2.0  # for what a network computes, beside its weights; not measured


class Lack(NamedTuple):
    """Something that is not here: what, why, what to do, and about how many GB it takes (None: not known)."""

    what: str
    why: str
    advice: str
    gb: float | None = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf doctor`."""
    add_notebook_arguments(parser)
    seconds = "seconds of measuring the networks, shared among them (default %(default)s)"
    parser.add_argument("--seconds", type=positive, default=30.0, metavar="S", help=seconds)


def run(args: argparse.Namespace) -> int:
    """Print the notebooks' times and what is missing; return 1 if something needed is missing, else 0."""
    require("doctor", "notebooks")
    import torch
    from huggingface_hub import constants, get_token

    from diffclf.workbook.run.cost import cost_report, evaluations, local_place, measured_rate
    from diffclf.workbook.run.plan import plan
    from diffclf.workbook.settings import reports_dir

    jobs = plan(args.profile, [name.strip() for name in args.only.split(",")], dict(args.parameters))
    working = [job for job in jobs if not job.problem]
    here = {name for job in working if local_place("model", name := job.settings["model"])}
    rate = partial(measured_rate, seconds=args.seconds / max(1, len(here)))
    gpu = f"{torch.cuda.get_device_name()}, {_gpu_gb():.0f} GB" if _gpu_gb() else f"no GPU, {os.cpu_count()} CPU cores"
    stored = sum(map(evaluations, working)) * ENTRY_BYTES / 1e9
    print(f"device: {gpu}\nhub: {'a token' if get_token() else 'no token'}; cache {constants.HF_HUB_CACHE}")
    print(f"error banks: at most {stored:.1f} GB in {reports_dir()}, {_free_gb(reports_dir()):.1f} GB are free")
    print(f"\n{cost_report(jobs, rate, with_downloads=False)}\n")

    lacks: dict[Lack, list[str]] = {}
    sizes = {name: gb for job in working for name, gb in job.settings.get("download_gb", {}).items()}
    for job in jobs:
        found = [Lack("settings", job.problem, "correct the file")] if job.problem else _lacks(job, sizes)
        if not job.problem and (name := job.settings["model"]) in here and isinstance(why := rate(name), str):
            found.append(Lack(name, f"it cannot be measured: {why}", "mend it, or take a machine with more memory"))
        for lack in found:
            lacks.setdefault(lack, []).append(job.name[:2])
    lacks |= {lack: [job.name[:2] for job in jobs] for lack in _disk(list(lacks))}
    for lack, names in lacks.items():
        print(f"missing  {lack.what}: {lack.why} (notebook {', '.join(dict.fromkeys(names))})")
        if lack.advice:
            print(f"         {lack.advice}")
    print(f"\n{plural(len(lacks), 'thing')} missing." if lacks else "Nothing is missing.")
    return 1 if lacks else 0


def _lacks(job: "Job", sizes: Mapping[str, float]) -> list[Lack]:
    """Return what a notebook names and this machine lacks: models, data sets, files and packages.

    `sizes`: name of a model or data set -> GB to download, where that is known.
    """
    from diffclf.datasets.compositional import REVISION, WINOGROUND
    from diffclf.datasets.download import terms
    from diffclf.datasets.folder import load_folder
    from diffclf.datasets.hub import HUB, lacking
    from diffclf.models.layout import HUB_ID
    from diffclf.models.mirrors import hub_name
    from diffclf.workbook.run.cost import local_place, named_by

    found = []
    for kind, name in named_by(job):
        repo, _, revision = (HUB[name].repo if name in HUB else hub_name(name)).partition("@")
        if name in HUB and find_spec("datasets") is None:
            found.append(Lack("package datasets", f"reads {name}", "pip install 'diffclf[data]'"))
        if (
            name.startswith("timm/")
            and name in job.settings.get("opponents", {}).values()
            and not find_spec("open_clip")
        ):
            found.append(Lack("package open_clip_torch", f"reads {name}", "pip install 'diffclf[clip]'"))
        if kind == "dataset" and name not in HUB and Path(name).is_dir():
            try:
                load_folder(Path(name))
            except (ValueError, OSError) as error:
                found.append(Lack(name, str(error), "give a folder with one sub-folder of images per class"))
            continue
        if local_place(kind, name) is not None:
            continue
        if not HUB_ID.fullmatch(repo):
            what, known = ("data set", ", ".join(HUB)) if kind == "dataset" else ("model", "owner/name on the hub")
            found.append(Lack(name, f"no such {what} or folder", f"correct the name: {known}, or a folder"))
            continue
        gb = HUB[name].download_gb if name in HUB else sizes.get(name)
        why = lacking(name) if name in HUB else "it is not in the cache"
        advice = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
        advice += " --repo-type dataset" if kind == "dataset" else ' --include "*.json" "*.txt" "*.safetensors"'
        if name == WINOGROUND:
            advice = f"{terms(repo)}, then {advice} --revision {REVISION}"
        found.append(Lack(name, why + (f", about {gb:g} GB" if gb else ", of unknown size"), advice, gb))
        if kind == "model" and gb and _gpu_gb() and _gpu_gb() < gb / 2 + SPARE_GB:
            why = f"about {gb / 2 + SPARE_GB:.0f} GB in half precision, got {_gpu_gb():.0f} GB"
            found.append(Lack(f"GPU memory for {name}", why, "a GPU with more memory"))
    return found


def _gpu_gb() -> float:
    """Return the memory of the GPU in GB, 0 without one."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0


def _disk(lacks: Sequence[Lack]) -> list[Lack]:
    """Return the disk of the hub's cache if it is too small for the downloads whose sizes are known.

    `datasets` keeps a second copy of a data set, so its size counts twice.
    """
    from huggingface_hub import constants

    from diffclf.datasets.hub import HUB

    place, needed = Path(constants.HF_HUB_CACHE), sum((lack.gb or 0) * (1 + (lack.what in HUB)) for lack in lacks)
    free = _free_gb(place)
    return [] if free >= needed else [Lack(f"disk space in {place}", f"{needed:.1f} GB, {free:.1f} GB are free", "")]


def _free_gb(place: Path) -> float:
    """Return the GB that are free where a folder is or will be."""
    return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free / 1e9
