"""Workers that fill an error bank: processes of this machine, or actors of a Ray cluster."""

from importlib.util import find_spec

from diffclf.engines.job import Job
from diffclf.engines.queue import WorkerLost, Workers, fill

__all__ = ["ENGINES", "Job", "WorkerLost", "Workers", "check_engine", "fill", "make_workers"]

ENGINES = ("local", "ray")


def check_engine(engine: str) -> None:
    """Raise ValueError if the package of an engine is missing."""
    if engine == "ray" and find_spec("ray") is None:
        raise ValueError("engine 'ray' needs the package ray: pip install 'diffclf[ray]'")


def make_workers(job: Job, engine: str = "local", n: int | None = None, address: str | None = None) -> Workers:
    """Return the workers of an engine, not started yet.

    Args:
        job: what each worker does.
        engine: "local", processes of this machine, or "ray", actors of a Ray cluster.
        n: how many; None: one (local), or one per GPU of the cluster (ray).
        address: of the Ray cluster to join; None starts one on this machine.

    Raises:
        ValueError: the package ray is missing, the cluster cannot be reached, or it has no GPU and n is None.
    """
    check_engine(engine)
    if engine == "local":
        from diffclf.engines.local import LocalWorkers

        return LocalWorkers(job, n or 1)
    from diffclf.engines.ray import RayWorkers

    return RayWorkers(job, n, address)
