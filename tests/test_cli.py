"""Tests of the command line: the real path on tiny pipelines, and every bad input by its message."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Staged
from diffclf.commands.main import COMMANDS, main
from diffclf.stats import proportion

LABELS = ("sneaker", "bag", "dress")


def noise_image(seed, size=(32, 32)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def sd(tiny_sd_folder):
    return str(tiny_sd_folder)


@pytest.fixture(scope="module")
def dit(tiny_dit_folder):
    return str(tiny_dit_folder)


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


# classify


def test_classify_prints_what_the_classifier_says(capsys, sd, tiny_sd, images):
    status, out, _ = run(capsys, "classify", *images, "--labels", "sneaker,bag,dress", "--model", sd, "--trials", 4)
    clf = DiffusionClassifier(
        tiny_sd, {name: f"a photo of a {name}" for name in LABELS}, pruning=Exhaustive(4), loss="l2"
    )
    probabilities = clf.predict_proba(images)
    assert status == 0
    for line, path, label, row in zip(out.splitlines(), images, clf.predict(images), probabilities, strict=True):
        assert line.split() == [path, label, f"{row.max():.4f}", "12", "evaluations"]


def test_classify_json_has_everything(capsys, sd, tiny_sd, images, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(
        "prompt,classname,classidx\na photo of a bag,bag,1\nthe bag,bag,1\nred sneaker,sneaker,0\na dress,dress,2\n"
    )
    options = ["--loss", "l1", "--seed", 3, "--n-samples", 3, 9, "--to-keep", 2, 1, "--n-trials", 2, "--json"]
    options += ["--temperature", 5, "--batch-size", 7, "--device", "cpu", "--dtype", "float32", "--prompts", prompts]
    status, out, err = run(capsys, "classify", *images, "--model", sd, *options)
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result["classes"] == ["sneaker", "bag", "dress"]
    clf = DiffusionClassifier(
        tiny_sd,
        {"sneaker": "red sneaker", "bag": ["a photo of a bag", "the bag"], "dress": "a dress"},
        pruning=Staged((3, 9), (2, 1), repeats=2),
        loss="l1",
        seed=3,
        temperature=5,
    )
    assert [row["image"] for row in result["images"]] == images
    for row, path in zip(result["images"], images, strict=True):
        table = clf.errors(path)
        assert row["label"] == table.predicted
        assert row["n_evaluations"] == table.n_evaluations == 2 * (4 * 3 + 2 * 6)
        assert np.allclose(list(row["scores"].values()), table.scores(), rtol=1e-5)
        assert np.allclose(list(row["probabilities"].values()), table.proba(5), rtol=1e-3)
        assert row["probability"] == max(row["probabilities"].values())


def test_the_official_spellings_are_the_same(capsys, sd, images):
    ours = ["--trials", 2, 4, "--keep", 2, 1, "--repeats", 2]
    outputs = {
        run(capsys, "classify", images[0], "--labels", "sneaker,bag,dress", "--model", sd, "--json", *options)[1]
        for options in (
            ours,
            ["--n-samples", 2, 4, "--to-keep", 2, 1, "--n-trials", 2],
            ["--n_samples", 2, 4, "--to_keep", 2, 1, "--n_trials", 2],
        )
    }
    assert len(outputs) == 1 and json.loads(outputs.pop())["images"][0]["n_evaluations"] == 2 * (3 * 2 + 2 * 2)


def test_the_default_is_the_classifiers_default(capsys, dit, tiny_dit, images):
    _, out, _ = run(capsys, "classify", images[0], "--model", dit, "--json")
    (row,) = json.loads(out)["images"]
    assert row["n_evaluations"] == DiffusionClassifier(tiny_dit).errors(images[0]).n_evaluations <= 300
    _, out, _ = run(capsys, "classify", images[0], "--model", dit, "--json", "--budget", 20, "--confidence", 0.9)
    assert json.loads(out)["images"][0]["n_evaluations"] == 18
    assert "budget=20" in json.loads(out)["pruning"] and "confidence=0.9" in json.loads(out)["pruning"]


def test_class_conditional_models_take_labels(capsys, dit, images):
    options = ["--labels", "pullover,trouser", "--trials", 3, "--loss", "l2+vlb"]
    _, out, _ = run(capsys, "classify", images[0], "--model", dit, "--json", *options)
    assert json.loads(out)["classes"] == ["pullover", "trouser"]
    assert json.loads(out)["images"][0]["n_evaluations"] == 6


# evaluate


def csv_rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def evaluate(capsys, folder, out, model, *options):
    return run(
        capsys, "evaluate", folder, "--labels-from-folders", "--model", model, "--trials", 3, "--out", out, *options
    )


def test_evaluate_sums_up_what_the_classifier_says(capsys, sd, tiny_sd, folder, tmp_path):
    out = tmp_path / "out"
    status, text, err = evaluate(capsys, folder, out, sd)
    assert status == 0
    assert "ignoring 1 files that are no images of a class: notes.txt" in err
    header, *lines = csv_rows(out / "predictions.csv")
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    names = ["bag/a.png", "bag/c.jpg", "bag/deeper/b.png", "sneaker/a.png", "sneaker/b, c.png"]
    assert [row["image"] for row in rows] == names
    prompts = {"bag": "a photo of a bag", "sneaker": "a photo of a sneaker"}
    clf = DiffusionClassifier(tiny_sd, prompts, pruning=Exhaustive(3))
    predicted = clf.predict([folder / name for name in names]).tolist()
    truth = ["bag"] * 3 + ["sneaker"] * 2
    assert [row["predicted"] for row in rows] == predicted
    assert [row["correct"] for row in rows] == [str(p == t) for p, t in zip(predicted, truth, strict=True)]
    assert {row["n_evaluations"] for row in rows} == {"6"}
    summary = json.loads((out / "summary.json").read_text())
    expected = proportion(sum(p == t for p, t in zip(predicted, truth, strict=True)), 5)
    assert summary["accuracy"] == {"value": expected.value, "low": expected.low, "high": expected.high, "level": 0.95}
    pairs = list(zip(truth, predicted, strict=True))
    counts = [[pairs.count((t, p)) for p in ("bag", "sneaker")] for t in ("bag", "sneaker")]
    assert summary["confusion"] == counts
    assert csv_rows(out / "confusion.csv") == [
        ["", "bag", "sneaker"],
        ["bag", *map(str, counts[0])],
        ["sneaker", *map(str, counts[1])],
    ]
    assert f"accuracy {expected.value:.2%}, 95% interval {expected.low:.2%} to {expected.high:.2%}" in text
    assert f"0 bag     {counts[0][0]:>3} {counts[0][1]:>3}\n1 sneaker {counts[1][0]:>3} {counts[1][1]:>3}\n" in text


RESULTS = ("predictions.csv", "confusion.csv", "summary.json")


def read_results(out):
    """Return what is in the files of results, without the probabilities: their last digits depend on the batches."""
    rows = [[*row[:4], *row[5:]] for row in csv_rows(out / "predictions.csv")]
    return rows, *((out / name).read_text() for name in RESULTS[1:])


def test_evaluate_continues_where_it_was_killed(capsys, sd, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate(capsys, folder, out, sd)
    whole, entries = read_results(out), sorted(out.glob("bank/*/*.errors"))
    assert len(entries) == 5
    for path in [*(out / name for name in RESULTS), *entries[3:]]:
        path.unlink()
    assert "30 denoiser evaluations, 6.0 an image; 12 computed now" in evaluate(capsys, folder, out, sd)[1]
    assert read_results(out) == whole
    monkeypatch.setattr("diffclf.evaluator.Evaluator.errors", lambda *_: pytest.fail("nothing was left to do"))
    assert evaluate(capsys, folder, out, sd)[0] == 0


def test_evaluate_knows_images_by_their_pixels(capsys, sd, folder, tmp_path):
    data, out, clean = tmp_path / "things", tmp_path / "out", tmp_path / "clean"
    shutil.copytree(folder, data)
    evaluate(capsys, data, out, sd)
    noise_image(99).save(data / "bag" / "a.png")
    (data / "sneaker" / "a.png").rename(data / "sneaker" / "moved.png")
    (data / "bag" / "deeper" / "b.png").unlink()
    assert "24 denoiser evaluations, 6.0 an image; 6 computed now" in evaluate(capsys, data, out, sd)[1]
    evaluate(capsys, data, clean, sd)
    assert read_results(out) == read_results(clean)


def test_evaluate_loses_nothing_when_killed(capsys, sd, folder, tmp_path):
    """A real SIGKILL at some moment of the run; the second run ends with the numbers of an undisturbed one."""
    out, clean = tmp_path / "out", tmp_path / "clean"
    command = [sys.executable, "-m", "diffclf", "evaluate", str(folder), "--labels-from-folders", "--model", sd]
    command += ["--trials", "50", "--batch-size", "4", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(out.glob("bank/*/*.errors")):
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL and not (out / "predictions.csv").exists()
    assert main(command[3:]) == 0 and "computed now" in capsys.readouterr().out
    main([*command[3:-1], str(clean)])
    assert read_results(clean) == read_results(out)


def test_evaluate_refuses_other_settings(capsys, sd, folder, tmp_path):
    out = tmp_path / "out"
    evaluate(capsys, folder, out, sd)
    command = ["evaluate", folder, "--labels-from-folders", "--model", sd, "--out", out, "--trials", 3]
    assert "seed was 0, got 1. Choose another --out" in fails(capsys, *command, "--seed", 1)
    assert "loss was 'l2', got 'l1'" in fails(capsys, *command, "--loss", "l1")
    assert "pruning was 'Exhaustive(n=3, repeats=1)', got" in fails(capsys, *command[:-1], 4)
    message = fails(capsys, *command, "--template", "the {}")
    assert "prompts[0] was ['a photo of a bag', 'bag'], got ['the bag', 'bag']" in message
    assert "dtype was 'torch.float32', got 'torch.bfloat16'" in fails(capsys, *command, "--dtype", "bfloat16")
    other = save_tiny_sd(tmp_path / "other", seed=1)
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**settings, "model": str(other)}))
    assert f"weights was '{settings['weights']}', got" in fails(capsys, *command[:4], other, *command[5:])


def test_evaluate_refuses_folders_it_cannot_write_its_results_to(capsys, sd, folder, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    command = ["evaluate", folder, "--labels-from-folders", "--model", sd, "--trials", 3, "--out"]
    for inside in (folder, folder / "results", folder / "bag" / "results"):
        assert "out must not lie inside the folder of images" in fails(capsys, *command, inside)
    other.mkdir()
    (other / "notes.txt").touch()
    assert "must be a new folder or the folder of an earlier run" in fails(capsys, *command, other)
    assert "out must be a folder, got the file" in fails(capsys, *command, other / "notes.txt")
    out.mkdir()
    (out / "settings.json").write_text("{")
    assert "settings.json is damaged" in fails(capsys, *command, out)


def test_evaluate_with_a_prompt_file(capsys, sd, folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,classname,classidx\na dress,dress,0\na bag,bag,1\na sneaker,sneaker,2\n")
    options = ["--model", sd, "--trials", 2, "--out", tmp_path / "out"]
    status, out, _ = run(capsys, "evaluate", folder, "--prompts", prompts, *options, "--json")
    result = json.loads(out)
    assert status == 0 and result["classes"] == ["dress", "bag", "sneaker"]
    assert np.sum(result["confusion"], axis=1).tolist() == [0, 3, 2]
    assert result["n_evaluations"] == 5 * 3 * 2
    prompts.write_text("prompt,classname,classidx\na dress,dress,0\na bag,bag,1\n")
    message = fails(capsys, "evaluate", folder, "--prompts", prompts, *options)
    assert "must be a classname in" in message and "got 'sneaker'" in message


def test_underscores_of_folders_are_spaces_in_prompts(capsys, sd, tmp_path):
    for name in ("red_bag", "dress"):
        (tmp_path / "data" / name).mkdir(parents=True)
        noise_image(len(name)).save(tmp_path / "data" / name / "x.png")
    _, out, _ = evaluate(capsys, tmp_path / "data", tmp_path / "out", sd, "--json", "--template", "the {}")
    result = json.loads(out)
    assert result["classes"] == ["dress", "red_bag"]
    assert result["settings"]["prompts"] == [["the dress", "dress"], ["the red bag", "red_bag"]]


def test_bad_folders(capsys, sd, tmp_path):
    command = ["evaluate", tmp_path / "data", "--labels-from-folders", "--model", sd, "--out", tmp_path / "out"]
    assert fails(capsys, *command) == f"folder not found: {tmp_path / 'data'}"
    (tmp_path / "data").mkdir()
    assert "has no sub-folders" in fails(capsys, *command)
    (tmp_path / "data" / "bag").mkdir()
    assert "has no images in its sub-folders (bag)" in fails(capsys, *command)
    noise_image(0).save(tmp_path / "data" / "bag" / "good.png")
    assert "at least two classes, got 1: ['bag']" in fails(capsys, *command)
    (tmp_path / "data" / "dress").mkdir()
    for name in ("x.png", "y.png"):
        (tmp_path / "data" / "bag" / name).write_bytes(b"")
    message = fails(capsys, *command)
    assert "x.png is empty (0 bytes)" in message and "y.png is empty" in message
    assert not (tmp_path / "out" / "predictions.csv").exists()
    assert "is a file, expected a folder" in fails(capsys, "evaluate", tmp_path / "data/bag/x.png", *command[2:])
    message = fails(capsys, "evaluate", tmp_path / "data", *command[3:])
    assert "one of the arguments --labels-from-folders --prompts is required" in message


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
        (["--labels", "a"], "at least two classes, got 1"),
        (["--labels", ""], "at least two classes, got 0"),
        (["--labels", "a,,b"], "labels must not be empty"),
        (["--labels", "a,b,a"], "labels must differ, got 'a' more than once"),
        (["--labels", "a,b", "--template", "a photo"], "template must contain {} where the label goes, got 'a photo'"),
        (["--labels", "a,b", "--prompts", "x.csv"], "argument --prompts: not allowed with argument --labels"),
        (["--prompts", "x.csv", "--template", "{}"], "--template goes with --labels"),
        (["--prompts", "missing.csv"], "missing.csv: No such file or directory"),
        (["--labels", "a,b", "--loss", "l3"], "argument --loss: invalid choice: 'l3' (choose from "),
        (["--labels", "a,b", "--trials", "5", "50"], "need keep, with one number each"),
        (["--labels", "a,b", "--keep", "1"], "keep needs trials"),
        (["--labels", "a,b", "--trials", "5", "--budget", "9"], "budget is for the race, which --trials replaces"),
        (["--labels", "a,b", "--budget", "0"], "budget must be a whole number of at least 1, got 0"),
        (["--labels", "a,b", "--confidence", "1"], "confidence must lie in (0, 1), got 1.0"),
        (["--labels", "a,b", "--trials", "5", "50", "--keep", "1"], "one number per stage, got (5, 50) and (1,)"),
        (["--labels", "a,b", "--trials", "5", "50", "--keep", "5", "2"], "keep must end in 1, got (5, 2)"),
        (["--labels", "a,b", "--trials", "5", "10", "20", "--keep", "2", "5", "1"], "keep must not grow"),
        (["--labels", "a,b", "--trials", "50", "5", "--keep", "5", "1"], "trials must increase"),
        (["--labels", "a,b", "--trials", "0"], "trials must be at least 1, got 0"),
        (["--labels", "a,b", "--trials", "five"], "--trials/--n-samples/--n_samples: invalid int value: 'five'"),
        (["--labels", "a,b", "--repeats", "0"], "repeats must be a whole number of at least 1, got 0"),
        (["--labels", "a,b", "--batch-size", "0"], "argument --batch-size: must be at least 1, got 0"),
        (["--labels", "a,b", "--temperature", "0"], "argument --temperature: must be above 0 and finite, got 0"),
        (["--labels", "a,b", "--temperature", "nan"], "argument --temperature: must be above 0 and finite, got nan"),
        (["--labels", "a,b", "--model", "no-such-model"], "no model 'no-such-model'"),
        (["--labels", "a,b", "--lab", "x"], "unrecognized arguments: --lab x"),
    ],
)
def test_bad_options(capsys, images, monkeypatch, options, message):
    if "no-such-model" not in options:
        monkeypatch.setattr("diffclf.commands.options.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert message in fails(capsys, "classify", images[0], *options)


def test_a_bad_prompt_file_is_named(capsys, images, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,classname,classidx\na,a,x\n")
    message = fails(capsys, "classify", images[0], "--prompts", tmp_path / "prompts.csv")
    assert "prompts.csv, line 2: classidx must be an integer, got 'x'" in message


def test_models_that_do_not_go_with_the_options(capsys, sd, dit, images, tmp_path):
    command = ["classify", images[0], "--model"]
    assert "--labels or --prompts must name the classes" in fails(capsys, *command, sd)
    assert "needs a model that learns its variance" in fails(capsys, *command, sd, "--labels", "a,b", "--loss", "vlb")
    assert "at most the model's 1000 timesteps, got 1001" in fails(
        capsys, *command, sd, "--labels", "a,b", "--trials", 1001
    )
    assert "device must be" in fails(capsys, *command, sd, "--labels", "a,b", "--device", "abacus")
    assert "dtype must be" in fails(capsys, *command, sd, "--labels", "a,b", "--dtype", "int8")
    assert "one of the model's 3 labels, got 'hat'" in fails(capsys, *command, dit, "--labels", "trouser,hat")
    assert "knows classes and no text" in fails(
        capsys, *command, dit, "--labels", "trouser,pullover", "--template", "{}"
    )


def test_a_pipeline_that_is_not_supported(capsys, images, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "StableAudioPipeline"}')
    message = fails(capsys, "classify", images[0], "--labels", "a,b", "--model", tmp_path / "other")
    assert "StableAudioPipeline, which is not supported; supported: " in message


def test_nan_from_the_model(capsys, sd, images, monkeypatch):
    from diffclf.models.stable_diffusion import StableDiffusionModel

    monkeypatch.setattr(StableDiffusionModel, "denoise", lambda self, x_t, t, cond: torch.full_like(x_t, torch.nan))
    message = fails(capsys, "classify", images[0], "--labels", "a,b", "--model", sd, "--trials", 2)
    assert "the model's errors must be finite, got NaN" in message


# The frame


def test_debug_shows_the_traceback(capsys):
    status, _, err = run(capsys, "classify", "missing.png", "--labels", "a,b", "--debug")
    assert status == 2 and "Traceback" in err and err.endswith("diffclf: error: image not found: missing.png\n")


def test_interruption_is_one_line(capsys, images, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffclf.commands.classify.check_images", interrupt)
    status, _, err = run(capsys, "classify", images[0], "--labels", "a,b")
    assert status == 130 and err.strip() == "diffclf: interrupted"


def test_usage(capsys):
    assert "arguments are required: COMMAND" in fails(capsys)
    assert "invalid choice: 'classfy'" in fails(capsys, "classfy")
    assert "the following arguments are required: IMAGE (see `diffclf classify --help`)" in fails(capsys, "classify")
    status, out, _ = run(capsys, "--help")
    assert status == 0 and all(name in out for name in COMMANDS)
    status, out, _ = run(capsys, "classify", "--help")
    assert status == 0 and "--n_samples" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0 and out.startswith(f"usage: diffclf {command}")
    assert COMMANDS[command][1:] in " ".join(out.split())


def test_a_closed_pipe_is_no_error(capsys, dit, images, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed_pipe:
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        status = main(["classify", *images, "--model", dit, "--trials", "1"])
        monkeypatch.undo()
        closed_pipe.write("nobody reads this, and leaving raises nothing")
    assert (status, capsys.readouterr().err) == (141, "")


def test_training_help_says_nothing_of_other_libraries():
    done = subprocess.run(
        [sys.executable, "-m", "diffclf", "train", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
