"""Fills a bank in a process that is killed at random moments: `python bank_killer.py FOLDER N_IMAGES SEED`."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.gaussian import GaussianMixtureModel
from diffclf.trials import uniform

TIMESTEPS = uniform(8)


def gaussian_model():
    means = [[-0.4, 0.2, 0.0], [0.3, 0.1, -0.2], [0.0, 0.5, 0.3]]
    return GaussianMixtureModel(means, [0.05] * 3, latent_shape=(3, 1, 1))


def gaussian_images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 1, 1, 3), dtype=np.uint8)


def fill_twice(folder, model, images, progress=None):
    """Fill half of the entries, then the rest, as two notebooks do."""
    bank = ErrorBank(folder, model, [0, 1, 2], TIMESTEPS, batch_size=1)  # so that no two images wait for each other
    half = np.zeros((3, 8), dtype=bool)
    half[:, ::2] = True
    bank.fill(images, half, progress)
    bank.fill(images, progress=progress)
    return bank.errors(images)


def kill_again_and_again(folder, n_images, seed, n_kills=8):
    """Print "killed" or "finished" for each attempt."""
    import filelock  # noqa: F401 (loaded once, before the forks)
    import xarray  # noqa: F401
    import zarr  # noqa: F401

    model, images, rng = gaussian_model(), gaussian_images(n_images), random.Random(seed)
    for _ in range(n_kills):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            fill_twice(folder, model, images, progress=lambda done, total, end=writer: os.write(end, b"."))
            os._exit(0)
        os.close(writer)
        for _ in range(rng.randrange(2 * n_images)):
            os.read(reader, 1)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(reader)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
            sys.exit("the run failed by itself")
        print("killed" if os.WIFSIGNALED(status) else "finished", flush=True)


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
