"""Blocks of images on their way through workers, whichever engine runs them.

Each worker has one block at a time. What a worker finishes is in the bank already, so that a block whose worker is lost
goes to another worker, which finds the finished images there: only the images in flight are computed twice.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from diffclf.engines.job import Done, Item
from diffclf.images import ImageLike, load_image

__all__ = ["MOST_LOST", "WorkerLost", "Workers", "fill"]

MOST_LOST = 3
"""Workers that may be lost at one block: more than that is no accident."""


class WorkerLost(Exception):
    """A worker has ended without an answer: it was killed, or its machine is gone."""


class Workers(Protocol):
    """Workers of an engine. Each answers first with None when it is ready, and then once to each block.

    Attributes:
        n: how many there should be, now.
    """

    n: int

    def start(self, most: int) -> None:
        """Start what is missing of `n` workers, but have no more than `most`."""

    def give(self, worker: int, items: list[Item]) -> None:
        """Give a worker a block; one that is lost meanwhile answers `WorkerLost`."""

    def wait(self) -> list[tuple[int, Done | Exception | None]]:
        """Return the next answers, perhaps none; a worker that answers with an exception is not there any more."""

    def close(self) -> None:
        """End all workers."""


@dataclass
class _Block:
    positions: range
    n_lost: int = 0
    failed: dict[int, str] = field(default_factory=dict)  # images that could not be read here

    def read(self, images: Sequence[tuple[ImageLike, str]]) -> list[Item]:
        """Return the images as workers get them: paths, or pictures."""
        items: list[Item] = []
        for position in self.positions:
            image, name = images[position]
            try:
                if isinstance(image, str | os.PathLike):
                    items.append((position, os.path.abspath(image), name))
                else:
                    items.append((position, load_image(image, name), name))
            except (ValueError, OSError) as error:
                self.failed[position] = str(error)
        return items


def fill(
    workers: Workers, images: Sequence[tuple[ImageLike, str]], size: int, idle: Sequence[int] = ()
) -> Iterator[Done]:
    """Let workers compute images in blocks of a size; yield what became of each block, and end the workers.

    Args:
        workers: an engine's workers.
        images: images with their names in messages (`diffclf.images.list_images`). A path goes to the workers as it
            is, any other image is read here and sent.
        size: images of a block.
        idle: workers that have answered that they are ready.

    Raises:
        ChildProcessError: `MOST_LOST` workers were lost at one block, or none can be started.
        Exception: what a worker raised, a full disk for example. All finished images are in the bank.
    """
    todo = deque(_Block(range(len(images))[first : first + size]) for first in range(0, len(images), size))
    busy: dict[int, _Block] = {}
    idle = list(idle)
    n_lost = 0  # since a worker last answered
    try:
        while todo or busy:
            workers.start(len(todo) + len(busy))
            while todo and idle:
                worker, block = idle.pop(), todo.popleft()
                busy[worker] = block
                workers.give(worker, block.read(images))
            for worker, answer in workers.wait():
                block = busy.pop(worker, None)
                if isinstance(answer, WorkerLost):
                    n_lost += 1
                    idle = [other for other in idle if other != worker]
                    if block is not None:
                        block.n_lost += 1
                        todo.appendleft(block)
                        _check_losses(block.n_lost, answer, f"at images {block.positions[0]} to {block.positions[-1]}")
                    _check_losses(n_lost - workers.n, answer, "one after the other")
                elif isinstance(answer, Exception):
                    raise answer
                else:
                    n_lost = 0
                    idle.append(worker)
                    if block is not None:
                        yield Done(len(block.positions), answer.n_evaluations, answer.failed | block.failed)
    finally:
        workers.close()


def _check_losses(n: int, last: WorkerLost, where: str) -> None:
    """Raise ChildProcessError if too many workers were lost."""
    if n >= MOST_LOST:
        raise ChildProcessError(
            f"workers were lost {where}, the last one: {last}. What is finished is in the bank: run the same command "
            "again, with fewer --workers or a smaller --batch-size if the memory was not enough"
        )
