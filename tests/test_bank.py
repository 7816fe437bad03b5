"""Banks: filled on demand, resumed after any interruption, found again by all that determines the numbers."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import bank_killer
import numpy as np
import pytest
import torch
import zarr
from bank_killer import TIMESTEPS, fill_twice, gaussian_images, gaussian_model
from tiny import save_tiny_dit, save_tiny_sd

from diffclf import DiffusionClassifier, Exhaustive, Racing, Staged, load_model
from diffclf.bank import ErrorBank
from diffclf.evaluator import NonFiniteError
from diffclf.images import load_images, to_pixels
from diffclf.pruning import replay
from diffclf.trials import Trials, image_key, uniform

PROMPTS = ["a photo of a sneaker", "a bag", "a coat"]


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load_model(save_tiny_sd(tmp_path_factory.mktemp("models") / "sd"))


@pytest.fixture(scope="module")
def arrays():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


# Its numbers


def test_a_bank_holds_the_classifiers_errors(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS, seed=3)
    assert bank.fill(arrays) == 4 * 3 * 8
    clf = DiffusionClassifier(sd, dict(zip("abc", PROMPTS, strict=True)), pruning=Exhaustive(8), seed=3)
    for loss in ("l2", "l1", "huber"):
        expected = np.stack([table.losses[loss] for table in clf.error_tables(arrays)])
        np.testing.assert_allclose(bank.errors(arrays, loss), expected, rtol=1e-5)
    np.testing.assert_array_equal(bank.errors(arrays), bank.errors(arrays, "l2"))


@pytest.mark.parametrize("strategy", [Staged((2, 8), (2, 1)), Racing(trials=20, threshold=1.0)])
def test_stored_errors_replay_a_strategy_as_the_classifier_runs_it(sd, arrays, tmp_path, strategy):
    bank = ErrorBank(tmp_path, sd, PROMPTS, strategy.timesteps(), noises=strategy.noises())
    bank.fill(arrays)
    clf = DiffusionClassifier(sd, dict(zip("abc", PROMPTS, strict=True)), pruning=strategy)
    for errors, table in zip(bank.errors(arrays), clf.error_tables(arrays), strict=True):
        np.testing.assert_allclose(replay(strategy, errors), table.errors, rtol=1e-5)


def test_a_table_is_labelled(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS, losses=("l1", "l2"))
    bank.fill(arrays)
    table = bank.table(arrays[[2, 0, 2]])
    assert table.dims == ("image", "prompt", "trial", "loss") and table.shape == (3, 3, 8, 2)
    assert table.prompt.values.tolist() == PROMPTS and table.loss.values.tolist() == ["l1", "l2"]
    np.testing.assert_array_equal(table.timestep, TIMESTEPS)
    assert table.timestep.dims == ("trial",)
    keys = [image_key(torch.from_numpy(arrays[i]).permute(2, 0, 1) / 127.5 - 1) for i in (2, 0, 2)]
    assert table.image.values.tolist() == keys
    one = table.sel(prompt="a bag", loss="l2").isel(image=1, trial=5)
    assert float(one) == bank.errors(arrays[0])[0, 1, 5]
    assert table.attrs["seed"] == 0 and table.dtype == np.float32


def test_a_bank_of_a_class_conditional_model(arrays, tmp_path):
    dit = load_model(save_tiny_dit(tmp_path / "dit"))
    losses = ("l2", "vlb", "l2+vlb")
    bank = ErrorBank(tmp_path / "bank", dit, np.array([2, 0]), TIMESTEPS, seed=np.int64(1), losses=losses)
    bank.fill(arrays[:2])
    clf = DiffusionClassifier(dit, [2, 0], pruning=Exhaustive(8), loss="vlb", seed=1)
    for i, table in enumerate(clf.error_tables(arrays[:2])):
        np.testing.assert_allclose(bank.errors(arrays[i], "vlb")[0], table.errors, rtol=1e-5, atol=1e-7)
    assert bank.path == ErrorBank(tmp_path / "bank", dit, [2, 0], TIMESTEPS.tolist(), seed=1, losses=losses).path


# Filling


def test_only_what_is_missing_is_computed(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    mask = np.zeros((3, 8), dtype=bool)
    mask[1, :4] = True
    assert bank.fill(arrays[:2], mask) == 8
    errors = bank.errors(arrays[:2])
    np.testing.assert_array_equal(~np.isnan(errors), np.broadcast_to(mask, (2, 3, 8)))
    assert bank.fill(arrays[:2], mask) == 0
    several = np.stack([mask, ~mask, np.zeros_like(mask)])
    assert bank.fill(arrays[:3], several) == 20
    with pytest.raises(KeyError):
        bank.errors(arrays[2])
    assert bank.fill(arrays[:3]) == 2 * 24 - 8 - 20 + 24 - 4 + 4 == 44
    whole = ErrorBank(tmp_path / "other", sd, PROMPTS, TIMESTEPS)
    whole.fill(arrays)
    np.testing.assert_allclose(bank.errors(arrays[:3]), whole.errors(arrays[:3]), rtol=1e-5)
    assert bank.errors(arrays[1])[0, 1, 0] == errors[1, 1, 0], "what is there stays"


def test_an_image_twice_is_one_row(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    assert bank.fill([arrays[0], arrays[1], arrays[0]]) == 2 * 24
    assert zarr.open_group(bank.path, mode="r")["errors"].shape[0] == 2
    errors = bank.errors([arrays[1], arrays[0], arrays[1]])
    np.testing.assert_array_equal(errors[0], errors[2])
    assert (errors[0] != errors[1]).all()


def test_progress_counts_images(sd, arrays, tmp_path):
    told = []
    ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS).fill(arrays[:3], progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_another_process_finds_what_one_has_filled(sd, arrays, tmp_path):
    first = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    second = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS, batch_size=5)
    first.fill(arrays[:2])
    np.testing.assert_array_equal(second.errors(arrays[:2]), first.errors(arrays[:2]))
    assert second.fill(arrays) == 2 * 24
    np.testing.assert_array_equal(first.errors(arrays), second.errors(arrays))


def test_a_bank_can_be_opened_and_read_while_another_process_fills_it(sd, arrays, tmp_path):
    writer, seen = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS), []

    def read(done, _):
        if done == 2:
            opened = threading.Thread(
                target=lambda: seen.append(ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS).errors(arrays[:2]))
            )
            opened.start()
            opened.join(20)

    writer.fill(arrays, progress=read)
    np.testing.assert_array_equal(seen[0], writer.errors(arrays[:2]))


def test_banks_created_at_the_same_time_are_one(tmp_path):
    images = gaussian_images(6)
    threads = [
        threading.Thread(target=lambda: ErrorBank(tmp_path, gaussian_model(), [0, 1, 2], TIMESTEPS).fill(images))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bank = ErrorBank(tmp_path, gaussian_model(), [0, 1, 2], TIMESTEPS)
    assert bank.fill(images) == 0 and not np.isnan(bank.errors(images)).any()
    assert zarr.open_group(bank.path, mode="r")["errors"].shape[0] == 6


# Interruptions


class Killed(Exception):
    pass


def test_a_run_that_dies_before_any_of_its_writes_ends_with_the_same_numbers(tmp_path, monkeypatch):
    model, images = gaussian_model(), gaussian_images(2)
    expected = fill_twice(tmp_path / "undisturbed", model, images)
    assert not np.isnan(expected).any()
    write = zarr.storage.LocalStore.set
    left = [0]

    async def set_or_die(self, key, value):
        left[0] -= 1
        if left[0] < 0:
            raise Killed(key)
        return await write(self, key, value)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", set_or_die)
    n_killed = 0
    for n_writes in range(1000):
        folder = tmp_path / str(n_writes)
        left[0] = n_writes
        try:
            fill_twice(folder, model, images)
        except Killed:
            n_killed += 1
        else:
            break
        left[0] = 1000
        np.testing.assert_array_equal(fill_twice(folder, model, images), expected)
    assert n_killed >= 3 + 2 * 2 + 2, "creation, every new row and every row completed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_again_and_again_ends_with_the_same_numbers(tmp_path):
    n_images, seed = 10, str(random.randrange(10**6))
    script = Path(bank_killer.__file__)
    killer = subprocess.run(
        [sys.executable, script, tmp_path / "killed", str(n_images), seed],
        env=os.environ | {"PYTHONPATH": str(script.parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killer.returncode == 0, (seed, killer.stderr)
    assert killer.stdout.split().count("killed") >= 4, "not often enough to mean anything"
    images = gaussian_images(n_images)
    expected = fill_twice(tmp_path / "undisturbed", gaussian_model(), images)
    np.testing.assert_array_equal(fill_twice(tmp_path / "killed", gaussian_model(), images), expected, err_msg=seed)


# Identity


def test_a_bank_is_named_by_all_that_determines_its_numbers(sd, tmp_path):
    def path(model=sd, prompts=PROMPTS, timesteps=TIMESTEPS, **options):
        return ErrorBank(tmp_path, model, prompts, timesteps, **options).path

    other = load_model(save_tiny_sd(tmp_path / "other", seed=1))
    v_prediction = load_model(save_tiny_sd(tmp_path / "v", prediction_type="v_prediction"))
    half = load_model(save_tiny_sd(tmp_path / "same"), dtype="float16")
    different = [
        path(),
        path(model=other),
        path(model=v_prediction),
        path(model=half),
        path(prompts=PROMPTS[::-1]),
        path(prompts=[*PROMPTS, "a boot"]),
        path(timesteps=TIMESTEPS[::-1]),
        path(timesteps=uniform(9)),
        path(seed=1),
        path(losses=("l2",)),
        path(noises=np.arange(10)[::-1]),
        path(noises=[0, 1, 2, 3, 4, ~0, ~1, ~2, ~3, ~4]),
    ]
    assert len(set(different)) == len(different)
    same = load_model(tmp_path / "same")
    assert path() == path(model=same) == path(batch_size=7) == path(timesteps=TIMESTEPS.tolist()) == path(seed=0)
    assert path().parent == tmp_path


def test_the_name_changes_with_a_single_weight(tmp_path):
    folder = save_tiny_sd(tmp_path / "sd")
    first = ErrorBank(tmp_path, load_model(folder), PROMPTS, TIMESTEPS).path
    changed = load_model(folder)
    with torch.no_grad():
        next(changed.text_encoder.parameters()).view(-1)[0] += 1e-3
    assert ErrorBank(tmp_path, changed, PROMPTS, TIMESTEPS).path != first


def test_another_version_of_a_library_only_warns(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    bank.fill(arrays[:1])
    file = bank.path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=rf"computed with torch 1\.0 \(now {torch.__version__.replace('+', '.')}\)$"):
        again = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    np.testing.assert_array_equal(again.errors(arrays[:1]), bank.errors(arrays[:1]))


# What goes wrong


def test_images_that_are_not_there_are_counted(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    with pytest.raises(KeyError, match="must be in the bank, got 4 that are not"):
        bank.table(arrays)
    bank.fill(arrays[:1])
    with pytest.raises(KeyError, match="got 1 that are not"):
        bank.errors(arrays[:2])
    changed = arrays[0].copy()
    changed[31, 31, 2] ^= 1
    with pytest.raises(KeyError):
        bank.errors(changed)
    with pytest.raises(ValueError, match=r"one of the bank's \('l2', 'l1', 'huber'\), got 'vlb'"):
        bank.errors(arrays[:1], "vlb")


@pytest.mark.parametrize("timesteps", [[], [1000], [-1, 5]])
def test_timesteps_must_be_the_models(sd, tmp_path, timesteps):
    with pytest.raises(ValueError, match=r"timesteps must be one or more of 0\.\.999, got"):
        ErrorBank(tmp_path, sd, PROMPTS, timesteps)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(8, 3), (3, 7), (2, 3, 8), (8,), ()])
def test_masks_have_the_shape_of_a_table(sd, arrays, tmp_path, shape):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    with pytest.raises(ValueError, match=r"mask must have shape \(3, 8\) or \(4, 3, 8\), got"):
        bank.fill(arrays, np.ones(shape, dtype=bool))


def test_noise_is_that_of_the_images_key(arrays, tmp_path, sd):
    """The error of a trial recomputed from the seed and the pixels alone."""
    bank = ErrorBank(tmp_path, sd, PROMPTS, [700, 20], seed=9, losses=("l2",))
    bank.fill(arrays[:1])
    from diffclf.images import load_images

    pixels = to_pixels(load_images(arrays[0])[0], 32)
    eps = Trials([700, 20], 9, image_key(pixels), (4, 8, 8)).noise([1])
    bar = sd.alphas_cumprod[20]
    x_t = (bar.sqrt() * sd.encode_images(pixels[None]) + (1 - bar).sqrt() * eps).float()
    with torch.no_grad():
        eps_hat = sd.denoise(x_t, torch.tensor([20]), sd.encode_prompts(PROMPTS[1:2]))
    expected = (eps - eps_hat).square().mean().item()
    assert bank.errors(arrays[0])[0, 1, 1] == pytest.approx(expected, rel=1e-5)


def test_a_table_names_labels_and_classes_that_are_given(sd, arrays, tmp_path):
    bank = ErrorBank(tmp_path, sd, PROMPTS, [100, 900])
    bank.fill(arrays)
    table = bank.table(arrays, labels=[1, 0, 1, 0], classnames=["shoe", "bag", "bag"])
    assert table.label.to_numpy().tolist() == [1, 0, 1, 0]
    best = table.groupby("classname").min()
    assert best.sizes == {"classname": 2, "image": 4, "trial": 2, "loss": 3}
    np.testing.assert_array_equal(best.sel(classname="bag"), table[:, 1:].min("prompt"))


@pytest.mark.parametrize("broken", [0, 3])
def test_an_error_that_is_not_finite_names_the_image_among_those_asked_for(sd, arrays, tmp_path, monkeypatch, broken):
    bank = ErrorBank(tmp_path, sd, PROMPTS, TIMESTEPS)
    bank.fill(arrays[1:3])  # so that fewer images than were asked for share the batch
    encode = sd.encode_images
    target = to_pixels(load_images(arrays[broken])[0], sd.image_size)

    def spoil(pixels):
        hit = (pixels == target).flatten(1).all(1)
        return torch.where(hit.view(-1, 1, 1, 1), torch.nan, encode(pixels))

    monkeypatch.setattr(sd, "encode_images", spoil)
    with pytest.raises(NonFiniteError, match=f"for image {broken}, prompt 0, timestep"):
        bank.fill(arrays)
    with pytest.raises(NonFiniteError, match=f"for image {broken}, prompt 0, timestep"):
        list(DiffusionClassifier(sd, {"a": "a bag", "b": "a coat"}, batch_size=4).error_tables(arrays))
