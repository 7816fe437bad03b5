"""The whole classifier on a density that is known exactly: it must decide as Bayes does."""

import numpy as np
import pytest
import torch

from diffclf import DiffusionClassifier, Exhaustive, Racing, Staged
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.schedule import NoiseSchedule

N_DIMS = 12  # pixels of 2 x 2 colour images
SPREAD = 0.06


def mixture(n_classes=5, seed=0, **options):
    """Round classes of equal variance around means that lie inside the range of pixels."""
    means = 1.2 * torch.rand(n_classes, N_DIMS, generator=torch.Generator().manual_seed(seed)) - 0.6
    return GaussianMixtureModel(means, [SPREAD] * n_classes, latent_shape=(3, 2, 2), **options)


def points(model, n, seed=1):
    """Images around the middle of all classes, so that many are hard, and the x0 they stand for."""
    generator = torch.Generator().manual_seed(seed)
    x0 = model.means.mean(0) + 0.35 * torch.randn(n, N_DIMS, generator=generator)
    images = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).reshape(n, 3, 2, 2)
    return images, images.double().flatten(1) / 127.5 - 1


@pytest.fixture(scope="module")
def model():
    return mixture()


SCHEDULES = [
    NoiseSchedule.linear(),
    NoiseSchedule.linear(prediction_type="v_prediction"),
    NoiseSchedule.flow(torch.linspace(0.001, 1, 1000)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["epsilon", "v_prediction", "flow"])
def test_argmin_is_bayes_argmax_where_bayes_is_not_close_to_a_tie(schedule):
    model = mixture(schedule=schedule)
    images, x0 = points(model, 60)
    clf = DiffusionClassifier(model, pruning=Exhaustive(500, repeats=2))
    best = model.posterior(x0).max(1)
    clear = (best.values > 0.8).numpy()
    assert 20 < clear.sum() < 60, "some must be hard"
    predicted = clf.predict(images)
    truth = np.array(model.labels)[best.indices.numpy()]
    assert len(set(truth[clear])) == 5
    np.testing.assert_array_equal(predicted[clear], truth[clear])


def test_a_race_decides_as_the_full_search_and_costs_a_fraction(model):
    images, _ = points(model, 100)
    race = Racing(trials=200, confidence=0.95)
    full = DiffusionClassifier(model, pruning=Racing(trials=200, threshold=1e9)).predict(images)
    tables = list(DiffusionClassifier(model, pruning=race).error_tables(images))
    agree = np.mean([table.predicted == name for table, name in zip(tables, full, strict=True)])
    assert agree >= 0.95 and len(set(full)) == 5
    spent = np.array([table.n_evaluations for table in tables])
    assert spent.mean() < 0.5 * race.evaluations(5)
    easy = np.array([table.proba(0.05).max() for table in tables]) > 0.99
    assert 10 < easy.sum() < 90 and spent[easy].mean() < 0.8 * spent[~easy].mean()


def test_every_entry_is_the_error_known_in_closed_form(model):
    """With d = x0 - mean and V = alpha^2 s + sigma^2, eps - eps_hat = (alpha^2 s eps - alpha sigma d) / V."""
    images, x0 = points(model, 2)
    clf = DiffusionClassifier(model, pruning=Exhaustive(50), batch_size=33)
    for image, point in zip(images, x0, strict=True):
        table = clf.errors(image)
        eps = table.noise(range(50)).double().flatten(1)
        t = torch.from_numpy(table.timesteps)
        alpha, sigma = model.schedule.alpha[t, None], model.schedule.sigma[t, None]
        for c, mean in enumerate(model.means):
            error = (alpha**2 * SPREAD * eps - alpha * sigma * (point - mean)) / (alpha**2 * SPREAD + sigma**2)
            np.testing.assert_allclose(table.errors[c], error.square().mean(1), rtol=2e-4, atol=1e-7)
            np.testing.assert_allclose(table.losses["l1"][c], error.abs().mean(1), rtol=2e-4, atol=1e-7)


def test_paired_differences_have_the_expectation_known_in_closed_form(model):
    """E[error_a - error_b] = mean over t of (alpha sigma / V)^2 (|x0 - mean_a|^2 - |x0 - mean_b|^2) / D."""
    images, x0 = points(model, 1, seed=3)
    table = DiffusionClassifier(model, pruning=Exhaustive(1000, repeats=20)).errors(images)
    alpha, sigma = model.schedule.alpha, model.schedule.sigma
    gain = (alpha * sigma / (alpha**2 * SPREAD + sigma**2)).square().mean().item()
    distance = (x0 - model.means).square().sum(1).numpy()
    for a, b in [(0, 1), (2, 3), (1, 4)]:
        differences = (table.errors[a] - table.errors[b]).astype(np.float64)
        expected = gain * (distance[a] - distance[b]) / N_DIMS
        error = differences.std() / len(differences) ** 0.5
        assert abs(expected) > 20 * error, "a factor of two would be seen"
        assert abs(differences.mean() - expected) < 4 * error


def test_sharing_noise_lowers_the_variance_of_differences_to_what_theory_says(model):
    """With error_c = |a eps - b d_c|^2 / D, of the difference of two classes, on the same and on other noises."""
    images, x0 = points(model, 1)
    n = 4000
    first, second = (
        DiffusionClassifier(model, pruning=Exhaustive(1, repeats=n), seed=seed).errors(images).errors for seed in (0, 1)
    )
    alpha, sigma = model.schedule.alpha[500], model.schedule.sigma[500]
    variance = alpha**2 * SPREAD + sigma**2
    a, b = alpha**2 * SPREAD / variance, alpha * sigma / variance
    d = x0 - model.means[:2]
    shared = 4 * (a * b) ** 2 * (d[0] - d[1]).square().sum() / N_DIMS**2
    apart = (4 * N_DIMS * a**4 + 4 * (a * b) ** 2 * d.square().sum()) / N_DIMS**2
    sampling = 4 * (2 / n) ** 0.5
    assert (first[0] - first[1]).var() == pytest.approx(shared.item(), rel=sampling)
    assert (first[0] - second[1]).var() == pytest.approx(apart.item(), rel=2 * sampling)
    assert shared < 0.6 * apart


def test_staged_search_finds_what_exhaustive_search_finds(model):
    images, x0 = points(model, 40)
    clear = (model.posterior(x0).max(1).values > 0.95).numpy()
    assert clear.sum() > 15
    exhaustive = DiffusionClassifier(model, pruning=Exhaustive(500))
    for grid in ("official", "nested"):
        staged = DiffusionClassifier(model, pruning=Staged((100, 500), (2, 1), grid))
        np.testing.assert_array_equal(staged.predict(images)[clear], exhaustive.predict(images)[clear])
        table = staged.errors(images[0])
        assert table.n_evaluations == 5 * 100 + 2 * 400


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_every_loss_decides_as_bayes_does_in_one_dimension(loss):
    """There the expectation of each grows with |x0 - mean|. With many dimensions that holds of l2 only."""
    model = GaussianMixtureModel([[-0.5], [-0.1], [0.6]], [0.01] * 3)
    values = torch.arange(8, 256, 12, dtype=torch.uint8)
    images = values.reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    best = model.posterior(values.double()[:, None] / 127.5 - 1).max(1)
    predicted = DiffusionClassifier(model, pruning=Exhaustive(500, repeats=4), loss=loss).predict(images)
    clear = (best.values > 0.9).numpy()
    assert clear.sum() >= len(values) - 4
    np.testing.assert_array_equal(predicted[clear], np.array(model.labels)[best.indices.numpy()][clear])
