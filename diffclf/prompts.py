"""Prompts: what the model is told about each class, and every check on it.

A list of prompts is a list of (prompt, classname) pairs; a class may have several prompts. They come from labels and a
template ("a photo of a {}"), from a mapping, or from a CSV file with the columns prompt, classname and classidx, the
form of the prompt files released with Li et al. 2023.
"""

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

__all__ = [
    "TEMPLATE",
    "Prompts",
    "check_texts",
    "label_indices",
    "prompts_from_labels",
    "read_prompts",
    "resolve_prompts",
    "split_labels",
]

TEMPLATE = "a photo of a {}"
COLUMNS = ("prompt", "classname", "classidx")
MAX_BYTES = 64_000_000  # of a file: ImageNet-21k's prompts have 2 MB

Prompts = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | Sequence[str] | Sequence[int] | None
"""Class name -> prompt or prompts; or (prompt, class name) pairs; or labels of a class-conditional model."""


def resolve_prompts(prompts: Prompts, labels: Sequence[str] | None) -> tuple[list[str] | list[int], list[str]]:
    """Turn the user's prompts into texts, or class indices of a model that has labels, and the class name of each.

    Class names are returned in Unicode's form NFC; letters composed in another way are the same name.

    Raises ValueError for fewer than two classes, empty or duplicate prompts, or unknown labels.
    """
    if labels is None:
        pairs = _text_pairs(prompts)
        check_texts(pairs)
    elif isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable | None):
        raise ValueError(f"prompts must be None, label names or label indices for this model, got {prompts!r:.80}")
    else:
        indices = list(range(len(labels))) if prompts is None else label_indices(prompts, labels)
        if len(set(indices)) != len(indices):
            raise ValueError(f"labels must differ, got {prompts!r:.80}")
        pairs = [(index, labels[index]) for index in indices]
    n_classes = len({nfc(name) for _, name in pairs})
    if n_classes < 2:
        raise ValueError(f"prompts must name at least 2 classes, got {n_classes}")
    return [prompt for prompt, _ in pairs], [nfc(name) for _, name in pairs]


def nfc(name: object) -> object:
    """Return a name in Unicode's form NFC, in which equal names have equal characters; what is no text unchanged."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def _text_pairs(prompts: Prompts) -> list[tuple[str, str]]:
    """Return the (prompt, class name) pairs of a text-conditional model."""
    if isinstance(prompts, Mapping):
        pairs = []
        for name, texts in prompts.items():
            several = [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
            if not several:
                raise ValueError(f"every class must have at least one prompt, got none for {name!r}")
            pairs += [(text, name) for text in several]
        return pairs
    pairs = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"prompts must be a mapping or a list of (prompt, class name) pairs, got {prompts!r:.80}")
    return pairs


def check_texts(pairs: Sequence[tuple[object, str]]) -> None:
    """Raise ValueError unless prompts and names of (prompt, class name) pairs are texts, and the prompts all differ."""
    seen: dict[str, str] = {}
    for text, name in pairs:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"class name must be a text that is not empty, got {name!r}")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt of class {name!r} must be a text that is not empty, got {text!r}")
        if text in seen:
            raise ValueError(f"prompts must differ, got {text!r} for both {seen[text]!r} and {name!r}")
        seen[text] = name


def label_indices(chosen: Iterable[str | int], labels: Sequence[str]) -> list[int]:
    """Return the class indices of labels given by name or index; raise ValueError for one that is no label."""
    indices, places = [], {nfc(label): place for place, label in reversed(list(enumerate(labels)))}
    for label in chosen:
        if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(labels):
            indices.append(int(label))
        elif isinstance(label, str) and nfc(label) in places:
            indices.append(places[nfc(label)])
        else:
            near = _near(label, labels) if isinstance(label, str) else []
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"label must be one of the model's {len(labels)} labels, got {label!r}{hint}")
    return indices


def _near(name: str, labels: Sequence[str]) -> list[str]:
    """Return up to three labels that are spelt like a name, else that contain it; letter case does not matter."""
    lower = {label.lower(): label for label in labels}
    found = get_close_matches(name.lower(), lower) or [label for label in lower if name.lower() in label]
    return [lower[label] for label in found[:3]]


def split_labels(text: str) -> list[str]:
    """Return labels that commas or line breaks separate; a label with a comma in it stands in double quotes."""
    return [nfc(label.strip()) for row in csv.reader(text.splitlines(), skipinitialspace=True) for label in row]


def prompts_from_labels(labels: Sequence[str], template: str = TEMPLATE) -> list[tuple[str, str]]:
    """Return one (prompt, classname) pair per label: the template with the label in place of {}.

    Raises ValueError for fewer than two labels, an empty label or one given twice, and a template without {}.
    """
    if "" in labels or len(set(labels)) != len(labels):
        raise ValueError(f"labels must differ and must not be empty, got {list(labels)}")
    if len(labels) < 2:
        raise ValueError(f"labels must name at least two classes, got {len(labels)}: {list(labels)}")
    if "{}" not in template:
        raise ValueError(f"template must contain {{}} where the label goes, got {template!r}")
    return [(template.replace("{}", label), label) for label in labels]


def read_prompts(path: str | Path) -> list[tuple[str, str]]:
    """Return the (prompt, classname) pairs of a CSV file, classes in the order of their classidx.

    Commas, semicolons or tabs may separate the columns; letter case and blanks in their names do not matter.

    Raises:
        ValueError: more than `MAX_BYTES`; not a CSV file in UTF-8; a missing column; an empty field; a classidx that is
            no integer; a classname under several classidx or the reverse; a prompt given twice; fewer than two classes.
        OSError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as binary:
            content = binary.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"a file of prompts must have at most {MAX_BYTES:,} bytes, got more")
        file = io.StringIO(content.decode("utf-8-sig"), newline="")
        header = file.readline()
        delimiter = max(",;\t", key=header.count)
        found = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        reader = csv.DictReader(file, found, delimiter=delimiter, strict=True)
        if not set(COLUMNS) <= set(found):
            raise ValueError(f"columns must include {', '.join(COLUMNS)}, got {', '.join(found) or 'no line'}")
        rows = [_parse_row(row, f"line {reader.line_num + 1}") for row in reader]
        for own, other in ((1, 2), (2, 1)):
            first: dict[object, object] = {}
            for row in rows:
                if (known := first.setdefault(row[own], row[other])) != row[other]:
                    names = f"{COLUMNS[own]} {row[own]!r} must have one {COLUMNS[other]}"
                    raise ValueError(f"{names}, got {known!r} and {row[other]!r}")
        rows.sort(key=lambda row: row[2])  # stable: prompts of a class keep their order
        pairs = [row[:2] for row in rows]
        resolve_prompts(pairs, None)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return pairs


def _parse_row(row: dict[str, str | None], where: str) -> tuple[str, str, int]:
    """Return prompt, classname and classidx of one line."""
    if None in row:
        raise ValueError(f"{where} has more fields than columns; a prompt with a comma in it must stand in quotes")
    values = [(row[column] or "").strip() for column in COLUMNS]
    for column, value in zip(COLUMNS, values, strict=True):
        if not value:
            raise ValueError(f"{where}: {column} must not be empty")
    try:
        return values[0], nfc(values[1]), int(values[2])
    except ValueError:
        raise ValueError(f"{where}: classidx must be an integer, got {values[2]!r}") from None
