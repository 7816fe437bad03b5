"""Profiles: one notebook, four sizes.

A profile is a file notebooks/profiles/NAME.yaml with a section `common` and one per notebook. A setting of a notebook
is, in this order, what its parameters cell says (unless that is "" or 0), what the notebook's section says, what
`common` says. `evaluations` in a notebook's section is its budget of denoiser evaluations, `fixed_evaluations` the
part of it that does not grow with n_images.

Settings with a meaning of their own: `offline` (nothing may be fetched while the notebook runs), `verdicts` (claims
are judged), `world` (where a verdict holds: "the mini world"), `timeout_s` (of one cell), `download_gb` (what a model
or data set weighs, by its name), `device` and `dtype` (of the model, where not the default: float16 on CUDA, else
float32), `compile` (the model's network is compiled: a minute a notebook, then faster).
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "OFFLINE",
    "default_profile",
    "go_offline",
    "kept_offline",
    "notebooks_dir",
    "profile_names",
    "read_profile",
    "reports_dir",
    "resolve",
]

_CHECKOUT = Path(__file__).resolve().parents[2]
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def notebooks_dir() -> Path:
    """Return the folder of the notebooks, profiles and claims: $DIFFCLF_NOTEBOOKS, else that of the checkout."""
    return Path(os.environ.get("DIFFCLF_NOTEBOOKS") or _CHECKOUT / "notebooks").resolve()


def reports_dir(profile: str = "") -> Path:
    """Return the folder that runs write to ($DIFFCLF_REPORTS, else that of the checkout), or a profile's part of it."""
    return Path(os.environ.get("DIFFCLF_REPORTS") or _CHECKOUT / "reports").resolve() / profile


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in (notebooks_dir() / "profiles").glob("*.yaml"))


def default_profile() -> str:
    """Return $DIFFCLF_PROFILE, else mini."""
    return os.environ.get("DIFFCLF_PROFILE") or "mini"


def read_profile(profile: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a profile.

    Raises:
        ValueError: there is no such profile, or its file is not a mapping of sections.
    """
    import yaml

    path = notebooks_dir() / "profiles" / f"{profile}.yaml"
    if profile not in profile_names():
        raise ValueError(f"profile must be one of {', '.join(profile_names())}, got {profile!r}")
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ValueError(f"{path.name} must map section names to settings, got {type(sections).__name__}")
    return sections


def _is_default(value: object) -> bool:
    """Return whether a parameter's value means "the profile's": an empty text or list, zero or None."""
    return (
        value is None
        or (not isinstance(value, bool) and value in ("", 0))
        or (isinstance(value, list | tuple | dict) and not value)
    )


def _check_type(name: str, value: object, default: object) -> None:
    """Refuse a parameter of another type than the profile's value; an int may stand for a float."""
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
    else:
        fits = default is None or isinstance(value, type(default))
    if not fits:
        raise ValueError(f"{name} must be of type {type(default).__name__}, got {value!r}")
    if name.startswith("n_") and isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def resolve(notebook: str, profile: str = "", parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a notebook.

    Args:
        notebook: name without suffix, such as "03_timestep_strategies".
        profile: name of the profile; "": $DIFFCLF_PROFILE, else mini.
        parameters: what the parameters cell says; "", 0, None and empty lists mean the profile's value.

    Raises:
        ValueError: unknown profile, notebook or parameter, or a parameter of the wrong type.
    """
    profile = profile or default_profile()
    sections = read_profile(profile)
    if notebook not in sections or notebook == "common":
        known = ", ".join(name for name in sections if name != "common")
        raise ValueError(f"notebook must have a section in profile {profile!r} ({known}), got {notebook!r}")
    settings = {"seed": 0, **sections.get("common", {}), **sections[notebook]}
    for name, value in (parameters or {}).items():
        if name not in settings:
            raise ValueError(
                f"parameter must be a setting of {notebook} in profile {profile!r} "
                f"({', '.join(settings)}), got {name!r}"
            )
        if not _is_default(value):
            _check_type(name, value, settings[name])
            settings[name] = value
    return settings


def go_offline() -> None:
    """Tell the Hugging Face libraries to fetch nothing: a missing file is then an error at once, not a time-out."""
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    hub = sys.modules.get("huggingface_hub.constants")
    if hub is not None:  # read the environment when it was imported, before us
        hub.HF_HUB_OFFLINE = True


@contextmanager
def kept_offline() -> Iterator[None]:
    """Fetch nothing for a while, whatever the environment says, and leave it as it was."""
    from huggingface_hub import constants

    environment, flag = {name: os.environ.get(name) for name in OFFLINE}, constants.HF_HUB_OFFLINE
    go_offline()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = flag
        for name, value in environment.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
