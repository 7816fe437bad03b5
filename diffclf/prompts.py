"""Prompts: what the model is told about each class, and every check on it.

A list of prompts is a list of (prompt, classname) pairs; a class may have several prompts. They come from labels and a
template ("a photo of a {}"), from a mapping, or from a CSV file with the columns prompt, classname and classidx, the
form of the prompt files released with Li et al. 2023.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = [
    "TEMPLATE",
    "Prompts",
    "check_labels",
    "label_indices",
    "prompts_from_labels",
    "read_prompts",
    "resolve_prompts",
    "split_labels",
]

TEMPLATE = "a photo of a {}"
_COLUMNS = ("prompt", "classname", "classidx")

Prompts = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | Sequence[str] | Sequence[int] | None
"""Class name -> prompt or prompts; or (prompt, class name) pairs; or labels of a class-conditional model."""


def resolve_prompts(prompts: Prompts, labels: Sequence[str] | None) -> tuple[list[str] | list[int], list[str]]:
    """Turn the user's prompts into the input of the model's `encode_prompts`, and the class name of each.

    Args:
        prompts: as the user gave them.
        labels: class names of a class-conditional model, None for a text-conditional one.

    Returns:
        Texts or class indices, and as many class names.

    Raises:
        ValueError: fewer than two classes, empty or duplicate prompts, unknown labels.
    """
    if labels is None:
        pairs = _text_pairs(prompts)
        check_texts([text for text, _ in pairs], [name for _, name in pairs])
    else:
        if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | None):
            raise ValueError(
                f"prompts must be None, label names or label indices for a class-conditional model, got {prompts!r:.80}"
            )
        indices = list(range(len(labels))) if prompts is None else label_indices(prompts, labels)
        if len(set(indices)) != len(indices):
            raise ValueError(f"labels must differ, got {prompts!r:.80}")
        pairs = [(index, labels[index]) for index in indices]
    n_classes = len({name for _, name in pairs})
    if n_classes < 2:
        raise ValueError(f"prompts must name at least 2 classes, got {n_classes}")
    return [prompt for prompt, _ in pairs], [name for _, name in pairs]


def _text_pairs(prompts: Prompts) -> list[tuple[str, str]]:
    """Return the (prompt, class name) pairs of a text-conditional model."""
    if prompts is None:
        raise ValueError("prompts must map class names to texts for a text-conditional model, got None")
    if isinstance(prompts, Mapping):
        several = {
            name: [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
            for name, texts in prompts.items()
        }
        if without := [name for name, texts in several.items() if not texts]:
            raise ValueError(f"every class must have at least one prompt, got none for {without[0]!r}")
        return [(text, name) for name, texts in several.items() for text in texts]
    pairs = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"prompts must be a mapping or a list of (prompt, class name) pairs, got {prompts!r:.80}")
    return pairs


def check_texts(texts: Sequence[object], classnames: Sequence[str]) -> None:
    """Raise ValueError unless the prompts are texts, not empty, and all different.

    Args:
        texts: the prompts.
        classnames: the class of each, for the message.
    """
    seen: dict[str, str] = {}
    for text, name in zip(texts, classnames, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt of class {name!r} must be a text that is not empty, got {text!r}")
        if text in seen:
            raise ValueError(f"prompts must differ, got {text!r} for both {seen[text]!r} and {name!r}")
        seen[text] = name


def label_indices(chosen: Iterable[str | int], labels: Sequence[str]) -> list[int]:
    """Return the class indices of labels given by name or index.

    Raises:
        ValueError: a label that the model does not have.
    """
    indices = []
    for label in chosen:
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(labels):
            indices.append(int(label))
        elif isinstance(label, str) and label in labels:
            indices.append(list(labels).index(label))
        else:
            raise ValueError(f"label must be one of the model's {len(labels)} labels, got {label!r}")
    return indices


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
    if twice := [label for position, label in enumerate(labels) if label in labels[:position]]:
        raise ValueError(f"labels must differ, got {twice[0]!r} more than once")
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
        resolve_prompts(pairs, None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return pairs


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
    """Raise ValueError unless each classname has one classidx and the reverse."""
    index_of: dict[str, int] = {}
    name_of: dict[int, str] = {}
    for classname, classidx in classes:
        if index_of.setdefault(classname, classidx) != classidx:
            raise ValueError(f"{path}: {classname!r} must have one classidx, got {index_of[classname]} and {classidx}")
        if name_of.setdefault(classidx, classname) != classname:
            raise ValueError(
                f"{path}: classidx {classidx} must have one classname, got {name_of[classidx]!r} and {classname!r}"
            )
