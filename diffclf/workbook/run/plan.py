"""Which notebooks to run and with which parameters; wrong requests are errors before the first kernel starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffclf.workbook import settings

__all__ = ["Job", "choose", "plan"]


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


def plan(profile: str = "", only: Sequence[str] = (), parameters: Mapping[str, Any] | None = None) -> list[Job]:
    """Return the jobs of a run of the notebooks that `only` names; see `chosen_profile` and `choose`.

    A parameter goes to every chosen notebook that declares it; text becomes a number where the setting is one. A
    notebook that cannot run is a job with a problem, so that the others still run.
    Raises ValueError: unknown profile or notebook; a parameter that no chosen notebook has, or of the wrong type.
    """
    import papermill

    given, jobs, choices = dict(parameters or {}), [], set()
    profile = settings.chosen_profile(profile)
    if "profile" in given:
        raise ValueError("parameter profile must be chosen with --profile, got it as a parameter")
    for path in choose(only):
        try:
            declared, known = set(papermill.inspect_notebook(str(path))), settings.resolve(path.stem, profile)
            if not declared:
                raise ValueError(f"{path.name} must have one cell tagged 'parameters' that declares some, got none")
        except ValueError as error:
            jobs.append(Job(path.stem, path, problem=str(error)))
            continue
        values = {
            name: yaml.safe_load(value) if isinstance(value, str) and not isinstance(known[name], str) else value
            for name, value in given.items()
            if name in declared & set(known)
        }
        jobs.append(Job(path.stem, path, {"profile": profile, **values}, settings.resolve(path.stem, profile, values)))
        choices |= declared & set(known)
    for name in given.keys() - choices:
        raise ValueError(f"parameter must be one of the notebooks' ({', '.join(sorted(choices))}), got {name!r}")
    return jobs
