"""Predictions of many images on disk: written as they come, resumable, summed up at the end.

A run has a folder:

    settings.json     all that determines the numbers
    predictions.csv   a line per image: image, label, predicted, correct, probability, n_evaluations, tie
    confusion.csv     images by label (rows) and prediction (columns)
    summary.json      accuracy with Wilson's 95% interval, confusion matrix, cost

A line is written whole, in one system call, once its image is done. So a killed run loses at most the image it was
at, and the same command goes on from there; with other settings it refuses to.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from filelock import FileLock, Timeout

from diffclf.stats import Estimate, proportion

__all__ = ["Prediction", "PredictionRun", "Summary"]


@dataclass(frozen=True)
class Prediction:
    """What the classifier said of one image.

    Attributes:
        image: name of the image.
        label: its true class.
        predicted: the class chosen.
        correct: whether they are the same.
        probability: of the class chosen.
        n_evaluations: denoiser evaluations it took.
        tie: whether another class scored exactly as well.
    """

    image: str
    label: str
    predicted: str
    correct: bool
    probability: float
    n_evaluations: int
    tie: bool


_COLUMNS = [field.name for field in fields(Prediction)]


@dataclass(frozen=True)
class Summary:
    """The results of a run.

    Attributes:
        classnames: names of the classes.
        confusion: (n_classes, n_classes) images by label (rows) and prediction (columns).
        accuracy: correct predictions, with Wilson's 95% interval.
        n_evaluations: denoiser evaluations of all images.
        n_ties: images on which two classes scored the same.
    """

    classnames: tuple[str, ...]
    confusion: np.ndarray
    accuracy: Estimate
    n_evaluations: int
    n_ties: int

    @classmethod
    def of(cls, predictions: Sequence[Prediction], classnames: Sequence[str]) -> Self:
        """Sum up predictions of at least one image."""
        index = {name: position for position, name in enumerate(classnames)}
        confusion = np.zeros((len(index), len(index)), dtype=np.int64)
        for row in predictions:
            confusion[index[row.label], index[row.predicted]] += 1
        return cls(
            tuple(classnames),
            confusion,
            proportion(int(np.trace(confusion)), len(predictions)),
            sum(row.n_evaluations for row in predictions),
            sum(row.tie for row in predictions),
        )

    def as_dict(self) -> dict[str, object]:
        """Return the summary as plain values for JSON."""
        return {
            "n_images": int(self.confusion.sum()),
            "n_correct": int(np.trace(self.confusion)),
            "accuracy": {name: getattr(self.accuracy, name) for name in ("value", "low", "high", "level")},
            "n_evaluations": self.n_evaluations,
            "n_ties": self.n_ties,
            "classes": list(self.classnames),
            "confusion": self.confusion.tolist(),
        }


class PredictionRun:
    """The folder of one run, held for writing; a context manager.

    Args:
        folder: where the run is, or is to be; made if need be.

    Attributes:
        folder: the folder.

    Raises:
        ValueError: the folder holds something else, or another process writes to it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out must be a folder, got the file {self.folder}")
        if self.folder.is_dir() and not self._settings_path.exists() and _has_content(self.folder):
            raise ValueError(f"out must be a new folder or one of an earlier run, got {self.folder} with other files")
        self._lock = FileLock(self.folder / ".lock")
        self._file: io.FileIO | None = None

    @property
    def _settings_path(self) -> Path:
        return self.folder / "settings.json"

    @property
    def predictions_path(self) -> Path:
        """The CSV file of predictions."""
        return self.folder / "predictions.csv"

    def __enter__(self) -> Self:
        """Make the folder and hold it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"out must not be in use, got {self.folder}, to which another run is writing") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the folder go."""
        if self._file is not None:
            self._file.close()
        self._lock.release()

    def check_settings(self, settings: Mapping[str, object]) -> None:
        """Compare settings, perhaps not all of them yet, with those of the run that is continued, if any.

        Raises:
            ValueError: they differ; the message names the first few differences.
        """
        if not self._settings_path.exists():
            return
        stored = self._stored_settings()
        given = json.loads(json.dumps(settings))
        if different := [name for name in given if given[name] != stored.get(name)]:
            details = "; ".join(_difference(name, stored.get(name), given[name]) for name in different[:3])
            raise ValueError(
                f"settings must be those of the run in {self.folder}: {details}. "
                "Choose another --out, or the same settings to continue"
            )

    def start(self, settings: Mapping[str, object]) -> list[Prediction]:
        """Begin or continue: store or check the settings and return the predictions there are already.

        Raises:
            ValueError: other settings than those stored, or a damaged CSV file.
        """
        self.check_settings(settings)
        if not self._settings_path.exists():
            _write_whole(self._settings_path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        done = self.read()
        self._file = io.FileIO(self.predictions_path, "a")
        if self._file.seek(0, os.SEEK_END) == 0:
            self._file.write(_csv_line(_COLUMNS))
        return done

    def read(self) -> list[Prediction]:
        """Return the stored predictions, after cutting off a last line that was not written whole.

        Raises:
            ValueError: a damaged CSV file.
        """
        if not self.predictions_path.exists():
            return []
        content = self.predictions_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.predictions_path, len(whole))
        header, *rows = list(csv.reader(io.StringIO(whole.decode("utf-8"), newline=""))) or [_COLUMNS]
        try:
            if header != _COLUMNS:
                raise ValueError(f"expected the columns {_COLUMNS}, got {header}")
            return [_parse(row) for row in rows]
        except ValueError as error:
            raise ValueError(f"{self.predictions_path} is damaged: {error}") from error

    def append(self, prediction: Prediction) -> None:
        """Write one prediction, whole, and hand it to the disk."""
        values = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in astuple(prediction)]
        self._file.write(_csv_line(values))
        os.fsync(self._file.fileno())

    def finish(self, predictions: Sequence[Prediction], classnames: Sequence[str]) -> Summary:
        """Write confusion.csv and summary.json and return the summary."""
        summary = Summary.of(predictions, classnames)
        rows = [["", *classnames]]
        rows += [[name, *counts] for name, counts in zip(classnames, summary.confusion.tolist(), strict=True)]
        _write_whole(self.folder / "confusion.csv", b"".join(map(_csv_line, rows)).decode())
        text = json.dumps({**summary.as_dict(), "settings": self._stored_settings()}, indent=2, ensure_ascii=False)
        _write_whole(self.folder / "summary.json", text + "\n")
        return summary

    def _stored_settings(self) -> dict[str, object]:
        try:
            return json.loads(self._settings_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self._settings_path} is damaged: {error}") from error


def _parse(row: Sequence[str]) -> Prediction:
    """Return the prediction in one line of the CSV file."""
    if len(row) != len(_COLUMNS):
        raise ValueError(f"expected {len(_COLUMNS)} fields, got {row}")
    image, label, predicted, correct, probability, n_evaluations, tie = row
    truth = {"True": True, "False": False}
    if correct not in truth or tie not in truth:
        raise ValueError(f"correct and tie must be True or False, got {row}")
    return Prediction(image, label, predicted, truth[correct], float(probability), int(n_evaluations), truth[tie])


def _csv_line(values: Sequence[object]) -> bytes:
    """Return one line of CSV in UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _has_content(folder: Path) -> bool:
    """Return whether there is a file in the folder that a run interrupted at its start does not leave."""
    return any(entry.name not in (".lock", "settings.json.part") for entry in folder.iterdir())


def _difference(name: str, stored: object, given: object) -> str:
    """Return how a setting differs, in a few words."""
    if isinstance(stored, list) and isinstance(given, list):
        for position, (before, now) in enumerate(zip(stored, given, strict=False)):
            if before != now:
                return f"{name}[{position}] was {before!r}, got {now!r}"
        return f"{name} had {len(stored)} entries, got {len(given)}"
    return f"{name} was {stored!r}, got {given!r}"
