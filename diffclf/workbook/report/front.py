"""The front page: did the paper's claims hold? Then the figures, and what produced them."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diffclf.workbook.claims import VERDICTS
from diffclf.workbook.display import SIGNS, how_judged, html_text, interval, number
from diffclf.workbook.provenance import describe, duration
from diffclf.workbook.results import read_judged, read_run

__all__ = ["front_page"]


def _escaped(value: object) -> Markup:
    """Return a value of the template as safe HTML; what a macro made is safe already."""
    return value if isinstance(value, Markup) else Markup(html_text(value))


def _figures(folder: Path, notebooks: dict[str, str]) -> list[dict[str, str]]:
    """Return notebook, name, file and description of the notebooks' figures, in the order they were drawn."""
    from PIL import Image

    found = []
    drawn = (folder / "figures").glob("*.png")
    for path in sorted(drawn, key=lambda path: (path.name[:2], path.stat().st_mtime_ns)):
        notebook, _, name = path.stem.partition("-")
        if notebook in notebooks:
            with Image.open(path) as image:
                alt = image.info.get("Description", "")
            found.append({"notebook": notebook, "name": name, "source": f"_static/figures/{path.name}", "alt": alt})
    return found


def _facts(run: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what produced the run; where notebooks differ, all that was used."""
    described = [describe(record["environment"]) for record in run.values()]
    facts = {name: "; ".join(sorted({facts[name] for facts in described})) for name in (described or [{}])[0]}
    return {**facts, "Wall time": duration(sum(record["seconds"] for record in run.values()))}


def front_page(profile: str, folder: Path, reference: Path, titles: dict[str, str]) -> str:
    """Return the Markdown of the front page.

    Args:
        profile: name of the profile.
        folder: its results.
        reference: folder of the reference run's results; it may be absent.
        titles: title of each notebook that has a page, by name.
    """
    run, judged = read_run(folder), read_judged(folder)
    environment = Environment(autoescape=True, finalize=_escaped, undefined=StrictUndefined, trim_blocks=True)
    text = (Path(__file__).parent / "site" / "index.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        profile=profile,
        judged=judged,
        worlds=sorted({claim["world"] for claim in judged if claim["world"]}),
        counts={word: sum(claim["verdict"] == word for claim in judged) for word in VERDICTS},
        signs=SIGNS,
        reference={} if profile == "full" else {claim["id"]: claim for claim in read_judged(reference)},
        run=run,
        failed={name: record["error"] for name, record in run.items() if record["status"] != "ok"},
        facts=_facts(run),
        figures=_figures(folder, titles),
        pages={name: f"nb/{name}.html" for name in titles},
        titles={**{claim["notebook"]: claim["notebook"] for claim in judged}, **titles},
        number=number,
        interval=interval,
        how_judged=how_judged,
        duration=duration,
    )
