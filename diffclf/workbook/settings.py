"""Settings of the notebooks: the same notebook at several sizes, called profiles.

notebooks/common.yaml has the settings that all notebooks share; notebooks/NN_name.yaml has, under `settings`, those of
one notebook. Each has a section per profile and a section `all`. The value of a setting is the last one found in

    common `all`, common PROFILE, notebook `all`, notebook PROFILE, the notebook's parameters cell (unless "", 0 or [])

Settings with a meaning of their own: `n_classes` (of the data set; only for the estimate of the cost), `offline`
(nothing is fetched while the notebook runs), `verdicts` (claims are judged), `world` (where a verdict holds: "the mini
world"), `timeout_s` (of one cell), `download_gb` (size of a model or data set, by its name), `device` and `dtype` (of
the model; default: float16 on CUDA, else float32), `compile` (the network is compiled: a minute, then it runs faster),
`memory` ("low" or "lowest" for a small GPU: `diffclf.models.memory`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from diffclf.paths import home

__all__ = ["chosen_profile", "go_offline", "notebooks_dir", "profiles", "read_notebook_file", "reports_dir", "resolve"]

NUMBER = int | float
KINDS = {
    **dict.fromkeys(("offline", "verdicts", "solutions", "compile"), bool),
    **dict.fromkeys(("model", "dataset", "split", "world", "device", "dtype", "memory"), str),
    **dict.fromkeys(("seed", "n_images", "n_classes"), int),
    "timeout_s": NUMBER,
    "download_gb": dict,
    "least": dict,
}
"""The types of settings that this package itself reads."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def notebooks_dir() -> Path:
    """Return the folder of the notebooks and their settings: $DIFFCLF_NOTEBOOKS, else notebooks/ (`paths.home`)."""
    return Path(os.environ.get("DIFFCLF_NOTEBOOKS") or home() / "notebooks").resolve()


def reports_dir(profile: str = "") -> Path:
    """Return the folder of a profile's results, in $DIFFCLF_REPORTS or reports/ (`paths.home`); "": that of all."""
    return Path(os.environ.get("DIFFCLF_REPORTS") or home() / "reports").resolve() / profile


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file has none. Raises ValueError for any other content."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # The classes of yaml's own errors are no ValueErrors, and a malformed tag ends in yet others.
    except Exception as error:
        raise ValueError(f"{path} must hold a mapping in YAML, got {type(error).__name__}: {error}") from error
    return _mapping(f"{path}", {} if content is None else content)


def _mapping(name: str, content: object) -> dict[str, Any]:
    """Return a mapping with texts as keys; raise ValueError if the content is none."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{name} must be a mapping with names as keys, got {content!r:.80}")
    return content


def _sections(name: str, content: object) -> dict[str, dict[str, Any]]:
    """Return the settings of each section of a file; a section may be empty."""
    sections = _mapping(name, {} if content is None else content)
    found = {key: _mapping(f"{name}, {key}", {} if part is None else part) for key, part in sections.items()}
    for section, part in found.items():
        for setting in KINDS.keys() & part.keys():
            if not isinstance(part[setting], KINDS[setting]) or part[setting] is True and KINDS[setting] is NUMBER:
                kind = getattr(KINDS[setting], "__name__", "number")
                raise ValueError(f"{setting} in {name}, {section}, must be of type {kind}, got {part[setting]!r:.80}")
    return found


def _common() -> dict[str, dict[str, Any]]:
    path = notebooks_dir() / "common.yaml"
    if not path.is_file():
        raise ValueError(
            f"notebooks need their settings in {path}, got no such file: run this in a "
            "clone of the repository, or export DIFFCLF_NOTEBOOKS=/path/to/diffclf/notebooks"
        )
    return _sections(str(path), _read(path))


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

    Raises ValueError if there is no such file, it is malformed, or a part or a section has an unknown name.
    """
    path = notebooks_dir() / f"{notebook}.yaml"
    if notebook == "common" or not path.is_file():
        known = ", ".join(sorted(path.stem for path in notebooks_dir().glob("[0-9][0-9]_*.yaml")))
        raise ValueError(f"notebook must have a file NN_name.yaml in {notebooks_dir()} ({known}), got {notebook!r}")
    content = _read(path)
    claims, found = content.pop("claims", None) or [], _sections(f"settings of {path}", content.pop("settings", None))
    if not isinstance(claims, list):
        raise ValueError(f"claims of {path} must be a list, got {claims!r:.80}")
    claims = [_mapping(f"claim {number} of {path}", claim) for number, claim in enumerate(claims, start=1)]
    sections = ["all", *profiles()]
    unknown = set(content) | found.keys() - set(sections)
    if unknown:
        known = f"claims and settings, and its settings' sections {', '.join(sections)}"
        raise ValueError(f"parts of {path.name} must be {known}, got {', '.join(sorted(unknown))}")
    return {"claims": claims, "settings": found}


def _check(name: str, value: object, default: object) -> None:
    """Raise ValueError for a parameter of another type than the profile's value; an int may stand for a float."""
    allowed = {type(default), int} if isinstance(default, float) else {type(default)}
    if default is not None and type(value) not in allowed:
        raise ValueError(f"{name} must be of type {type(default).__name__}, got {value!r}")
    if name.startswith("n_") and isinstance(value, int) and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def resolve(notebook: str, profile: str = "", parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a notebook, by its name without suffix, at a profile; see the module's docstring.

    Raises ValueError: unknown profile, notebook or parameter, a parameter of the wrong type, or a value below that of
    the setting `least`, a mapping from names to the smallest values with which the notebook runs.
    """
    profile = chosen_profile(profile)
    settings: dict[str, Any] = {}
    for sections in (_common(), read_notebook_file(notebook)["settings"]):
        settings |= sections.get("all", {}) | sections.get(profile, {})
    for name, value in (parameters or {}).items():
        if name not in settings:
            known = ", ".join(settings)
            raise ValueError(f"parameter must be a setting of {notebook} at {profile!r} ({known}), got {name!r}")
        if isinstance(value, bool) or value not in (None, "", 0, [], ()):
            _check(name, value, settings[name])
            settings[name] = value
    for name, least in settings.get("least", {}).items():
        value = settings.get(name)
        if isinstance(value, NUMBER) and isinstance(least, NUMBER) and value < least:
            raise ValueError(f"{name} of {notebook} must be at least {least}, got {value}")
    return settings


def go_offline() -> None:
    """Tell the Hugging Face libraries to fetch nothing: a missing file is then an error at once, not a time-out."""
    from huggingface_hub import constants

    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    constants.HF_HUB_OFFLINE = True  # it has read the environment already
