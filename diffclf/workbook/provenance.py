"""What produced a result: versions, commit, machine, threads, model."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from diffclf.paths import checkout

__all__ = ["describe", "duration", "environment"]

_PACKAGES = ("diffclf", "torch", "diffusers", "transformers", "numpy", "scipy", "matplotlib", "papermill")


def _commit() -> str | None:
    """Return the commit of the checkout, -dirty where files differ; None where there is no git or no repository."""
    if (root := checkout()) is None:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    """Return the name of the processor."""
    linux = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", linux.read_text(encoding="utf-8")) if linux.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return versions, commit, machine and threads, as plain values."""
    versions = {dist.name: dist.version for dist in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: versions.get(name) for name in _PACKAGES},
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }


def describe(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of `environment()` in words: name of the fact -> text."""
    return {
        "Commit": (environment["commit"] or "no repository").replace("-dirty", " with local changes"),
        "Versions": ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version),
        "Python": f"{environment['python']}, {environment['platform']}",
        "Hardware": ", ".join([f"{environment['cpu']}, {environment['cores']} cores", *environment["gpus"]]),
        "Threads": str(environment["threads"]),
    }


def duration(seconds: float) -> str:
    """Return a duration in seconds, in minutes and seconds, or in hours."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 90:
        return f"{seconds / 3600:.1f} h"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
