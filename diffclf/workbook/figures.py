"""What a notebook shows: figures with a description in words, tables, boxes. Each goes to the screen and to a file."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

from diffclf.stats import Estimate
from diffclf.workbook.claims import Judged

__all__ = ["COLOURS", "box", "number", "show_claim", "show_figure", "show_html", "show_table"]

COLOURS = {"holds": "#00694D", "does not hold": "#A63D00", "undecided": "#5A5A5A", None: "#5A5A5A"}
"""Background of a verdict's badge; white text on each has a contrast of at least 5."""

SIGNS = {"holds": "✓", "does not hold": "✗", "undecided": "?", None: "–"}


def _display(content: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
    """Display one thing in several formats; outside a notebook, print its text."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(content["text/plain"])
    else:
        display(content, raw=True, metadata=metadata)


def show_html(html: str, text: str) -> None:
    """Display HTML, and text where HTML cannot be shown."""
    _display({"text/html": html, "text/plain": text})


def show_figure(fig: Figure, alt: str, path: Path) -> None:
    """Display a figure with its description, write it as PNG (the description inside) and SVG, and close it.

    Args:
        fig: a matplotlib figure.
        alt: what a reader who cannot see the figure should know; a sentence or two.
        path: file to write, without suffix.
    """
    import matplotlib.pyplot as plt

    alt = " ".join(alt.split())
    if not alt:
        raise ValueError(f"alt must describe the figure {path.name} in words, got an empty text")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = BytesIO()
    fig.savefig(image, format="png", metadata={"Description": alt, "Software": None}, bbox_inches="tight")
    path.with_suffix(".png").write_bytes(image.getvalue())
    fig.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Description": alt}, bbox_inches="tight")
    width = round(fig.get_figwidth() * 100)
    plt.close(fig)
    encoded = b64encode(image.getvalue()).decode("ascii")
    _display({"image/png": encoded, "text/plain": alt}, {"image/png": {"alt": alt, "width": width}})


def number(value: object) -> str:
    """Return a number as a reader wants it: three significant digits, no exponent for everyday sizes, text as it is."""
    if isinstance(value, Estimate):
        return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"
    if value is None or value != value:  # noqa: PLR0124 (NaN)
        return "–"
    if isinstance(value, bool) or not isinstance(value, float | int) and not hasattr(value, "dtype"):
        return str(value)
    value = float(value)
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    if value.is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}".replace("-", "−")
    if 1e-3 <= abs(value) < 1e9:
        decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        return f"{value:,.{decimals}f}".replace("-", "−")
    return f"{value:.2e}"


def show_table(df: pd.DataFrame, caption: str, path: Path) -> None:
    """Display a pandas table and write it as CSV; an Estimate becomes three columns there.

    Args:
        df: the table; its index is shown unless it only counts the rows.
        caption: a sentence above it.
        path: file to write, without suffix.
    """
    import pandas as pd

    counts = isinstance(df.index, pd.RangeIndex) and df.index.name is None
    path.parent.mkdir(parents=True, exist_ok=True)
    _spread(df).to_csv(path.with_suffix(".csv"), index=not counts)
    shown = df.map(number)
    html = shown.to_html(index=not counts, border=0, classes="workbook-table", na_rep="–", justify="left")
    title = f"<caption style='caption-side:top;text-align:left'>{escape(caption)}</caption>" if caption else ""
    html = html.replace(">\n", f">\n{title}", 1)
    show_html(html, f"{caption}\n{shown.to_string(index=not counts)}".strip())


def _spread(df: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each column of estimates spread over NAME, NAME low and NAME high."""
    columns: dict[Any, Any] = {}
    for name in df.columns:
        column = df[name]
        columns[name] = column.map(lambda cell: cell.value if isinstance(cell, Estimate) else cell)
        if column.map(lambda cell: isinstance(cell, Estimate)).any():
            for end in ("low", "high"):
                columns[f"{name} {end}"] = column.map(lambda cell, end=end: getattr(cell, end, None))
    return type(df)(columns, index=df.index)


def box(title: str, html: str, colour: str) -> str:
    """Return HTML of a box with a coloured edge; it inherits the page's own text and background colours."""
    return (
        f"<div style='border-left:6px solid {colour};padding:.4em 1em;margin:.6em 0;overflow-wrap:anywhere'>"
        f"<strong>{escape(title)}</strong><br>{html}</div>"
    )


def show_claim(judged: Judged) -> None:
    """Display a claim, the paper's number, this run's number and the verdict."""
    claim, unit = judged.claim, f" {judged.claim.unit}"
    level = f"{100 * judged.estimate.level:.4g}%"
    paper = "no number" if claim.paper is None else number(claim.paper) + unit
    sign, colour = SIGNS[judged.verdict], COLOURS[judged.verdict]
    run = f"{number(judged.estimate)}{unit}"
    n = "" if judged.n is None else f", n = {judged.n}"
    facts = (
        f"{claim.estimates[:1].upper()}{claim.estimates[1:]}. This run: {run} "
        f"({level} interval over {' and '.join(claim.covers)}{n}); "
        f"paper: {paper}; rule: {claim.direction}, margin {number(claim.margin)}{unit}."
    )
    badge = (
        f"<span style='background:{colour};color:#fff;border-radius:.3em;padding:.1em .5em;white-space:nowrap'>"
        f"{sign} {escape(judged.words)}</span>"
    )
    kind = "" if claim.kind == "test" else " (an analogue: about particular models, not the method)"
    detail = f"<br>{escape(judged.detail)}" if judged.detail else ""
    html = f"{escape(claim.sentence)}{kind}<br>{badge}<br><small>{escape(facts)}{detail}</small>"
    text = f"[{judged.words}] {claim.place}: {claim.sentence}{kind}\n{facts} {judged.detail}".strip()
    show_html(box(f"Claim: {claim.place}", html, colour), text)
