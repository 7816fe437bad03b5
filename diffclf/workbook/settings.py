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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["chosen_profile", "go_offline", "notebooks_dir", "profiles", "read_notebook_file", "reports_dir", "resolve"]

CHECKOUT = Path(__file__).resolve().parents[2]
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def notebooks_dir() -> Path:
    """Return the folder of the notebooks and their settings: $DIFFCLF_NOTEBOOKS, else the checkout's."""
    return Path(os.environ.get("DIFFCLF_NOTEBOOKS") or CHECKOUT / "notebooks").resolve()


def reports_dir(profile: str = "") -> Path:
    """Return the folder of a profile's results, below $DIFFCLF_REPORTS or the checkout's reports; "": that of all."""
    return Path(os.environ.get("DIFFCLF_REPORTS") or CHECKOUT / "reports").resolve() / profile


def _common() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((notebooks_dir() / "common.yaml").read_text(encoding="utf-8"))


def profiles() -> list[str]:
    """Return the names of the profiles, in the order of common.yaml."""
    return [name for name in _common() if name != "all"]


def chosen_profile(name: str = "") -> str:
    """Return the name of a profile; "": $DIFFCLF_PROFILE, else mini. Raises ValueError if there is no such profile."""
    name = name or os.environ.get("DIFFCLF_PROFILE") or "mini"
    if name not in profiles():
        raise ValueError(f"profile must be one of {', '.join(profiles())}, got {name!r}")
    return name


def read_notebook_file(notebook: str) -> dict[str, Any]:
    """Return `claims` (a list) and `settings` (profile name or "all" -> settings) of a notebook's NN_name.yaml.

    Raises ValueError if there is no such file, or a part or a section has an unknown name.
    """
    path = notebooks_dir() / f"{notebook}.yaml"
    if notebook == "common" or not path.is_file():
        known = ", ".join(sorted(path.stem for path in notebooks_dir().glob("[0-9][0-9]_*.yaml")))
        raise ValueError(f"notebook must have a file NN_name.yaml in {notebooks_dir()} ({known}), got {notebook!r}")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found = {"claims": content.pop("claims", None) or [], "settings": content.pop("settings", None) or {}}
    sections = ["all", *profiles()]
    unknown = set(content) | found["settings"].keys() - set(sections)
    if unknown:
        known = f"claims and settings, and its settings' sections {', '.join(sections)}"
        raise ValueError(f"parts of {path.name} must be {known}, got {', '.join(sorted(unknown))}")
    return found


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError for a parameter of another type than the profile's value; an int may stand for a float."""
    allowed = {type(default), int} if isinstance(default, float) else {type(default)}
    if default is not None and type(value) not in allowed:
        raise ValueError(f"{name} must be of type {type(default).__name__}, got {value!r}")
    if name.startswith("n_") and isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def resolve(notebook: str, profile: str = "", parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a notebook, by its name without suffix, at a profile; see the module's docstring.

    Raises ValueError: unknown profile, notebook or parameter, or a parameter of the wrong type.
    """
    profile = chosen_profile(profile)
    settings: dict[str, Any] = {}
    for sections in (_common(), read_notebook_file(notebook)["settings"]):
        settings |= (sections.get("all") or {}) | (sections.get(profile) or {})
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
    from huggingface_hub import constants

    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    constants.HF_HUB_OFFLINE = True  # it has read the environment already
