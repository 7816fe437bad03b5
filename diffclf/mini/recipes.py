"""The recipes of all embedded models by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from diffclf.mini import clip, dit, sd
from diffclf.mini.crawl import ARMS, train_arm
from diffclf.mini.features import train_features
from diffclf.mini.supervised import NETWORKS, train_supervised
from diffclf.mini.synthetic import train_synthetic
from diffclf.mini.tasks import TASKS
from diffclf.mini.training import Job

__all__ = ["RECIPES", "Recipe"]


class Recipe(NamedTuple):
    """How an embedded model is made.

    Attributes:
        train: trains and exports it.
        draw_samples: folder of the model -> samples, in rows of ten; None: the model generates nothing.
        hours: that the training takes on one thread of a CPU, about.
    """

    train: Callable[[Job], None]
    draw_samples: Callable[[Path], list[Image]] | None
    hours: float


def _train_shortcut_dit(job: Job, seed: int) -> None:
    """Train a mini-dit in the world with a shortcut; the seed is that of its scenes, weights and batches."""
    job = replace(job, seed=job.seed + seed, n_samples=job.n_samples or 1_000_000)
    dit.train_mini_dit(job, shortcut=True)


RECIPES = {
    "mini-sd": Recipe(sd.train_mini_sd, sd.draw_samples, hours=1.2),
    "mini-dit": Recipe(dit.train_mini_dit, dit.draw_samples, hours=1.6),
    **{
        f"shortcut-dit-{seed}": Recipe(partial(_train_shortcut_dit, seed=seed), dit.draw_samples, hours=0.8)
        for seed in (1, 2, 3)
    },
    **{
        f"relation-{objective}-{seed}": Recipe(
            partial(sd.train_objective, objective=objective, seed=seed), sd.draw_samples, hours=0.2
        )
        for seed in sd.SEEDS
        for objective in sd.OBJECTIVES
    },
    **{
        f"crawl-{arm}-{seed}": Recipe(partial(train_arm, arm=arm, seed=seed), sd.draw_samples, hours=0.2)
        for seed in (1, 2, 3)
        for arm in ARMS
    },
    **{f"synthetic-{task}": Recipe(partial(train_synthetic, task=task), None, hours=0.5) for task in TASKS},
    **{f"features-{task}": Recipe(partial(train_features, task=task), None, hours=0.3) for task in TASKS},
    **{name: Recipe(partial(clip.train_clip, size=size), None, hours=1.0) for name, size in clip.CLIPS.items()},
    **{
        f"clip-{size}-{captions}": Recipe(partial(clip.train_arm, batch_size=size, captions=captions), None, hours=1.0)
        for size in (16, 256)
        for captions in clip.STATED
    },
    **{name: Recipe(partial(train_supervised, network=network), None, hours=0.2) for name, network in NETWORKS.items()},
}
