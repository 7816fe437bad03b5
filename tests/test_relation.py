"""What relation words earn, by the plain integral and at both ends; stored trainings by hand; the figures."""

import numpy as np
import pytest
import torch

from diffclf.bank import ErrorBank
from diffclf.datasets import load_dataset
from diffclf.experiments import relation
from diffclf.experiments.relation import Scores
from diffclf.mini.sd import MAX_WEIGHT, OBJECTIVES
from diffclf.schedule import NoiseSchedule
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, crossed
from diffclf.trials import TrialList
from diffclf.workbook.plots import nb08

TIMESTEPS = np.array([950, 50, 550, 450])


@pytest.fixture(autouse=True)
def _two_bins(monkeypatch):
    monkeypatch.setattr(relation, "N_BINS", 2)


def test_unknown_is_the_posterior_of_two_scenes():
    """Bayes' rule on samples of x_t = alpha x0 + sigma eps, x0 = a or b in three dimensions."""
    rng, a, b = np.random.default_rng(0), np.array([1.0, -0.5, 0.0]), np.array([0.0, 0.5, 1.0])
    for alpha, sigma in ((0.8, 0.6), (0.3, 0.954), (0.95, 0.312)):
        x = alpha * a + sigma * rng.normal(size=(200_000, 3))
        densities = [np.exp(-((x - alpha * scene) ** 2).sum(axis=1) / (2 * sigma**2)) for scene in (a, b)]
        p = densities[0] / (densities[0] + densities[1])
        product = p * (1 - p)
        found = relation.unknown(alpha**2 / sigma**2, float(((a - b) ** 2).sum()))
        assert abs(found - product.mean()) < 5 * product.std() / len(x) ** 0.5
        # The posterior mean is off by (1 - p) (b - a): its squared error is D^2 E[p (1 - p)] by symmetry.
        errors = (1 - p) ** 2 * ((a - b) ** 2).sum()
        assert abs(((a - b) ** 2).sum() * found - errors.mean()) < 5 * errors.std() / len(x) ** 0.5


def test_nothing_is_unknown_without_noise_and_everything_in_noise():
    assert relation.unknown(1e-9, 4.0) == pytest.approx(0.25, rel=1e-6)
    assert relation.unknown(1e3, 40.0) < 1e-30
    found = relation.unknown(np.logspace(-4, 2, 30), 4.0)
    assert found.shape == (30,) and (np.diff(found) < 0).all()


def test_earned_by_objective():
    schedule = NoiseSchedule.linear()
    by = {objective: relation.earned(schedule, 100.0, objective) for objective in OBJECTIVES}
    snr = (schedule.alpha / schedule.sigma).square().numpy()
    np.testing.assert_allclose(by["epsilon"], snr * 100 * relation.unknown(snr, 100.0))
    np.testing.assert_allclose(by["v"], (snr + 1) * 100 * relation.unknown(snr, 100.0), rtol=1e-6)
    bounded = schedule.alpha.numpy() ** -2 > MAX_WEIGHT
    np.testing.assert_allclose(by["late"][~bounded], by["v"][~bounded])
    np.testing.assert_allclose(by["late"][bounded], MAX_WEIGHT * by["epsilon"][bounded])
    assert bounded.any() and 0 < by["epsilon"].argmax() < 999 and by["v"].argmax() == 999


def test_distances_are_those_of_scenes_with_swapped_places(tiny_sd):
    from diffclf.datasets.compositional import load_examples
    from diffclf.images import load_images, to_pixels

    examples, found = load_examples(split="tune", n=3), []
    for pair in examples.pair[examples.tags == "position"]:
        images = load_images([examples.images[k] for k in pair])
        one, other = tiny_sd.encode_images(torch.stack([to_pixels(i, tiny_sd.image_size) for i in images])).float()
        found.append(float(((one - other) ** 2).sum()))
    assert relation.layout_distance2(tiny_sd, 3) == pytest.approx(np.mean(found), rel=1e-5)


def stored(differences, tune=None):
    """Return scores of differences (3, seeds, n, 4)."""
    differences = np.asarray(differences, dtype=np.float32)
    n = differences.shape[2]
    return Scores(differences, differences if tune is None else tune, TIMESTEPS, np.arange(n) % 2 == 0)


@pytest.fixture
def scores():
    """Epsilon guesses, late knows the later trials, v knows everything."""
    rng = np.random.default_rng(0)
    differences = rng.normal(size=(3, 3, 60, 4))
    differences[1][..., TIMESTEPS > 500] += 1.5
    differences[2] += 3
    tune = rng.normal(size=(3, 3, 40, 4)).astype(np.float32) + np.array([0, 1, 2])[:, None, None, None]
    return stored(differences, tune)


def test_an_image_is_right_if_its_mean_difference_is_positive():
    found = stored([[[[1, -2, 3, -1], [1, -2, 3, -2], [-1, -1, -1, 4]]] * 2] * 3)
    assert found.right("epsilon").tolist() == [[True, False, True]] * 2, "0 is wrong"
    assert found.later().tolist() == [True, False, True, False]
    assert found.right("v", found.later()).tolist() == [[True, True, False]] * 2
    assert found.right("v", ~found.later()).tolist() == [[False, False, True]] * 2


def test_curves_are_single_trials_by_timestep(scores):
    t, estimates = scores.curve("late")
    assert t == [250, 750]
    early, later = (100.0 * (scores.differences[1][..., part] > 0).mean(axis=2) for part in ([1, 3], [2, 0]))
    assert estimates == [crossed(early), crossed(later)] and estimates[1].value > estimates[0].value + 20


def test_fitted_weights_by_hand(monkeypatch):
    monkeypatch.setattr(relation, "N_BINS", 4)
    tune = np.zeros((3, 2, 3, 4), dtype=np.float32)
    tune[:, :, :, 0] = [1, 2, 3]  # mean 2, variance 2/3: weight 3
    tune[:, :, :, 1] = [-1, -2, -3]  # a negative mean: 0
    tune[:, :, :, 2] = [0, 1, 2]  # mean 1, variance 2/3: weight 1.5
    tune[:, :, :, 3] = [-1, 0, 1]  # 0
    tune[:, 1] *= 10  # a scale of one seed changes nothing
    tune[2] = -abs(tune[2])  # no bin has a positive mean: equal weights
    found = stored(np.ones((3, 2, 5, 4)), tune)
    expected = np.array([3, 0, 1.5, 0]) / 1.125
    np.testing.assert_allclose(relation.fitted_weights(found, "epsilon"), [[expected], [expected]])
    tune[2, :, :, 3] = [-3, -2, -1]
    tune[2, :, :, 2] -= 1
    np.testing.assert_array_equal(relation.fitted_weights(found, "v"), np.ones((2, 1, 4)))


def test_fitted_weights_are_chosen_on_tune_images_alone(scores):
    other = Scores(-scores.differences, scores.tune, scores.timesteps, scores.sideways)
    for objective in OBJECTIVES:
        own = relation.fitted_weights(scores, objective)
        np.testing.assert_array_equal(relation.fitted_weights(other, objective), own)
        assert own.shape == (3, 1, 4) and (own >= 0).all()


def test_contrasts_have_the_sign_of_the_better_training(scores):
    found = relation.contrasts(scores, 0.99)
    right = {objective: scores.right(objective).astype(float) for objective in OBJECTIVES}
    assert found["v-learns-relation"] == crossed(100 * (right["v"] - right["epsilon"]), 0.99)
    assert found["v-learns-relation"].low > 0 and found["late-weight-learns-relation"].value > 0
    later = scores.later()
    halves = scores.right("v", later).astype(float) - scores.right("v", ~later)
    assert found["late-trials-know-relation"] == crossed(100 * halves, 0.99)


def test_rows_and_sentences_follow_the_numbers(scores):
    rows = relation.summary_rows(scores, NoiseSchedule.linear())
    assert list(rows) == list(OBJECTIVES)
    assert rows["v"]["equal weights"] == relation.seed_accuracies(scores)["v"][0]
    assert rows["late"]["later half"].value > rows["late"]["earlier half"].value
    parts = [rows["epsilon"][axis].value for axis in ("left/right", "above/below")]
    assert np.mean(parts) == pytest.approx(rows["epsilon"]["equal weights"].value)
    best, gaps, *seeds, extremes, rest, weights = relation.reading(scores)
    assert len(seeds) == 3 and seeds[0].startswith("Seeds of epsilon: ")
    own, other = (100 * scores.right(name).mean(axis=1) for name in ("v", "epsilon"))
    assert extremes == f"The worst seed of v is {own.min():.1f}, the best of epsilon {other.max():.1f}."
    assert rest.startswith("v minus late, which has the weights of v's loss up to 100: ")
    assert best.startswith("The objective with the highest accuracy is v: ") and "chance, 50: epsilon." in best
    assert "still" in weights and gaps.startswith("v minus epsilon: ")
    turned = Scores(scores.differences[::-1], scores.tune[::-1], scores.timesteps, scores.sideways)
    assert "is epsilon: " in relation.reading(turned)[0] and "still" not in relation.reading(turned)[-1]
    _, seeds = relation.seed_accuracies(scores)["late"]
    assert seeds == pytest.approx(100 * scores.right("late").mean(axis=1))


def test_shares_of_the_loss_by_hand():
    schedule, t = NoiseSchedule.linear(), np.array([300, 600, 900])
    errors = {"epsilon": np.array([0.2, 0.1, 0.05]), "v": np.array([0.2, 0.1, 0.05])}
    found = relation.earned_shares(schedule, 100.0, errors, t, 256)
    alpha2 = schedule.alpha.numpy()[t] ** 2
    earned = {name: relation.earned(schedule, 100.0, name)[t] for name in errors}
    assert found["epsilon"] == pytest.approx(100 * earned["epsilon"].sum() / 256 / 0.35)
    assert found["v"] == pytest.approx(100 * earned["v"].sum() / 256 / (errors["v"] / alpha2).sum())


def test_stored_scores_are_compared_with_new_ones(tiny_sd, tmp_path):
    def bank(model, prompts, trials, **options):
        return ErrorBank(tmp_path / "bank", model, prompts, trials, **options)

    data = load_dataset("mini-relation", n_images=3)
    source = ErrorSource(tiny_sd, data.captions, TrialList(TIMESTEPS), losses=("l2",))
    errors = relation.caption_errors(bank, tiny_sd, data, TIMESTEPS)
    np.testing.assert_allclose(errors, compute_errors(source, data.images, desc=None), rtol=1e-6)
    kept = np.zeros((3, 2, 5, 4), dtype=np.float32)
    kept[2, 0, :3] = errors[:, 1] - errors[:, 0]
    found = relation.compared(errors, stored(kept))
    assert (found["images"], found["same answer"]) == (3, 3) and found["largest gap"] < 1e-6
    assert found["mean difference"] == pytest.approx(abs(errors[:, 1] - errors[:, 0]).mean(), rel=1e-4)
    kept[2, 0, 1] = -kept[2, 0, 1]
    kept[2, 0, 0, 2] += 50
    found = relation.compared(errors, stored(kept))
    assert found["same answer"] < 3 and found["largest gap"] == pytest.approx(50, rel=1e-3)


def test_scores_are_read_from_the_data_folder(scores, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_DATA", str(tmp_path))
    (tmp_path / "scores").mkdir()
    np.savez(tmp_path / "scores" / "relation.npz", **vars(scores))
    found = relation.read_scores()
    for name, value in vars(scores).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_the_figures(scores):
    lines = {"loss of epsilon": np.array([0.1, 0.4, 0.2]), "loss of v": np.array([0.1, 0.5, 0.9])}
    (ax,) = nb08.earning_lines(lines).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [own.tolist() for own in lines.values()]
    alt = nb08.earning_lines_alt(lines)
    assert "loss of epsilon: highest at t = 1 with 0.4, 0.2 at the last timestep; loss of v: highest at t = 2" in alt
    accuracy = relation.seed_accuracies(scores)
    curves = {"v": ([100.0, 900.0], [Estimate(60, 55, 65), Estimate(70, 66, 75)])}
    fig = nb08.relation_panels(accuracy, curves)
    left, right = fig.axes
    dots = [line.get_ydata().tolist() for line in left.lines if line.get_marker() == "."]
    assert dots == [pytest.approx(seeds) for _, seeds in accuracy.values()]
    assert right.lines[0].get_ydata().tolist() == [60, 70]
    said = nb08.relation_panels_alt(accuracy, curves)
    assert "v: 70.0 at t = 900" in said and f"epsilon {accuracy['epsilon'][0]:.1f}" in said
    fig.draw_without_rendering()
