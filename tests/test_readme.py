"""What README.md and the pages of docs/ print, name and link to is what the code does and has."""

import re
import shlex
from contextlib import suppress
from glob import glob
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

import diffclf
from diffclf.commands.main import build_parser, main
from diffclf.datasets.world import COLOURS, ITEMS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "reading-group.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
FRACTION = re.compile(r"(\d+\.\d+)")
LINK = r"\[\d\d\]\(\.\./notebooks/(\d\d_\w+)\.ipynb\)"
CHEAP = ("classify", "evaluate", "bank", "baseline", "reproduce", "doctor")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def same(printed: str, shown: str) -> bool:
    """Return whether two texts differ in the last digits of their decimal fractions at most."""
    one, other = (FRACTION.split(part.strip()) for part in (printed, shown))
    values = [float(part) for part in one[1::2]]
    return one[::2] == other[::2] and values == pytest.approx([float(part) for part in other[1::2]], rel=0.01)


def run_command(line: str) -> None:
    """Run a command line as a shell does; one that takes minutes is only parsed."""
    words = [hit for word in shlex.split(line, comments=True)[1:] for hit in sorted(glob(word)) or [word]]
    assert build_parser(words[0]).parse_args(words).command == words[0]
    assert (words[0] not in CHEAP and "--fleet" not in words) or main(words) == 0


@by_page
def test_blocks_run_in_order_and_print_what_is_shown(page, tiny_sd_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(tiny_sd_folder)
    names = {}
    for language, code, shown in BLOCK.findall(read(page)):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        else:
            for line in filter(re.compile(r"(\.venv/bin/)?diffclf ").match, code.splitlines()):
                run_command(line)
        printed = capsys.readouterr().out
        assert not shown or same(printed, shown), f"\n{code}prints\n{printed}"


def test_same_forgives_last_digits_only():
    assert same("a 0.6290  40\n", "a 0.6291  40")
    assert not same("a 0.6290  40", "a 0.6590  40")
    assert not same("a 0.6290  40", "a 0.6290  41")
    assert not same("a 0.5", "b 0.5")


def test_five_lines_name_six_images_rightly():
    _, code, shown = BLOCK.findall(read(README))[0]
    assert len(code.splitlines()) == 5
    names = {}
    exec(code, names)
    assert shown.split() == [names["images"].classnames[label] for label in names["images"].labels]


def test_readme_says_what_mini_sd_knows():
    words = " ".join(read(README).split())
    assert f"ten garments ({', '.join(ITEMS)})" in words and f"six colours ({', '.join(COLOURS)})" in words
    assert (len(ITEMS), len(COLOURS)) == (10, 6)


def test_readme_names_targets_notebooks_and_variables_that_exist():
    readme, code = read(README), "".join(read(path) for path in Path(diffclf.__file__).parent.rglob("*.py"))
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert {"reproduce", "test", "lab", "report", "lint", "train", "bench"} <= targets
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    assert re.findall(r"\(notebooks/(\d\d_\w+\.ipynb)\)", readme) == [path.name for path in NOTEBOOKS]
    variables = re.findall(r"^\| `(DIFFCLF_\w+)`", readme, re.MULTILINE)
    assert len(variables) == 4 and [name for name in variables if f'"{name}"' not in code] == []


@by_page
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", read(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


def resolves(name: str) -> bool:
    """Return whether a dotted name leads from a module of diffclf to something in it, such as a field of a class."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        with suppress(ModuleNotFoundError):
            found = import_module(".".join(parts[:n]))
            break
    for part in parts[n:]:
        if part in getattr(found, "__annotations__", {}):
            return part == parts[-1]
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@by_page
def test_names_of_the_code_exist(page):
    names = set(re.findall(r"`(diffclf(?:\.\w+)+)`", read(page)))
    assert [name for name in names if not resolves(name)] == []


def test_wrong_names_do_not_resolve():
    assert not resolves("diffclf.trials.TrialLists")
    assert not resolves("diffclf.pruning.Staged.kept")
    assert not resolves("diffclf.nowhere.Staged")


def cells(notebook: str, kind: str) -> str:
    """Return the text of all cells of a kind of a notebook."""
    return "\n".join(
        c.source for c in nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells if c.cell_type == kind
    )


@pytest.mark.parametrize("minutes", [60, 90])
def test_paths_fill_their_minutes(minutes):
    part = read(GUIDE).partition(f"\n## {minutes} minutes")[2].partition("\n## ")[0]
    times = [tuple(map(int, pair)) for pair in re.findall(r"^\| (\d+)–(\d+) \|", part, re.MULTILINE)]
    starts, ends = zip(*times, strict=True)
    assert starts == (0, *ends[:-1]) and ends[-1] == minutes


def test_guide_names_sections_that_exist():
    named = re.findall(rf"^\| \d+–\d+ \| {LINK} \| ([^|]+) \|", read(GUIDE), re.MULTILINE)
    named += re.findall(rf"\| {LINK}, ([^|]+) \|$", read(GUIDE), re.MULTILINE)
    assert len(named) > 20
    for notebook, sections in named:
        headings = re.findall(r"^#+ (.*)", cells(notebook, "markdown"), re.MULTILINE)
        assert set(sections.split("; ")) <= set(headings), f"headings of {notebook}: {headings}"


def test_guide_names_a_figure_of_each_notebook():
    figures = re.findall(r"^\| `(\d\d_\w+?)-([\w-]+)\.png`", read(GUIDE), re.MULTILINE)
    assert [notebook for notebook, _ in figures] == [path.stem for path in NOTEBOOKS]
    assert [figure for figure in figures if f'"{figure[1]}"' not in cells(figure[0], "code")] == []
