"""The front page: did the paper's claims hold? Figures, and what produced them."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from diffclf.workbook.claims import VERDICTS
from diffclf.workbook.figures import SIGNS, number
from diffclf.workbook.results import read_judged, read_run

__all__ = ["front_page"]

_LABELS = {"holds": "hold", "does not hold": "do not hold", "undecided": "undecided"}


def _rule(claim: dict[str, Any]) -> str:
    """Return the claim's rule in words."""
    m = f"{number(claim['margin'])} {claim['unit']}"
    return {
        "greater": f"Holds if the interval lies above {m}.",
        "less": f"Holds if the interval lies below {m}.",
        "no difference": f"Holds if the interval lies within ±{m}.",
        "not worse": f"Holds if the low end lies above −{m}.",
    }[claim["direction"]]


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _figures(folder: Path, names: set[str]) -> list[dict[str, str]]:
    """Return notebook, name, file and description of the given notebooks' figures, in the order they were drawn."""
    from PIL import Image

    found = []
    drawn = (folder / "figures").glob("*.png")
    for path in sorted(drawn, key=lambda path: (path.name[:2], path.stat().st_mtime_ns)):
        notebook, _, name = path.stem.partition("-")
        if notebook in names:
            with Image.open(path) as image:
                alt = image.info.get("Description", "")
            found.append({"notebook": notebook, "name": name, "source": f"_static/figures/{path.name}", "alt": alt})
    return found


def _facts(run: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what produced the run; where notebooks differ, all that was used."""
    records = [record for record in run.values() if record.get("environment")]

    def all_of(describe: Any) -> str:  # noqa: ANN401
        return "; ".join(sorted({describe(record["environment"]) for record in records})) or "–"

    def commit(facts: dict[str, Any]) -> str:
        if facts["commit"] is None:
            return "no repository"
        return facts["commit"][:12] + (" with local changes" if facts["dirty"] else "")

    return {
        "Commit": all_of(commit),
        "Versions": all_of(lambda facts: ", ".join(f"{name} {v}" for name, v in facts["packages"].items() if v)),
        "Python": all_of(lambda facts: f"{facts['python']}, {facts['platform']}"),
        "Hardware": all_of(lambda facts: ", ".join([f"{facts['cpu']}, {facts['cores']} cores", *facts["gpus"]])),
        "Threads": all_of(lambda facts: str(facts["threads"])),
        "Wall time": _clock(sum(record.get("seconds", 0) for record in run.values())),
    }


def front_page(profile: str, folder: Path, reference: Path, titles: dict[str, str]) -> str:
    """Return the Markdown of the front page.

    Args:
        profile: name of the profile.
        folder: its results.
        reference: folder of the reference run's results; it may be absent.
        titles: title of each notebook that has a page, by name.
    """
    run, judged = read_run(folder), read_judged(folder)
    beside = {} if profile == "full" else {claim["id"]: claim for claim in read_judged(reference)}
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = (Path(__file__).parent / "site" / "index.md.jinja").read_text(encoding="utf-8")
    return template.from_string(text).render(
        profile=profile,
        worlds=" and ".join(sorted({claim["world"] for claim in judged if claim["world"]})),
        tests=[claim for claim in judged if claim["kind"] == "test"],
        analogues=[claim for claim in judged if claim["kind"] == "analogue"],
        judges=any(claim["verdict"] for claim in judged),
        counts={word: sum(claim["verdict"] == word for claim in judged) for word in VERDICTS},
        labels=_LABELS,
        signs=SIGNS,
        reference=beside,
        has_reference=bool(beside),
        failed={name: record.get("error", "") for name, record in run.items() if record["status"] != "ok"},
        n_notebooks=len(run),
        run=run,
        facts=_facts(run),
        figures=_figures(folder, set(titles)),
        pages={name: f"nb/{name}.html" for name in titles},
        titles={**{claim["notebook"]: claim["notebook"] for claim in judged}, **titles},
        number=number,
        end=lambda value, unbounded: unbounded if value is None else number(value),
        rule=_rule,
        clock=_clock,
    )
