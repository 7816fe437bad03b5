"""Two images and two captions: which belongs to which? Scores of a diffusion classifier and of CLIPs.

With s(I, c) the score of a caption on an image, an example counts for the

    text score    if s(I0, c0) > s(I0, c1) and s(I1, c1) > s(I1, c0)     each image finds its caption;  by chance 1/4
    image score   if s(I0, c0) > s(I1, c0) and s(I1, c1) > s(I0, c1)     each caption finds its image;  by chance 1/4
    group score   if both                                                                               by chance 1/6

Equal scores count as wrong. The score of a diffusion classifier is minus the mean error, error(I, c). The image score
compares errors on two images, one of which may be harder under any caption. The unconditional error says which, and can
be subtracted: s(I, c) = error(I, "") - error(I, c). The text score stays as it is.

Sources:
    Thrush et al. 2022, "Winoground", arXiv 2204.03162 (the scores).
    Krojer et al. 2023, "Are diffusion models vision-and-language reasoners?", arXiv 2305.16397 (the subtraction).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from diffclf.bank import ErrorBank
from diffclf.datasets.compositional import MINI, TAGS, Examples, load_examples
from diffclf.experiments.field import Field
from diffclf.mini.scores import EXPERIMENTS, N_RELATION_TRIALS
from diffclf.models.protocol import DiffusionModel
from diffclf.paths import data_dir
from diffclf.pruning import Fixed
from diffclf.search import search
from diffclf.stats import Estimate, contrast_values, holm, mcnemar, mean, paired_difference, proportion
from diffclf.trials import TrialList, uniform

__all__ = ["CHANCE", "COLUMNS", "OURS", "PAPER_TAGS", "answer_table", "clip_reading", "clip_rights", "clip_rows"]
__all__ += ["denoiser_errors", "evaluations", "image_right", "mcnemar_rows", "paper_points", "reading"]
__all__ += ["relation_minus_object", "score_rows", "shown_examples", "tag_points", "text_right", "text_rows"]
__all__ += ["without_unconditional"]

OURS = "Diffusion Classifier"
"""The paper's name of the row; the rows of its opponents are keys of the setting `opponents`."""
CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6}
AVERAGE = "average"
COLUMNS = {"colour": "relation (a): colour", "position": "relation (b): position"}
"""Names of tags in tables, where they are not the tags."""
PAPER_TAGS = {"object": ("object",), "relation": ("colour", "position", "relation"), "both": ("both",)}
"""The paper's tags and those that stand for them."""


def evaluations(settings: Mapping[str, Any]) -> int:
    """Return the denoiser evaluations: of the examples, and of two denoisers on the images that are checked.

    Of an example of Winoground 2 images have 3 prompts each, the empty one included. In the miniature world one scene
    gives an example of each tag: image 0 has 6 prompts, and the three images 1 have 3, 4 (that of two tags) and 3.
    """
    per_example = 6 + 3 + 4 + 3 if settings["dataset"] == MINI else 2 * 3
    return settings["n_images"] * per_example * settings["n_trials"] + settings["n_checked"] * 2 * 2 * N_RELATION_TRIALS


def denoiser_errors(
    bank: Callable[..., ErrorBank], model: DiffusionModel, examples: Examples, n_trials: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the errors (n, 2 images, 2 captions, n_trials) and the unconditional ones (n, 2 images, n_trials).

    An image is asked about its captions of all examples at once; its trials are the same for all of them.

    Args:
        bank: (model, prompts, trials, losses) -> its errors, as `Workbook.bank`.
        model: a text-to-image model.
        examples: the examples.
        n_trials: evenly spaced timesteps, each with a noise of its own.
    """
    asked: list[dict[str, int]] = [{"": 0} for _ in examples.images]
    for pair, captions in zip(examples.pair, examples.captions, strict=True):
        for place in pair:
            for caption in captions:
                asked[place].setdefault(caption, len(asked[place]))
    trials = TrialList(uniform(n_trials, len(model.schedule)))
    source = bank(model, [list(prompts) for prompts in asked], trials, losses=("l2",))
    found = {t.position: t.errors for t in search(source, examples.images, Fixed(trials), ordered=False)}
    rows = [
        [[found[place][asked[place][caption]] for caption in captions] for place in pair]
        for pair, captions in zip(examples.pair, examples.captions, strict=True)
    ]
    empty = [[found[place][0] for place in pair] for pair in examples.pair]
    return np.array(rows, dtype=np.float32), np.array(empty, dtype=np.float32)


def without_unconditional(errors: NDArray, empty: NDArray) -> NDArray[np.float64]:
    """Return the scores (n, 2 images, 2 captions) of errors and unconditional errors as `denoiser_errors` has them."""
    return empty.mean(axis=-1, dtype=np.float64)[..., None] - errors.mean(axis=-1, dtype=np.float64)


def text_right(scores: ArrayLike) -> NDArray[np.bool_]:
    """Return for which examples (...,) each image finds its caption: scores (..., 2 images, 2 captions)."""
    s = np.asarray(scores)
    return (s[..., 0, 0] > s[..., 0, 1]) & (s[..., 1, 1] > s[..., 1, 0])


def image_right(scores: ArrayLike) -> NDArray[np.bool_]:
    """Return for which examples (...,) each caption finds its image: scores (..., 2 images, 2 captions)."""
    return text_right(np.swapaxes(np.asarray(scores), -1, -2))


def tag_points(examples: Examples, right: NDArray[np.bool_]) -> dict[str, Estimate]:
    """Return the share of right examples of each tag in points, and of all examples as "average".

    The intervals are Wilson's; that of the average is a bootstrap over photographs.
    """
    found = {}
    for tag in dict.fromkeys(examples.tags.tolist()):
        own = right[examples.tags == tag]
        found[tag] = 100 * proportion(int(own.sum()), len(own))
    return found | {AVERAGE: 100 * mean(right, groups=examples.groups)}


def _named(points: Mapping[str, Any]) -> dict[str, Any]:
    return {COLUMNS.get(tag, tag): value for tag, value in points.items()}


def paper_points(table3: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return row -> the paper's tag -> text score, of the entry `table3_winoground` of the paper's numbers."""
    return {name: dict(zip(table3["columns"], values, strict=True)) for name, values in table3["rows"].items()}


def text_rows(
    points: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Return the rows of Table 3, a model each: row -> tag -> text score of this run, then the paper's."""
    rows = [{"model": name, "source": "this run"} | _named(own) for name, own in points.items()]
    shown = next(iter(points.values()))
    for name, theirs in paper.items():
        own = {tag: theirs[column] for column, tags in PAPER_TAGS.items() for tag in tags} | theirs
        rows.append({"model": name, "source": "paper"} | _named({tag: own[tag] for tag in shown}))
    return rows


def score_rows(examples: Examples, scores: Mapping[str, NDArray]) -> list[dict[str, Any]]:
    """Return text, image and group score of each row of scores (n, 2, 2), all examples and by tag, in points."""
    rows = []
    for name, own in scores.items():
        text, image = text_right(own), image_right(own)
        for kind, right in {"text": text, "image": image, "group": text & image}.items():
            rows.append({"model": name, "score": kind, "chance": CHANCE[kind]} | _named(tag_points(examples, right)))
    return rows


def mcnemar_rows(examples: Examples, rights: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Return a row per tag and opponent: the first row of `rights` against each other one, by McNemar's exact test.

    The last column is corrected by Holm's method for the number of rows.
    """
    ours, *others = rights
    rows = []
    for tag in dict.fromkeys(examples.tags.tolist()):
        here = examples.tags == tag
        for name in others:
            a, b = rights[ours][here], rights[name][here]
            difference = 100 * paired_difference(a, b, examples.groups[here])
            only = {"only ours": int((a & ~b).sum()), "only theirs": int((b & ~a).sum())}
            row = {"tag": COLUMNS.get(tag, tag), "opponent": name, "ours minus theirs": difference}
            rows.append(row | only | {"p": mcnemar(a, b)})
    corrected = holm([row["p"] for row in rows])
    return [row | {"p, Holm": float(p)} for row, p in zip(rows, corrected, strict=True)]


def relation_minus_object(examples: Examples, right: NDArray[np.bool_], level: float = 0.95) -> Estimate:
    """Return the text score of relation (colour and position, or the tag itself) minus that of object, in points.

    The bootstrap draws photographs; where tags share their photographs, the difference is a paired one.
    """
    relation, objects = (np.isin(examples.tags, PAPER_TAGS[tag]) for tag in ("relation", "object"))
    values, groups = contrast_values(right, relation, objects), examples.groups[relation | objects]
    return 100 * mean(values, groups=groups, level=level, signed=True)


def answer_table(examples: Examples, scores: Mapping[str, NDArray]) -> pd.DataFrame:
    """Return what each row of scores (n, 2, 2) answers on each image: the position of the caption that it chooses."""
    parts = []
    for tag in dict.fromkeys(examples.tags.tolist()):
        here = examples.tags == tag
        chosen = {name: own[here].argmax(axis=2).ravel() for name, own in scores.items()}
        labels = np.tile([0, 1], here.sum())
        parts.append(pd.DataFrame(Field(labels, np.repeat(examples.groups[here], 2), chosen).columns(tag)))
    return pd.concat(parts, ignore_index=True)


def shown_examples(examples: Examples, scores: Mapping[str, NDArray]) -> list[dict[str, Any]]:
    """Return the first example of each tag: tag, pictures, captions, and each row's margins.

    The margin of an image is the score of its caption minus that of the other caption, above 0 where it finds its own.
    Only pictures of the miniature world are in it; Winoground's must not be published.
    """
    found = []
    for tag in dict.fromkeys(examples.tags.tolist()):
        place = int(np.flatnonzero(examples.tags == tag)[0])
        margins = {name: [float(s[place, k, k] - s[place, k, 1 - k]) for k in (0, 1)] for name, s in scores.items()}
        pictures = [examples.images[k] for k in examples.pair[place]] if examples.name == MINI else []
        found.append({"tag": tag, "pictures": pictures, "captions": examples.captions[place], "margins": margins})
    return found


def reading(points: Mapping[str, Mapping[str, Estimate]], paper: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what Table 3 says in this run, in sentences; points: row -> tag -> text score, the first row is ours."""
    (ours, own), *others = points.items()
    tags = {tag: value for tag, value in own.items() if tag != AVERAGE}
    weakest, best = min(tags, key=lambda tag: tags[tag].value), max(tags, key=lambda tag: tags[tag].value)
    names = {tag: COLUMNS.get(tag, tag) for tag in tags}
    said = [
        f"{ours}: weakest at {names[weakest]}, {tags[weakest]:.1f} points, best at {names[best]}, {tags[best]:.1f}; "
        f"chance is 25."
    ]
    for name, other in others:
        above = [names[tag] for tag in tags if own[tag].low > other[tag].high]
        below = [names[tag] for tag in tags if own[tag].high < other[tag].low]
        gap, paper_gap = own[AVERAGE].value - other[AVERAGE].value, paper[ours][AVERAGE] - paper[name][AVERAGE]
        side = "above" if gap > 0 else "below" if gap < 0 else "level with"
        said.append(
            f"On average it is {abs(gap):.1f} points {side} {name} (paper: {paper_gap:.1f} above). Intervals apart: "
            f"above at {', '.join(above) or 'no tag'}, below at {', '.join(below) or 'no tag'}."
        )
    return said


def clip_rights(examples: Examples, ours: NDArray[np.bool_]) -> tuple[Examples, dict[str, NDArray[np.bool_]]]:
    """Return examples of the miniature world, and which of them each stored CLIP tells apart, (n,) by text score.

    They are the first examples of each tag: as many as in `examples`, or all that are stored. Where `examples` are of
    the miniature world, `ours` comes before the CLIPs.

    Raises:
        FileNotFoundError: no stored CLIPs; `diffclf score clip` makes them.
    """
    (sizes, kinds), *_ = EXPERIMENTS["clip"]
    with np.load(data_dir() / "scores" / "clip.npz") as file:
        right = text_right(file["similarity"])  # batch sizes, captions, tags, n
    n = min(right.shape[-1], len(examples) // len(TAGS))
    found = {OURS: ours.reshape(len(TAGS), -1)[:, :n].ravel()} if examples.name == MINI else {}
    for size, by_kind in zip(sizes, right, strict=True):
        found |= {_clip(size, kind): own[:, :n].ravel() for kind, own in zip(kinds, by_kind, strict=True)}
    return load_examples(n=n), found


def _clip(size: int, kind: str) -> str:
    return f"CLIP, batch size {size}, {kind} captions"


def clip_rows(examples: Examples, rights: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Return the text scores by tag of the rows of `clip_rights`, and how far ours is ahead on average, in points."""
    rows = []
    for name, right in rights.items():
        row = {"model": name} | _named(tag_points(examples, right))
        if OURS in rights and name != OURS:
            row["ours minus theirs"] = 100 * paired_difference(rights[OURS], right, examples.groups)
        rows.append(row)
    return rows


def clip_reading(examples: Examples, rights: Mapping[str, NDArray[np.bool_]]) -> list[str]:
    """Return what batch size and captions change in `clip_rights`, in sentences."""
    (sizes, kinds), *_ = EXPERIMENTS["clip"]

    def gain(more: str, less: str) -> str:
        return f"{100 * paired_difference(rights[more], rights[less], examples.groups):.1f}"

    (few, many), (full, short) = sizes, kinds
    by_size = [f"{gain(_clip(many, kind), _clip(few, kind))} with {kind} captions" for kind in kinds]
    by_kind = [f"{gain(_clip(size, full), _clip(size, short))} with batch size {size}" for size in sizes]
    return [
        f"CLIPs, average text score, batch size {many} minus {few}: {', '.join(by_size)}.",
        f"CLIPs, average text score, {full} minus {short} captions: {', '.join(by_kind)}.",
    ]
