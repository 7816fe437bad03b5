"""What a reader of a notebook or of a terminal sees: figures with a description in words, tables, claims.

A notebook's figures and tables go to the screen and to a file. Text from outside (names of data sets and classes, error
messages) enters HTML through `html_text` only.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from math import floor, inf, isclose, log, log1p, log10
from numbers import Real
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython import display, get_ipython
from matplotlib.figure import Figure

from diffclf.files import plain_cell
from diffclf.stats import Estimate, clopper_pearson
from diffclf.texttable import text_table
from diffclf.workbook.claims import (
    ends,
    factor_to_decide,
    n_to_decide,
    plain_interval,
    plain_verdict,
    range_of,
    too_few,
)

__all__ = [
    "COLOURS",
    "SIGNS",
    "answer",
    "claims_table",
    "how_judged",
    "html_text",
    "interval",
    "lean",
    "number",
    "show_claim",
    "show_facts",
    "show_figure",
    "show_table",
]

COLOURS = {"holds": "#00694D", "does not hold": "#A63D00", "undecided": "#5A5A5A", None: "#5A5A5A"}
"""Colour of a verdict: background of its badge, on which white text has a contrast of at least 5."""
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
    """Return a number with three significant digits, a whole number in full, and text as it is.

    Everyday sizes have no exponent.
    """
    if isinstance(value, Estimate):
        return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"
    if value is None or value != value:  # NaN
        return "–"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    size, sign = abs(value), "−" if value < 0 else ""
    if size == inf or (size < 1e9 and isclose(value, round(value))):
        text = f"{size:,.0f}"
    elif 1e-3 <= size < 1e9:
        rounded = float(f"{size:.2e}")
        text = f"{rounded:,.{max(0, 2 - floor(log10(rounded)))}f}"
    else:
        text = f"{size:.2e}"
    return sign + text.replace("inf", "∞").replace("-", "−")


def interval(record: Mapping[str, Any]) -> str:
    """Return the interval of a claim's record; an end that is None is unbounded."""
    return "[{}, {}]".format(*map(number, ends(record)))


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
    plain = _with_ends(df).map(plain_cell).rename(index=plain_cell, columns=plain_cell).rename_axis(index=plain_cell)
    plain.to_csv(path.with_suffix(".csv"), index=with_index)
    shown = df.map(number)
    html = shown.to_html(index=with_index, border=0, classes="workbook-table", na_rep="–", justify="left")
    html = html.replace("<table ", '<table tabindex="0" ', 1)  # a keyboard can scroll it
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
    n = "" if record["n"] is None else f", n = {number(record['n'])}"
    sentences = [
        f"{record['estimates'][:1].upper()}{record['estimates'][1:]}",
        f"Holds if the interval {_RULES[record['direction']]}{m}",
        f"{number(100 * record['level'])}% interval over {' and '.join(record['covers'])}{n}",
        record["paper_note"],
        record["detail"],
    ]
    return " ".join(f"{sentence.removesuffix('.')}." for sentence in sentences if sentence)


def lean(record: Mapping[str, Any]) -> str:
    """Return how an undecided claim leans and how many images would decide it; "" for every other claim."""
    if record["verdict"] != "undecided":
        return ""
    if "training" in record["covers"]:  # a few trainings: neither a normal interval nor a number of images says much
        return "The interval covers other trainings, too, so that more images alone need not decide the claim."
    one_sided, (low, high) = record["direction"] == "not worse", plain_interval(record)
    which = "one-sided 95% bound" if one_sided else f"plain 95% interval, about [{number(low)}, {number(high)}],"
    does = {"holds": "supports", "does not hold": "contradicts", "undecided": "neither supports nor contradicts"}
    return f"The {which} {does[plain_verdict(record)]} the claim. {_what_decides(record)}"


def _what_decides(record: Mapping[str, Any]) -> str:
    """Return how many images would decide an undecided claim."""
    value, factor = record["estimate"], factor_to_decide(record)
    above, below = range_of(record["direction"], record["margin"])
    if too_few(record["n"], record["low"], record["high"]):
        return f"{number(record['n'])} are too few for an interval."
    none_seen = _none_seen(record)
    seen = "No image shows a difference. " if none_seen else ""
    if factor == inf:
        why = "the estimate equals the margin" if value in (above, below) else "the interval is unbounded"
        return f"{seen}No number of images would decide: {why}."
    things = "images" if "images" in record["covers"] else "observations"
    # The root law of factor_to_decide counts too many where few answers differ.
    needed = f"at most about {number(factor)} times as many {things}"
    if record["n"] is not None:
        least, about = (_n_if_none_differs(record), "") if none_seen else (n_to_decide(record), "at most ")
        needed = f"{about}about {number(float(f'{least:.3g}'))} {things} instead of {number(record['n'])}"
    then = "holds" if above < value < below else "does not hold"
    return f"{seen}If the estimate stayed as it is, {needed} would decide that the claim {then}."


def _none_seen(record: Mapping[str, Any]) -> bool:
    """Return whether no image differs: the interval of a share or a difference then ends at the bound for 0 of n."""
    if record["n"] is None or record["high"] is None or record["unit"] not in ("points", "per cent"):
        return False
    bound = 100 * clopper_pearson(0, record["n"], record["level"]).high
    return record["estimate"] == 0 and isclose(record["high"], bound, rel_tol=1e-9)


def _n_if_none_differs(record: Mapping[str, Any]) -> int:
    """Return the least number of images that decides if no image differs: the bound for 0 of n shrinks like 1 / n."""
    margin = min(abs(end) for end in range_of(record["direction"], record["margin"]))
    return floor(log((1 - record["level"]) / 2) / log1p(-margin / 100)) + 1


def _counted(records: Sequence[Mapping[str, Any]], one: str, several: str) -> str:
    """Return how many claims hold, do not hold and are undecided, in words."""
    if len(records) == 1:
        verdict = records[0]["verdict"]
        return f"the only {one} {'is undecided' if verdict == 'undecided' else verdict}"
    words = {
        "holds": ("none holds", "1 holds", "{} hold"),
        "does not hold": ("none is contradicted", "1 does not hold", "{} do not hold"),
        "undecided": ("none is undecided", "1 is undecided", "{} are undecided"),
    }
    counts = Counter(record["verdict"] for record in records)
    first, second, third = (forms[min(counts[word], 2)].format(counts[word]) for word, forms in words.items())
    return f"of {len(records)} {several}, {first}, {second} and {third}"


def answer(records: Sequence[Mapping[str, Any]]) -> str:
    """Return in one sentence how many claims hold, and which one is contradicted most clearly; "" if none is judged.

    The clearest contradiction is the test that does not hold and that the fewest images would have decided.
    """
    judged = [record for record in records if record["verdict"]]
    tests = [record for record in judged if record["kind"] == "test"]
    analogues = [record for record in judged if record["kind"] != "test"]
    said = [_counted(tests, "test of the method", "tests of the method")] if tests else []
    if against := [record for record in tests if record["verdict"] == "does not hold"]:
        worst = min(against, key=factor_to_decide)
        found = f"{number(worst['estimate'])} {worst['unit']} against a margin of {number(worst['margin'])}"
        said.append(f"the clearest contradiction is of the claim “{worst['sentence'].rstrip('.')}” ({found})")
    if analogues:
        said.append(_counted(analogues, "analogue about particular models", "analogues about particular models"))
    worlds = " and ".join(sorted({record["world"] for record in judged if record["world"]}))
    sentence = "; ".join(said) + "." if said else ""
    return f"In {worlds}, {sentence}" if worlds and said else sentence[:1].upper() + sentence[1:]


def show_claim(record: Mapping[str, Any]) -> None:
    """Display a claim, the paper's number, this run's number and the verdict."""
    unit, colour = record["unit"], COLOURS[record["verdict"]]
    paper = "no number" if record["paper"] is None else f"{number(record['paper'])} {unit}"
    kind = "" if record["kind"] == "test" else " (an analogue: about particular models, not the method)"
    sentence = record["sentence"] + kind
    found = f"This run: {number(record['estimate'])} {interval(record)} {unit}; paper: {paper}."
    facts = " ".join(filter(None, [found, lean(record), how_judged(record)]))
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
    _display({"text/html": f"<table class='workbook-table' tabindex='0'>{cells}</table>", "text/plain": text})


def claims_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return judged claims as text: a line each, tests before analogues; a sentence that sums up; what would decide."""
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
    leans = [f"{record['id']}: {lean(record)}" for record in records if lean(record)]
    table = text_table([["", "claim", "paper", "this run", "unit", "verdict"], *rows])
    return "\n".join(filter(None, [table, answer(records), *leans]))
