"""Which notebooks to run and with which parameters; wrong requests are errors before the first kernel starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffclf.datasets.hub import HUB
from diffclf.paths import embedded_models
from diffclf.workbook import settings

__all__ = ["Job", "choose", "plan"]

NEEDED = ("offline", "solutions", "timeout_s", "model")
"""Settings without which no notebook can be run."""


@dataclass(frozen=True)
class Job:
    """One notebook to run: values for its parameters cell, the resulting settings, and why it cannot run, if so."""

    name: str
    source: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def choose(only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks with the given numbers or names; none given: all.

    Raises ValueError if there are no notebooks, or none has that number or name.
    """
    found = sorted(settings.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(f"no notebooks (NN_name.ipynb) in {settings.notebooks_dir()}")
    names = {path: {path.stem, path.name, path.stem[:2], str(int(path.stem[:2]))} for path in found}
    wanted = {name for name in only if name}
    for name in wanted - set().union(*names.values()):
        known = ", ".join(path.stem for path in found)
        raise ValueError(f"--only must name notebooks by number or name ({known}), got {name!r}")
    return [path for path in found if not wanted or names[path] & wanted]


def _declared(notebook: Path) -> set[str]:
    """Return the names that a notebook's parameters cell declares; raise ValueError if there are none.

    The project's notebooks are in Python, whatever kernel their file names, if any.
    """
    import nbformat
    from papermill.translators import PythonTranslator

    try:
        cells = nbformat.read(notebook, as_version=4).cells
        tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        found = {parameter.name for cell in tagged[:1] for parameter in PythonTranslator.inspect(cell)}
    except Exception as error:  # no JSON, no notebook, a cell of another shape: a dozen classes
        raise ValueError(f"{notebook.name} must be a notebook, got {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError(f"{notebook.name} must have one cell tagged 'parameters' that declares some, got none")
    return found


def _value(name: str, value: object, setting: object) -> object:
    """Return a parameter's value; a text becomes what YAML reads in it, unless the setting is a text.

    The folder of a model or data set gets its full path, since a notebook runs in its own folder; a name of this
    project goes before a folder of that name.
    """
    if not isinstance(value, str):
        return value
    if isinstance(setting, str):
        own = value.startswith("mini-") or value in HUB or value.partition("@")[0] in embedded_models("*.json")
        is_folder = name.endswith(("model", "dataset")) and value and Path(value).is_dir()
        return str(Path(value).resolve()) if is_folder and not own else value
    try:
        return yaml.safe_load(value)
    except Exception as error:  # yaml's classes, and those of a malformed tag
        raise ValueError(f"{name} must be a value of YAML, got {value!r:.80}") from error


def plan(profile: str = "", only: Sequence[str] = (), parameters: Mapping[str, Any] | None = None) -> list[Job]:
    """Return the jobs of a run of the notebooks that `only` names; see `chosen_profile` and `choose`.

    A parameter goes to every chosen notebook that declares it; text becomes a number where the setting is one. A
    notebook that cannot run is a job with a problem, so that the others still run.
    Raises ValueError: unknown profile or notebook; a parameter that no chosen notebook has, or of the wrong type.
    """
    given, jobs, choices = dict(parameters or {}), [], set()
    profile = settings.chosen_profile(profile)
    if "profile" in given:
        raise ValueError("parameter profile must be chosen with --profile, got it as a parameter")
    for path in choose(only):
        try:
            declared, known = _declared(path), settings.resolve(path.stem, profile)
            if missing := ", ".join(name for name in NEEDED if name not in known):
                raise ValueError(
                    f"settings of {path.stem} at {profile!r} must have {', '.join(NEEDED)}, lack {missing}"
                )
        except ValueError as error:
            jobs.append(Job(path.stem, path, problem=str(error)))
            continue
        values = {
            name: _value(name, value, known[name]) for name, value in given.items() if name in declared & set(known)
        }
        jobs.append(Job(path.stem, path, {"profile": profile, **values}, settings.resolve(path.stem, profile, values)))
        choices |= declared & set(known)
    for name in given.keys() - choices:
        raise ValueError(f"parameter must be one of the notebooks' ({', '.join(sorted(choices))}), got {name!r}")
    return jobs
