"""The classifier's face: prompts, images, the shape of answers, and a table that anyone can recompute."""

import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import DIT_LABELS, save_tiny_dit, save_tiny_sd

import diffclf.classifier
from diffclf import DiffusionClassifier, Exhaustive, Racing, Staged, load_model
from diffclf.trials import image_key, uniform

PROMPTS = {"sneaker": "a photo of a sneaker", "bag": ["a photo of a bag", "a bag"], "coat": "a coat"}
FEW = Exhaustive(6)


@pytest.fixture(scope="module")
def sd_path(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("models") / "sd", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def sd(sd_path):
    return load_model(sd_path)


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    return load_model(save_tiny_dit(tmp_path_factory.mktemp("models") / "dit"))


@pytest.fixture(scope="module")
def arrays():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


# Shapes


@pytest.mark.parametrize("pruning", [FEW, Staged((2, 8), (2, 1)), Staged((2, 8), (2, 1), "nested", repeats=2)])
def test_answers_have_the_shape_of_an_estimators(sd, arrays, pruning):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=pruning)
    assert clf.classes_.tolist() == ["sneaker", "bag", "coat"]
    names, scores, proba = clf.predict(arrays), clf.decision_function(arrays), clf.predict_proba(arrays)
    assert names.shape == (5,) and scores.shape == proba.shape == (5, 3)
    assert (names == clf.classes_[scores.argmax(1)]).all() and (names == clf.classes_[proba.argmax(1)]).all()
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (scores < 0).all()


def test_a_class_scores_as_its_best_prompt_and_a_row_is_a_prompt(sd, arrays):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW)
    table = clf.errors(arrays[0])
    assert table.errors.shape == (4, 6) and table.n_evaluations == 24
    assert list(table.classnames) == ["sneaker", "bag", "bag", "coat"]
    assert list(table.prompts) == ["a photo of a sneaker", "a photo of a bag", "a bag", "a coat"]
    means = table.errors.mean(1, dtype=np.float64)
    expected = [-means[0], -min(means[1], means[2]), -means[3]]
    np.testing.assert_allclose(clf.decision_function(arrays[0])[0], expected, rtol=1e-6)


def test_keep_counts_prompts(sd, arrays):
    table = DiffusionClassifier(sd, PROMPTS, pruning=Staged((2, 8), (2, 1))).errors(arrays[0])
    assert np.sort((~np.isnan(table.errors)).sum(1)).tolist() == [2, 2, 8, 8]
    assert table.n_evaluations == 4 * 2 + 2 * 6
    for loss, errors in table.losses.items():
        np.testing.assert_array_equal(np.isnan(errors), np.isnan(table.errors), err_msg=loss)


def test_the_default_is_a_race_over_128_trials(sd, arrays):
    clf = DiffusionClassifier(sd, {"a": "a bag", "b": "a coat"})
    assert clf.pruning == Racing(trials=128, confidence=0.99)
    table = clf.errors(arrays[0])
    np.testing.assert_array_equal(table.timesteps, Racing().timesteps())
    np.testing.assert_array_equal(table.noise([8, 127]), -table.noise([0, 119]))
    assert 16 <= table.n_evaluations <= 256 and table.loss == "l2"


def test_pairs_of_prompt_and_class_name(sd, arrays):
    pairs = [(p, name) for name, ps in PROMPTS.items() for p in ([ps] if isinstance(ps, str) else ps)]
    expected = DiffusionClassifier(sd, PROMPTS, pruning=FEW).decision_function(arrays)
    interleaved = [pairs[1], pairs[0], pairs[2], pairs[3]]
    clf = DiffusionClassifier(sd, interleaved, pruning=FEW)
    assert clf.classes_.tolist() == ["bag", "sneaker", "coat"]
    np.testing.assert_allclose(clf.decision_function(arrays)[:, [1, 0, 2]], expected, rtol=1e-5)


@pytest.mark.parametrize("pruning", [FEW, Staged((2, 8), (2, 1))])
def test_permuting_classes_permutes_the_answers(sd, arrays, pruning):
    order = ["coat", "sneaker", "bag"]
    clf = DiffusionClassifier(sd, PROMPTS, pruning=pruning)
    permuted = DiffusionClassifier(sd, {name: PROMPTS[name] for name in order}, pruning=pruning)
    np.testing.assert_allclose(
        permuted.decision_function(arrays), clf.decision_function(arrays)[:, [2, 0, 1]], rtol=1e-5
    )
    assert (permuted.predict(arrays) == clf.predict(arrays)).all()


def test_temperature_softens_and_seed_changes_the_noise(sd, arrays):
    cold, warm = (DiffusionClassifier(sd, PROMPTS, pruning=FEW, temperature=t) for t in (1, 50))
    first, second = cold.predict_proba(arrays), warm.predict_proba(arrays)
    np.testing.assert_allclose(np.log(first / first[:, :1]), 50 * np.log(second / second[:, :1]), rtol=1e-6, atol=1e-9)
    other = DiffusionClassifier(sd, PROMPTS, pruning=FEW, seed=1).errors(arrays[0])
    mine = cold.errors(arrays[0])
    assert not torch.equal(other.noise([0]), mine.noise([0]))
    assert (other.errors != mine.errors).all()


# Recomputing an entry by hand


@torch.no_grad()
def test_any_entry_can_be_recomputed_with_the_pipelines_own_parts(sd_path, sd, arrays):
    table = DiffusionClassifier(sd, PROMPTS, pruning=Staged((2, 8), (2, 1), repeats=2), seed=5).errors(arrays[2])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sd_path)
    pixels = torch.from_numpy(arrays[2]).permute(2, 0, 1)[None] / 127.5 - 1
    x0 = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    checked = 0
    for row, column in np.argwhere(~np.isnan(table.errors)):
        eps = table.noise([column])
        t = torch.tensor([table.timesteps[column]])
        cond, _ = pipeline.encode_prompt(table.prompts[row], "cpu", 1, do_classifier_free_guidance=False)
        x_t = pipeline.scheduler.add_noise(x0, eps, t)
        v = pipeline.scheduler.get_velocity(x0, eps, t)
        v_hat = pipeline.unet(x_t, t, encoder_hidden_states=cond).sample
        alpha_bar = pipeline.scheduler.alphas_cumprod[t].double()
        # The error of eps_hat = sqrt(alpha_bar) v_hat + sqrt(1 - alpha_bar) x_t is sqrt(alpha_bar) times that of v_hat.
        error = alpha_bar.sqrt() * (v_hat - v).double()
        assert table.losses["l2"][row, column] == pytest.approx(error.square().mean().item(), rel=2e-4, abs=1e-8)
        assert table.losses["l1"][row, column] == pytest.approx(error.abs().mean().item(), rel=2e-4, abs=1e-6)
        checked += 1
    assert checked == table.n_evaluations == 2 * (4 * 2 + 2 * 6)


def test_noise_belongs_to_the_image_and_not_to_its_company(sd, arrays):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW, batch_size=7)
    together = list(clf.error_tables(arrays))
    for array, table in zip(arrays, together, strict=True):
        alone = clf.errors(array)
        assert torch.equal(alone.noise(range(6)), table.noise(range(6)))
        np.testing.assert_allclose(alone.errors, table.errors, rtol=1e-5)
    noises = torch.stack([table.noise([0])[0] for table in together])
    assert len(noises.unique(dim=0)) == 5
    again = list(clf.error_tables(arrays))
    for first, second in zip(together, again, strict=True):
        np.testing.assert_array_equal(first.errors, second.errors)


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_batch_size_does_not_change_the_errors(sd, arrays, batch_size):
    pruning = Staged((2, 8), (2, 1))
    expected = DiffusionClassifier(sd, PROMPTS, pruning=pruning, batch_size=7).error_tables(arrays)
    tables = DiffusionClassifier(sd, PROMPTS, pruning=pruning, batch_size=batch_size).error_tables(arrays)
    for table, other in zip(tables, expected, strict=True):
        np.testing.assert_allclose(table.errors, other.errors, rtol=1e-5)


# Images


def test_images_of_any_kind_give_equal_errors(sd, arrays, tmp_path):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW)
    array = arrays[0]
    Image.fromarray(array).save(tmp_path / "image.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = clf.errors(array).errors
    kinds = [
        Image.fromarray(array),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        array.astype(np.float32) / 255,
        tensor,
        tensor.float() / 255,
        tensor[None],
        [Image.fromarray(array)],
    ]
    for image in kinds:
        np.testing.assert_array_equal(clf.errors(image).errors, expected)
    mixed = [arrays[1], tmp_path / "image.png", Image.fromarray(arrays[2])]
    np.testing.assert_allclose(list(clf.error_tables(mixed))[1].errors, expected, rtol=1e-5)


def test_tables_stream_one_by_one(sd, arrays, monkeypatch):
    """The first table is there before the last image has been preprocessed."""
    prepared = []
    to_pixels = diffclf.classifier.to_pixels

    def spy(image, size):
        prepared.append(image)
        return to_pixels(image, size)

    monkeypatch.setattr(diffclf.classifier, "to_pixels", spy)
    tables = DiffusionClassifier(sd, PROMPTS, pruning=FEW, batch_size=1).error_tables(arrays)
    next(tables)
    assert len(prepared) == 1
    assert len(list(tables)) == 4


def test_errors_takes_one_image_and_the_rest_at_least_one(sd, arrays):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW)
    with pytest.raises(ValueError, match="errors takes one image, got 5"):
        clf.errors(arrays)
    for method in (clf.predict, clf.predict_proba, clf.decision_function, clf.error_tables):
        with pytest.raises(ValueError, match="at least one image, got none"):
            method([])


def test_progress_is_shown_on_request(sd, arrays, tmp_path, monkeypatch):
    bar = tmp_path / "bar"
    monkeypatch.setenv("DIFFCLF_PROGRESS", str(bar))
    DiffusionClassifier(sd, PROMPTS, pruning=FEW).predict(arrays[:1])
    assert not bar.exists()
    DiffusionClassifier(sd, PROMPTS, pruning=FEW, progress=True).predict(arrays[:1])
    assert bar.read_text().startswith("images: 100%")


# Class-conditional models


def test_labels_of_a_class_conditional_model(dit, arrays):
    every = DiffusionClassifier(dit, pruning=FEW)
    assert tuple(every.classes_) == DIT_LABELS
    table = every.errors(arrays[0])
    assert list(table.prompts) == list(table.classnames) == list(DIT_LABELS)
    for labels in (["pullover", "t-shirt"], [2, 0], np.array([2, 0])):
        some = DiffusionClassifier(dit, labels, pruning=FEW)
        assert some.classes_.tolist() == ["pullover", "t-shirt"]
        np.testing.assert_allclose(some.errors(arrays[0]).errors, table.errors[[2, 0]], rtol=1e-5)


@pytest.mark.parametrize("loss", ["vlb", "l2+vlb"])
def test_variational_losses_decide_where_the_variance_is_learned(dit, sd, arrays, loss):
    table = DiffusionClassifier(dit, pruning=FEW, loss=loss).errors(arrays[0])
    assert set(table.losses) == {"l2", "l1", "huber", "vlb", "l2+vlb"}
    np.testing.assert_array_equal(table.errors, table.losses[loss])
    np.testing.assert_allclose(table.scores(), -table.losses[loss].mean(1, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(table.losses["l2+vlb"], table.losses["l2"] + table.losses["vlb"], rtol=1e-6)
    with pytest.raises(ValueError, match=f"loss '{loss.replace('+', '.')}' needs a model that learns its variance"):
        DiffusionClassifier(sd, PROMPTS, loss=loss)


def test_pruning_follows_the_deciding_loss(sd, arrays):
    for loss in ("l1", "huber"):
        exhaustive = DiffusionClassifier(sd, PROMPTS, pruning=Exhaustive(2), loss=loss).errors(arrays[0])
        staged = DiffusionClassifier(sd, PROMPTS, pruning=Staged((2, 8), (1, 1)), loss=loss).errors(arrays[0])
        two = np.sort((~np.isnan(staged.errors)).sum(1))
        assert two.tolist() == [2, 2, 2, 8]
        first = staged.errors[:, ~np.isnan(staged.errors).any(0)]
        assert (~np.isnan(staged.errors)).sum(1).argmax() == first.mean(1, dtype=np.float64).argmin()
        assert exhaustive.loss == loss


# What goes wrong


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "must map class names to texts for a text-conditional model, got None"),
        ({}, "at least 2 classes, got 0"),
        ({"bag": "a bag"}, "at least 2 classes, got 1"),
        ({"bag": ["a bag", "a red bag"]}, "at least 2 classes, got 1"),
        ({"bag": "a bag", "coat": []}, "at least one prompt, got none for 'coat'"),
        ({"bag": "a bag", "coat": ""}, "class 'coat' must be a text that is not empty, got ''"),
        ({"bag": "a bag", "coat": " \t"}, "class 'coat' must be a text that is not empty"),
        ({"bag": "a bag", "coat": ["a coat", 3]}, "class 'coat' must be a text that is not empty, got 3"),
        ({"bag": "a bag", "coat": None}, "class 'coat' must be a text"),
        ({"bag": "a bag", "coat": 3}, "class 'coat' must be a text"),
        ({"bag": "a bag", "coat": "a bag"}, "prompts must differ, got 'a bag' for both 'bag' and 'coat'"),
        ({"bag": ["a bag", "a bag"], "coat": "a coat"}, "prompts must differ, got 'a bag'"),
        ("a bag", "must be a mapping or a list of"),
        (["a bag", "a coat"], "must be a mapping or a list of"),
        (5, "must be a mapping or a list of"),
        ([("a bag", "bag"), ("a coat",)], "must be a mapping or a list of"),
    ],
)
def test_bad_prompts_are_refused(sd, prompts, message):
    with pytest.raises(ValueError, match=message):
        DiffusionClassifier(sd, prompts)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"t-shirt": "a t-shirt"}, "must be None, label names or label indices"),
        ("trouser", "must be None, label names or label indices"),
        (["trouser"], "at least 2 classes, got 1"),
        (["trouser", "hat"], "one of the model's 3 labels, got 'hat'"),
        ([0, 3], "one of the model's 3 labels, got 3"),
        ([0, -1], "one of the model's 3 labels, got -1"),
        ([0, 0], "labels must differ"),
        ([0, "t-shirt"], "labels must differ"),
        ([True, 0], "one of the model's 3 labels, got True"),
        (5, "must be None, label names or label indices"),
    ],
)
def test_bad_labels_are_refused(dit, prompts, message):
    with pytest.raises(ValueError, match=message):
        DiffusionClassifier(dit, prompts)


def test_other_bad_input_is_refused_before_long_work(sd, arrays):
    with pytest.raises(ValueError, match="loss must be one of .*, got 'mse'"):
        DiffusionClassifier(sd, PROMPTS, loss="mse")
    with pytest.raises(ValueError, match="at most the model's 1000 timesteps, got 1001"):
        DiffusionClassifier(sd, PROMPTS, pruning=Exhaustive(1001))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        DiffusionClassifier(sd, PROMPTS, batch_size=0)
    for temperature in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="temperature must be above 0, got"):
            DiffusionClassifier(sd, PROMPTS, temperature=temperature)
    with pytest.raises(FileNotFoundError, match="no_such.png"):
        DiffusionClassifier(sd, PROMPTS).predict([arrays[0], "no_such.png"])


def test_table_names_the_image_it_was_computed_for(sd, arrays):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW)
    pixels = torch.from_numpy(arrays[0]).permute(2, 0, 1) / 127.5 - 1
    expected = diffclf.classifier.Trials(uniform(6), 0, image_key(pixels), (4, 8, 8)).noise([3])
    assert torch.equal(clf.errors(arrays[0]).noise([3]), expected)


# Mistakes of type


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mini-sd"}, r"model must be a loaded model, load_model\('mini-sd'\), got only its name"),
        (
            {"pruning": 100},
            r"pruning must be Racing\(...\), .*, Hierarchical\(...\) or None, got 100",
        ),
        ({"seed": "one"}, "seed must be an integer, got 'one'"),
    ],
)
def test_mistakes_of_type_are_named(sd, options, message):
    with pytest.raises(TypeError, match=message):
        DiffusionClassifier(**{"model": sd, "prompts": PROMPTS, **options})


def test_a_numpy_seed_is_a_seed(sd):
    assert DiffusionClassifier(sd, PROMPTS, seed=np.int64(3)).seed == 3


def test_what_is_shown_at_a_prompt_is_short(sd, arrays):
    clf = DiffusionClassifier(sd, PROMPTS, pruning=FEW)
    assert repr(clf).endswith(", 3 classes, pruning=Exhaustive(n=6, repeats=1), loss='l2', seed=0)")
    assert repr(clf.errors(arrays[0])) == "ErrorTable(4 prompts x 6 trials, 24 evaluations, loss='l2')"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux")
def test_memory_grows_with_the_table_and_not_with_the_evaluations():
    """A million evaluations, whose noised latents alone would take 768 MB."""
    script = Path(__file__).parent / "memory_grower.py"
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    n_evaluations, tables_mb, growth_mb = map(float, out.split())
    assert n_evaluations == 1_000_000
    assert tables_mb <= growth_mb < tables_mb + 40
