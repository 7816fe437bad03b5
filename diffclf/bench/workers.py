"""How much faster several worker processes fill a bank than one, with one thread each."""

import os
import tempfile
import time

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.bench.clock import Comparison
from diffclf.datasets import load_dataset
from diffclf.engines import Job, check_engine, fill, make_workers
from diffclf.engines.job import block_size
from diffclf.images import list_images
from diffclf.models import load_model
from diffclf.pruning import Exhaustive

__all__ = ["measure_workers"]

IMAGES = 128  # a worker


def measure_workers(name: str, n: int, n_rounds: int = 5, engine: str = "local") -> Comparison:
    """Return seconds per denoiser evaluation of one worker and of n, each filling banks of its own in turn.

    Args:
        name: an embedded model.
        n: workers, of one thread each.
        n_rounds: how often each fills a bank.
        engine: what runs the workers, which take blocks of images as in `diffclf evaluate`.

    The clock starts when all workers have loaded the model `name`. The speed-up is that of a round, as in
    `diffclf.bench.clock.compare`; a machine on which something else runs gives less than the cores allow.
    """
    check_engine(engine)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    model = load_model(name, device="cpu")
    strategy, data = Exhaustive(8), load_dataset("mini-items", n_images=IMAGES * n)
    options = {"seed": 0, "losses": ("l2",), "batch_size": None}
    load = {"name_or_path": name, "device": "cpu", "dtype": "float32"}
    seconds: dict[int, list[float]] = {1: [], n: []}
    for _ in range(n_rounds):
        for n_workers in seconds:
            with tempfile.TemporaryDirectory() as folder:
                bank = ErrorBank(folder, model, data.prompts_for(model), strategy.trial_list(), **options)
                size = block_size(bank, strategy, len(data), n_workers)
                job = Job(load, bank.path.resolve(), bank.prompts, strategy, options)
                workers, ready = make_workers(job, engine, n_workers), []
                workers.start(n_workers)
                while len(ready) < n_workers:
                    ready += [worker for worker, _ in workers.wait()]
                began = time.perf_counter()
                done = list(fill(workers, list_images(data.images), size, ready))
                seconds[n_workers].append((time.perf_counter() - began) / sum(each.n_evaluations for each in done))
    found = {}
    for n_workers, own in seconds.items():
        ratios = np.array(seconds[1]) / own
        measures = {
            "seconds": np.median(own),
            "speedup": np.median(ratios),
            "least": min(ratios),
            "largest": max(ratios),
        }
        found[f"{n_workers} workers"] = {name: float(value) for name, value in measures.items()}
    return found
