"""The repository's own files agree with each other, with the notebooks and with the disk."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import data_table
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffclf
from diffclf.commands.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(diffclf.__file__).parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[\w.]+)( ; .+)?$")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<])/(home|root|work|tmp|usr|opt|mnt|var|srv|Users|private)/|\b[A-Z]:\\\\?\w")


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [PIN.match(line) for line in lines if not line.startswith("#")]
    assert all(pins), "requirements.lock must hold lines NAME==VERSION [; MARKER] and nothing else"
    names = [pin["name"] for pin in pins]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return {pin["name"]: pin["version"] for pin in pins}


def asked_for() -> list[Requirement]:
    """What the lock must pin; extras that few need stay out: `clip` brings torchvision, `ray` a cluster's daemon."""
    extras = PROJECT["optional-dependencies"]
    kept = [lines for name, lines in extras.items() if name not in ("clip", "ray", "t5")]
    lists = [PROJECT["dependencies"], *kept]
    requirements = [Requirement(line) for lines in lists for line in lines]
    return [requirement for requirement in requirements if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", asked_for(), ids=lambda requirement: requirement.name)
def test_lock_pins_what_pyproject_asks_for_within_its_range(requirement):
    assert requirement.specifier.contains(lock()[canonicalize_name(requirement.name)])


def test_lock_pins_what_the_packages_need_in_turn():
    pins, todo, missing = lock(), [str(r.name) for r in asked_for()], set()
    seen = {"torch"}  # its CUDA packages stay out, see test_lock_leaves_cuda_out
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        if name not in pins:
            missing.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this installation left out
        needed = [Requirement(line) for line in needs]
        todo += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert not missing


def test_lock_leaves_cuda_and_torchvision_out():
    assert not [name for name in lock() if name.startswith(("nvidia", "cuda", "triton", "torchvision"))]


def test_environment_and_makefile_take_the_versions_from_lock_and_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    minimum = python.removeprefix("python=")
    assert PROJECT["requires-python"] == f">={minimum}"
    assert (pip, from_pip) == ("pip", {"pip": ["-r requirements.lock", "-e ."]})
    makefile, readme = ((ROOT / name).read_text() for name in ("Makefile", "README.md"))
    assert f"({minimum.replace('.', ', ')})" in makefile
    assert f"Python {minimum} or newer" in makefile and f"Python {minimum}" in readme


@pytest.mark.parametrize("name", ["README.md", "Makefile", "environment.yml", ".ci/run", ".pre-commit-config.yaml"])
def test_no_other_file_states_a_version(name):
    named = "|".join(re.escape(package) for package in lock())
    assert not re.findall(rf"\b(?:{named})\s*(?:[=~<>]=|@|v)\s*\d[\w.]*", (ROOT / name).read_text())


def test_ci_and_makefile_run_what_exists():
    commands = set(re.findall(r"\$\(DIFFCLF\) ([a-z]+)", (ROOT / "Makefile").read_text()))
    assert commands <= set(COMMANDS)
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert {"set -euo pipefail", "make lint", "make test", "make test-paper"} <= set(script.read_text().splitlines())


def test_licence_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def imported(path: Path) -> set[str]:
    """Return the other top-level packages that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"diffclf"}


def test_imports_are_declared():
    distributions = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in asked_for()}
    found = [(path.name, name) for path in sorted(PACKAGE.rglob("*.py")) for name in imported(path)]
    made_by = {name: {canonicalize_name(dist) for dist in distributions.get(name, [name])} for _, name in found}
    assert [(path, name) for path, name in found if not declared & made_by[name]] == []


LAYERS = [
    {"files", "texttable", "paths", "progress", "stats", "prompts", "images", "schedule", "temperature"},
    {"trials", "models"},
    {"errortable", "evaluator", "pruning"},
    {"search"},
    {"classifier", "bank"},
    {"baselines", "datasets"},
    {"experiments", "mini"},
    {"engines"},
    {"workbook", "bench"},
    {"commands"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def test_dependencies_point_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        used = {node.module.split(".")[1] for node in nodes if (node.module or "").startswith("diffclf.")}
        wrong += [(own, name) for name in used if own in RANK and RANK[name] > RANK[own]]
    assert wrong == []


def test_data_is_small_and_its_table_current():
    assert sum(n_bytes for _, n_bytes in data_table.sizes().values()) < 75e6
    text = data_table.README.read_text()
    right = data_table.table(text)
    assert right in text, f"data/README.md is out of date (make data-table); the right table is\n\n{right}"
    origins = {row["folder"]: row["origin"] for row in data_table.ROW.finditer(text)}
    assert [folder for folder in data_table.sizes() if not origins.get(folder, "").strip()] == []


def test_data_table_counts_and_keeps_origins(tmp_path):
    files = {"README.md": 5, "a/x": 1_000_000, "a/b/y": 500_000, "models/m/w": 20_000, ".git/z": 9}
    for name, n_bytes in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0" * n_bytes)
    rows = "| `a` | 7 | 7 | ours |\n| `gone` | 1 | 1 | x |\n"
    text = f"# Data\n\n| folder | files | MB | origin and licence |\n|---|\n{rows}\nEnd.\n"
    new = data_table.updated(text, tmp_path)
    assert "| `a` | 2 | 1.50 | ours |\n| `models/m` | 1 | 0.02 |  |\n| total | 3 | 1.52 | |\n" in new
    assert new.startswith("# Data\n\n| folder") and new.endswith("| |\n\nEnd.\n") and "gone" not in new
    assert data_table.updated(new, tmp_path) == new


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request) -> list[dict]:
    return json.loads(request.param.read_text())["cells"]


def code_cells(cells: list[dict]) -> list[dict]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_checked_cells_have_stored_outputs_and_no_others_have(cells):
    stored = [cell for cell in code_cells(cells) if cell["outputs"]]
    assert stored == [cell for cell in code_cells(cells) if "NBVAL_CHECK_OUTPUT" in source(cell)]
    assert stored == [cell for cell in code_cells(cells) if "keep_output" in tags(cell)]
    kinds = {output["output_type"] for cell in stored for output in cell["outputs"]}
    assert kinds <= {"stream", "execute_result", "display_data"}


def test_no_absolute_paths(cells):
    text = [source(cell) + json.dumps(cell.get("outputs", "")) for cell in cells]
    assert [found[0] for found in map(ABSOLUTE_PATH.search, text) if found] == []


def test_cells_are_few_and_short(cells):
    """At most 25 lines of 120 columns besides imports."""
    assert len(cells) <= 40
    for cell in code_cells(cells):
        imports = [node for node in ast.parse(source(cell)).body if isinstance(node, ast.Import | ast.ImportFrom)]
        lines = source(cell).splitlines()
        assert len(lines) - sum(node.end_lineno - node.lineno + 1 for node in imports) <= 25, source(cell)
        assert max(map(len, lines)) <= 120, source(cell)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_settings_its_experiment_and_its_plots(path):
    assert path.with_suffix(".yaml").is_file()
    assert (PACKAGE / "experiments" / f"e{path.stem}.py").is_file()
    assert (PACKAGE / "workbook" / "plots" / f"nb{path.stem[:2]}.py").is_file()


def test_parameters_cell_takes_model_images_number_and_seed(cells):
    (cell,) = (cell for cell in cells if "parameters" in tags(cell))
    assert len(source(cell).splitlines()) <= 8
    values = {}
    exec(source(cell), values)
    # A notebook about several models, or several tasks, has no one model or data set.
    several = {"model": ["wb.checkpoints"], "dataset": ["wb.tasks", "wb.checkpoints"]}
    for key, words in several.items():
        values.setdefault(key, "" if any(word in str(cells) for word in words) else None)
    assert [values[key] for key in ("profile", "model", "dataset", "n_images", "seed")] == ["", "", "", 0, 0]


def test_notebooks_are_stripped():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entry = next(hook["entry"] for hook in hooks if hook["id"] == "nbstripout")
    flags = shlex.split(entry)[3:]
    assert flags[0] == "--keep-id"
    command = [sys.executable, "-m", "nbstripout", "--verify", *flags, *map(str, NOTEBOOKS)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr


@pytest.mark.parametrize("folder", sorted((ROOT / "data/models").iterdir()), ids=lambda folder: folder.name)
def test_cards_of_models_have_the_checksums_of_their_weights(folder):
    stated = re.findall(r"^([0-9a-f]{64})  (\S+)$", (folder / "README.md").read_text(), re.MULTILINE)
    actual = [(sha256(path.read_bytes()).hexdigest(), path) for path in folder.rglob("*.safetensors")]
    assert sorted(stated) == sorted((digest, path.relative_to(folder).as_posix()) for digest, path in actual) != []
