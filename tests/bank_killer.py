"""What test_bank and test_harness run in processes that they kill: filling a bank."""

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.models.gaussian import GaussianMixtureModel
from diffclf.trials import TrialList, uniform

IMAGES = np.random.default_rng(1).integers(0, 256, (20, 1, 1, 3), dtype=np.uint8)


def make_model():
    return GaussianMixtureModel([[-0.4, 0.2, 0.0], [0.3, 0.1, -0.2], [0.0, 0.5, 0.3]], [0.05] * 3)


def fill(folder, images=IMAGES):
    """Compute the errors on the first half of the trials, then all, as two notebooks do; return the bank."""
    bank = ErrorBank(folder, make_model(), [0, 1, 2], TrialList(uniform(8)), batch_size=1)  # so that no image waits
    bank.errors(images, n_trials=4)
    bank.errors(images)
    return bank
