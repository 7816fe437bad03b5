"""Prompts: what the model is told about each class.

A list of prompts is a list of (prompt, classname) pairs; a class may have several. They come from labels and a
template ("a photo of a {}") or from a CSV file with the columns prompt, classname and classidx, the form of the prompt
files released with Li et al. 2023.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["TEMPLATE", "check_labels", "check_prompts", "prompts_from_labels", "read_prompts", "split_labels"]

TEMPLATE = "a photo of a {}"
_COLUMNS = ("prompt", "classname", "classidx")


def split_labels(text: str) -> list[str]:
    """Return the labels in a comma-separated list; a label with a comma in it stands in double quotes.

    Raises:
        ValueError: an empty label, a label given twice, or fewer than two.
    """
    rows = list(csv.reader([text], skipinitialspace=True))
    labels = [label.strip() for label in rows[0]] if rows else []
    check_labels(labels)
    return labels


def check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError unless these are two or more different, non-empty class names."""
    if "" in labels:
        raise ValueError(f"labels must not be empty, got {list(labels)}")
    if duplicates := _duplicates(labels):
        raise ValueError(f"labels must differ, got {duplicates[0]!r} more than once")
    if len(labels) < 2:
        raise ValueError(f"labels must name at least two classes, got {len(labels)}: {list(labels)}")


def prompts_from_labels(labels: Sequence[str], template: str = TEMPLATE) -> list[tuple[str, str]]:
    """Return one (prompt, classname) pair per label: the template with the label in place of {}.

    Raises:
        ValueError: no {} in the template, or labels that are empty, repeated or fewer than two.
    """
    check_labels(labels)
    if "{}" not in template:
        raise ValueError(f"template must contain {{}} where the label goes, got {template!r}")
    return [(template.replace("{}", label), label) for label in labels]


def read_prompts(path: str | Path) -> list[tuple[str, str]]:
    """Return the (prompt, classname) pairs of a CSV file, classes in the order of their classidx.

    Raises:
        ValueError: not a CSV file in UTF-8; a column missing; no rows; an empty field; a classidx that is no integer;
            a classname under several classidx or the reverse; a prompt given twice; fewer than two classes.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            found = reader.fieldnames or []
            if missing := [column for column in _COLUMNS if column not in found]:
                raise ValueError(
                    f"{path}: expected the columns {', '.join(_COLUMNS)}, got {', '.join(found) or 'an empty file'}; "
                    f"missing: {', '.join(missing)}"
                )
            rows = [_parse_row(row, f"{path}, line {reader.line_num}") for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no prompts, expected at least one for each of two classes")
    _check_indices([(classname, classidx) for _, classname, classidx in rows], path)
    rows.sort(key=lambda row: row[2])  # stable: prompts of a class keep their order
    pairs = [(prompt, classname) for prompt, classname, _ in rows]
    try:
        check_prompts(pairs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return pairs


def check_prompts(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError unless these are different, non-empty prompts of at least two classes."""
    for prompt, classname in pairs:
        if not prompt.strip():
            raise ValueError(f"prompts must not be empty, got an empty prompt for {classname!r}")
    if duplicates := _duplicates(prompt for prompt, _ in pairs):
        raise ValueError(f"prompts must differ, got {duplicates[0]!r} more than once")
    classnames = list(dict.fromkeys(classname for _, classname in pairs))
    if len(classnames) < 2:
        raise ValueError(f"prompts must be of at least two classes, got {len(classnames)}: {classnames}")


def _parse_row(row: dict[str, str | None], where: str) -> tuple[str, str, int]:
    """Return prompt, classname and classidx of one line."""
    if None in row:
        raise ValueError(f"{where} has more fields than columns; a prompt with a comma in it must stand in quotes")
    values = [(row[column] or "").strip() for column in _COLUMNS]
    for column, value in zip(_COLUMNS, values, strict=True):
        if not value:
            raise ValueError(f"{where}: {column} must not be empty")
    try:
        return values[0], values[1], int(values[2])
    except ValueError:
        raise ValueError(f"{where}: classidx must be an integer, got {values[2]!r}") from None


def _check_indices(classes: Iterable[tuple[str, int]], path: Path) -> None:
    """Raise ValueError unless classname and classidx name the same classes, one to one."""
    index_of: dict[str, int] = {}
    name_of: dict[int, str] = {}
    for classname, classidx in classes:
        if index_of.setdefault(classname, classidx) != classidx:
            raise ValueError(f"{path}: {classname!r} must have one classidx, got {index_of[classname]} and {classidx}")
        if name_of.setdefault(classidx, classname) != classname:
            raise ValueError(
                f"{path}: classidx {classidx} must have one classname, got {name_of[classidx]!r} and {classname!r}"
            )


def _duplicates(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once, in order."""
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]
