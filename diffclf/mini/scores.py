"""What the arms of three experiments answer, stored so that the notebooks need not carry the arms themselves.

    crawl      errors of every class on crawled test images, of denoisers trained with and without the filter
    relation   error differences of the two captions of a scene, of denoisers trained by three objectives
    clip       similarities of small CLIPs that differ in batch size and captions

Each model's answers are kept beside its weights; a killed run goes on with the next model.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray

from diffclf.baselines.contrastive import load_contrastive
from diffclf.datasets import load_dataset
from diffclf.datasets.compositional import TAGS, load_examples
from diffclf.datasets.crawl import crawled
from diffclf.mini.clip import STATED
from diffclf.mini.crawl import ARMS
from diffclf.mini.sd import OBJECTIVES, SEEDS
from diffclf.models import load_model
from diffclf.search import ErrorSource, compute_errors
from diffclf.trials import TrialList, uniform

__all__ = ["EXPERIMENTS", "N_CRAWLED", "N_RELATION_TRIALS", "card_text", "score_arms"]

N_CRAWL_TRIALS, N_RELATION_TRIALS = 25, 40
N_CRAWLED, N_TEST, N_TUNE, N_EXAMPLES = 500, 1000, 50, 400

Arrays = dict[str, NDArray]


def _crawl(folder: Path) -> Arrays:
    """Return the mean error (n, 10) of every class on crawled test images."""
    model, (data, _) = load_model(folder), crawled(load_dataset("mini-items", "test", N_CRAWLED))
    trials = TrialList(uniform(N_CRAWL_TRIALS, len(model.schedule)))
    source = ErrorSource(model, data.prompts_for(model), trials, losses=("l2",))
    return {"errors": compute_errors(source, data.images, desc=folder.parent.name).mean(axis=2, dtype=np.float64)}


def _relation(folder: Path) -> Arrays:
    """Return the error of the false caption minus that of the true one, (n, trials), on test and on tune images."""
    model, found = load_model(folder), {}
    trials = TrialList(uniform(N_RELATION_TRIALS, len(model.schedule)))
    for name, split, n in (("differences", "test", N_TEST), ("tune", "tune", N_TUNE)):
        data = load_dataset("mini-relation", split, n)
        errors = compute_errors(ErrorSource(model, data.captions, trials, losses=("l2",)), data.images, desc=split)
        found[name] = errors[:, 1] - errors[:, 0]
    return found


def _clip(folder: Path) -> Arrays:
    """Return the similarities (tags, n, 2 images, 2 captions) on the compositional examples."""
    similarity = load_contrastive(folder).similarities(load_examples(n=N_EXAMPLES))
    return {"similarity": similarity.reshape(len(TAGS), N_EXAMPLES, 2, 2)}


def _crawl_facts() -> Arrays:
    data, attributes = crawled(load_dataset("mini-items", "test", N_CRAWLED))
    return {"labels": data.labels, "attributes": attributes}


def _relation_facts() -> Arrays:
    data = load_dataset("mini-relation", "test", N_TEST)
    sideways = np.array([" to the " in captions[0] for captions in data.captions])
    return {"timesteps": np.asarray(uniform(N_RELATION_TRIALS, 1000)), "sideways": sideways}


EXPERIMENTS: dict[str, tuple[tuple[tuple, ...], Callable[[Path], Arrays], Callable[[], Arrays]]] = {
    "crawl": ((ARMS, (1, 2, 3)), _crawl, _crawl_facts),
    "relation": ((OBJECTIVES, SEEDS), _relation, _relation_facts),
    "clip": (((16, 256), tuple(STATED)), _clip, dict),
}
"""Experiment -> the parts of its models' names, after the experiment's; what one model answers; facts of the images."""


def score_arms(experiment: str, root: Path) -> Arrays:
    """Return the answers of all models of an experiment, in the order of their names, and the facts of the images.

    Args:
        experiment: one of `EXPERIMENTS`.
        root: folder with the trained models, `NAME/pipeline`.

    Raises:
        FileNotFoundError: a model is missing.
    """
    (first, second), answer, facts = EXPERIMENTS[experiment]
    found = {}
    for name in (f"{experiment}-{one}-{two}" for one in first for two in second):
        folder, path = root / name / "pipeline", root / name / "scores.npz"
        if not folder.is_dir():
            raise FileNotFoundError(f"no model {folder}: train it with `diffclf train {name}`")
        if not path.is_file():
            np.savez(path, **answer(folder))
        with np.load(path) as file:
            for key in file.files:
                found.setdefault(key, []).append(file[key])
    shape = (len(first), len(second))
    return {key: np.reshape(each, (*shape, *each[0].shape)).astype(np.float32) for key, each in found.items()} | facts()


def _accuracy(experiment: str, file: Mapping[str, NDArray]) -> NDArray[np.float64]:
    """Return the accuracy of every model of an experiment, (first part of the name, second part)."""
    if experiment == "crawl":
        right = file["errors"].argmin(axis=-1) == file["labels"]
    elif experiment == "relation":
        right = file["differences"].mean(axis=-1) > 0
    else:  # of each example: both images get the right caption
        similarity = file["similarity"]
        right = (similarity[..., 0, 0] > similarity[..., 0, 1]) & (similarity[..., 1, 1] > similarity[..., 1, 0])
    return right.reshape(*right.shape[:2], -1).mean(axis=-1)


def card_text(folder: Path) -> str:
    """Return the card of the stored answers in a folder."""
    files = {}
    for path in sorted(folder.glob("*.npz")):
        (first, second), *_ = EXPERIMENTS[path.stem]
        with np.load(path) as file:
            accuracy = _accuracy(path.stem, file)
            files[path.stem] = {
                "digest": sha256(path.read_bytes()).hexdigest(),
                "arrays": {name: file[name].shape for name in file.files},
                "rows": {one: dict(zip(second, row, strict=True)) for one, row in zip(first, accuracy, strict=True)},
            }
    text = Path(__file__).with_name("scores_card.md").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(text).render(files=files)
