"""Compares the numbers of two runs of the same notebooks: a run made again, and one that was kept.

    same seed        every number of claims and tables must agree to 1e-3, relative or absolute
    another seed     z = (a - b) / sqrt(se_a^2 + se_b^2) for the estimate of every claim, Holm's correction over all

A standard error is the half width of an interval divided by its normal quantile. Two runs share their images, so that
the test of another seed rejects less often than its level says.
"""

import csv
from collections.abc import Collection, Mapping
from math import inf, isclose, sqrt
from pathlib import Path
from typing import Any

from diffclf.stats import holm
from diffclf.workbook.results import read_judged

__all__ = ["TOLERANCE", "compare_claims", "compare_numbers"]

TOLERANCE = 1e-3
TIMED = ("second", "faster", "slowest", "fastest")
"""Words in the names of a table's columns that depend on the machine."""


def _number(cell: str) -> float | None:
    """Return the number in a cell of a table; None: the cell is empty or a text."""
    try:
        return float(cell)
    except ValueError:
        return None


def _table(path: Path) -> dict[str, str]:
    """Return the cells of a table by their names, "row, column", without those that depend on the machine."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    names = [f"{number} {row[0]}" if row else str(number) for number, row in enumerate(rows, start=1)]
    return {
        f"{path.stem}, row {name}, {column}": cell
        for name, row in zip(names, rows, strict=True)
        for column, cell in zip(header, row, strict=True)
        if not any(word in column for word in TIMED)
    }


def _claims(folder: Path, notebooks: Collection[str]) -> dict[str, dict[str, Any]]:
    return {f"claim {claim['id']}": claim for claim in read_judged(folder) if claim["notebook"] in notebooks}


def _cells(folder: Path, notebooks: Collection[str]) -> dict[str, str]:
    """Return all numbers and texts of these notebooks that another run with the same seed must have, too."""
    found = {
        f"{name}, {field}": str(claim[field])
        for name, claim in _claims(folder, notebooks).items()
        for field in ("estimate", "low", "high", "n", "verdict")
    }
    for path in sorted((folder / "tables").glob("*.csv")):
        if path.stem.partition("-")[0] in notebooks:
            found |= _table(path)
    return found


def compare_numbers(run: Path, reference: Path, notebooks: Collection[str]) -> tuple[int, list[str]]:
    """Return how many numbers and texts of these notebooks were compared, and a line for each that differs.

    A number that only one of the two has differs. Both folders are laid out as `diffclf.workbook.results` says.
    """
    ours, theirs = (_cells(folder, notebooks) for folder in (run, reference))
    names, lines = theirs | ours, []
    for name in names:
        a, b = ours.get(name, "missing"), theirs.get(name, "missing")
        x, y = _number(a), _number(b)
        same = a == b if x is None or y is None else isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        if not same:
            lines.append(f"{name}: got {a}, reference {b}")
    return len(names), lines


def compare_claims(
    run: Path, reference: Path, notebooks: Collection[str], level: float = 0.05
) -> tuple[int, list[str]]:
    """Return how many estimates of these notebooks were tested, and a line for each that differs significantly.

    Estimates without a bounded interval in either run are not tested. The level is that of all tests together.
    """
    from scipy.special import ndtr

    ours, tested = _claims(run, notebooks), []
    for name, theirs in _claims(reference, notebooks).items():
        if name in ours:
            error = sqrt(_standard_error(ours[name]) ** 2 + _standard_error(theirs) ** 2)
            if 0 < error < inf:
                tested.append((name, ours[name]["estimate"], theirs["estimate"], error))
    if not tested:
        return 0, []
    p_values = holm([2 * float(ndtr(-abs(a - b) / error)) for _, a, b, error in tested])
    lines = [
        f"{name}: got {a:g}, reference {b:g}, p = {p:.2g}"
        for (name, a, b, _), p in zip(tested, p_values, strict=True)
        if p < level
    ]
    return len(tested), lines


def _standard_error(claim: Mapping[str, Any]) -> float:
    """Return the standard error of a claim's estimate; inf if its interval is unbounded."""
    from scipy.special import ndtri

    if claim["low"] is None or claim["high"] is None:
        return inf
    return (claim["high"] - claim["low"]) / 2 / float(ndtri((1 + claim["level"]) / 2))
