"""Runs that are killed, find a full disk or damaged files: a rerun gives the numbers of an undisturbed run.

Each run is a fork of this process, so that no run imports the libraries and loads the model again.
"""

import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from itertools import count

import numpy as np
import pytest
import torch
from bank_killer import IMAGES, fill
from PIL import Image
from test_cli import read_results

from diffclf.bank import CHECKSUM
from diffclf.commands.main import main
from diffclf.datasets import load_dataset
from diffclf.evaluator import Evaluator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),  # from Python 3.12 on
]

EVENTS = {"open", "os.mkdir", "os.chmod", "os.rename", "os.remove"}
ASKED = []  # evaluations of each call of the evaluator
DEAD, FULL = 9, 3


def forked(act, seconds=None):
    """Call a function in a fork, which is killed after some seconds (None: never).

    Returns its exit status, the lines that it has printed and the evaluations that it has asked for (None if killed).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stdout = sys.stderr = open(writer, "w")  # noqa: SIM115 (open until the process ends)
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, *_: print(message)
            torch.set_num_threads(1)  # OpenMP's other threads are not there in a fork
            status = act()
        except BaseException:
            traceback.print_exc()
        leave(status)
    os.close(writer)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with open(reader) as file:
        *lines, last = file.read().splitlines() or [""]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    asked = re.fullmatch(r"asked for (\d+)", last)
    return status, lines, asked and int(asked[1])


def leave(status):
    print(f"asked for {sum(ASKED)}", flush=True)
    os._exit(status)


def die():
    leave(DEAD)


def fill_disk():
    """Let no file grow above 20 bytes, less than any file of a run has; Python ignores the signal SIGXFSZ."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def disturbed(act, folder, disturb, number):
    """Return a function that calls `disturb` before a file operation, of that number, below a folder."""

    def run():
        operations = count()

        def watch(event, args):
            if event in EVENTS and str(args[0]).startswith(str(folder)) and next(operations) == number:
                print("disturbed")
                disturb()

        sys.addaudithook(watch)  # cannot be taken away, but the fork ends
        return act()

    return run


class FilledBank:
    """A bank that is filled in two rounds."""

    images = IMAGES[:4]
    total, per_image, n_losses = len(images) * 3 * 8, 3 * 8, 3

    def __init__(self, folder):
        self.folder = folder

    def run(self):
        try:
            fill(self.folder, self.images)
        except OSError as error:
            print(f"diffclf: error: {error.filename}: {error.strerror}")
            return FULL
        return 0

    def results(self):
        return fill(self.folder, self.images).errors(self.images)


class Evaluation:
    """`diffclf evaluate` on two images of each of two classes, one image at a time."""

    total, per_image, n_losses = 4 * 2 * 4, 2 * 4, 1

    def __init__(self, folder):
        self.folder = folder

    def run(self):
        command = ["evaluate", self.folder.parent / "photos", "--labels-from-folders", "--trials", 4]
        return main([*map(str, command), "--batch-size", "2", "--out", str(self.folder)])

    def results(self):
        return read_results(self.folder)


@pytest.fixture(autouse=True)
def _counted(monkeypatch):
    errors = Evaluator.errors

    def counted(self, x0, cond, trials, triples, *names):
        ASKED.append(len(triples))
        return errors(self, x0, cond, trials, triples, *names)

    ASKED.clear()
    monkeypatch.setattr(Evaluator, "errors", counted)


@pytest.fixture
def undisturbed(request, tmp_path, mini_sd, monkeypatch):
    """A run of a kind that came to its end, and its results."""
    monkeypatch.setattr("diffclf.commands.options.load_model", lambda *_, **__: mini_sd)
    images, taken = load_dataset("mini-items", n_images=40), []
    for pixels, label in zip(images.images, images.labels, strict=True):
        folder = tmp_path / "photos" / images.classnames[label]
        if images.classnames[label] in ("sneaker", "bag") and taken.count(label) < 2:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{len(taken)}.png")
            taken.append(label)
    run = request.param(tmp_path / "undisturbed")
    assert forked(run.run)[::2] == (0, run.total)
    return run, run.results()


def check_rerun(run, expected, asked=None):
    """Check that a rerun computes what is not stored, reports no damage and gives the expected results.

    `asked` are the evaluations that the disturbed run asked for (None: not known): at most one image's are lost.
    """
    stored = [np.frombuffer(path.read_bytes()[CHECKSUM:], "<f4") for path in run.folder.rglob("*.errors")]
    missing = run.total - sum(np.isfinite(errors).sum() for errors in stored) // run.n_losses
    status, lines, again = forked(run.run)
    assert (status, again) == (0, missing), lines
    assert not any("damaged" in line for line in lines)
    assert asked is None or asked + again <= run.total + run.per_image
    np.testing.assert_equal(run.results(), expected)


both = pytest.mark.parametrize("undisturbed", [FilledBank, Evaluation], indirect=True)


@both
@pytest.mark.parametrize("disturb", [die, fill_disk])
def test_a_disturbance_before_any_file_operation_loses_the_image_in_flight_alone(undisturbed, tmp_path, disturb):
    kind, expected = type(undisturbed[0]), undisturbed[1]
    for number in count():
        run = kind(tmp_path / "disturbed")
        found, lines, asked = forked(disturbed(run.run, run.folder, disturb, number))
        if "disturbed" not in lines:
            assert found == 0 and number > 20
            break
        if disturb is die:
            assert found == DEAD
        elif found:  # else all was written before
            named = rf"diffclf: error: {run.folder}/\S+: File too large"
            assert found in (2, FULL) and re.fullmatch(named, lines[-1]), lines
        check_rerun(run, expected, asked)
        shutil.rmtree(run.folder)


@both
def test_kills_at_any_time_lose_nothing(undisturbed, tmp_path):
    kind, expected, n_killed = type(undisturbed[0]), undisturbed[1], 0
    began = time.monotonic()
    forked(kind(tmp_path / "timed").run)
    seconds = time.monotonic() - began
    for number in range(10):
        run = kind(tmp_path / f"killed-{number}")
        for _ in range(2):
            n_killed += forked(run.run, random.uniform(0, seconds))[0] == -signal.SIGKILL
        check_rerun(run, expected)
    assert n_killed >= 5, "not often enough to mean anything"


def flip(data, rng):
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


DAMAGE = {
    "flipped": flip,
    "truncated": lambda data, rng: data[: rng.randrange(1, len(data))],
    "empty": lambda data, rng: b"",
    "appended": lambda data, rng: data + b"garbage",
}


@both
@pytest.mark.parametrize("way", [*DAMAGE, "swapped"])
def test_damage_of_every_file_is_named_once_and_repaired(undisturbed, way):
    run, expected = undisturbed
    files = [path for path in sorted(run.folder.rglob("*")) if path.suffix == ".errors" or path.name == "bank.json"]
    assert len(files) == 5
    contents, rng = [path.read_bytes() for path in files], random.Random(0)
    for path, content, other in zip(files, contents, contents[1:] + contents[:1], strict=True):
        path.write_bytes(other if way == "swapped" else DAMAGE[way](content, rng))
    status, lines, asked = forked(run.run)
    assert (status, asked) == (0, run.total), lines
    for path in files:
        naming = [line for line in lines if f"{path.name} is damaged" in line]
        if path.name == "bank.json":  # a version that differs cannot be told from a damaged one
            naming += [line for line in lines if "were computed with" in line]
        assert len(naming) == 1, (path, lines)
    check_rerun(run, expected, asked)
