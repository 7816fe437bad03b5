"""Banks: each error computed once, found again by all that determines it, undamaged by kills, honest about damage."""

import json
import multiprocessing
import os
import random
import re
import signal
import time
from functools import partial
from importlib import metadata

import numpy as np
import pytest
import torch
from bank_killer import IMAGES as MANY
from bank_killer import fill
from test_evaluator import Wrapped
from test_search import PROMPTS, RACE, noise_images, pixels_of

from diffclf import DiffusionClassifier, Exhaustive, Staged, load_model
from diffclf.bank import ErrorBank
from diffclf.pruning import run_stored
from diffclf.search import ErrorSource, compute_errors, search
from diffclf.trials import TrialList, image_key

IMAGES = MANY[:4]
EIGHT = Exhaustive(8).trial_list()


@pytest.fixture
def make(gaussian, tmp_path):
    """Open the bank of the Gaussian model: 2 prompts, 8 trials."""
    return partial(ErrorBank, tmp_path, gaussian, [0, 1], EIGHT)


# Its numbers


@pytest.mark.parametrize(
    ("kind", "prompts", "losses"),
    [("tiny_sd", ["a bag", "a coat"], ("l2", "l1", "huber")), ("tiny_dit", [2, 0], ("l2", "vlb", "l2+vlb"))],
)
def test_a_bank_holds_the_classifiers_errors(request, tmp_path, kind, prompts, losses):
    model, images = request.getfixturevalue(kind), noise_images(2, 32)
    bank = ErrorBank(tmp_path, model, np.array(prompts), EIGHT, seed=np.int64(3), losses=losses)
    given = prompts if model.labels else dict(zip("ab", prompts, strict=True))
    tables = list(DiffusionClassifier(model, given, pruning=Exhaustive(8), seed=3, loss=losses[1]).error_tables(images))
    for loss in losses:
        expected = [table.losses[loss] for table in tables]
        np.testing.assert_allclose(bank.errors(images, loss), expected, rtol=1e-5, atol=1e-7)
    assert bank.n_evaluations == 2 * 2 * 8
    assert bank.path == ErrorBank(tmp_path, model, prompts, EIGHT, seed=3, losses=losses).path


def test_a_table_is_labelled(tiny_sd, tmp_path):
    images = noise_images(3, 32)
    bank = ErrorBank(tmp_path, tiny_sd, PROMPTS, TrialList([100, 900]), losses=("l1", "l2"))
    bank.errors(images[:2], n_trials=1)
    table = bank.table(images[[1, 2, 1]], labels=[1, 0, 1], classnames=["shoe", "bag", "coat", "shoe"])
    assert table.dims == ("image", "prompt", "trial", "loss") and table.shape == (3, 4, 2, 2)
    assert table.dtype == np.float32 and table.attrs["seed"] == 0
    assert table.prompt.values.tolist() == PROMPTS and table.loss.values.tolist() == ["l1", "l2"]
    assert table.timestep.dims == ("trial",) and table.timestep.values.tolist() == [100, 900]
    assert table.image.values.tolist() == [image_key(pixels) for pixels in pixels_of(images[[1, 2, 1]], 32)]
    assert table.label.values.tolist() == [1, 0, 1]
    known = table.sel(loss="l2").isel(trial=0)
    np.testing.assert_array_equal(known[0], bank.errors(images[1], "l2", n_trials=1)[0, :, 0])
    assert np.isnan(table[1]).all() and np.isnan(table[:, :, 1]).all()
    np.testing.assert_array_equal(
        known[::2].groupby("classname").min().sel(classname="shoe"), known[::2, [0, 3]].min("prompt")
    )
    with pytest.raises(ValueError, match="a table needs prompts that all images share"):
        ErrorBank(tmp_path, tiny_sd, [PROMPTS] * 3, EIGHT).table(images)


# Every entry is computed once


def test_only_what_is_missing_is_computed(gaussian, make):
    bank, whole = make(), compute_errors(ErrorSource(gaussian, [0, 1], EIGHT), IMAGES)
    for n_images, n_trials, n_new in [(2, 3, 12), (2, 3, 0), (2, 2, 0), (3, 3, 6), (2, 8, 20), (4, 8, 26), (4, 8, 0)]:
        before = bank.n_evaluations
        errors = bank.errors(IMAGES[:n_images], n_trials=n_trials)
        np.testing.assert_allclose(errors, whole[:n_images, :, :n_trials], rtol=1e-5)
        assert bank.n_evaluations - before == n_new
    again = make(batch_size=3)
    again.model = Wrapped(gaussian, encode_images=None, encode_prompts=None)  # not needed any more
    np.testing.assert_array_equal(again.errors(IMAGES[[3, 0, 3]]), bank.errors(IMAGES)[[3, 0, 3]])
    assert again.n_evaluations == 0
    assert len(list(bank.path.glob("*.errors"))) == 4


@pytest.mark.parametrize("strategy", [Staged((2, 8), (1, 1)), RACE])
def test_a_strategy_on_a_bank_computes_what_is_missing(gaussian, tmp_path, strategy):
    bank = ErrorBank(tmp_path, gaussian, [0, 1], strategy.trial_list())
    half = bank.errors(IMAGES, n_trials=4).size
    asked = np.stack([table.errors for table in search(bank, IMAGES, strategy)])
    assert bank.n_evaluations == half + (~np.isnan(asked[:, :, 4:])).sum()
    known = bank.n_evaluations
    assert not np.isnan(bank.errors(IMAGES)).any() and bank.n_evaluations == asked.size > known
    np.testing.assert_array_equal([run_stored(strategy, errors) for errors in bank.errors(IMAGES)], asked)


# Other processes, interruptions, damage


def test_what_another_process_has_stored_meanwhile_is_kept(make):
    first, second, (pixels,) = make(), make(), pixels_of(IMAGES[:1])
    key, unknown = image_key(pixels), ErrorSource.load(first, 0, [0, 1])
    for bank, prompt in ((first, 0), (second, 1)):
        errors = unknown.copy()
        errors[prompt] = prompt
        bank.save(key, [0, 1], errors)
    np.testing.assert_array_equal(make().errors(IMAGES[:1])[0], [[0] * 8, [1] * 8])


@pytest.mark.parametrize("n_written", range(4))
def test_a_run_that_dies_at_a_write_loses_that_image_alone(make, monkeypatch, tmp_path, n_written):
    left, replace = [n_written], os.replace

    def replace_or_die(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace_or_die)
        make(batch_size=1).errors(IMAGES)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == n_written
    bank = make()
    assert bank.errors(IMAGES).size - bank.n_evaluations == 16 * max(0, n_written - 1)  # the first write is bank.json


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_fill_a_bank_at_once_and_are_killed_lose_nothing(tmp_path):
    context, seed, n_killed = multiprocessing.get_context("forkserver"), random.randrange(10**6), 0
    context.set_forkserver_preload(["diffclf.bank", "diffclf.models.gaussian"])
    rng = random.Random(seed)

    def start(folder):
        process = context.Process(target=fill, args=(tmp_path / folder,))
        process.start()
        return process

    start("first").join()  # waits for the server
    began = time.monotonic()
    start("undisturbed").join()
    seconds = time.monotonic() - began
    for n_rounds in range(1, 41):  # the fuller the bank, the sooner a process ends by itself
        pair = [start("killed"), start("killed")]
        time.sleep(rng.uniform(0, seconds) if n_rounds <= 8 else rng.uniform(0, seconds / n_rounds))
        for process in pair:
            process.kill()
            process.join()
            n_killed += process.exitcode == -signal.SIGKILL
        if n_rounds >= 8 and n_killed >= 6:
            break
    assert n_killed >= 6, "not often enough to mean anything"
    pair = [start("killed"), start("killed")]
    for process in pair:
        process.join()
    bank, expected = fill(tmp_path / "killed"), fill(tmp_path / "undisturbed").errors(MANY)
    np.testing.assert_array_equal(bank.errors(MANY), expected, err_msg=str(seed))
    assert [process.exitcode for process in pair] == [0, 0] and bank.n_evaluations == 0, seed


def test_damage_of_every_kind_is_noticed(make, tmp_path):
    bank, other = make(losses=("l2",)), make(losses=("l2",), seed=1)
    expected, keys = bank.errors(IMAGES), [image_key(pixels) for pixels in pixels_of(IMAGES)]
    other.errors(IMAGES)
    path, second = (bank.path / f"{key:016x}.errors" for key in keys[:2])
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))] + [whole + b"\0" * 4, second.read_bytes()]
    damaged.append((other.path / path.name).read_bytes())
    for position in range(len(whole) * 8):
        byte, bit = divmod(position, 8)
        damaged.append(whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=rf"{path.name} is damaged; its errors are computed anew"):
            assert np.isnan(bank.load(keys[0], [0, 1])).all()
    again = make(losses=("l2",))
    with pytest.warns(UserWarning, match="is damaged"):
        np.testing.assert_allclose(again.errors(IMAGES), expected, rtol=1e-5)
    assert again.n_evaluations == 16
    np.testing.assert_allclose(again.errors(IMAGES), expected, rtol=1e-5)


def test_damage_is_named_once(make):
    bank = make()
    expected = bank.errors(IMAGES[:1])
    (path,) = bank.path.glob("*.errors")
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as found:
        np.testing.assert_array_equal(make().errors(IMAGES[:1]), expected)
    assert len(found) == 1


def test_a_damaged_description_is_written_anew(make):
    bank = make()
    expected, path = bank.errors(IMAGES), bank.path / "bank.json"
    whole = path.read_bytes()
    content = json.loads(whole)
    other = {"identity": {}, "versions": {}}
    shapes = [
        1,
        [],
        {},
        content | {"identity": other},
        *({**content, "versions": value} for value in (1, [], {}, other)),
    ]
    damaged = [b"", whole[:-9], whole + b"garbage", b"[" * 9999, b"\xff", *(json.dumps(x).encode() for x in shapes)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"bank\.json is damaged; it is written anew") as found:
            again = make()
        assert len(found) == 1 and path.read_bytes() == whole
        np.testing.assert_array_equal(again.errors(IMAGES), expected)
        assert again.n_evaluations == 0


def test_a_bit_that_flips_in_a_description_is_noticed(make):
    path = make().path / "bank.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        with pytest.warns(UserWarning, match="is damaged|were computed with"):
            make()


# Identity


def test_a_bank_is_named_by_all_that_determines_its_numbers(tiny_sd, tiny_sd_folder, tmp_path):
    def path(model=tiny_sd, prompts=PROMPTS, trials=EIGHT, **options):
        return ErrorBank(tmp_path, model, prompts, trials, **options).path

    changed = load_model(tiny_sd_folder, device="cpu")
    with torch.no_grad():
        next(changed.pipeline.text_encoder.parameters()).view(-1)[0] += 1e-3
    different = [
        path(),
        path(model=changed),
        path(model=load_model(tiny_sd_folder, device="cpu", dtype="float16")),
        path(model=Wrapped(tiny_sd, dtype=torch.float16)),
        path(model=Wrapped(tiny_sd, image_size=64)),
        path(prompts=PROMPTS[::-1]),
        path(prompts=[*PROMPTS, "a hat"]),
        path(prompts=[PROMPTS, PROMPTS]),
        path(trials=EIGHT[::-1]),
        path(trials=EIGHT[:7]),
        path(trials=TrialList(EIGHT.timesteps, [0, 1, 2, 3, ~0, ~1, ~2, ~3])),
        path(seed=1),
        path(losses=("l2",)),
    ]
    assert len(set(different)) == len(different) and path().parent == tmp_path
    same = load_model(tiny_sd_folder, device="cpu")
    assert path() == path(model=same) == path(batch_size=7) == path(trials=TrialList(EIGHT.timesteps.tolist()))
    stated = json.loads((path() / "bank.json").read_text())
    assert stated["identity"] == ErrorBank(tmp_path, tiny_sd, PROMPTS, EIGHT).identity
    assert stated["identity"]["prompts"] == PROMPTS and stated["versions"]["torch"] == metadata.version("torch")


def test_another_version_of_a_library_only_warns(make):
    bank = make()
    expected, file = bank.errors(IMAGES), bank.path / "bank.json"
    content = json.loads(file.read_text())
    content["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=rf"computed with torch 1\.0 \(here {re.escape(metadata.version('torch'))}\)$"):
        again = make()
    np.testing.assert_array_equal(again.errors(IMAGES), expected)
    assert again.n_evaluations == 0
