"""Search along a label tree: first the branch, then the class.

An inner node has a prompt of its own, "a photo of a sneaker" for the sneakers of all colours. From the root downwards
the nodes of a level race for a few trials. The nodes that are not dropped are opened, and the classes below them race
to the end. With many classes in few branches most classes are never evaluated. A class below a dropped node cannot win,
so that the result can differ from a search among all classes.

Source: Shanbhag et al. 2024, "Just leaf it", arXiv 2411.12073 (HDC), with a race in place of its fixed ratios.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from diffclf.models.protocol import DiffusionModel
from diffclf.pruning.base import Strategy, Wrapped, check_count, widen
from diffclf.pruning.racing import Racing

__all__ = ["Hierarchical"]

Branches = Mapping[str | int, "Branches | Sequence[str]"]  # as `Hierarchical.tree`


@dataclass(frozen=True)
class Hierarchical(Wrapped):
    """Search along a label tree.

    Attributes:
        tree: prompt of an inner node -> the class names below it, or further nodes. For a class-conditional model a
            node's prompt is a label, name or index, that stands for its branch.
        then: the strategy for the classes that are reached.
        race: drops inner nodes, on the same trials.
        level_trials: the remaining nodes are opened at the first look that has at least so many trials; 8 or more.
        children: row of each inner node -> rows below it, once the strategy is prepared; `roots` has the top level's.
    """

    tree: Branches = field(hash=False)
    then: Strategy = Racing()
    race: Racing = Racing()
    level_trials: int = 16
    children: Mapping[int, tuple[int, ...]] | None = field(default=None, hash=False, repr=False)
    roots: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_count("level_trials", self.level_trials, 8)
        if not isinstance(self.tree, Mapping) or not self.tree:
            raise ValueError(f"tree must map prompts of inner nodes to class names or further nodes, got {self.tree!r}")
        nodes = self.more_prompts()
        if len(set(nodes)) != len(nodes):
            raise ValueError(f"tree must have every node once, got {max(nodes, key=nodes.count)!r} twice")

    @override
    def more_prompts(self) -> list[str | int]:
        return [node for node, _ in _nodes(self.tree)]

    @override
    def prepare(self, model: DiffusionModel, classnames: Sequence[str]) -> "Hierarchical":
        if self.children is not None:
            return self
        then, race = self.then.prepare(model, classnames), self.race.prepare(model, classnames)
        n_timesteps = len(model.schedule)
        if not then.trial_list(n_timesteps).starts_with(race.trial_list(n_timesteps)):
            raise ValueError(f"race must take the first trials of then, got {race} and {then}")
        _check_classes(self.tree, set(classnames))
        place = {node: len(classnames) + i for i, node in enumerate(self.more_prompts())}
        children = {}
        for node, below in _nodes(self.tree):
            if isinstance(below, Mapping):
                children[place[node]] = tuple(place[inner] for inner in below)
            else:
                children[place[node]] = tuple(row for row, name in enumerate(classnames) if name in below)
        return replace(self, then=then, race=race, children=children, roots=tuple(place[node] for node in self.tree))

    @override
    def next(self, errors: NDArray) -> NDArray[np.bool_] | None:
        rows, wanted = self._reach(errors)
        return widen(self.then.next(errors[rows]) if wanted is None else wanted, rows, errors.shape)

    @override
    def undecided(self, errors: NDArray) -> NDArray[np.int64]:
        rows, wanted = self._reach(errors)
        return np.array(rows)[self.then.undecided(errors[rows])] if wanted is None else np.empty(0, dtype=np.int64)

    @override
    def evaluations(self, n_prompts: int, n_timesteps: int = 1000) -> int:
        opened = next((look for look in self.race.looks() if look >= self.level_trials), self.race.trials)
        nodes = len(self.more_prompts()) * opened * self.race.repeats
        return nodes + self.then.evaluations(n_prompts, n_timesteps)

    @override
    def only(self, rows: Sequence[int]) -> "Hierarchical":
        alive, children = set(rows), {}
        for node in sorted(self.children, reverse=True):  # a node's children have higher rows, or are leaves
            below = tuple(row for row in self.children[node] if row in alive)
            if below:
                children[node] = below
                alive.add(node)
        return replace(self, children=children, roots=tuple(row for row in self.roots if row in alive))

    def _reach(self, errors: NDArray) -> tuple[list[int], NDArray[np.bool_] | None]:
        """Return rows and the mask of what they want next; the leaves reached and None once no inner node is left."""
        if self.children is None:
            raise ValueError("a label tree must be prepared for its classes (prepare) before it is run")
        rows, leaves = list(self.roots), []
        while True:
            leaves += [row for row in rows if row not in self.children]
            nodes = [row for row in rows if row in self.children]
            if not nodes:
                return sorted(leaves), None
            known, opened = errors[nodes, : self.race.trials * self.race.repeats], [0]  # a single node does not race
            if len(nodes) > 1:
                looks = self.race.rounds(known)
                last = next((look for look in looks if look.n_trials >= self.level_trials or look.finished), None)
                if last is None:
                    return nodes, self.race.next(known)
                opened = last.survivors
            rows = [child for node in opened for child in self.children[nodes[node]]]


def _nodes(tree: Branches) -> Iterator[tuple[str | int, Branches | Sequence[str]]]:
    """Yield the inner nodes with what is below them, from the top level downwards."""
    level = [tree]
    while level:
        yield from (item for branches in level for item in branches.items())
        level = [below for branches in level for below in branches.values() if isinstance(below, Mapping)]


def _check_classes(tree: Branches, classes: set[str]) -> None:
    """Raise ValueError unless the tree names each class once and has something below every node."""
    counts = Counter()
    for node, below in _nodes(tree):
        if not len(below):
            raise ValueError(f"tree must have classes below every node, got none below {node!r}")
        counts.update([] if isinstance(below, Mapping) else below)
    for name in sorted(classes | set(counts)):
        if name not in classes or counts[name] != 1:
            where = f"{counts[name]} times" if name in classes else "which is no class"
            raise ValueError(f"tree must name each of the {len(classes)} classes once, got {name!r} {where}")
