"""Workers: the same numbers as one process, each image computed once, whatever happens to workers, disk and images."""

import json
import pickle
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import RLock

import numpy as np
import pytest
from bank_killer import IMAGES as MANY
from bank_killer import make_model
from engine_jobs import Deadly, Exact
from PIL import Image
from test_cli import fails, read_results, run
from test_search import noise_images
from tiny import save_class_folder
from tqdm import tqdm

from diffclf import Exhaustive, Racing
from diffclf.bank import ErrorBank
from diffclf.commands import evaluate, items
from diffclf.datasets import imageset, load_dataset
from diffclf.engines import Job, WorkerLost, fill, local, make_workers
from diffclf.engines.job import Done, block_size
from diffclf.images import list_images
from diffclf.search import ErrorSource, compute_errors

STRATEGY, PROMPTS = Exhaustive(3), [0, 1]
IMAGES = MANY[:9]
NAMED = list_images(IMAGES)
EACH = len(PROMPTS) * 3  # evaluations of an image
OPTIONS = {"seed": 0, "losses": ("l2",), "batch_size": EACH}


@pytest.fixture
def make_job(tmp_path):
    """Make a job on an exact model, and open the bank that it fills."""

    def make(kind=Exact, **more):
        bank = ErrorBank(tmp_path / "bank", make_model(), PROMPTS, STRATEGY.trial_list(), **OPTIONS)
        return bank, kind({}, bank.path, PROMPTS, STRATEGY, OPTIONS, log=tmp_path / "log", **more)

    return make


def check(bank):
    """Check that a bank has the errors that a single process computes, and lacks none."""
    source = ErrorSource(make_model(), PROMPTS, STRATEGY.trial_list(), losses=("l2",))
    np.testing.assert_allclose(bank.errors(IMAGES), compute_errors(source, IMAGES), rtol=1e-5)
    assert bank.n_evaluations == 0


# Blocks, with workers that only say what they did


class Scripted:
    """Two workers that answer at once, worker k with the next entry of its script, else as they should."""

    def __init__(self, **scripts):
        self.n, self.answers, self.there, self.closed, self.given = 2, [], set(), False, []
        self.scripts = {int(name[1:]): list(script) for name, script in scripts.items()}

    def start(self, most):
        for worker in range(min(self.n, most)):
            if worker not in self.there:
                self.there.add(worker)
                self._answer(worker, None)

    def give(self, worker, items):
        self.given.append([position for position, _, _ in items])
        self._answer(worker, Done(len(items), len(items), {}))

    def _answer(self, worker, usual):
        script = self.scripts.get(worker)
        self.answers.append((worker, script.pop(0) or usual if script else usual))

    def wait(self):
        answer, *self.answers = self.answers
        if isinstance(answer[1], Exception):
            self.there.discard(answer[0])
        return [answer]

    def close(self):
        self.closed = True


def test_every_image_goes_to_one_worker():
    workers = Scripted()
    done = list(fill(workers, NAMED, 2))
    assert sorted(sum(workers.given, [])) == list(range(9)) and [len(block) for block in workers.given].count(2) == 4
    assert sum(each.n_images for each in done) == sum(each.n_evaluations for each in done) == 9 and workers.closed


def test_workers_that_are_ready_before_get_blocks_at_once():
    workers = Scripted()
    workers.start(2)
    ready = [workers.wait()[0][0] for _ in range(2)]
    assert sum(each.n_images for each in fill(workers, NAMED, 2, ready)) == 9 and workers.closed


def test_the_block_of_a_lost_worker_goes_to_another():
    workers = Scripted(w0=[None, WorkerLost("gone")], w1=[None, None, WorkerLost("gone")])
    done = list(fill(workers, NAMED, 3))
    assert sorted(map(tuple, workers.given)) == sorted([(0, 1, 2), (3, 4, 5), (6, 7, 8), *lost_twice(workers)])
    assert sum(each.n_images for each in done) == 9 and workers.closed


def lost_twice(workers):
    blocks = [tuple(block) for block in workers.given]
    twice = [block for block in set(blocks) if blocks.count(block) > 1]
    assert sum(blocks.count(block) - 1 for block in twice) == 2
    return [block for block in twice for _ in range(blocks.count(block) - 1)]


def test_a_block_that_loses_every_worker_ends_the_run():
    lost = [None, *[WorkerLost("status -9"), None] * 9]
    workers = Scripted(w0=lost, w1=lost)
    with pytest.raises(
        ChildProcessError, match=r"workers were lost at images 0 to 8, the last one: status -9\. .* run"
    ):
        list(fill(workers, NAMED, 9))
    assert len(workers.given) == 3 and workers.closed


def test_workers_that_never_start_end_the_run():
    workers = Scripted(w0=[WorkerLost("status 1")] * 99, w1=[WorkerLost("status 1")] * 99)
    with pytest.raises(ChildProcessError, match="lost one after the other, the last one: status 1"):
        list(fill(workers, NAMED, 1))
    assert not workers.given and workers.closed


def test_what_a_worker_raises_ends_the_run():
    workers = Scripted(w0=[None, OSError(28, "No space left on device", "x")])
    with pytest.raises(OSError, match="No space left on device: 'x'"):
        list(fill(workers, NAMED, 9))
    assert workers.closed


def test_an_image_that_cannot_be_read_for_the_workers_is_reported():
    def broken():
        raise OSError("the file has gone")

    workers = Scripted()
    (done,) = fill(workers, [*NAMED[:2], (broken, "third"), *NAMED[3:]], 9)
    assert done.failed == {2: "the file has gone"} and done.n_images == 9
    assert workers.given == [[0, 1, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("strategy", "n_prompts", "n_images", "n_workers", "size"),
    [(Exhaustive(4), 2, 1000, 2, 16), (Exhaustive(4), 2, 160, 2, 5), (Exhaustive(4), 2, 3, 2, 1)]
    + [(Racing(16), 40, 1000, 2, 1), (Exhaustive(1), 2, 4000, 2, 48)],
)
def test_blocks_fill_batches_and_leave_work_for_all(gaussian, tmp_path, strategy, n_prompts, n_images, n_workers, size):
    """64 batches of 2 are 16 images of 8 evaluations; a race asks for 8 trials of each prompt first."""
    prompts = [0, 1] * (n_prompts // 2)
    bank = ErrorBank(tmp_path, gaussian, prompts, strategy.trial_list(), batch_size=2)
    assert block_size(bank, strategy, n_images, n_workers) == size


# What a worker does


def test_a_job_skips_what_is_broken_and_fills_the_rest(make_job, tmp_path):
    _, job = make_job()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    items = [(5, IMAGES[0], "a"), (6, tmp_path / "broken.png", "b.png"), (7, IMAGES[1], "c"), (8, tmp_path / "no", "d")]
    own = job.open()
    done = job.fill(own, items)
    assert done.n_images == 4 and done.n_evaluations == 2 * EACH and list(done.failed) == [6, 8]
    assert "b.png is not an image" in done.failed[6] and done.failed[8] == "image not found: d"
    assert job.fill(own, items[:1]).n_evaluations == 0 and job.fill(own, items[1:2]).failed.keys() == {6}


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"seed": 1}])
def test_a_worker_refuses_another_bank_than_the_drivers(tiny_sd, tiny_sd_folder, tmp_path, change):
    prompts, load = ["a bag", "a coat"], {"name_or_path": str(tiny_sd_folder), "device": "cpu", "dtype": "float32"}
    path = ErrorBank(tmp_path, tiny_sd, prompts, STRATEGY.trial_list(), **OPTIONS).path
    assert Job(load, path, prompts, STRATEGY, OPTIONS).open().path == path
    options = {name: change.get(name, value) for name, value in OPTIONS.items()}
    other = Job({name: change.get(name, value) for name, value in load.items()}, path, prompts, STRATEGY, options)
    with pytest.raises(ValueError, match=rf"must fill bank {path.name}, got \w{{16}} with .*weights.*; install"):
        other.open()


# Local processes


def test_an_interrupt_of_the_terminal_does_not_reach_workers_even_while_they_start(make_job):
    workers = make_workers(make_job()[1], n=1)
    workers.start(1)
    (process, _), before = workers._running[0], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    status = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    workers.close()
    assert int(status["SigBlk"], 16) >> signal.SIGINT - 1 & 1 and signal.SIGINT not in before
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("error", [EOFError, BrokenPipeError, ConnectionResetError])
def test_a_worker_without_a_driver_ends_silently(make_job, monkeypatch, error):
    monkeypatch.setattr(local, "_end_with_driver", lambda: None)

    class Pipe:
        ready = 0

        def send(self, answer):
            if self.ready:
                raise BrokenPipeError
            self.ready = 1

        def recv(self):
            raise error

    before = tqdm.get_lock()
    local._serve(pipe := Pipe(), make_job()[1], None, None)
    assert pipe.ready and isinstance(tqdm.get_lock(), type(RLock()))  # no semaphore that a killed worker leaves behind
    tqdm.set_lock(before)


def test_a_killed_worker_is_replaced_and_nothing_finished_is_computed_twice(make_job, tmp_path):
    bank, job = make_job(kills=True)
    done = list(fill(make_workers(job, n=2), NAMED, 5))
    finished = (tmp_path / "log").read_text().split()[1::2]
    assert len(finished) == len(set(finished)) == 9, "each image was finished by one worker"
    assert (tmp_path / "died").exists() and sum(each.n_images for each in done) == 9
    assert sum(each.n_evaluations for each in done) == (9 - 2) * EACH, "the killed one had finished two images"
    check(bank)


def test_two_runs_fill_one_bank_at_once(make_job):
    bank, job = make_job()
    runs = [fill(make_workers(job), NAMED[::order], 3) for order in (1, -1)]
    done = [each for pair in zip(*runs, strict=True) for each in pair]
    assert 9 * EACH <= sum(each.n_evaluations for each in done) <= 2 * 9 * EACH
    check(bank)
    assert len(list(bank.path.iterdir())) == 1 + 9


def test_a_worker_that_cannot_live_ends_the_run(make_job):
    _, job = make_job(Deadly)
    with pytest.raises(
        ChildProcessError, match=r"lost at images 0 to 8, the last one: process \d+ ended with status -9"
    ):
        list(fill(make_workers(job), NAMED, 9))


# The command


@pytest.fixture(scope="module")
def command(tiny_sd_folder):
    return ["evaluate", "--dataset", "mini-items", "--n-images", 12, "--trials", 3, "--model", tiny_sd_folder]


def test_workers_shards_and_one_process_give_the_same_results(capsys, command, tmp_path):
    single, shared = tmp_path / "single", ["--bank", tmp_path / "bank"]
    status, text, _ = run(capsys, *command, "--out", single)
    assert status == 0 and "360 denoiser evaluations, 30.0 an image\n" in text
    for shard in ("1/3", "3/3"):
        assert run(capsys, *command, *shared, "--out", tmp_path / "shards", "--shard", shard)[0] == 0
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert names == ["summary-1-of-3.json", "summary-3-of-3.json"]
    assert json.loads((tmp_path / "shards" / names[0]).read_text())["n_images"] == 4
    text = run(capsys, *command, *shared, "--out", tmp_path / "shards", "--workers", 2)[1]
    assert "; 120 computed now, the others read from the bank" in text
    assert read_results(tmp_path / "shards") == read_results(single)
    assert len(list((tmp_path / "bank").glob("*/*.errors"))) == 12 and not (tmp_path / "shards" / "bank").exists()
    status, text, _ = run(capsys, *command, *shared, "--out", tmp_path / "seed", "--seed", 1, "--shard", "1/12")
    assert text.startswith("shard 1/12: 1 image, 0 skipped, 30 denoiser evaluations computed now\n"), "its own bank"
    assert len(list((tmp_path / "bank").iterdir())) == 2


def test_a_full_disk_of_a_worker_is_named_and_the_run_goes_on_later(capsys, command, tmp_path):
    """A limit on the size of files instead of a full disk: both end in an OSError of the worker."""
    command = [*command, "--out", tmp_path]
    assert run(capsys, *command, "--shard", "1/3")[0] == 0
    before, heed = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        message = fails(capsys, *command, "--workers", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heed)
    assert message.startswith(f"{tmp_path}/bank/") and message.endswith(".errors: File too large")
    assert "; 240 computed now" in run(capsys, *command)[1], "what was there before is there still"


class Inline:
    """A worker in this process."""

    n = 1

    def __init__(self, job, *_):
        self.job, self.answers, self.bank = job, [], None

    def start(self, most):
        if self.bank is None:
            self.bank = self.job.open()
            self.answers.append((0, None))

    def give(self, worker, items):
        self.answers.append((worker, self.job.fill(self.bank, pickle.loads(pickle.dumps(items)))))

    def wait(self):
        answers, self.answers = self.answers, []
        return answers

    def close(self):
        pass


def test_images_that_workers_cannot_use_are_counted(capsys, tiny_sd_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "make_workers", Inline)
    for number, pixels in enumerate(noise_images(4, 32)):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ["evaluate", tmp_path / "data", "--labels-from-folders", "--trials", 1, "--model", tiny_sd_folder]
    command += ["--workers", 2, "--out", tmp_path / "out"]
    message = fails(capsys, *command)
    assert "broken.png is not an image" in message and message.endswith("; --skip-unreadable leaves such images out")
    status, text, err = run(capsys, *command, "--skip-unreadable")
    assert status == 0 and "1 image skipped\n" in text and "skipping 1 image that cannot be used" in err
    assert "; 0 computed now" in text, "the others had been computed"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_images"] == 4 and list(summary["skipped"]) == ["a/broken.png"]


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_is_continued(capsys, command, tmp_path):
    command = [str(word) for word in [*command[:4], 100, *command[5:], "--out", tmp_path / "out"]]
    code = "import sys; from diffclf.commands.main import main; sys.exit(main())"
    more = ["--workers", "2", "--batch-size", "10"]
    with subprocess.Popen([sys.executable, "-P", "-c", code, *command, *more]) as driver:
        while not (stored := list((tmp_path / "out").glob("bank/*/*.errors"))) and driver.poll() is None:
            time.sleep(0.05)
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        driver.kill()
    assert driver.returncode == -signal.SIGKILL and len(children) >= 2
    while any(running(pid) for pid in children):
        time.sleep(0.05)
    stored = list((tmp_path / "out").glob("bank/*/*.errors"))
    assert 0 < len(stored) < 100
    text = run(capsys, *command)[1]
    assert f"; {3000 - 30 * len(stored)} computed now, the others read from the bank" in text


def running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "3/2"], "must be I/N with I in 1..N, such as 2/8, got '3/2'"),
        (["--shard", "0/2"], "must be I/N"),
        (["--shard", "13/13"], "shard must be one of at most 12, one image each, got 13/13"),
        (["--workers", "0"], "must be a whole number of at least 1, got 0"),
        (["--ray-address", "here"], "--ray-address is for --engine ray, got --engine local"),
        (["--labels-from-folders"], "--dataset is in place of FOLDER and --labels-from-folders"),
        (["--dataset", "mini-relation"], "has a list of captions per image, expected a data set with classes"),
        (["--dataset", "nothing"], "data set must be one of"),
        (["--split", "nothing"], "split"),
    ],
)
def test_bad_options(capsys, command, options, message):
    assert message in fails(capsys, *command, *options)


def test_a_missing_ray_is_said_before_a_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for words in (["evaluate", "--dataset", "mini-items"], ["bench", "--workers", 2]):
        message = fails(capsys, *words, "--engine", "ray", "--model", "no-such-model")
        assert "engine 'ray' needs the package ray: pip install 'diffclf[ray]'" in message


def test_a_folder_or_a_data_set_is_needed(capsys, tmp_path):
    assert "one of FOLDER and --dataset NAME is required" in fails(capsys, "evaluate", "--labels-from-folders")
    for option, value in (("--n-images", "3"), ("--split", "tune")):
        message = fails(capsys, "evaluate", tmp_path, "--labels-from-folders", option, value)
        assert f"{option} is for --dataset" in message


def test_a_class_conditional_model_finds_the_classes_of_a_data_set(capsys, tiny_dit_folder, tmp_path, monkeypatch):
    """The tiny DiT knows t-shirt, trouser and pullover, in this order; a class may be several of them."""
    data = save_class_folder(tmp_path / "data", ["pullover", "trouser"])
    options = ["--model", tiny_dit_folder, "--trials", 2, "--split", "all", "--json", "--out", tmp_path / "out"]
    status, text, _ = run(capsys, "evaluate", "--dataset", data, *options)
    found = json.loads(text)
    assert (
        status == 0 and found["classes"] == ["pullover", "trouser"] and np.sum(found["confusion"], 1).tolist() == [3, 3]
    )
    wrong = ["--model", tiny_dit_folder, "--n-images", 4, "--out", tmp_path / "other"]
    assert "must be one of the model's 3 labels, got" in fails(capsys, "evaluate", "--dataset", "mini-items", *wrong)
    several = replace(load_dataset(str(data), "all"), indices={2: 0, 0: 0, 1: 1})
    monkeypatch.setattr(imageset, "IMAGENET", 3)
    monkeypatch.setattr(items, "load_dataset", lambda *_: several)
    status, text, _ = run(capsys, "evaluate", "--dataset", data, *options[:-1], tmp_path / "several")
    found = json.loads(text)
    assert status == 0 and found["classes"] == ["pullover", "trouser"] and found["n_evaluations"] == 6 * 3 * 2
    assert np.sum(found["confusion"], 1).tolist() == [3, 3]
