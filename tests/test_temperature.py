"""Temperatures with known answers."""

import numpy as np
import pytest
from scipy.special import expit

from diffclf.temperature import fit_temperature, log_probabilities


def test_log_probabilities_are_those_of_the_softmax():
    found = log_probabilities([[0.0, np.log(9.0) * 2]], temperature=2.0)
    np.testing.assert_allclose(np.exp(found), [[0.1, 0.9]])


@pytest.mark.parametrize(("right", "n", "gap"), [(9, 10, 2.0), (3, 4, 500.0), (51, 100, 1e-3)])
def test_with_one_gap_the_probability_becomes_the_share_of_right_answers(right, n, gap):
    logits = np.tile([gap, 0.0], (n, 1))
    labels = np.array([0] * right + [1] * (n - right))
    temperature = fit_temperature(logits, labels)
    assert expit(gap / temperature) == pytest.approx(right / n, abs=1e-5)
    assert fit_temperature(10 * logits, labels) == pytest.approx(10 * temperature, rel=1e-4)


def test_samples_of_the_softmax_give_its_temperature_back():
    rng = np.random.default_rng(0)
    logits = 8 * rng.standard_normal((20_000, 5))
    p = np.exp(log_probabilities(logits, 3.0))
    labels = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 0.0]] * 3, [0, 0, 0], "answers both right and wrong, got 100% right of 3"),
        ([[1.0, 0.0]] * 4, [0, 1, 1, 1], "score above the average class, got 25% right of 4"),
        ([[1.0, -np.inf]], [1], "must have a score, got none for image 0"),
        (np.zeros((0, 2)), [], r"got \(0, 2\)"),
        ([[1.0, 0.0]], [0, 1], r"got \(1, 2\), \(2,\)"),
    ],
)
def test_errors_say_what_is_expected(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
