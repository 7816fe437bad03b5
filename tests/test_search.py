"""The search over images: equal to the naive loop, in full batches, lazy, the same from the network and from a bank."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluator import NaiveLoop, Wrapped

import diffclf.search
from diffclf.bank import ErrorBank
from diffclf.evaluator import NonFiniteError
from diffclf.images import ImageError, load_image, load_images, to_pixels
from diffclf.pruning import Exhaustive, Hierarchical, Racing, Shortlist, Staged, Subset
from diffclf.search import ErrorSource, compute_errors, search, watch
from diffclf.trials import TrialList, Trials, image_key

CLASSES = ["shoe", "bag", "coat", "boot"]
PROMPTS = ["a photo of a red sneaker", "a bag", "the blue coat", "a boot"]
RACE = Racing(trials=16, threshold=0.7)
FOUR = Exhaustive(4)
STRATEGIES = {
    "exhaustive": Exhaustive(4, repeats=2),
    "staged": Staged((2, 8), (2, 1)),
    "staged, nested": Staged((1, 4), (2, 1), "nested", repeats=2),
    "staged, random": Staged((2, 8), (2, 1), "random"),
    "race": RACE,
    "race, repeats": Racing(trials=10, threshold=0.5, repeats=2),
    "race, budget": Racing(budget=20),
    "shortlist": Shortlist(2, lambda pixels: [pixels[0, 0, 0], 0, pixels[1, 0, 0], 0.1], RACE),
    "subset": Subset((0, 3), Staged((2, 8), (1, 1))),
    "tree": Hierarchical({"a red shoe": ["shoe", "boot"], "a dress": ["coat", "bag"]}, RACE, RACE, level_trials=8),
}


def noise_images(n, size=1):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def pixels_of(images, size=1):
    return [to_pixels(image, size) for image in load_images(images)]


@pytest.fixture
def loaded(monkeypatch):
    """The names of the images that were decoded so far."""
    names = []

    def spy(item, name):
        names.append(name)
        return load_image(item, name)

    monkeypatch.setattr(diffclf.search, "load_image", spy)
    return names


# The numbers


@pytest.mark.parametrize(("kind", "deciding"), [(kind, n % 3) for n, kind in enumerate(STRATEGIES)])
def test_every_strategy_finds_what_the_naive_loop_finds(tiny_sd, tiny_sd_folder, tmp_path, kind, deciding):
    strategy = STRATEGIES[kind].prepare(tiny_sd, CLASSES)
    prompts, trials, images = [*PROMPTS, *strategy.more_prompts()], strategy.trial_list(), noise_images(2, 32)
    naive, expected = NaiveLoop(tiny_sd_folder), np.full((2, 3, len(prompts), len(trials)), np.nan)
    noises = [Trials(trials, 3, image_key(pixels), (4, 8, 8)) for pixels in pixels_of(images, 32)]
    for pixels, losses, noise in zip(pixels_of(images, 32), expected, noises, strict=True):
        own = strategy.for_image(pixels)
        while (mask := own.next(losses[deciding])) is not None:
            for row, i in np.argwhere(mask):
                losses[:, row, i] = naive.losses(pixels, prompts[row], trials.timesteps[i], noise.noise(i))
    known = ~np.isnan(expected[:, 0])
    assert known.all() == (kind == "exhaustive")
    network, bank = partial(ErrorSource, tiny_sd), partial(ErrorBank, tmp_path, tiny_sd)
    for make, batch_size, ordered in ((network, 1, True), (network, 64, False), (bank, 7, False), (bank, 7, True)):
        source = make(prompts, trials, seed=3, batch_size=batch_size)
        loss = source.losses[deciding]
        tables = list(search(source, images, strategy, loss=loss, classnames=CLASSES, ordered=ordered))
        assert sorted(table.position for table in tables) == [0, 1]
        for table in tables:
            found = np.stack([table.losses[loss] for loss in source.losses])
            np.testing.assert_allclose(found, expected[table.position, :, :4], rtol=1e-5)
            assert table.n_evaluations == known[table.position].sum() and table.loss == loss
            assert (table.prompts, table.classnames, table.timesteps.tolist()) == (
                PROMPTS,
                CLASSES,
                [*trials.timesteps],
            )
            assert torch.equal(table.noise(range(len(trials))), noises[table.position].noise(range(len(trials))))
        assert source.n_evaluations == (0 if make is bank and ordered else known.sum())


def test_every_prompt_on_the_first_trials(gaussian):
    images, trials = noise_images(5), TrialList(np.arange(0, 1000, 10))
    source = ErrorSource(gaussian, [0, 1], trials, batch_size=1)  # 200 batches, more than are evaluated at once
    errors = compute_errors(source, images, "l1")
    assert errors.shape == (5, 2, 100) and errors.dtype == np.float32 and source.n_evaluations == 1000
    several = ErrorSource(gaussian, [0, 1], trials, batch_size=512)
    np.testing.assert_allclose(compute_errors(several, images, "l1", n_trials=3), errors[:, :, :3], rtol=1e-5)
    assert several.n_evaluations == 30


@pytest.mark.parametrize("ordered", [True, False])
def test_an_image_that_occurs_twice_has_two_equal_tables(gaussian, ordered):
    source = ErrorSource(gaussian, [0, 1], RACE.trial_list())
    tables = list(search(source, noise_images(3)[[0, 1, 0, 2, 0]], RACE, ordered=ordered))
    by_position = sorted(tables, key=lambda table: table.position)
    assert tables == by_position or not ordered
    for other in (2, 4):
        np.testing.assert_array_equal(by_position[other].errors, by_position[0].errors)
    assert by_position[0].classes == by_position[0].prompts == ["0", "1"]


@pytest.mark.parametrize("banked", [False, True])
def test_prompts_of_each_image_equal_separate_searches(tiny_sd, tmp_path, banked):
    captions = [["a bag", "a red bag"], ["a coat", "a bag"], ["a boot", "a shirt", "a bag"], ["a red bag", "a bag"]]
    images = noise_images(3, 32)[[0, 1, 2, 0]]
    make = partial(ErrorBank, tmp_path, tiny_sd) if banked else partial(ErrorSource, tiny_sd)
    for again in (False, True):
        together = make(captions, FOUR.trial_list())
        for image, own, table in zip(images, captions, search(together, images, FOUR), strict=True):
            assert table.prompts == table.classnames == own
            np.testing.assert_allclose(table.errors, compute_errors(make(own, FOUR.trial_list()), image)[0], rtol=1e-5)
        assert together.n_evaluations == (0 if banked and again else 9 * 4)


def test_a_source_may_have_other_trials_for_each_image(gaussian):
    class SameNoise(ErrorSource):
        def trials_of(self, key):
            return Trials(self.trials, self.seed, None, self.model.latent_shape)

    images, source = noise_images(3), SameNoise(gaussian, [0, 1], FOUR.trial_list())
    eps, t = source.trials_of(0).noise(range(4)), torch.from_numpy(source.trials.timesteps)
    latents = gaussian.encode_images(torch.stack(pixels_of(images)))
    for table, x0 in zip(search(source, images, FOUR), latents, strict=True):
        assert torch.equal(table.noise(range(4)), eps)
        x_t = gaussian.schedule.add_noise(x0.expand(4, -1, -1, -1), eps, t)
        error = gaussian.denoise(x_t, t, gaussian.encode_prompts([1] * 4)) - eps
        np.testing.assert_allclose(table.errors[1], error.square().mean((1, 2, 3)), rtol=1e-4)


# Batches, memory, laziness


@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize("strategy", [Racing(trials=40, threshold=1.0), Racing(), Staged((4, 16), (1, 1))])
def test_batches_stay_full_while_images_wait(gaussian, strategy, batch_size):
    sizes = []

    def denoise(x_t, t, cond):
        sizes.append(len(x_t))
        return gaussian.denoise(x_t, t, cond)

    source = ErrorSource(Wrapped(gaussian, denoise=denoise), [0, 1], strategy.trial_list(), batch_size=batch_size)
    spent = [table.n_evaluations for table in search(source, noise_images(60), strategy)]
    assert isinstance(strategy, Staged) or max(spent) > min(spent), "some races must be short and some long"
    assert sum(sizes) == sum(spent) == source.n_evaluations
    assert len(sizes) <= sum(spent) / batch_size + 3
    assert set(sizes[: len(sizes) // 2]) == {batch_size}


class OneByOne(Exhaustive):
    """One trial at a time: all for a black image, a single one for any other."""

    def for_image(self, pixels):
        return self if pixels.max() <= -1 else Exhaustive(1)

    def next(self, errors):
        missing = super().next(errors)
        return missing if missing is None else missing & (missing.cumsum(axis=1) == 1)


@pytest.mark.parametrize(("ordered", "most"), [(True, 96), (False, 48)])
def test_the_number_of_images_in_flight_is_bounded(gaussian, loaded, ordered, most):
    images, strategy = noise_images(200), OneByOne(300)
    images[0] = 0
    source = ErrorSource(gaussian, [0, 1], strategy.trial_list(), batch_size=128)
    in_flight = []
    for n_before, table in enumerate(search(source, images, strategy, ordered=ordered)):
        in_flight.append(len(loaded) - n_before)
        assert table.n_evaluations == (2 * 300 if table.position == 0 else 2)
    assert max(in_flight) == most and len(in_flight) == 200
    assert source.n_evaluations == 2 * 300 + 2 * 199


def test_tables_come_before_later_images_are_decoded(gaussian, loaded, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for path, array in zip(paths, noise_images(10), strict=True):
        Image.fromarray(array).save(path)
    paths[8].write_text("no image")
    for _ in ("computed", "read"):
        loaded.clear()
        tables = search(ErrorBank(tmp_path, gaussian, [0, 1], FOUR.trial_list(), batch_size=2), paths, FOUR)
        for n_before in range(8):
            assert len(loaded) == n_before and next(tables).position == n_before
        with pytest.raises(ImageError, match=r"8\.png is not an image"):
            next(tables)


class Column(Sequence):
    """Images that are made when they are taken, as the image column of a hub data set makes them."""

    def __init__(self, images):
        self.images, self.taken = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.taken.append(index)
        return self.images[index]


def test_a_lazy_sequence_is_read_image_by_image(gaussian):
    column = Column(list(noise_images(5)))
    source = ErrorSource(gaussian, [0, 1], FOUR.trial_list(), batch_size=2)
    tables = search(source, column, FOUR)
    assert next(tables).position == 0 and column.taken == [0]
    errors = [table.errors for table in tables]
    assert column.taken == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(errors, compute_errors(source, column.images)[1:], rtol=1e-6)


def test_rounds_come_while_the_race_runs(gaussian, tmp_path):
    race, image = Racing(trials=40, threshold=1e9), noise_images(1)
    source, bank = (
        ErrorSource(gaussian, [0, 1], race.trial_list()),
        ErrorBank(tmp_path, gaussian, [0, 1], race.trial_list()),
    )
    for n_seen, look in enumerate(watch(source, image, race, "l2"), 1):
        assert source.n_evaluations == look.n_evaluations == 2 * race.looks()[n_seen - 1]
    expected = list(race.rounds(compute_errors(bank, image)[0]))
    np.testing.assert_allclose(look.means, expected[-1].means, rtol=1e-5)
    assert look.finished and n_seen == len(expected)
    assert [look.n_trials for look in watch(bank, image, race, "l2")] == race.looks(), "read from the bank"


# What goes wrong


def test_an_error_that_is_not_finite_names_the_image_and_the_bank_keeps_those_before(gaussian, tmp_path):
    images = noise_images(9)
    target = pixels_of(images)[7]

    def spoil(pixels):
        hit = (pixels == target).flatten(1).all(1)
        return torch.where(hit.view(-1, 1, 1, 1), torch.nan, gaussian.encode_images(pixels))

    make = partial(ErrorBank, tmp_path, prompts=[0, 1], trials=TrialList([5, 900, 70]), batch_size=2)
    compute_errors(make(gaussian), images[1:3])  # so that fewer images than were asked for share the batch
    with pytest.raises(NonFiniteError, match=r"for image images\[7\], prompt 0, timestep 5"):
        compute_errors(make(Wrapped(gaussian, encode_images=spoil)), images)
    again = make(gaussian)
    compute_errors(again, images[:5])
    assert again.n_evaluations == 0
    assert not np.isnan(compute_errors(again, images)).any()


def test_impossible_searches_are_refused_before_long_work(gaussian, loaded):
    images, trials = noise_images(2), FOUR.trial_list()
    source, lists = ErrorSource(gaussian, [0, 1], trials, losses=("l1",)), ErrorSource(gaussian, [[0, 1]] * 3, trials)
    made = partial(ErrorSource, gaussian, [0, 1])
    for message, call in {
        r"loss must be one of \('l1',\), got 'l2'": lambda: search(source, images, FOUR, loss="l2"),
        "trials of the source must start with those of Exhaustive": lambda: search(source, images, Exhaustive(5)),
        "trials of the source must start with those of Racing": lambda: search(source, images, Racing(trials=4)),
        "prompts must be given for each of 2 images, got 3": lambda: search(lists, images, FOUR),
        r"n_trials must lie in 1\.\.4, got 5": lambda: compute_errors(source, images, "l1", n_trials=5),
        r"n_trials must lie in 1\.\.4, got 0": lambda: compute_errors(source, images, "l1", n_trials=0),
        "prompts must have at least one entry": lambda: ErrorSource(gaussian, [], trials),
        "prompts must have at least one entry, got": lambda: ErrorSource(gaussian, [[0, 1], []], trials),
        r"timesteps must be one or more of 0\.\.999, got": lambda: made(TrialList([])),
        r"one or more of 0\.\.999, got array\(\[1000\]\)": lambda: made(TrialList([1000])),
        r"one or more of 0\.\.999, got array\(\[-1\]\)": lambda: made(TrialList([-1])),
        "got 'mse'": lambda: made(trials, losses=("mse",)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    assert not loaded and source.n_evaluations == lists.n_evaluations == 0


def test_a_strategy_that_asks_for_nothing_new_is_an_error(gaussian):
    class Stuck(Exhaustive):
        def next(self, errors):
            return np.zeros(errors.shape, dtype=bool)

    with pytest.raises(ValueError, match="next must ask for unknown errors or return None, got neither from .*Stuck"):
        list(search(ErrorSource(gaussian, [0, 1], FOUR.trial_list()), noise_images(1), Stuck(4)))
