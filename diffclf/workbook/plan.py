"""Which notebooks to run, and with which parameters: all that can be refused before the first kernel starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffclf.workbook import settings

__all__ = ["Job", "choose", "declared_parameters", "plan"]

_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Job:
    """One notebook to run.

    Attributes:
        name: of the notebook, without suffix.
        source: the committed notebook.
        parameters: what its parameters cell is overridden with.
        settings: what those come to, empty where the profile has no section for the notebook.
        problem: why it cannot run; "" if it can.
    """

    name: str
    source: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def choose(only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks, or those whose number or name is asked for.

    Raises:
        ValueError: nothing goes by that number or name.
    """
    found = sorted(settings.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise ValueError(f"no notebooks (NN_name.ipynb) in {settings.notebooks_dir()}")
    wanted = [name.removesuffix(".ipynb") for name in only if name]
    for name in wanted:
        if not any(name in (path.stem, path.stem[:2], path.stem[:2].lstrip("0")) for path in found):
            known = ", ".join(path.stem for path in found)
            raise ValueError(f"--only must name notebooks by number or name ({known}), got {name!r}")
    if not wanted:
        return found
    return [path for path in found if {path.stem, path.stem[:2], path.stem[:2].lstrip("0")} & set(wanted)]


def declared_parameters(path: Path) -> dict[str, str]:
    """Return name and type ("int", "str", ...; "None" where not annotated) of a notebook's parameters.

    Raises:
        ValueError: the notebook has not exactly one cell tagged `parameters`, or that cell declares nothing.
    """
    import nbformat
    import papermill

    notebook = nbformat.read(path, as_version=4)
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    if tagged != 1:
        raise ValueError(f"{path.name} must have one cell tagged 'parameters', got {tagged}")
    known = papermill.inspect_notebook(str(path))
    if not known:
        raise ValueError(f"{path.name}: the cell tagged 'parameters' declares none")
    return {name: str(entry["inferred_type_name"]) for name, entry in known.items()}


def _convert(name: str, value: object, type_name: str) -> object:
    """Return the value as the type that the notebook declares; text is what the command line gives.

    Raises:
        ValueError: the value is no such thing.
    """
    import yaml

    expected = _TYPES.get(type_name)
    if isinstance(value, str) and expected is not str:
        value = yaml.safe_load(value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if expected is not None and type(value) is not expected:
        raise ValueError(f"parameter {name} must be of type {type_name}, got {value!r}")
    return value


def plan(profile: str, only: Sequence[str] = (), parameters: Mapping[str, Any] | None = None) -> list[Job]:
    """Return the jobs of a run.

    A parameter goes to every chosen notebook that declares it. A notebook that cannot run at all is a job with a
    problem, so that the others still run.

    Raises:
        ValueError: unknown profile or notebook; a parameter that no chosen notebook has, or of the wrong type.
    """
    sections, given = settings.read_profile(profile), dict(parameters or {})
    if "profile" in given:
        raise ValueError("parameter profile must be chosen with --profile, got it as a parameter")
    jobs, declared = [], {}
    for path in choose(only):
        try:
            declared[path.stem] = declared_parameters(path)
        except ValueError as error:
            jobs.append(Job(path.stem, path, problem=str(error)))
            continue
        types = declared[path.stem]
        values = {name: _convert(name, value, types[name]) for name, value in given.items() if name in types}
        resolved: dict[str, Any] = {}
        if path.stem in sections:
            known = {"seed", *sections.get("common", {}), *sections[path.stem]}  # the rest is the notebook's own
            resolved = settings.resolve(
                path.stem, profile, {name: value for name, value in values.items() if name in known}
            )
        if "profile" in types:
            values = {"profile": profile, **values}
        jobs.append(Job(path.stem, path, values, resolved))
    choices = sorted({name for types in declared.values() for name in types} - {"profile"})
    for name in given:
        if name not in choices:
            raise ValueError(f"parameter must be one of the chosen notebooks' ({', '.join(choices)}), got {name!r}")
    return jobs
