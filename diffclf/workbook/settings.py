"""Settings of the notebooks: the same notebook at several sizes, called profiles.

notebooks/common.yaml has the settings that all notebooks share; notebooks/NN_name.yaml has, under `settings`, those of
one notebook. Each has a section per profile and a section `all`. The value of a setting is the last one found in

    common `all`, common PROFILE, notebook `all`, notebook PROFILE, the notebook's parameters cell (unless "", 0 or [])

Settings with a meaning of their own: `n_classes` (of the data set; only for the estimate of the cost), `offline`
(nothing is fetched while the notebook runs), `verdicts` (claims are judged), `world` (where a verdict holds: "the mini
world"), `timeout_s` (of one cell), `download_gb` (size of a model or data set, by its name), `device` and `dtype` (of
the model; default: float16 on CUDA, else float32), `compile` (the network is compiled: a minute, then it runs faster).
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "OFFLINE",
    "default_profile",
    "go_offline",
    "notebooks_dir",
    "profile_names",
    "read_notebook_file",
    "reports_dir",
    "resolve",
]

_CHECKOUT = Path(__file__).resolve().parents[2]
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def notebooks_dir() -> Path:
    """Return the folder of the notebooks and their settings: $DIFFCLF_NOTEBOOKS, else the checkout's."""
    return Path(os.environ.get("DIFFCLF_NOTEBOOKS") or _CHECKOUT / "notebooks").resolve()


def reports_dir(profile: str = "") -> Path:
    """Return the folder of a profile's results, below $DIFFCLF_REPORTS or the checkout's reports; "": that of all."""
    return Path(os.environ.get("DIFFCLF_REPORTS") or _CHECKOUT / "reports").resolve() / profile


def default_profile() -> str:
    """Return $DIFFCLF_PROFILE, else mini."""
    return os.environ.get("DIFFCLF_PROFILE") or "mini"


def _common() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((notebooks_dir() / "common.yaml").read_text(encoding="utf-8"))


def profile_names() -> list[str]:
    """Return the names of the profiles, in the order of common.yaml."""
    return [name for name in _common() if name != "all"]


def read_notebook_file(notebook: str) -> dict[str, Any]:
    """Return what NN_name.yaml says about a notebook.

    Returns:
        `claims`: a list of claims; `settings`: profile name or "all" -> settings. Both may be empty.

    Raises:
        ValueError: there is no such file, or a part or a section has an unknown name.
    """
    path = notebooks_dir() / f"{notebook}.yaml"
    if notebook == "common" or not path.is_file():
        known = ", ".join(sorted(path.stem for path in notebooks_dir().glob("[0-9][0-9]_*.yaml")))
        raise ValueError(f"notebook must have a file NN_name.yaml in {notebooks_dir()} ({known}), got {notebook!r}")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found = {"claims": content.pop("claims", None) or [], "settings": content.pop("settings", None) or {}}
    if content:
        raise ValueError(f"parts of {path.name} must be claims and settings, got {', '.join(content)}")
    sections = ["all", *profile_names()]
    for section in found["settings"]:
        if section not in sections:
            raise ValueError(f"sections of {path.name} must be among {', '.join(sections)}, got {section!r}")
    return found


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError for a parameter of another type than the profile's value; an int may stand for a float."""
    expected = (int, float) if isinstance(default, float) else type(default)
    same_kind = isinstance(value, bool) == isinstance(default, bool) and isinstance(value, expected)
    if default is not None and not same_kind:
        raise ValueError(f"{name} must be of type {type(default).__name__}, got {value!r}")
    if name.startswith("n_") and isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def resolve(notebook: str, profile: str = "", parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a notebook.

    Args:
        notebook: name without suffix, such as "03_timestep_strategies".
        profile: name of the profile; "": $DIFFCLF_PROFILE, else mini.
        parameters: values of the parameters cell; "", 0, None and empty lists mean the profile's value.

    Raises:
        ValueError: unknown profile, notebook or parameter, or a parameter of the wrong type.
    """
    profile = profile or default_profile()
    if profile not in profile_names():
        raise ValueError(f"profile must be one of {', '.join(profile_names())}, got {profile!r}")
    settings: dict[str, Any] = {}
    for sections in (_common(), read_notebook_file(notebook)["settings"]):
        for section in ("all", profile):
            settings |= sections.get(section) or {}
    for name, value in (parameters or {}).items():
        if name not in settings:
            known = ", ".join(settings)
            raise ValueError(f"parameter must be a setting of {notebook} at {profile!r} ({known}), got {name!r}")
        if isinstance(value, bool) or value not in (None, "", 0, [], ()):
            _check(name, value, settings[name])
            settings[name] = value
    return settings


def go_offline() -> None:
    """Tell the Hugging Face libraries to fetch nothing: a missing file is then an error at once, not a time-out."""
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None:  # it has read the environment when it was imported
        hub.HF_HUB_OFFLINE = True
