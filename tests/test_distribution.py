"""The wheel, the source distribution and the Docker image have what they need; the first two are built (slow)."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from tiny import save_class_folder

ROOT = Path(__file__).parents[1]


def tracked_files(folder):
    """Return the files below a folder of the checkout, except caches."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


# Built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the checkout without its data, and what setuptools builds of it, without a network."""
    folder = tmp_path_factory.mktemp("source")
    source = folder / "diffclf"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for name in (".ci", "diffclf", "docs", "notebooks", "reports/reference", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "data").mkdir()
    (source / "data" / "README.md").touch()
    for kind in ("wheel", "sdist"):
        code = f"import sys, setuptools.build_meta as backend; backend.build_{kind}(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert files == tracked_files("diffclf")
    assert "diffclf/py.typed" in files and "diffclf/mini/card.md" in files
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Version: {project['version']}\n" in text and "License-Expression: Apache-2.0\n" in text
    assert {extra for extra in re.findall("^Provides-Extra: (.*)$", text, re.M)} == set(
        project["optional-dependencies"]
    )


@pytest.mark.slow
def test_the_source_distribution_has_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = set.union(*map(tracked_files, ("diffclf", "docs", "notebooks", "tests", "reports/reference")))
    wanted |= {path.name for path in ROOT.iterdir() if path.is_file() and path.name != ".git"}
    assert wanted - files == set() and ".ci/run" in files and "data/README.md" in files


@pytest.mark.slow
def test_the_wheel_works_where_there_is_no_checkout(built, tiny_sd_folder, tmp_path):
    """Only the wheel is on the path: as in a bare environment with the dependencies."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    photos, away = save_class_folder(tmp_path / "photos", ["cat", "dog"]), tmp_path / "away"
    away.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DIFFCLF", "PYTHON"))}
    environment["PYTHONPATH"] = str(tmp_path / "site")

    def run(*command, **variables):
        everything = environment | variables
        return subprocess.run(
            [sys.executable, "-P", *command], cwd=away, env=everything, capture_output=True, text=True
        )

    found = run("-c", "import diffclf; print(diffclf.__file__)").stdout.strip()
    assert Path(found).is_relative_to(tmp_path / "site")
    command = ["-m", "diffclf", "classify", str(photos / "cat" / "RGB.png"), "--trials", "1", "--labels"]
    done = run(*command, "cat,dog", "--model", str(tiny_sd_folder))
    assert done.returncode == 0 and re.search(r"RGB.png  (cat|dog)  0\.\d+", done.stdout), done.stderr
    done = run(*command, "cat,dog")
    assert done.returncode == 2 and "export DIFFCLF_DATA=/path/to/diffclf/data" in done.stderr
    done = run(*command, "sneaker,bag", DIFFCLF_DATA=os.environ["DIFFCLF_DATA"])
    assert done.returncode == 0, done.stderr
    done = run("-m", "diffclf", "reproduce")
    assert done.returncode == 2 and "export DIFFCLF_NOTEBOOKS=/path/to/diffclf/notebooks" in done.stderr
    assert list(away.iterdir()) == []


# The Docker image, as far as its recipe can be read


def instructions():
    """Return the Dockerfile's instructions, (word, arguments) with joined lines."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    return [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def of(word):
    return [arguments for name, arguments in instructions() if name == word]


def test_the_image_starts_from_one_version_of_cuda_and_installs_the_lock():
    (base,) = of("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", base)
    words = [name for name, _ in instructions()]
    assert set(words) == {"FROM", "RUN", "WORKDIR", "ENV", "ARG", "COPY", "USER", "ENTRYPOINT", "CMD"}
    runs = of("RUN")
    assert any("pip install --requirement requirements.lock" in run for run in runs)
    assert any(run == "pip install --no-build-isolation --no-deps --editable ." for run in runs)
    assert not [run for run in runs if re.search(r"curl|wget|https?:|\bsudo\b|chmod [0-7]*7\b|TOKEN", run)]
    assert re.search(r"^setuptools==", (ROOT / "requirements.lock").read_text(), re.M)  # for --no-build-isolation


def test_the_image_runs_as_a_user_and_not_as_root():
    """Everything that is installed belongs to root; the user has a cache and a folder for results."""
    names = [name for name, _ in instructions()]
    (default,) = (line.removeprefix("USER_ID=") for line in of("ARG") if line.startswith("USER_ID="))
    assert of("USER") == ["$USER_ID"] and int(default) >= 1000 and '--uid "$USER_ID"' in of("RUN")[-1]
    assert "RUN" not in names[names.index("USER") :] and "COPY" not in names[names.index("USER") :]
    home = re.search(r"/home/\w+/work", of("RUN")[-1])[0]
    assert of("WORKDIR")[-1] == home and f"DIFFCLF_REPORTS={home}/reports" in of("ENV")[-1]
    assert of("ENTRYPOINT") == ['["diffclf"]'] and not [option for option in of("COPY") if option.startswith("--")]


def test_what_the_image_copies_is_there_and_nothing_else_is_sent():
    copied = [source.rstrip("/") for line in of("COPY") for source in line.split()[:-1]]
    assert copied and all((ROOT / source).exists() for source in copied if source != "diffclf")
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and {line.removeprefix("!") for line in lines if line.startswith("!")} == set(copied)
    assert any(fnmatch.fnmatch("diffclf/mini/__pycache__", line) for line in lines if line.startswith("**"))
    for secret in (".git", ".env", "runs", "reports", ".cache"):
        assert secret not in copied


def test_the_readme_says_that_nobody_has_built_the_image():
    words = " ".join((ROOT / "README.md").read_text().split())
    assert "The `Dockerfile` makes an image" in words and "It has been built nowhere yet." in words
