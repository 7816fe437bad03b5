"""What a large data set costs on a fleet of GPUs: a simulation of the queue of `diffclf.engines.queue`.

A GPU that is free takes the next block of images. An image costs the evaluations that its strategy asks for; in a race
these are the classes that are still in, look by look (`SURVIVORS`). GPUs differ in speed, some are stragglers. Nodes
are lost at random times: their blocks go back to the queue, and after a while another node stands in for the lost one
and loads the model. Nothing here is measured on a GPU: the rate is given by whoever asks.
"""

import heapq
from dataclasses import asdict, dataclass

import numpy as np

from diffclf.pruning import Racing, Staged

__all__ = ["PAPER_RATE", "SURVIVORS", "Fleet", "Job", "fleet_tables", "imagenet_jobs", "simulate"]

PAPER_RATE = 100.0
"""Evaluations per second: 100,000 evaluations (Table 6) in 1000 s (Table 7) on an RTX 3090, 512 x 512 pixels."""
SURVIVORS = {8: 0.2465, 16: 0.0160, 32: 0.0053, 48: 0.0031, 64: 0.0022, 80: 0.0018, 96: 0.0008, 112: 0.0003, 128: 0.0}
"""Trials -> share of the classes that are still in after this look of a race, the elimination curve.

Mean of 20 images of mini-bag-pairs, 360 classes, mini-sd, threshold 2.2 (the reference run of notebook 14_racing, whose
mean cost of 3759.6 evaluations these shares give). With 60 classes 0.184 are left at the first look, with 3600 0.148.
"""
SPREAD_OF_RACES = 0.18
"""Standard deviation of a race's cost over its mean, on the same images."""


@dataclass(frozen=True)
class Job:
    """Images to classify: evaluations and bytes in the bank per image, and how much the evaluations vary."""

    n_images: int
    evaluations: float
    bytes_each: int
    spread: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """The assumptions about the machines."""

    n_gpus: int
    rate: float = PAPER_RATE  # evaluations per second of a GPU of middling speed
    gpus_per_node: int = 8
    speed_spread: float = 0.05  # standard deviation of log speed
    stragglers: float = 0.01  # share of the GPUs that are
    straggler_speed: float = 0.33
    hours_between_losses: float = 1000.0  # of one node
    replacement_s: float = 900.0
    loading_s: float = 60.0  # the model, into a GPU
    reading_s: float = 0.05  # the driver, an image: decode it, read its entry, run the strategy
    image_bytes: float = 110e3
    block: int = 1  # images; `diffclf.engines.job.block_size` says 1 for 1000 classes


def imagenet_jobs(n_images: int = 50_000, n_classes: int = 1000) -> dict[str, Job]:
    """Return ImageNet's validation images under the paper's stages and under a race with the curve `SURVIVORS`."""
    staged, race = Staged((50, 100, 500, 1000), (500, 50, 10, 1)), Racing()
    left = [1.0, *SURVIVORS.values()][:-1]  # the share that takes part until the next look
    per_class = float(np.diff([0, *race.looks()]) @ left)
    sizes = [16 + 4 * n_classes * len(strategy.trial_list()) for strategy in (staged, race)]  # one loss is stored
    return {
        "paper's stages": Job(n_images, staged.evaluations(n_classes), sizes[0]),
        "race": Job(n_images, per_class * n_classes, sizes[1], SPREAD_OF_RACES),
    }


def simulate(job: Job, fleet: Fleet, seed: int = 0) -> dict[str, float]:
    """Return hours, GPU hours, use of the GPUs, evaluations computed twice, nodes lost and storage of one run."""
    rng = np.random.default_rng(seed)
    speeds = fleet.rate * np.exp(rng.normal(0, fleet.speed_spread, fleet.n_gpus))
    speeds[rng.random(fleet.n_gpus) < fleet.stragglers] *= fleet.straggler_speed
    sigma = np.sqrt(np.log1p(job.spread**2))
    costs = job.evaluations * np.exp(rng.normal(-(sigma**2) / 2, sigma, job.n_images))
    blocks = [costs[first : first + fleet.block].sum() for first in range(0, job.n_images, fleet.block)][::-1]
    between = fleet.hours_between_losses * 3600
    losses = rng.exponential(between, -(-fleet.n_gpus // fleet.gpus_per_node))  # when each node is lost next
    free = [(fleet.loading_s, gpu) for gpu in range(fleet.n_gpus)]
    end, busy, twice, n_lost = 0.0, 0.0, 0.0, 0
    while blocks:
        now, gpu = heapq.heappop(free)
        node = gpu // fleet.gpus_per_node
        while losses[node] + fleet.replacement_s <= now:  # lost while its GPUs were between two blocks
            losses[node] += fleet.replacement_s + rng.exponential(between)
        cost = blocks.pop()
        done = now + cost / speeds[gpu]
        if losses[node] < done:
            n_lost += 1
            twice += max(0.0, losses[node] - now) * speeds[gpu]
            blocks.append(cost)
            done = losses[node] + fleet.replacement_s + fleet.loading_s
        else:
            busy, end = busy + done - now, max(end, done)
        heapq.heappush(free, (done, gpu))
    written = job.n_images * job.bytes_each
    return {
        "hours": end / 3600,
        "GPU hours": end * fleet.n_gpus / 3600,
        "GPUs in use": busy / (end * fleet.n_gpus),
        "blocks lost": n_lost,
        "computed twice": twice / costs.sum(),
        "bank, GB": written / 1e9,
        "MB/s": (written + job.n_images * fleet.image_bytes) / end / 1e6,
        "hours to read it": job.n_images * fleet.reading_s / 3600,
    }


def fleet_tables(rate: float = PAPER_RATE) -> dict[str, dict[str, dict[str, float]]]:
    """Return what ImageNet costs on 1, 8 and 1000 GPUs of a rate (evaluations per second), and the assumptions."""
    found = {}
    for name, job in imagenet_jobs().items():
        runs = {f"{n} GPU{'s' if n > 1 else ''}": simulate(job, Fleet(n, rate)) for n in (1, 8, 1000)}
        found[f"{job.n_images} images, {name}, {job.evaluations:.0f} evaluations an image"] = runs
    assumed = asdict(Fleet(1, rate)) | {"survivors of a race at its first look": SURVIVORS[8]}
    del assumed["n_gpus"]
    return found | {"assumptions": {name.replace("_", " "): {"value": value} for name, value in assumed.items()}}
