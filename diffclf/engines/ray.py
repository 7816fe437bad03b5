"""Workers that are actors of a Ray cluster: one per GPU, or a number of them on CPU cores.

Without an address a cluster of this machine is started. Actors wait until the cluster has room for them, so that a node
that joins during the run gets its workers; a node that goes takes its workers with it. Ray's own retries are not used:
they do not cover all calls of a node that dies.
"""

import os
import time
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

from diffclf.bank import ErrorBank
from diffclf.engines.job import Done, Item, Job
from diffclf.engines.queue import WorkerLost

__all__ = ["RayWorkers"]

OBJECT_STORE = 200 * 2**20  # bytes, where a cluster is started; the default is 30% of the memory
SECONDS = 5.0  # after which the cluster is looked at again


class _Actor:
    """A worker on some machine of the cluster."""

    bank: ErrorBank

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.device = job, device

    def open(self) -> None:
        """Load the model; Ray shows each actor its own GPU alone."""
        self.bank = self.job.open(self.device)

    def fill(self, items: list[Item]) -> Done:
        """Compute a block."""
        return self.job.fill(self.bank, items)


class RayWorkers:
    """Actors of a Ray cluster; see `diffclf.engines.queue.Workers`. Arguments as for `diffclf.engines.make_workers`."""

    def __init__(self, job: Job, n: int | None = None, address: str | None = None) -> None:
        ray = import_module("ray")
        self._ray, self._asked, self._own = ray, n, not ray.is_initialized()
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}  # reference of an answer -> the worker that owes it
        self._numbers, address = count(), address or os.environ.get("RAY_ADDRESS")
        if self._own:
            try:
                ray.init(address=address, logging_level="ERROR", log_to_driver=False, **_sizes(address, n))
            except (ConnectionError, ValueError) as error:
                raise ValueError(
                    f"no Ray cluster at {address}: {error}; start one with `ray start --head`, and give the address "
                    "that it prints to --ray-address"
                ) from error
        on_gpu = job.load.get("device") != "cpu" and self._total("GPU") > 0
        if n is None and not on_gpu:
            self.close()
            raise ValueError("engine 'ray' needs --workers N where it uses no GPU, got none")
        make = ray.remote(_Actor).options(max_restarts=0, **{"num_gpus" if on_gpu else "num_cpus": 1})
        self._make = partial(make.remote, ray.put(job), "cuda" if on_gpu else "cpu")

    @property
    def n(self) -> int:
        """Workers that there should be: as asked for, else one per GPU that the cluster has now."""
        return self._asked or int(self._total("GPU"))

    def _total(self, resource: str) -> float:
        return self._ray.cluster_resources().get(resource, 0)

    def start(self, most: int) -> None:
        """Start the missing workers, at most `most` in all."""
        for _ in range(min(self.n, most) - len(self._actors)):
            worker = next(self._numbers)
            self._actors[worker] = actor = self._make()
            self._running[actor.open.remote()] = worker

    def give(self, worker: int, items: list[Item]) -> None:
        """Send a block; a lost actor is noticed by `wait`."""
        self._running[self._actors[worker].fill.remote(items)] = worker

    def wait(self) -> list[tuple[int, Done | Exception | None]]:
        """Return the answers that there are; wait for the first, but no longer than `SECONDS`."""
        if not self._running:
            time.sleep(SECONDS)
            return []
        there, _ = self._ray.wait(list(self._running), timeout=SECONDS)
        return [self._answer(reference) for reference in there]

    def _answer(self, reference: Any) -> tuple[int, Done | Exception | None]:  # noqa: ANN401
        worker, errors = self._running.pop(reference), self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            answer = error.cause
        except errors.RayError as error:
            answer = WorkerLost(f"{type(error).__name__} of an actor of Ray")
        if isinstance(answer, Exception):
            self._ray.kill(self._actors.pop(worker))
        return worker, answer

    def close(self) -> None:
        """End all workers, and the cluster if it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


def _sizes(address: str | None, n: int | None) -> dict[str, Any]:
    """Return the size of a cluster that is started here; one that is joined has its size."""
    if address is not None:
        return {}
    return {"num_cpus": n, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
