"""Workers that are processes of this machine.

A worker is a plain process at the other end of a pipe. It ends when its driver ends, however that happens. With GPUs,
worker k takes GPU k.
"""

import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import RLock, Thread

import torch
from tqdm import tqdm

from diffclf.engines.job import Done, Item, Job
from diffclf.engines.queue import WorkerLost

__all__ = ["LocalWorkers"]


class LocalWorkers:
    """`n` processes of this machine; see `diffclf.engines.queue.Workers`."""

    def __init__(self, job: Job, n: int) -> None:
        self.job, self.n = job, n
        self._context = get_context("spawn")
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}  # worker -> its process and the pipe to it

    def start(self, most: int) -> None:
        """Start the missing workers, at most `most` in all."""
        n_threads = None if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // self.n)
        for worker in range(min(self.n, most)):
            if worker not in self._running:
                own, other = self._context.Pipe()
                args = (other, self.job, _device(self.job, worker), n_threads)
                process = self._context.Process(target=_serve, args=args, daemon=True)
                with _interrupts_blocked():
                    process.start()
                other.close()  # so that the pipe ends with the process
                self._running[worker] = process, own

    def give(self, worker: int, items: list[Item]) -> None:
        """Send a block; a broken pipe is noticed by `wait`."""
        with suppress(OSError):
            self._running[worker][1].send(items)

    def wait(self) -> list[tuple[int, Done | Exception | None]]:
        """Return the answers of the workers that have one; wait for the first."""
        there, answers = connection.wait([pipe for _, pipe in self._running.values()]), []
        for worker, (process, pipe) in list(self._running.items()):
            if pipe in there:
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    answer = WorkerLost(f"process {process.pid} ended with status {process.exitcode}{_why(process)}")
                if isinstance(answer, Exception):
                    self._end(worker)
                answers.append((worker, answer))
        return answers

    def close(self) -> None:
        """End all workers at once."""
        for worker in list(self._running):
            self._end(worker)

    def _end(self, worker: int) -> None:
        process, pipe = self._running.pop(worker)
        process.terminate()
        process.join()
        pipe.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let interrupts wait; a process that is started meanwhile gets none, not even while it imports its libraries.

    An interrupt of the terminal goes to the driver and to its workers. The driver ends the workers.
    """
    resource_tracker.ensure_running()  # its start, at the first process otherwise, unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _why(process: BaseProcess) -> str:
    """Return what the exit status of a killed process means."""
    return " (killed; perhaps the memory was not enough)" if process.exitcode == -signal.SIGKILL else ""


def _device(job: Job, worker: int) -> str | None:
    """Return the GPU of a worker, if the job is for GPUs and does not name one; else None."""
    wanted, n_gpus = job.load.get("device"), torch.cuda.device_count()
    return f"cuda:{worker % n_gpus}" if n_gpus and wanted in (None, "cuda") else None


def _serve(pipe: Connection, job: Job, device: str | None, n_threads: int | None) -> None:
    """Be a worker: load the model, then compute blocks until the pipe ends."""
    Thread(target=_end_with_driver, daemon=True).start()
    tqdm.set_lock(RLock())  # tqdm's own is a semaphore of the system; Python warns if a worker leaves one behind
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        bank = job.open(device)
        pipe.send(None)
        while True:
            pipe.send(job.fill(bank, pipe.recv()))
    except (EOFError, ConnectionError):  # the driver has closed the pipe, or has gone
        return
    except Exception as error:
        pipe.send(_portable(error))


def _end_with_driver() -> None:
    parent_process().join()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with the same message."""
    try:
        pickle.dumps(copy(error))  # a copy is made as unpickling does it
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
