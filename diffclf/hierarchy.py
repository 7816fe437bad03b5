"""Hierarchical pruning: first which branch of a label tree, then which class.

An inner node has a prompt of its own, "a photo of a sneaker" for the sneakers of all colours. From the root downwards
the nodes of a level race for a few trials; those not dropped are opened, and the classes below them race to the end.
With many classes in few branches most of them are never evaluated. A class below a node that was dropped cannot win, so
the result can differ from a search among all classes.

Source: Shanbhag et al. 2024, Just leaf it, arXiv 2411.12073 (HDC), with a race in place of its fixed ratios.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffclf.pruning import LeadsTo, Pruning, takes_trials_of
from diffclf.racing import Racing

__all__ = ["Hierarchical", "Tree"]

Branches = Mapping[str | int, "Branches | Sequence[str]"]
"""Prompt of an inner node -> the class names below it, or further nodes."""


@dataclass(frozen=True)
class Tree(LeadsTo):
    """The search along a label tree whose nodes are rows of the error table.

    Attributes:
        children: row of an inner node -> rows of its children; rows that are no key are leaves.
        roots: rows of the top level.
        race: drops inner nodes.
        level_trials: trials after which the inner nodes still in are opened.
        then: the strategy for the leaves that are reached.
    """

    children: Mapping[int, tuple[int, ...]] = field(hash=False)
    roots: tuple[int, ...]
    race: Racing
    level_trials: int
    then: Pruning

    def next(self, errors: np.ndarray) -> np.ndarray | None:
        """Return the mask of entries to evaluate next, or None when done."""
        rows, wanted = self._reach(errors)
        if wanted is None:
            wanted = self.then.next(errors[rows])
        if wanted is None:
            return None
        mask = np.zeros(errors.shape, dtype=bool)
        mask[rows] = wanted
        return mask

    def survivors(self, errors: np.ndarray) -> NDArray[np.int64]:
        """Return the leaves that could not be told apart; empty where the last strategy always decides."""
        rows, wanted = self._reach(errors)
        survivors = getattr(self.then, "survivors", None)
        return np.array(rows)[survivors(errors[rows])] if survivors and wanted is None else np.array([], dtype=int)

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs at most: nothing is dropped on the way."""
        nodes = len(self.children) * self.level_trials * self.race.repeats
        return nodes + self.then.evaluations(n_prompts, n_timesteps)

    def only(self, leaves: Iterable[int]) -> "Tree":
        """Return the tree without the leaves that are not named, and without nodes that lead to none."""
        kept = set(leaves)
        children: dict[int, tuple[int, ...]] = {}

        def lives(row: int) -> bool:
            if row not in self.children:
                return row in kept
            left = tuple(child for child in self.children[row] if lives(child))
            if left:
                children[row] = left
            return bool(left)

        roots = tuple(row for row in self.roots if lives(row))
        return Tree(children, roots, self.race, self.level_trials, self.then)

    def _reach(self, errors: np.ndarray) -> tuple[list[int], np.ndarray | None]:
        """Return rows and the mask of what they want next; the leaves reached and None once no inner node is left."""
        rows, leaves = list(self.roots), []
        while True:
            leaves += [row for row in rows if row not in self.children]
            nodes = [row for row in rows if row in self.children]
            if not nodes:
                return sorted(leaves), None
            known, opened = errors[nodes], None
            if len(nodes) == 1:
                opened = [0]
            else:
                for look in self.race.rounds(known):
                    if look.n_trials >= self.level_trials or look.finished:
                        opened = look.survivors
                        break
            if opened is None:
                return nodes, self.race.next(known)
            rows = [child for node in opened for child in self.children[nodes[node]]]


@dataclass(frozen=True)
class Hierarchical(LeadsTo):
    """Search along a label tree; see the module's text.

    Attributes:
        tree: prompt of an inner node -> the class names below it, or further nodes. For a class-conditional model a
            node's prompt is a label, name or index, that stands for its branch.
        then: the strategy for the classes that are reached.
        race: drops inner nodes, on the same trials.
        level_trials: trials after which the inner nodes still in are opened, at least 8.

    Raises:
        ValueError: an empty tree or branch, a node twice, or as the attributes say.
    """

    tree: Branches = field(hash=False)
    then: Pruning = Racing()
    race: Racing = Racing()
    level_trials: int = 16

    def __post_init__(self) -> None:
        if isinstance(self.level_trials, bool) or not isinstance(self.level_trials, int) or self.level_trials < 8:
            raise ValueError(f"level_trials must be a whole number of at least 8, got {self.level_trials!r}")
        if not isinstance(self.tree, Mapping) or not self.tree:
            raise ValueError(f"tree must map prompts of inner nodes to class names or further nodes, got {self.tree!r}")
        nodes = self.nodes()
        if len(set(nodes)) != len(nodes):
            raise ValueError(f"tree must have every node once, got {max(nodes, key=nodes.count)!r} twice")

    def nodes(self) -> list[str | int]:
        """Return the prompts of the inner nodes, from the top level downwards."""
        found, level = [], [self.tree]
        while level:
            found += [prompt for branches in level for prompt in branches]
            level = [below for branches in level for below in branches.values() if isinstance(below, Mapping)]
        return found

    def bind(self, classnames: Sequence[str]) -> Tree:
        """Return the search for these rows: the prompts of the classes, then the inner nodes as `nodes` has them.

        Args:
            classnames: (n_prompts,) the class each prompt stands for; a class may have several.

        Raises:
            ValueError: the tree misses a class, names one twice or one that is not there, or has an empty branch; or
                the trials of `race` and `then` differ.
        """
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(classnames):
            rows.setdefault(name, []).append(row)
        place = {node: len(classnames) + i for i, node in enumerate(self.nodes())}
        named = list(self._leaves(self.tree))
        for name in [*named, *rows]:
            if name not in rows or named.count(name) != 1:
                where = f"{named.count(name)} times" if name in rows else "which is no class"
                raise ValueError(f"tree must name each of the {len(rows)} classes once, got {name!r} {where}")
        children: dict[int, tuple[int, ...]] = {}

        def add(branches: Branches) -> None:
            for node, below in branches.items():
                if isinstance(below, Mapping):
                    add(below)
                    children[place[node]] = tuple(place[inner] for inner in below)
                else:
                    children[place[node]] = tuple(row for name in below for row in rows[name])
                if not children[place[node]]:
                    raise ValueError(f"tree must have classes below every node, got none below {node!r}")

        add(self.tree)
        if not takes_trials_of(self.race, self.then.timesteps(), self.then.noises()):
            raise ValueError(f"race must take the first trials of then, got {self.race} and {self.then}")
        return Tree(children, tuple(place[node] for node in self.tree), self.race, self.level_trials, self.then)

    def _leaves(self, branches: Branches) -> Iterator[str]:
        for below in branches.values():
            yield from self._leaves(below) if isinstance(below, Mapping) else below

    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        """Return the denoiser evaluations one image costs at most: nothing is dropped on the way."""
        nodes = len(self.nodes()) * self.level_trials * self.race.repeats
        return nodes + self.then.evaluations(n_prompts, n_timesteps)
