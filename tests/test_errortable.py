"""Scores, probabilities and ties of hand-made error tables."""

import numpy as np
import pytest
import torch

from diffclf.errortable import ErrorTable, prompt_scores
from diffclf.pruning import Staged, run_stored
from diffclf.trials import Trials, uniform

NAN = float("nan")


def table(errors, classnames=None, **options):
    errors = np.asarray(errors, dtype=np.float32)
    names = classnames or [f"class {i}" for i in range(len(errors))]
    return ErrorTable(
        losses={"l2": errors, "l1": 1 - errors},
        trials=Trials(uniform(errors.shape[1]), 0, 7, (4, 3, 2)),
        prompts=[f"prompt {i}" for i in range(len(errors))],
        classnames=names,
        classes=list(dict.fromkeys(names)),
        n_evaluations=int((~np.isnan(errors)).sum()),
        **{"loss": "l2"} | options,
    )


def test_scores_are_minus_the_mean_errors():
    errors = np.random.default_rng(0).random((5, 30)).astype(np.float32)
    expected = -errors.astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(table(errors).scores(), expected, rtol=1e-12)
    assert table(errors).predicted == f"class {errors.mean(1).argmin()}"
    errors = np.full((2, 1000), 0.1, dtype=np.float32)
    errors[1, 500] = np.nextafter(np.float32(0.1), np.float32(0))  # a mean in float32 would lose it
    assert table(errors).predicted == "class 1" and table(errors).tie == ()


def test_a_dropped_prompt_is_scored_by_its_paired_difference():
    # Its own mean (0.3) is below the winner's (0.4) because it had an easy trial only.
    errors = [[0.1, 0.3, 0.8], [0.3, NAN, NAN], [0.2, 0.5, 0.9]]
    np.testing.assert_allclose(prompt_scores(np.float32(errors)), [-0.4, -(0.4 + 0.2), -1.6 / 3], rtol=1e-6)
    unequal = [[NAN, 0.3, 0.5, 0.7], [0.2, 0.5, NAN, NAN]]  # they share the second trial
    np.testing.assert_allclose(prompt_scores(np.float32(unequal)), [-0.5, -(0.5 + 0.2)], rtol=1e-6)


def test_a_dropped_prompt_never_ranks_above_one_that_was_not_dropped():
    errors = [[0.1, 0.3, 0.8], [0.2, NAN, NAN], [0.2, 0.5, 0.9]]  # by its difference alone it would be second
    scores = prompt_scores(np.float32(errors))
    np.testing.assert_allclose(scores, [-0.4, -1.6 / 3, -1.6 / 3], rtol=1e-6)
    assert scores[1] < scores[2]
    # A strategy may drop a prompt that was ahead; the winner is one of those that stayed.
    errors = np.float32([[0.1, NAN, NAN], [0.2, 0.3, 0.8]])
    scores = prompt_scores(errors)
    assert scores[0] < scores[1] == pytest.approx(-1.3 / 3)
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    assert table(errors).predicted == "class 1" and table(errors).tie == ()


def test_the_survivor_of_any_staged_search_is_predicted():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        errors = (rng.random((1, 48)) + 0.02 * rng.random((9, 48))).astype(np.float32)
        errors = run_stored(Staged((3, 6, 12, 48), (6, 3, 2, 1)), errors)
        survivors = np.flatnonzero(~np.isnan(errors).any(axis=1))
        winner = survivors[errors[survivors].mean(axis=1, dtype=np.float64).argmin()]
        scores = prompt_scores(errors)
        assert scores.argmax() == winner and table(errors).predicted == f"class {winner}"
        dropped = np.isnan(errors).any(axis=1)
        assert scores[dropped].max() < scores[~dropped].min()
        probabilities = table(errors).proba(0.01)
        assert probabilities[dropped].max() <= probabilities[~dropped].min()
        # Adding the same difficulty to a trial of all prompts changes no difference between classes.
        harder = prompt_scores(errors.astype(np.float64) + rng.random(48))
        np.testing.assert_allclose(harder - harder.max(), scores - scores.max(), atol=1e-9)


def test_a_prompt_without_any_error_cannot_win_and_a_table_without_any_is_an_error():
    errors = np.float32([[0.3, 0.5], [NAN, NAN], [0.1, NAN]])
    np.testing.assert_allclose(prompt_scores(errors), [-0.4, -np.inf, -0.4], rtol=1e-6)
    assert table(errors).predicted == "class 0" and table(errors).proba()[1] == 0
    with pytest.raises(ValueError, match="at least one prompt must have been evaluated, got none"):
        prompt_scores(np.full((2, 3), NAN))


def test_a_class_scores_as_its_best_prompt():
    errors = [[0.5, 0.5], [0.3, 0.3], [0.1, 0.9], [0.4, 0.4]]
    several = table(errors, classnames=["bag", "boot", "bag", "boot"])
    np.testing.assert_allclose(several.scores(), [-0.5, -0.3], rtol=1e-6)


def test_probabilities_are_equation_6_over_all_elements_of_the_latent():
    errors = np.random.default_rng(1).random((4, 10)).astype(np.float32)
    mean = errors.astype(np.float64).mean(1)
    expected = torch.from_numpy(-24 * mean).softmax(0).numpy()  # 4 x 3 x 2 elements
    np.testing.assert_allclose(table(errors).proba(), expected, rtol=1e-9)
    np.testing.assert_allclose(table(errors).proba(24), torch.from_numpy(-mean).softmax(0).numpy(), rtol=1e-9)
    extreme = table(errors * 1e6).proba()
    assert np.isfinite(extreme).all() and extreme.max() == extreme.sum() == pytest.approx(1)


def test_ties_name_the_classes_that_share_the_best_score_or_are_undecided():
    errors = [[0.5, 0.25], [0.25, 0.5], [0.5, 0.5], [0.125, 0.625]]
    tied = table(errors)
    assert tied.tie == ("class 0", "class 1", "class 3") and tied.predicted == "class 0"
    assert table([[0.25, 0.5], [0.25, NAN]]).tie == ("class 0", "class 1"), "also with a prompt that was dropped"
    assert table([[0.5, 0.25], [0.25, 0.25]]).tie == ()
    assert table([[0.5], [0.5], [0.7]], classnames=["bag", "bag", "boot"]).tie == (), "two prompts of one class"
    assert table(errors, undecided=("class 2", "class 3")).tie == ("class 2", "class 3")


def test_a_table_carries_its_losses_and_trials():
    found = table([[0.1, 0.3], [0.9, 0.7]])
    assert found.predicted == "class 0" and table([[0.1, 0.3], [0.9, 0.7]], loss="l1").predicted == "class 1"
    np.testing.assert_array_equal(found.timesteps, uniform(2))
    assert torch.equal(found.noise([1, 0]), Trials(uniform(2), 0, 7, (4, 3, 2)).noise([1, 0]))
    assert repr(found) == "ErrorTable(2 prompts x 2 trials, 4 evaluations, loss='l2')"
