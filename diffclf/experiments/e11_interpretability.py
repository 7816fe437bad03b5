"""Where the evidence lies: maps of the error, and pictures with parts deleted or inserted by them.

With A the true class and B its strongest rival, the evidence of a position u of the latent on one trial is

    e(u) = mean over channels of (eps_hat_B - eps)_u^2 - (eps_hat_A - eps)_u^2, divided by the number of positions

so that its sum over the positions is the error under B minus that under A, the difference of two scores of Li et al.
2023, Eq. 4. The map is the mean over trials. A position is marked if Student's interval over the trials excludes 0 at
the level 1 - 0.05 / positions (Bonferroni).

    deletion     the first k positions of an order get the fill colour; what is left is classified, A against B
    insertion    the first k positions of an order are kept, and all others get the fill colour
    margin       mean error under B minus that under A, on trials that the map has not seen; above 0 the decision is A

Round trips through noise (Figure 7) are in `diffclf.experiments.inversion`.

Sources: Li et al. 2023, arXiv 2303.16203; Petsiuk, Das, Saenko 2018, "RISE", arXiv 1806.07421 (deletion, insertion).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from diffclf.datasets.imageset import ImageSet
from diffclf.experiments.accuracy import accuracies
from diffclf.experiments.e00_start_here import predict_noise
from diffclf.experiments.inversion import DESCRIBED, WRONG, RoundTrips
from diffclf.images import list_images, load_image, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.progress import progress
from diffclf.search import ErrorSource, compute_errors
from diffclf.stats import Estimate, mean, paired_difference
from diffclf.trials import TrialList, Trials, even, image_key, uniform

__all__ = ["MODES", "ORDERS", "Evidence", "Judged", "altered", "changed_rows", "contrasts", "evaluations"]
__all__ += ["evidence_rows", "examples", "fill_colour", "gather_evidence", "judge", "order_ranks", "reading", "rivals"]
__all__ += ["squares", "timestep_rows", "titles"]

ORDERS = ("evidence", "random", "unlike the fill")
"""Orders of positions: most evidence first, at random, and first those that differ most from the fill colour."""
MODES = ("deletion", "insertion")
BLANK = 5
"""Grey levels by which a position that looks like the fill colour differs from it at most."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations of all classes, of the maps, of the altered pictures and of the round trips."""
    n_images, n_classes = settings["n_images"], settings["n_classes"]
    n_pictures = 3 + len(MODES) * len(ORDERS) * len(settings["fractions"])
    pairs = 2 * (settings["n_map"] + settings["n_judge"] * n_pictures)
    trips = min(settings["n_invert"], n_images) * settings["n_steps"] * (2 * (n_classes + 1) + 1)
    return n_images * (n_classes * settings["n_trials"] + pairs) + trips


def rivals(errors: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """Return the wrong class with the smallest mean error of each image, (n,); errors are (n, n_classes)."""
    others = np.where(np.eye(errors.shape[1], dtype=bool)[labels], np.inf, errors)
    return others.argmin(axis=1)


def squares(data: ImageSet, size: int) -> list[NDArray[np.uint8]]:
    """Return the images as the model sees them, each (size, size, 3) uint8."""
    pixels = (to_pixels(load_image(*item), size) for item in list_images(data.images))
    return [((own + 1) * 127.5).round().byte().movedim(0, -1).numpy() for own in pixels]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence for the true class against its rival, by image, trial and position.

    Attributes:
        values: (n_images, n_trials, H, W) e(u) of the module's docstring.
        timesteps: (n_trials,) of the trials.
        n_timesteps: T of the model.
    """

    values: NDArray[np.float32]
    timesteps: NDArray[np.int64]
    n_timesteps: int = 1000

    @property
    def maps(self) -> NDArray[np.float64]:
        """(n_images, H, W) mean over the trials."""
        return self.values.mean(axis=1, dtype=np.float64)

    @property
    def marks(self) -> NDArray[np.int64]:
        """(n_images, H, W): 1 where the evidence is for the true class, -1 where for the rival, 0 where unmarked."""
        n, n_positions = len(self.timesteps), self.values[0, 0].size
        error = self.values.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(n)
        quantile = stdtrit(n - 1, 1 - 0.05 / n_positions / 2)
        return (np.sign(self.maps) * (np.abs(self.maps) > quantile * error)).astype(np.int64)

    def by_timestep(self, n_parts: int = 5) -> dict[int, NDArray[np.float64]]:
        """Return the middle of each of n_parts equal ranges of t -> (n_images, H, W) the map of its trials alone."""
        edges = np.linspace(0, self.n_timesteps, n_parts + 1).round().astype(int)
        inside = {(low + high) // 2: (low <= self.timesteps) & (self.timesteps < high)
                  for low, high in zip(edges[:-1], edges[1:], strict=True)}  # fmt: skip
        return {t: self.values[:, own].mean(axis=1, dtype=np.float64) for t, own in inside.items() if own.any()}


def gather_evidence(model: DiffusionModel, data: ImageSet, rival: NDArray, n_trials: int, seed: int = 0) -> Evidence:
    """Return the evidence for the true class of each image against its rival (n_images,), over evenly spread t.

    The noises are those of the seed after the given one: the search that has found the rivals has drawn others.
    """
    prompts, values = data.prompts_for(model), []
    timesteps = even(n_trials, len(model.schedule))
    pairs = zip(list_images(data.images), data.labels, rival, strict=True)
    for item, true, other in progress(list(pairs), desc="maps", unit="image"):
        pixels = to_pixels(load_image(*item), model.image_size)
        trials = Trials(timesteps, seed + 1, image_key(pixels), model.latent_shape)
        cond = model.encode_prompts([prompts[true], prompts[other]])
        eps, predicted = predict_noise(model, model.encode_images(pixels[None]), trials, cond)
        of_true, of_rival = (predicted - eps).square().mean(dim=2).numpy()
        values.append((of_rival - of_true) / of_true[0].size)
    return Evidence(np.stack(values), timesteps, len(model.schedule))


def fill_colour(picture: NDArray, fill: str) -> NDArray[np.uint8]:
    """Return the colour (3,) of deleted positions: "black", or "mean", that of the picture (S, S, 3)."""
    if fill not in ("black", "mean"):
        raise ValueError(f"fill must be black or mean, got {fill!r}")
    colour = picture.reshape(-1, 3).mean(axis=0).round() if fill == "mean" else np.zeros(3)
    return colour.astype(np.uint8)


def _unlike(picture: NDArray, colour: NDArray, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return by how much each position (H, W) of a picture differs from a colour, mean over its pixels and channels."""
    step = len(picture) // shape[0]
    difference = np.abs(picture.astype(np.float64) - colour)
    return difference.reshape(shape[0], step, shape[1], step, 3).mean(axis=(1, 3, 4))


def order_ranks(picture: NDArray, own_map: NDArray, fill: str, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return order of `ORDERS` -> rank of each position (H, W), 0 for the first; the seed draws the random order."""
    values = {
        "evidence": own_map,
        "random": np.random.default_rng(seed).random(own_map.shape),
        "unlike the fill": _unlike(picture, fill_colour(picture, fill), own_map.shape),
    }
    flat = {name: np.argsort(-each, axis=None, kind="stable") for name, each in values.items()}
    return {name: np.argsort(order).reshape(own_map.shape) for name, order in flat.items()}


def altered(picture: NDArray, ranks: NDArray, fraction: float, fill: str, mode: str = "deletion") -> NDArray[np.uint8]:
    """Return a picture (S, S, 3) whose first positions are deleted, or ("insertion") are the only ones that are left.

    Args:
        picture: uint8, S a multiple of H and W.
        ranks: (H, W) of the positions.
        fraction: of the positions that are the first ones.
        fill: see `fill_colour`.
        mode: "deletion" or "insertion".
    """
    first = ranks < round(fraction * ranks.size)
    step = len(picture) // len(ranks)
    gone = (first if mode == "deletion" else ~first).repeat(step, axis=0).repeat(step, axis=1)
    return np.where(gone[..., None], fill_colour(picture, fill), picture)


@dataclass(frozen=True, eq=False)
class Judged:
    """Margins of altered pictures.

    Attributes:
        margins: (mode, order) -> (n_images, 1 + n_fractions), at 0 and at each fraction.
        again: (n_images,) margins of the intact pictures with other noises.
        fractions: (n_fractions,) increasing.
        groups: (n_images,) the photograph of each image.
    """

    margins: dict[tuple[str, str], NDArray[np.float64]]
    again: NDArray[np.float64]
    fractions: tuple[float, ...]
    groups: NDArray[np.int64]

    @property
    def intact(self) -> NDArray[np.float64]:
        """(n_images,) margins of the intact pictures."""
        return self.margins["deletion", ORDERS[0]][:, 0]

    def shares(self, mode: str) -> dict[str, tuple[list[float], list[Estimate]]]:
        """Return order -> the fractions and the share of decisions for the true class at each, in points."""
        own = {order: self.margins[mode, order] > 0 for order in ORDERS}
        return {
            order: ([0.0, *self.fractions], [100 * share for share in accuracies(right, self.groups)])
            for order, right in own.items()
        }

    def heights(self, mode: str) -> dict[str, tuple[list[float], list[Estimate]]]:
        """Return order -> the fractions and the mean margin at each, in per cent of the mean intact margin."""
        scale = 100 / self.intact.mean()
        return {
            order: (
                [0.0, *self.fractions],
                [scale * mean(own, groups=self.groups) for own in self.margins[mode, order].T],
            )
            for order in ORDERS
        }

    def areas(self, mode: str, order: str) -> NDArray[np.float64]:
        """Return the mean height of each image's curve of decisions, by trapezoids, (n_images,), in points."""
        x = np.array([0.0, *self.fractions])
        return np.trapezoid(100.0 * (self.margins[mode, order] > 0), x, axis=1) / x[-1]

    def gap(self, mode: str, order: str, level: float = 0.95) -> Estimate:
        """Return by how much the map's order has more effect than another: the difference of the areas, in points."""
        first, second = (order, ORDERS[0]) if mode == "deletion" else (ORDERS[0], order)
        return paired_difference(self.areas(mode, first), self.areas(mode, second), self.groups, level=level)

    def changed(self, order: str, fraction: float) -> Estimate:
        """Return how many decisions of 100 another one replaces when a fraction of the positions is deleted."""
        place = 1 + self.fractions.index(fraction)
        return self._changed(self.margins["deletion", order][:, place])

    def changed_by_noise(self) -> Estimate:
        """Return how many decisions of 100 change if nothing is deleted and the noises are others."""
        return self._changed(self.again)

    def _changed(self, margins: NDArray) -> Estimate:
        return 100 * accuracies(((margins > 0) != (self.intact > 0))[:, None], self.groups)[0]


def judge(
    model: DiffusionModel, data: ImageSet, rival: NDArray, maps: NDArray, settings: Mapping[str, Any], seed: int = 0
) -> Judged:
    """Return the margins of all altered pictures of the images.

    Args:
        model: the model.
        data: the images.
        rival: (n_images,) the strongest wrong class of each.
        maps: (n_images, H, W).
        settings: `fractions`, `fill` and `n_judge`, the trials of each picture.
        seed: of the notebook. The noises are those of the second seed after it, and of the third for `Judged.again`;
            each picture has its own.
    """
    fractions, fill, prompts = tuple(settings["fractions"]), settings["fill"], data.prompts_for(model)
    trials = TrialList(uniform(settings["n_judge"], len(model.schedule)))
    keys = [(mode, order) for mode in MODES for order in ORDERS]
    found: dict[tuple[str, str], list] = {key: [] for key in keys}
    again, pictures = [], squares(data, model.image_size)
    for place in progress(range(len(data)), desc="altered pictures", unit="image"):
        picture, pair = pictures[place], [prompts[data.labels[place]], prompts[rival[place]]]
        ranks = order_ranks(picture, maps[place], fill, seed=seed + place)
        shown = [picture, altered(picture, ranks["random"], 1.0, fill)]
        shown += [altered(picture, ranks[order], f, fill, mode) for mode, order in keys for f in fractions]
        errors = compute_errors(ErrorSource(model, pair, trials, seed=seed + 2, losses=("l2",)), shown, desc=None)
        margins = errors.mean(axis=2, dtype=np.float64) @ [-1, 1]
        for number, key in enumerate(keys):
            start = 2 + number * len(fractions)
            found[key].append([margins[MODES.index(key[0])], *margins[start : start + len(fractions)]])
        other = ErrorSource(model, pair, trials, seed=seed + 3, losses=("l2",))
        again.append(float(compute_errors(other, [picture], desc=None)[0].mean(axis=1, dtype=np.float64) @ [-1, 1]))
    return Judged({key: np.array(own) for key, own in found.items()}, np.array(again), fractions, data.groups)


def examples(labels: NDArray, chosen: NDArray, n: int = 4) -> list[int]:
    """Return n images to show: the first right ones, each of another class, and last the first wrong one if any."""
    right, wrong = np.flatnonzero(labels == chosen), np.flatnonzero(labels != chosen)
    first = right[np.sort(np.unique(labels[right], return_index=True)[1])]
    kept = list(dict.fromkeys([*first.tolist(), *right.tolist()]))
    return [*kept[: n - 1], int(wrong[0])] if len(wrong) else kept[:n]


def titles(images: Sequence[int], data: ImageSet, chosen: NDArray, rival: NDArray) -> list[str]:
    """Return for some images the true class, and the rival or, if the classifier is wrong, what it has chosen."""
    said = ["rival" if data.labels[place] == chosen[place] else "taken for" for place in images]
    names = ((data.classnames[data.labels[place]], data.classnames[rival[place]]) for place in images)
    return [f"{true}\n{word} {other}" for (true, other), word in zip(names, said, strict=True)]


def timestep_rows(evidence: Evidence, groups: NDArray) -> dict[str, dict[str, Estimate]]:
    """Return a row per fifth of the timesteps: the mean evidence of an image, x 1000, on the trials there alone."""
    parts = evidence.by_timestep().items()
    return {f"t around {t}": {"evidence x 1000": 1000 * mean(own.sum(axis=(1, 2)), groups=groups)} for t, own in parts}


def evidence_rows(
    evidence: Evidence, pictures: Sequence[NDArray], fill: str, groups: NDArray
) -> dict[str, dict[str, Estimate]]:
    """Return a row for the positions that look like the fill colour, and one for the others, means over the images.

    The columns are shares of all positions of an image in points: all of them, those marked for the true class and
    those marked for the rival; and the mean evidence of such positions together x 1000.
    """
    shape = evidence.values.shape[2:]
    blanks = np.stack([_unlike(own, fill_colour(own, fill), shape) <= BLANK for own in pictures])
    rows = {}
    for name, own in {"like the fill": blanks, "unlike the fill": ~blanks}.items():
        share = {"positions": own, "for the true class": own & (evidence.marks > 0)}
        share["for the rival"] = own & (evidence.marks < 0)
        rows[name] = {key: 100 * mean(each.mean(axis=(1, 2)), groups=groups) for key, each in share.items()}
        rows[name]["evidence x 1000"] = 1000 * mean((own * evidence.maps).sum(axis=(1, 2)), groups=groups)
    return rows


def contrasts(trips: RoundTrips, judged: Judged, level: float) -> dict[str, Estimate]:
    """Return claim -> its contrast, with an interval at a level."""
    described = -1.0 * trips.minus_right(DESCRIBED, level)
    return {
        "wrong-prompt-reconstructs-worse": trips.minus_right(WRONG, level),
        "description-reconstructs-better": described,
        "deletion-by-map-beats-random": judged.gap("deletion", "random", level),
        "deletion-by-map-beats-unlike-fill": judged.gap("deletion", "unlike the fill", level),
        "insertion-by-map-beats-random": judged.gap("insertion", "random", level),
    }


def changed_rows(judged: Judged, fraction: float) -> dict[str, dict[str, Estimate]]:
    """Return a row per order, and one for other noises alone: decisions of 100 that change if a fraction is deleted."""
    rows = {f"{fraction:.3g} deleted, {order}": judged.changed(order, fraction) for order in ORDERS}
    rows["nothing deleted, other noises"] = judged.changed_by_noise()
    return {name: {"decisions of 100 that change": found} for name, found in rows.items()}


def reading(judged: Judged) -> list[str]:
    """Return sentences: what each order of deletion and of insertion does to the decisions."""
    said = []
    for mode in MODES:
        for order in ORDERS[1:]:
            gap = judged.gap(mode, order)
            more, less = gap.low > 0, gap.high < 0
            verdict = "has more effect than" if more else "has less effect than" if less else "is not told apart from"
            said.append(f"{mode}, at 95%: the map's order {verdict} {order!r}: {gap:.1f} points")
    return said
