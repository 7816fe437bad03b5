"""New notebooks from their files to the report; the report's pages, also in a browser without a network."""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from browser import load, measure, needs_chromium
from bs4 import BeautifulSoup
from notebook_maker import make_claim, write_notebook

from diffclf.files import write_json
from diffclf.workbook.plots.forest import forest, forest_alt
from diffclf.workbook.provenance import environment
from diffclf.workbook.report.build import _front_page, build_report
from diffclf.workbook.report.staging import stage, stage_guide
from diffclf.workbook.run.cost import cost_report
from diffclf.workbook.run.plan import plan
from diffclf.workbook.run.runner import reproduce

GUIDE = Path(__file__).parents[1] / "docs" / "reading-group.md"
AXE = Path(os.environ.get("AXE", ""))
"""axe.min.js of the npm package axe-core, which looks for what keeps people out of a page."""
FIRST = [
    'from diffclf.workbook import Workbook\nwb = Workbook("01_first", profile=profile, seed=seed)',
    "## Mathematics\n\n$$\\hat\\epsilon = \\arg\\min_c \\mathbb{E}\\,(\\epsilon - \\epsilon_\\theta(x_t, c))^2$$"
    "\n\nand inline $x_t = \\sqrt{\\bar\\alpha_t}\\,x_0$. A word to search for: quokka.",
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([0, 500, 1000], [1, 3, 2])\n"
    'wb.show(fig, alt="A curve rises to 1.5 and falls & <ends>. It is blue.", name="figure1")',
    "import pandas as pd\n"
    'wb.table(pd.DataFrame({f"a rather wide column {i}": [i, 2.5 * i] for i in range(9)}), "wide", caption="Wide")',
    'wb.claim("more-is-better", 5.0, 1.0, 9.0, n=10, detail="On <pets>.")\n'
    'wb.claim("likes-cats", 5.0, -1.0, 9.0, n=10)',
    "from diffclf.workbook import interactive\ndraw = lambda t: plt.figure(figsize=(2, 1))\n"
    'interactive.figure_slider(draw, [10, 500, 900], label="t", alt=lambda t: f"an empty plot {t}")',
    "print('x' * 300)\nwb.provenance()",
]
SECOND = [
    'from diffclf.workbook import Workbook\nwb = Workbook("02_second", profile=profile, seed=seed)\n'
    'wb.claim("never-counted", 5.0, 1.0, 9.0, n=10)',
    "raise RuntimeError('out of <luck>\\n```\\n# no heading')",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The report of two notebooks, each added as NN_name.ipynb, NN_name.yaml and an experiment, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFCLF_NOTEBOOKS", str(folder / "notebooks"))
        patch.setenv("DIFFCLF_REPORTS", str(folder / "reports"))
        experiment = SimpleNamespace(evaluations=lambda settings: settings["n_classes"] * settings["n_images"])
        for name in ("01_first", "02_second"):
            patch.setitem(sys.modules, f"diffclf.experiments.e{name}", experiment)
        claims = [make_claim("more-is-better"), make_claim("likes-cats", kind="analogue")]
        write_notebook(folder / "notebooks", "01_first", FIRST, claims)
        write_notebook(folder / "notebooks", "02_second", SECOND, [make_claim("never-counted")])
        assert cost_report(plan("mini"), rate=lambda name: 10.0).splitlines()[-1].split()[:2] == ["total", "200"]
        assert reproduce("mini", n_parallel=2) == 1
        write_reference(folder / "reports")
        page = build_report("mini", strict=True)
    return page.parent


def write_reference(reports):
    """Keep the first notebook as the reference, with other weights, and with another margin for one claim."""
    run, judged = (json.loads((reports / "mini" / part / "01_first.json").read_text()) for part in ("runs", "claims"))
    judged["claims"][1]["margin"] = 1.0
    write_json(reports / "reference" / "claims" / "01_first.json", judged)
    changes = {"model": {"name": "m", "dtype": "float32", "fingerprint": "a"}}
    changes["environment"] = {**run["environment"], "commit": "0123456789abcdef"}
    write_json(reports / "reference" / "runs" / "01_first.json", {**run, **changes})


def test_front_page_counts_only_what_ran(site):
    text = (site / "index.html").read_text()
    assert "more-is-better" in text and "likes-cats" in text and "never-counted" not in text
    page = BeautifulSoup(text, "html.parser")
    assert " ".join(page.find("p", class_="answer").text.split()) == (
        "In the mini world, the only test of the method holds; the only analogue about particular models is undecided."
    )
    assert "at most about 15 images instead of 10 would decide that the claim holds" in page.find(id="likes-cats").text
    assert "Holds: more-is-better. Undecided: likes-cats." in page.select_one("figure.forest img")["alt"]
    assert "1 of 2 notebooks did not run to their end" in text
    assert "out of &lt;luck&gt;" in text
    assert "12.5" in text and "[1, 9]" in text and "in the mini world" in text
    assert "On &lt;pets&gt;." in text and "<luck>" not in text and "no heading</h1>" not in text


def test_reference_is_marked_where_it_differs(site):
    page = BeautifulSoup((site / "index.html").read_text(), "html.parser")
    assert "The reference run has the profile full and was made at commit 0123456789ab." in page.text
    marks = [[mark.text for mark in page.find(id=id).select(".mark")] for id in ("more-is-better", "likes-cats")]
    assert marks == [["other weights"], ["other weights", "another contrast or margin"]]


def test_gallery_has_the_first_sentence_of_each_description(site):
    page = BeautifulSoup((site / "index.html").read_text(), "html.parser")
    (figure,) = page.select(".gallery figure")
    assert list(figure.figcaption.strings) == ["A curve rises to 1.5 and falls & <ends>.", "01_first"]
    assert figure.img["alt"] == "A curve rises to 1.5 and falls & <ends>. It is blue."


RECORD = {"notebook": "01_first", "kind": "test", "direction": "greater", "margin": 0, "unit": "points", "paper": None}


@pytest.mark.parametrize("narrow", [False, True])
def test_forest_has_a_panel_per_unit_and_a_row_per_claim(narrow):
    one = {**RECORD, "id": "one", "estimate": 60.0, "low": 50.0, "high": None, "verdict": "holds"}
    two = {**RECORD, "id": "two", "estimate": -1.0, "low": -2.0, "high": 1.0, "verdict": "undecided", "paper": 2.0}
    changes = {"unit": "times", "margin": 1, "estimate": 3.0, "low": 0.5, "high": 48.0, "kind": "analogue"}
    ratio = {**two, "id": "three", **changes}
    fig = forest([ratio, one, two], narrow=narrow)
    named = [[text.get_text() for text in ax.texts] for ax in fig.axes]
    rows = ("✓ 01 one", "? 01 two", "? 01 three") if narrow else ("01 one ✓", "01 two ?", "01 three ?")
    assert named == [["Tests of the method", *rows[:2]], ["Analogues about particular models", rows[2]]]
    estimates = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() in "osX"] for ax in fig.axes]
    assert estimates == [[60, -1], [3]]
    assert [ax.get_xscale() for ax in fig.axes] == ["symlog", "log"]
    for ax in fig.axes:
        low, high = ax.get_xlim()
        assert all(low <= x <= high for line in ax.lines for x in line.get_xdata())
    assert "Holds: one. Undecided: three, two." in forest_alt([ratio, one, two])


def test_pages_name_everything_and_refer_to_nothing_elsewhere(site):
    """Every file a page loads is there, every image has a description, no address has a host."""
    pages = [site / "index.html", site / "search.html", *(site / "nb").glob("*.html"), *(site / "docs").glob("*.html")]
    assert len(pages) == 6
    for page in pages:
        for tag in BeautifulSoup(page.read_text(), "html.parser").find_all(["script", "img", "link", "iframe", "a"]):
            address = tag.get("src") or tag.get("href") or ""
            if tag.name == "a" and address.startswith(("http", "javascript", "mailto")) or address.startswith("data:"):
                continue
            assert "//" not in address, (page.name, address)
            assert (page.parent / re.split("[?#]", address)[0]).exists(), (page.name, address)
            assert tag.name != "img" or tag.get("alt"), (page.name, tag)
    assert "require.min.js" not in (site / "nb" / "01_first.html").read_text()


def test_pages_of_notebooks(site):
    """The failed one is marked and keeps what ran; a figure has its description, the slider its frames."""
    good, failed = ((site / "nb" / f"{name}.html").read_text() for name in ("01_first", "02_second"))
    assert 'class="failed"' in failed and "RuntimeError: out of &lt;luck&gt;" in failed
    assert "An Exception was encountered" not in failed  # papermill's own banner
    assert 'class="failed"' not in good
    assert 'type="range"' in good and good.count("data-frame style") == 3
    for text in (good, (site / "index.html").read_text()):
        assert 'alt="A curve rises to 1.5 and falls &amp; &lt;ends&gt;. It is blue."' in text


@pytest.mark.browser
@needs_chromium
def test_browser_sees_faults(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<html><head></head><img src="missing.png"><script src="https://example.org/a.js"></script>'
        "<script>nonsense()</script><article><div style='width:900px'>x</div></article>"
    )
    seen = measure(page, tmp_path, 400)
    faults = "\n".join(seen["faults"])
    assert "missing.png" in faults and "example.org/a.js" in faults and "nonsense" in faults
    assert seen["elsewhere"] == ["https://example.org/a.js"]
    assert seen["width"] > 400 and len(seen["wide"]) == 1 and len(seen["nameless"]) == 1
    assert "nonsense" in "\n".join(load(page.as_uri(), tmp_path / "profile")[1])


@pytest.mark.browser
@needs_chromium
def test_pages_in_a_browser_from_disk_without_network(site, tmp_path):
    formulas = {"01_first": 2, "reading-group": len(re.findall(r"\$[^$]+\$", GUIDE.read_text()))}
    for name in ("index", "nb/01_first", "nb/02_second", "docs/reading-group"):
        page = site / f"{name}.html"
        assert load(page.as_uri(), tmp_path / "profile")[1] == [], page.name
        for width in (400, 1400):
            seen = measure(page, tmp_path, width)
            assert seen["width"] <= width and seen["wide"] == [], (page.name, width)
        assert seen["faults"] == [] and seen["nameless"] == []
        assert seen["elsewhere"] == []
        assert seen["formulas"] == formulas.get(page.stem, 0)


@pytest.mark.slow
@pytest.mark.browser
@needs_chromium
@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed")
def test_pages_have_no_barriers(site, tmp_path):
    for page in (site / "index.html", site / "search.html", *sorted(site.glob("[nd]*/*.html"))):
        for width in (400, 1400):
            assert measure(page, tmp_path, width, AXE.read_text())["violations"] == [], (page.name, width)


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize(("word", "hits"), [("quokka", 1), ("hippopotamus", 0)])
def test_search_from_disk(site, tmp_path, word, hits):
    dom, faults = load((site / "search.html").as_uri() + f"?q={word}", tmp_path / "profile")
    assert faults == []
    results = dom[dom.index('id="search-results"') :]
    assert results.count("nb/01_first.html") == hits


def staged(folder, cells, **options):
    """Return the title of a notebook and its cells as the report shows them."""
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01_any.ipynb")
    title = stage(folder / "01_any.ipynb", folder / "staged.ipynb", **{"error": "", **options})
    return title, nbformat.read(folder / "staged.ipynb", as_version=4).cells


def test_staging_descriptions_one_picture_a_cell(tmp_path):
    shown = [{"alt": "one", "width": 700}, {"alt": "two\nlines"}]
    image = {"image/png": "iVBORw0KGgo="}
    outputs = [nbformat.v4.new_output("display_data", image, metadata={"image/png": facts}) for facts in shown]
    code = nbformat.v4.new_code_cell("draw()", outputs=outputs)
    title, (_, *cells) = staged(tmp_path, [nbformat.v4.new_markdown_cell("# **A** `title`"), code])
    assert title == "A title"
    images = [cell.metadata["mystnb"]["image"] for cell in cells]
    assert images == [{"alt": "one", "width": "700px"}, {"alt": "two lines"}]
    assert [(cell.source, len(cell.outputs)) for cell in cells] == [("draw()", 1), ("...", 1)]


def test_staging_hides_parameters_and_drops_banners(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("# a = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_markdown_cell("error!", metadata={"tags": ["papermill-error-cell-tag"]}),
    ]
    _, (title, box, *code) = staged(tmp_path, cells, error="ValueError: <b>")
    assert title.source == "# 01_any"
    assert 'class="failed"' in box.source and "ValueError: &lt;b&gt;" in box.source
    assert [cell.metadata.tags for cell in code] == [["hide-input", "parameters"], ["injected-parameters"]]


def test_staging_keeps_links_only_to_pages(tmp_path):
    text = "# T\n\nSee [one](01_any.ipynb#part), [**two**](02_none.ipynb) and [page](https://example.org)."
    _, (cell,) = staged(tmp_path, [nbformat.v4.new_markdown_cell(text)], pages={"01_any"})
    assert cell.source == "# T\n\nSee [one](01_any.ipynb#part), **two** and [page](https://example.org)."


def test_guide_links_only_to_pages(tmp_path):
    (tmp_path / "a.md").write_text("[01](../notebooks/01_a.ipynb), [02](../notebooks/02_b.ipynb), [x](https://y)\n")
    stage_guide(tmp_path / "a.md", tmp_path / "docs" / "a.md", ["01_a"])
    assert (tmp_path / "docs" / "a.md").read_text() == "[01](../nb/01_a.ipynb), 02, [x](https://y)\n"


def test_front_page_has_the_claims_of_a_notebook_that_was_stepped_through(tmp_path):
    shown = {"level": 0.95, "n": 10, "verdict": "holds", "words": "holds", "paper_note": "", "detail": ""}
    shown |= {"notebook": "03_stepped", "profile": "mini", "world": "the mini world"}
    claim = {**make_claim("by-hand"), **shown, "estimate": 5.0, "low": 1.0, "high": 9.0}
    write_json(tmp_path / "claims" / "03_stepped.json", {"claims": [claim]})
    facts = {"status": "ok", "error": "", "seconds": 3.0, "settings": {}, "environment": environment()}
    write_json(tmp_path / "runs" / "01_first.json", {**facts, "model": None, "seed": 0})
    text = _front_page("mini", tmp_path, {"01_first": "First"})
    assert "by-hand" in text and "03_stepped" in text and 'href="nb/03_stepped.html"' not in text
    assert '<a href="nb/01_first.html">First</a>' in text


def test_report_needs_a_run():
    with pytest.raises(ValueError, match="profile must have been run before .* got 'mini'"):
        build_report("mini")
