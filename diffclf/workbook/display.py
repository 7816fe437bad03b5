"""What a reader of a notebook or of a terminal sees: figures with a description in words, tables, claims.

A notebook's figures and tables go to the screen and to a file. Text from outside (names of data sets and classes, error
messages) enters HTML through `html_text` only.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import display, get_ipython
from matplotlib.figure import Figure

from diffclf.stats import Estimate
from diffclf.texttable import text_table

__all__ = [
    "SIGNS",
    "claims_table",
    "how_judged",
    "html_text",
    "interval",
    "number",
    "show_claim",
    "show_facts",
    "show_figure",
    "show_table",
]

_COLOURS = {"holds": "#00694D", "does not hold": "#A63D00", "undecided": "#5A5A5A", None: "#5A5A5A"}
"""Background of a verdict's badge; white text on each has a contrast of at least 5."""
_RULES = {
    "greater": "lies above ",
    "less": "lies below ",
    "no difference": "lies within ±",
    "not worse": "starts above −",
}
SIGNS = {"holds": "✓", "does not hold": "✗", "undecided": "?", None: "–"}


def html_text(value: object) -> str:
    """Return text for HTML, also inside an attribute or a fenced block of Markdown: escaped, on one line."""
    return escape(" ".join(str(value).split())).replace("`", "&#96;")


def number(value: object) -> str:
    """Return a number with three significant digits, no exponent for everyday sizes, and text as it is."""
    if isinstance(value, Estimate):
        return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"
    if value is None or value != value:  # NaN
        return "–"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    size = abs(value)
    if size != inf and value != 0 and not 1e-3 <= size < 1e9:
        return f"{value:.2e}"
    decimals = 0 if size >= 1000 or value == int(value) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}".replace("inf", "∞").replace("-", "−")


def interval(record: Mapping[str, Any]) -> str:
    """Return the interval of a claim's record; an end that is None is unbounded."""
    low, high = (unbounded if record[end] is None else record[end] for end, unbounded in (("low", -inf), ("high", inf)))
    return f"[{number(low)}, {number(high)}]"


def _display(content: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
    """Display an object given in several formats; outside a notebook, print its text."""
    if get_ipython() is None:
        print(content["text/plain"])
    else:
        display.display(content, raw=True, metadata=metadata)


def show_figure(fig: Figure, alt: str, path: Path) -> None:
    """Display a figure, write it to `path` (without suffix) as PNG and SVG, and close it.

    Both files have the description `alt`, the figure in words. Raises ValueError if it is empty.
    """
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError(f"alt must describe the figure {path.name} in words, got an empty text")
    path.parent.mkdir(parents=True, exist_ok=True)
    png, metadata = path.with_suffix(".png"), {"alt": alt, "width": round(fig.get_figwidth() * 100)}
    fig.savefig(png, metadata={"Description": alt, "Software": None}, bbox_inches="tight")
    fig.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Description": alt}, bbox_inches="tight")
    plt.close(fig)
    _display({"image/png": b64encode(png.read_bytes()).decode(), "text/plain": alt}, {"image/png": metadata})


def show_table(df: pd.DataFrame, caption: str, path: Path) -> None:
    """Display a table with a caption, and write it as CSV: `path` without suffix, estimates in three columns.

    The index is shown unless it only counts the rows.
    """
    with_index = not isinstance(df.index, pd.RangeIndex) or df.index.name is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    _with_ends(df).to_csv(path.with_suffix(".csv"), index=with_index)
    shown = df.map(number)
    html = shown.to_html(index=with_index, border=0, classes="workbook-table", na_rep="–", justify="left")
    if caption:
        title = f"<caption style='caption-side:top;text-align:left'>{html_text(caption)}</caption>"
        html = html.replace(">\n", f">\n{title}", 1)
    _display({"text/html": html, "text/plain": f"{caption}\n{shown.to_string(index=with_index)}".strip()})


def _with_ends(df: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each column of estimates spread over NAME, NAME low and NAME high."""
    columns: dict[Any, Any] = {}
    for name, column in df.items():
        columns[name] = column.map(lambda cell: getattr(cell, "value", cell))
        has_intervals = column.map(lambda cell: isinstance(cell, Estimate)).any()
        for end in ("low", "high") if has_intervals else ():
            columns[f"{name} {end}"] = column.map(lambda cell, end=end: getattr(cell, end, None))
    return type(df)(columns, index=df.index)


def how_judged(record: Mapping[str, Any]) -> str:
    """Return what a claim estimates, its rule, and what its interval covers; see `claims.claim_record`."""
    m = f"{number(record['margin'])} {record['unit']}"
    n = "" if record["n"] is None else f", n = {record['n']}"
    return (
        f"{record['estimates'][:1].upper()}{record['estimates'][1:]}. "
        f"Holds if the interval {_RULES[record['direction']]}{m}. "
        f"{100 * record['level']:.4g}% interval over {' and '.join(record['covers'])}{n}. "
        f"{record['paper_note']} {record['detail']}"
    ).strip()


def show_claim(record: Mapping[str, Any]) -> None:
    """Display a claim, the paper's number, this run's number and the verdict."""
    unit, colour = record["unit"], _COLOURS[record["verdict"]]
    paper = "no number" if record["paper"] is None else f"{number(record['paper'])} {unit}"
    kind = "" if record["kind"] == "test" else " (an analogue: about particular models, not the method)"
    sentence = record["sentence"] + kind
    facts = f"This run: {number(record['estimate'])} {interval(record)} {unit}; paper: {paper}. {how_judged(record)}"
    badge = f"background:{colour};color:#fff;border-radius:.3em;padding:.1em .5em;white-space:nowrap"
    html = (
        f"<div style='border-left:6px solid {colour};padding:.4em 1em;margin:.6em 0;overflow-wrap:anywhere'>"
        f"<strong>Claim: {html_text(record['place'])}</strong><br>{html_text(sentence)}<br>"
        f"<span style='{badge}'>{SIGNS[record['verdict']]} {html_text(record['words'])}</span><br>"
        f"<small>{html_text(facts)}</small></div>"
    )
    _display({"text/html": html, "text/plain": f"[{record['words']}] {record['place']}: {sentence}\n{facts}"})


def show_facts(facts: Mapping[str, str]) -> None:
    """Display facts as a table of two columns."""
    cells = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{html_text(name)}</th>"
        f"<td style='text-align:left;overflow-wrap:anywhere'>{html_text(fact)}</td></tr>"
        for name, fact in facts.items()
    )
    text = "\n".join(f"{name}: {fact}" for name, fact in facts.items())
    _display({"text/html": f"<table class='workbook-table'>{cells}</table>", "text/plain": text})


def claims_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return judged claims as text, a line each: tests before analogues, then where the verdicts hold."""
    if not records:
        return "No claims were judged."
    rows = [
        [
            record["notebook"][:2],
            record["id"] + ("" if record["kind"] == "test" else " (analogue)"),
            number(record["paper"]),
            f"{number(record['estimate'])} {interval(record)}",
            record["unit"],
            f"{SIGNS[record['verdict']]} {record['verdict'] or 'not judged'}",
        ]
        for record in sorted(records, key=lambda record: record["kind"] != "test")
    ]
    worlds = sorted({record["world"] for record in records if record["world"] and record["verdict"]})
    said = [f"Verdicts are about {' and '.join(worlds)}."] if worlds else []
    if any(record["verdict"] == "undecided" for record in records):
        said.append("Undecided: the interval contains the margin; more images (another profile) make it narrower.")
    return "\n".join(
        [text_table([["", "claim", "paper", "this run", "unit", "verdict"], *rows]), " ".join(said)]
    ).rstrip()
