"""Tests of the command line: the real path on tiny pipelines, and every bad input by its message."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import diffclf
from diffclf import DiffusionClassifier, Exhaustive, Staged, __main__
from diffclf.commands.main import COMMANDS, main
from diffclf.evaluator import Evaluator
from diffclf.files import write_csv
from diffclf.stats import proportion


def noise_image(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        noise_image(seed, (40, 36)).save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of three and two images, one of them deeper, and files that do not count."""
    root = tmp_path_factory.mktemp("data") / "things"
    for seed, name in enumerate(["bag/a.png", "bag/deeper/b.png", "bag/c.jpg", "sneaker/a.png", "sneaker/b, c.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise_image(seed).save(root / name)
    (root / "notes.txt").write_text("ignored")
    (root / "bag" / ".hidden.png").write_bytes(b"")
    return root


def run(capsys, *argv):
    """Run the command line; return (status, stdout, stderr)."""
    status = main([str(word) for word in argv])
    return status, *capsys.readouterr()


def fails(capsys, *argv):
    """Run a command line that must fail; return its one line of error."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, ""), err
    lines = err.strip().splitlines()
    assert lines[-1].startswith("diffclf: error: ") and "Traceback" not in err
    return lines[-1].removeprefix("diffclf: error: ")


def interrupt(monkeypatch, n_calls):
    """Raise KeyboardInterrupt at one call of the evaluator."""
    errors, calls = Evaluator.errors, count(1)

    def counted(*args):
        if next(calls) == n_calls:
            raise KeyboardInterrupt
        return errors(*args)

    monkeypatch.setattr(Evaluator, "errors", counted)


# classify


def test_classify_prints_what_the_classifier_says(capsys, tiny_sd_folder, tiny_sd, images):
    options = ["--labels", "sneaker,bag,dress", "--model", tiny_sd_folder, "--trials", 4]
    status, out, _ = run(capsys, "classify", *images, *options)
    clf = DiffusionClassifier(
        tiny_sd, {name: f"a photo of a {name}" for name in ("sneaker", "bag", "dress")}, pruning=Exhaustive(4)
    )
    assert status == 0
    found = zip(out.splitlines(), images, clf.predict(images), clf.predict_proba(images), strict=True)
    for line, path, label, row in found:
        assert line.split() == [path, label, f"{row.max():.4f}", "12", "evaluations"]


def test_classify_json_has_everything(capsys, tiny_sd_folder, tiny_sd, images, tmp_path):
    """With a file of prompts, and with the options of the released code in both spellings."""
    prompts = tmp_path / "prompts.csv"
    lines = "a photo of a bag,bag,1\nthe bag,bag,1\nred sneaker,sneaker,0\na dress,dress,2\n"
    prompts.write_text("prompt,classname,classidx\n" + lines)
    options = ["--loss", "l1", "--seed", 3, "--json", "--temperature", 5, "--batch-size", 7, "--device", "cpu"]
    options += ["--dtype", "float32", "--prompts", prompts]
    outputs = set()
    for names in (
        ("--trials", "--keep", "--repeats"),
        ("--n-samples", "--to-keep", "--n-trials"),
        ("--n_samples", "--to_keep", "--n_trials"),
    ):
        budget = [names[0], 3, 9, names[1], 2, 1, names[2], 2]
        status, out, err = run(capsys, "classify", *images, "--model", tiny_sd_folder, *options, *budget)
        assert (status, err) == (0, "")
        outputs.add(out)
    (out,) = outputs
    result = json.loads(out)
    assert result["classes"] == ["sneaker", "bag", "dress"]
    pruning = Staged((3, 9), (2, 1), repeats=2)
    texts = {"sneaker": "red sneaker", "bag": ["a photo of a bag", "the bag"], "dress": "a dress"}
    clf = DiffusionClassifier(tiny_sd, texts, pruning=pruning, loss="l1", seed=3, temperature=5)
    assert [row["image"] for row in result["images"]] == images
    for row, table in zip(result["images"], clf.error_tables(images), strict=True):
        assert row["label"] == table.predicted
        assert row["n_evaluations"] == table.n_evaluations == 2 * (4 * 3 + 2 * 6)
        assert np.allclose(list(row["scores"].values()), table.scores(), rtol=1e-5)
        assert np.allclose(list(row["probabilities"].values()), table.proba(5), rtol=1e-3)
        assert row["probability"] == max(row["probabilities"].values())


def test_the_default_is_the_classifiers_default(capsys, tiny_dit_folder, tiny_dit, images):
    command = ["classify", images[0], "--model", tiny_dit_folder, "--json"]
    (row,) = json.loads(run(capsys, *command)[1])["images"]
    assert row["n_evaluations"] == DiffusionClassifier(tiny_dit).errors(images[0]).n_evaluations <= 300
    found = json.loads(run(capsys, *command, "--budget", 20, "--confidence", 0.9)[1])
    assert found["images"][0]["n_evaluations"] == 18
    assert "budget=20" in found["pruning"] and "confidence=0.9" in found["pruning"]
    found = json.loads(run(capsys, *command, "--labels", "pullover,trouser", "--trials", 3, "--loss", "l2+vlb")[1])
    assert found["classes"] == ["pullover", "trouser"] and found["images"][0]["n_evaluations"] == 6


def test_classify_prints_a_line_of_json_as_each_image_finishes(capsys, tiny_sd_folder, images, monkeypatch):
    command = ["classify", *images, images[0], "--labels", "sneaker,bag", "--model", tiny_sd_folder, "--trials", 3]
    whole = json.loads(run(capsys, *command, "--json")[1])["images"]
    status, out, _ = run(capsys, *command, "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and sorted(rows, key=str) == sorted(whole, key=str)
    interrupt(monkeypatch, 2)
    status, out, err = run(capsys, *command, "--jsonl", "--batch-size", 1)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 130 and err.endswith("diffclf: interrupted\n")
    assert 0 < len(rows) < 3 and all(row in whole for row in rows)


def test_names_that_steer_a_terminal_are_escaped(capsys, tiny_sd_folder, tmp_path):
    image, name = tmp_path / "a\x1b[31m\n\x9b1m.png", "red\x1b[2J\u202e"
    noise_image(0).save(image)
    options = ["--model", tiny_sd_folder, "--trials", 2]
    _, out, err = run(capsys, "classify", image, "--labels", f"{name}1,{name}2", *options)
    assert out.startswith(f"{tmp_path}/a\\x1b[31m\\n\\x9b1m.png  red\\x1b[2J\\u202e") and out.count("\n") == 1
    data = tmp_path / "data"
    for folder in (f"{name}1", f"{name}2"):
        (data / folder).mkdir(parents=True)
        shutil.copy(image, data / folder)
    (data / f"{name}.txt").touch()
    _, out, err = run(capsys, "evaluate", data, "--labels-from-folders", *options, "--out", tmp_path / f"out{name}")
    failed = fails(capsys, "classify", tmp_path / name, "--labels", "a,b")
    for text in (out, err, failed):
        assert "red\\x1b[2J\\u202e" in text and not set("\x1b\x9b\u202e") & set(text)


# evaluate


def evaluate(capsys, folder, out, model, *options):
    command = ["evaluate", folder, "--labels-from-folders", "--model", model, "--trials", 3, "--out", out]
    return run(capsys, *command, *options)


def test_evaluate_sums_up_what_the_classifier_says(capsys, tiny_sd_folder, tiny_sd, folder, tmp_path):
    out = tmp_path / "out"
    status, text, err = evaluate(capsys, folder, out, tiny_sd_folder)
    assert status == 0
    assert "ignoring 1 entry that is no image of a class: notes.txt" in err
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["bag/a.png", "bag/c.jpg", "bag/deeper/b.png", "sneaker/a.png", "sneaker/b, c.png"]
    assert [row["image"] for row in rows] == names
    classes, truth = ["bag", "sneaker"], ["bag"] * 3 + ["sneaker"] * 2
    clf = DiffusionClassifier(tiny_sd, {name: f"a photo of a {name}" for name in classes}, pruning=Exhaustive(3))
    predicted = clf.predict([folder / name for name in names]).tolist()
    correct = [p == t for p, t in zip(predicted, truth, strict=True)]
    assert [row["predicted"] for row in rows] == predicted and [row["correct"] for row in rows] == list(
        map(str, correct)
    )
    assert {row["n_evaluations"] for row in rows} == {"6"}
    summary = json.loads((out / "summary.json").read_text())
    expected = proportion(sum(correct), 5)
    assert summary["accuracy"] == {"value": expected.value, "low": expected.low, "high": expected.high, "level": 0.95}
    pairs = list(zip(truth, predicted, strict=True))
    counts = [[pairs.count((t, p)) for p in classes] for t in classes]
    (a, b), (c, d) = summary["confusion"]
    assert [[a, b], [c, d]] == counts
    assert (out / "confusion.csv").read_text() == f",bag,sneaker\nbag,{a},{b}\nsneaker,{c},{d}\n"
    assert f"accuracy {expected.value:.2%}, 95% interval {expected.low:.2%} to {expected.high:.2%}" in text
    assert f"           0  1\n0 bag      {a}  {b}\n1 sneaker  {c}  {d}\n" in text


def read_results(out):
    """Return what is in the files of results, without the probabilities: their last digits depend on the batches."""
    with (out / "predictions.csv").open(newline="") as file:
        rows = [[*row[:4], *row[5:]] for row in csv.reader(file)]
    return rows, *((out / name).read_text() for name in ("confusion.csv", "summary.json"))


def test_evaluate_continues_where_it_was_stopped(capsys, tiny_sd_folder, folder, tmp_path, monkeypatch):
    out, clean = tmp_path / "out", tmp_path / "clean"
    interrupt(monkeypatch, 3)
    status, text, err = evaluate(capsys, folder, out, tiny_sd_folder, "--batch-size", 2)
    assert (status, text) == (130, "") and err.endswith("\ndiffclf: interrupted\n")
    n_done = len(list(out.glob("bank/*/*.errors")))
    assert 0 < n_done < 5 and not (out / "predictions.csv").exists()
    text = evaluate(capsys, folder, out, tiny_sd_folder)[1]
    assert f"30 denoiser evaluations, 6.0 an image; {30 - 6 * n_done} computed now" in text
    evaluate(capsys, folder, clean, tiny_sd_folder)
    assert read_results(out) == read_results(clean)
    monkeypatch.setattr(Evaluator, "errors", lambda *_: pytest.fail("nothing was left to do"))
    assert evaluate(capsys, folder, out, tiny_sd_folder)[0] == 0


def test_evaluate_knows_images_by_their_pixels(capsys, tiny_sd_folder, folder, tmp_path):
    data, out, clean = tmp_path / "things", tmp_path / "out", tmp_path / "clean"
    shutil.copytree(folder, data)
    evaluate(capsys, data, out, tiny_sd_folder)
    noise_image(99).save(data / "bag" / "a.png")
    (data / "sneaker" / "a.png").rename(data / "sneaker" / "moved.png")
    (data / "bag" / "deeper" / "b.png").unlink()
    assert "24 denoiser evaluations, 6.0 an image; 6 computed now" in evaluate(capsys, data, out, tiny_sd_folder)[1]
    evaluate(capsys, data, clean, tiny_sd_folder)
    assert read_results(out) == read_results(clean)


def test_other_settings_are_computed_and_overwrite_the_results(capsys, tiny_sd_folder, folder, tmp_path):
    out, clean, options = tmp_path / "out", tmp_path / "clean", ["--seed", 1, "--template", "the {}"]
    evaluate(capsys, folder, out, tiny_sd_folder)
    before = read_results(out)
    assert "30 denoiser evaluations, 6.0 an image\n" in evaluate(capsys, folder, out, tiny_sd_folder, *options)[1]
    evaluate(capsys, folder, clean, tiny_sd_folder, *options)
    assert read_results(out) == read_results(clean)
    assert "; 0 computed now" in evaluate(capsys, folder, out, tiny_sd_folder)[1]
    assert read_results(out) == before


def test_evaluate_refuses_folders_it_cannot_write_its_results_to(capsys, folder, tmp_path, monkeypatch):
    command = ["evaluate", folder, "--labels-from-folders", "--model", "no-such-model", "--out"]
    for inside in (folder, folder / "bag" / "results"):
        assert "out must not lie inside the folder of images" in fails(capsys, *command, inside)
    (tmp_path / "notes.txt").touch()
    assert "must be a new folder or the folder of an earlier run" in fails(capsys, *command, tmp_path)
    file, new = tmp_path / "notes.txt", tmp_path / "new"
    for place in (file, file / "results", file / "a" / "b"):
        for other in (["baseline", "clip", folder, "--out", place], [*command, new, "--bank", place]):
            name = "out" if "clip" in other else "bank"
            assert f"{name} must be a folder, got {place}: {file} is a file" in fails(capsys, *other)
        assert f"out must be a folder, got {place}: {file} is a file" in fails(capsys, *command, place)
    bank = new / "bank" / "0123"
    bank.mkdir(parents=True)
    (bank / "bank.json").touch()
    message = fails(capsys, *command, tmp_path / "other", "--bank", bank)
    assert f"bank must be a folder of banks, got one bank, {bank}; did you mean {bank.parent}?" in message
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    message = fails(capsys, *command, tmp_path / "other")
    assert f"out must be a folder that can be written to, got {tmp_path / 'other'}: {tmp_path} cannot" in message


def test_what_is_no_class_does_not_compete(capsys, tiny_sd_folder, folder, tmp_path):
    data, clean, out = tmp_path / "things", tmp_path / "clean", tmp_path / "out"
    shutil.copytree(folder, data)
    (data / "empty").mkdir()
    evaluate(capsys, data, clean, tiny_sd_folder)
    shutil.copytree(clean, data / "old-results")
    shutil.copytree(data / "bag", data / "__MACOSX")
    (data / "bag" / "loop").symlink_to(data / "bag")
    (data / "bag" / "up").symlink_to(data)
    (data / "again").symlink_to(data / "sneaker")
    (data / "bag" / "deeper" / "out").symlink_to(tmp_path)
    _, text, err = evaluate(capsys, data, out, tiny_sd_folder)
    assert read_results(out) == read_results(clean)
    assert "ignoring 7 entries that are no image of a class" in err and "no image of empty" in err
    assert json.loads((out / "summary.json").read_text())["classes_without_images"] == ["empty"]
    shutil.copytree(folder, tmp_path / "elsewhere")
    (data / "linked").symlink_to(tmp_path / "elsewhere" / "bag")
    assert "linked" in evaluate(capsys, data, out, tiny_sd_folder)[1], "a link to another place is a class"


def test_a_folder_one_level_off_is_explained(capsys, folder, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(folder, tmp_path / "data" / split)
    command = ["--model", "no-such-model", "--labels-from-folders"]
    assert f"got splits; did you mean {tmp_path}/data/test?" in fails(capsys, "evaluate", tmp_path / "data", *command)
    shutil.copytree(folder, tmp_path / "deep" / "things")
    message = fails(capsys, "evaluate", tmp_path / "deep", *command)
    assert f"got things alone, with bag, sneaker in it; did you mean {tmp_path}/deep/things?" in message


def test_evaluate_with_a_prompt_file(capsys, tiny_sd_folder, folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,classname,classidx\na dress,dress,0\na bag,bag,1\na sneaker,sneaker,2\n")
    options = ["--model", tiny_sd_folder, "--trials", 2, "--out", tmp_path / "out"]
    status, out, _ = run(capsys, "evaluate", folder, "--prompts", prompts, *options, "--json")
    result = json.loads(out)
    assert status == 0 and result["classes"] == ["dress", "bag", "sneaker"]
    assert np.sum(result["confusion"], axis=1).tolist() == [0, 3, 2]
    assert result["n_evaluations"] == 5 * 3 * 2
    prompts.write_text("prompt,classname,classidx\na dress,dress,0\na bag,bag,1\n")
    message = fails(capsys, "evaluate", folder, "--prompts", prompts, *options)
    assert "must be a classname in" in message and "got 'sneaker'" in message


def test_underscores_of_folders_are_spaces_in_prompts(capsys, tiny_sd_folder, tmp_path):
    for name in ("red_bag", "dress"):
        (tmp_path / "data" / name).mkdir(parents=True)
        noise_image(len(name)).save(tmp_path / "data" / name / "x.png")
    _, out, _ = evaluate(capsys, tmp_path / "data", tmp_path / "out", tiny_sd_folder, "--json", "--template", "the {}")
    result = json.loads(out)
    assert result["classes"] == ["dress", "red_bag"]
    assert result["settings"]["prompts"] == [["the dress", "dress"], ["the red bag", "red_bag"]]


def test_bad_folders(capsys, tmp_path):
    data = tmp_path / "data"
    command = ["evaluate", data, "--model", "no-such-model", "--labels-from-folders"]
    assert fails(capsys, *command) == f"folder not found: {data}"
    data.mkdir()
    assert "has no sub-folders" in fails(capsys, *command)
    (data / "bag").mkdir()
    assert "has no images in its sub-folders (bag)" in fails(capsys, *command)
    noise_image(0).save(data / "bag" / "good.png")
    assert "at least two classes, got 1: ['bag']" in fails(capsys, *command)
    (data / "dress").mkdir()
    for name in ("x.png", "y.png"):
        (data / "bag" / name).write_bytes(b"")
    message = fails(capsys, *command)
    assert "x.png is empty (0 bytes)" in message and "y.png is empty" in message
    assert "is a file, expected a folder" in fails(capsys, "evaluate", data / "bag" / "x.png", *command[2:])
    assert "one of the arguments --labels-from-folders --prompts is required" in fails(capsys, *command[:-1])


def test_images_that_cannot_be_used_are_skipped_on_request(capsys, tiny_sd_folder, folder, tmp_path):
    data, clean, out = tmp_path / "things", tmp_path / "clean", tmp_path / "out"
    evaluate(capsys, folder, clean, tiny_sd_folder)
    shutil.copytree(folder, data)
    (data / "bag" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    noise_image(1).save(data / "sneaker" / "moving.gif", save_all=True, append_images=[noise_image(2)])
    message = fails(capsys, "evaluate", data, "--labels-from-folders", "--model", "no-such-model")
    assert "broken.png is" in message and "moving.gif is animated" in message
    assert message.endswith("; --skip-unreadable leaves such images out")
    status, text, err = evaluate(capsys, data, out, tiny_sd_folder, "--skip-unreadable")
    assert status == 0 and "2 images skipped\n" in text and "skipping 2 images that cannot be used: " in err
    found, expected = (json.loads((path / "summary.json").read_text()) for path in (out, clean))
    assert found.pop("n_skipped") == 2 and expected.pop("n_skipped") == 0 and expected.pop("skipped") == {}
    skipped = found.pop("skipped")
    assert list(skipped) == ["bag/broken.png", "sneaker/moving.gif"] and "animated" in skipped["sneaker/moving.gif"]
    assert found == expected and read_results(out)[:2] == read_results(clean)[:2]
    shutil.rmtree(data / "bag" / "deeper")
    for path in data.glob("*/?*.*"):
        path.write_bytes(b"")
    command = ["--labels-from-folders", "--skip-unreadable", "--model", "no-such-model"]
    assert "no image of" in (message := fails(capsys, "evaluate", data, *command)) and "a.png is empty" in message
    assert "and 1 more" in message or message.count("is empty") <= 5


def test_one_of_a_thing_is_in_the_singular(capsys, tiny_dit_folder, tmp_path):
    for name in ("trouser", "pullover"):
        (tmp_path / "data" / name).mkdir(parents=True)
    noise_image(0).save(tmp_path / "data" / "trouser" / "x.png")
    _, text, _ = evaluate(capsys, tmp_path / "data", tmp_path / "out", tiny_dit_folder)
    assert " of 1 image)" in text
    assert re.search(r"^(1 tie|0 ties)$", text, re.MULTILINE)


def test_a_full_disk_is_named_with_its_file(capsys, tiny_sd_folder, folder, tmp_path):
    """A limit on the size of files instead of a full disk: both end in an OSError without a file's name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heed = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        status, _, err = evaluate(capsys, folder, tmp_path / "out", tiny_sd_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heed)
    assert status == 2 and re.search(rf"^diffclf: error: {tmp_path}/out/bank/\S+: File too large$", err, re.MULTILINE)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size]


# Bad input


def test_bad_images_are_named_before_a_model_is_loaded(capsys, images, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "short.png").write_bytes(Path(images[0]).read_bytes()[:-1500])
    bad = [tmp_path / "empty.png", images[0], tmp_path / "short.png", tmp_path / "missing.png", tmp_path]
    message = fails(capsys, "classify", *bad, "--labels", "a,b", "--model", "no-such-model")
    for reason in ("empty.png is empty", "short.png is truncated", "not found: ", f"{tmp_path} is a folder"):
        assert reason in message
    assert images[0] not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--labels a", "labels must name at least two classes, separated by commas (A,B), got 'a'"),
        (
            "--labels a b",
            "unrecognized arguments: b (separate labels by commas: --labels A,B; see `diffclf c",
        ),
        ("--labels a,b --template photo", "template must contain {} where the label goes, got 'photo'"),
        ("--labels a,b --template=", "template must contain {} where the label goes, got ''"),
        ("--labels a,b --prompts x.csv", "argument --prompts: not allowed with argument --labels"),
        ("--prompts x.csv --template {}", "--template is for labels"),
        ("--prompts missing.csv", "missing.csv: No such file or directory"),
        ("--labels a,b --loss l3", "argument --loss: invalid choice: 'l3' (choose from "),
        ("--labels a,b --trials 5 50", "need keep, with one number each"),
        ("--labels a,b --keep 1", "keep needs trials"),
        ("--labels a,b --trials 5 --budget 9", "budget and confidence are for the race, which --trials replaces"),
        ("--labels a,b --trials 5 --confidence 0.9", "budget and confidence are for the race"),
        ("--labels a,b --confidence 1", "confidence must lie in (0, 1), got 1.0"),
        ("--labels a,b --trials 5 50 --keep 1", "one number per stage, got (5, 50) and (1,)"),
        ("--labels a,b --budget 0", "argument --budget: must be a whole number of at least 1, got 0"),
        ("--labels a,b --trials five", "--n_samples: must be a whole number of at least 1, got five"),
        ("--labels a,b --temperature 0", "argument --temperature: must be a number above 0 and finite, got 0"),
        ("--labels a,b --temperature nan", "argument --temperature: must be a number above 0 and finite, got nan"),
        ("--labels a,b --temperature hot", "argument --temperature: must be a number above 0 and finite, got hot"),
        ("--labels a,b --lora-scale 0.5", "--lora-scale is for --lora, got --lora-scale 0.5 alone"),
        ("--labels a,b --model no-such-model", "no model 'no-such-model'"),
        ("--labels a,b --lab x", "unrecognized arguments: --lab x (see `diffclf classify --help`)"),
        ("--lab x", "unrecognized arguments: --lab x (see `diffclf classify --help`)"),
        ("--json --jsonl --labels a,b", "argument --jsonl: not allowed with argument --json"),
    ],
)
def test_bad_options(capsys, images, monkeypatch, options, message):
    if "no-such-model" not in options:
        monkeypatch.setattr("diffclf.commands.options.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert message in fails(capsys, "classify", images[0], *options.split())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("tiny_sd_folder", [], "--labels or --prompts must name the classes"),
        ("tiny_sd_folder", ["--labels", "a,b", "--loss", "vlb"], "needs a model that learns its variance"),
        ("tiny_sd_folder", ["--labels", "a,b", "--trials", 1001], "at most the model's 1000 timesteps, got 1001"),
        ("tiny_sd_folder", ["--labels", "a,b", "--device", "abacus"], "device must be"),
        ("tiny_sd_folder", ["--labels", "a,b", "--dtype", "int8"], "dtype must be"),
        ("tiny_dit_folder", ["--labels", "trouser,hat"], "one of the model's 3 labels, got 'hat'"),
        ("tiny_dit_folder", ["--labels", "trouser,pullover", "--template", "{}"], "knows classes and no text"),
    ],
)
def test_models_that_do_not_go_with_the_options(capsys, request, images, model, options, message):
    assert message in fails(capsys, "classify", images[0], "--model", request.getfixturevalue(model), *options)


def test_nan_from_the_model(capsys, tiny_sd_folder, images, monkeypatch):
    from diffclf.models.stable_diffusion import StableDiffusionModel

    monkeypatch.setattr(StableDiffusionModel, "denoise", lambda self, x_t, t, cond: torch.full_like(x_t, torch.nan))
    message = fails(capsys, "classify", images[0], "--labels", "a,b", "--model", tiny_sd_folder, "--trials", 2)
    assert f"the model's errors must be finite, got NaN or infinity for image {images[0]}, prompt 0" in message


def test_images_finished_before_nan_are_kept(capsys, tiny_sd_folder, folder, tmp_path, monkeypatch):
    batch_errors, n_calls = Evaluator._batch_errors, [0]

    def break_last(self, x0, cond, trials, batch):
        n_calls[0] += 1
        errors = batch_errors(self, x0, cond, trials, batch)
        return torch.full_like(errors, torch.nan) if n_calls[0] == 5 else errors

    monkeypatch.setattr(Evaluator, "_batch_errors", break_last)
    images = [str(folder / name) for name in ("bag/a.png", "sneaker/a.png", "sneaker/b, c.png")]
    options = ["--labels", "a,b", "--model", tiny_sd_folder, "--trials", 3, "--batch-size", 3]
    status, out, err = run(capsys, "classify", *images, *options)
    assert status == 2 and [line.split("  ")[0] for line in out.splitlines()] == images[:2]
    assert f"for image {images[2]}, prompt" in err
    n_calls[0] = 0
    assert evaluate(capsys, folder, tmp_path / "out", tiny_sd_folder, "--batch-size", 3)[0] == 2
    assert len(list((tmp_path / "out").glob("bank/*/*.errors"))) >= 2


# The frame


def test_debug_shows_the_traceback(capsys):
    status, _, err = run(capsys, "classify", "missing.png", "--labels", "a,b", "--debug")
    assert status == 2 and "Traceback" in err and err.endswith("diffclf: error: image not found: missing.png\n")


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"diffclf {metadata.version('diffclf')}\n", "")


def test_no_spreadsheet_runs_a_name_as_a_formula(tmp_path):
    write_csv(tmp_path / "x.csv", [["=1+1", "-a", "@b", "+c", "plain", 3, -2.5]])
    assert (tmp_path / "x.csv").read_text() == "'=1+1,'-a,'@b,'+c,plain,3,-2.5\n"


def test_usage(capsys):
    assert "arguments are required: COMMAND" in fails(capsys)
    assert "invalid choice: 'classfy'" in fails(capsys, "classfy")
    assert fails(capsys, "report", "--fo") == "unrecognized arguments: --fo (see `diffclf report --help`)"
    assert "the following arguments are required: IMAGE (see `diffclf classify --help`)" in fails(capsys, "classify")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0 and out.startswith(f"usage: diffclf {command}")
    assert COMMANDS[command][1:] in " ".join(out.split())


def test_help_and_import_are_light_and_silent():
    """The list of commands does not wait for torch, and yet `diffclf` has all its public names."""
    script = "import sys; from diffclf.commands.main import main; main(['--help']); assert 'torch' not in sys.modules; "
    done = subprocess.run([sys.executable, "-c", script + "main(['train', '--help'])"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and all(name in done.stdout for name in COMMANDS)
    assert set(diffclf.__all__) < set(dir(diffclf))
    for name in diffclf.__all__:
        assert getattr(diffclf, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Classifier'"):
        diffclf.Classifier  # noqa: B018


def test_a_closed_pipe_is_no_error(capsys, tiny_dit_folder, images, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed_pipe:
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        status = main(["classify", *images, "--model", str(tiny_dit_folder), "--trials", "1"])
        monkeypatch.undo()
        closed_pipe.write("nobody reads this, and leaving raises nothing")
    assert (status, capsys.readouterr().err) == (141, "")


def diffclf_process(*argv, **options):
    """Start the command line in a process of its own, that heeds interrupts."""
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a job in the background would not
    command = [sys.executable, "-m", "diffclf", *map(str, argv)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed, **options)


@pytest.mark.parametrize("command", ["--help", "--version", "classify --help"])
def test_output_that_nobody_reads_is_no_error(command):
    reader, writer = os.pipe()
    os.close(reader)
    process = diffclf_process(*command.split(), stdout=writer, env=os.environ | {"PYTHONUNBUFFERED": ""})
    os.close(writer)
    assert (process.communicate()[1], process.returncode) == ("", 141)


def test_a_closed_or_full_output_is_named(images):
    command = ["classify", images[0], "--labels", "a,b"]
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "diffclf", *command], capture_output=True, text=True
    )
    assert (closed.returncode, closed.stderr) == (2, "diffclf: error: standard output is closed\n")


def test_an_interrupt_while_the_command_line_is_imported_is_silent(capsys, monkeypatch):
    class Interrupted(ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "diffclf.commands.main", Interrupted("main"))
    assert __main__.run() == 130 and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seconds", [0.15, 0.4, 1])
def test_an_interrupt_while_libraries_are_imported_leaves_no_traceback(images, seconds):
    process = diffclf_process("classify", images[0], "--labels", "a,b,c,d", "--trials", 900, stdout=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err.strip().splitlines()[-1], process.returncode) == ("", "diffclf: interrupted", 130)
    assert "Traceback" not in err
