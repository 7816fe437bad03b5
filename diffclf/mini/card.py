"""The card of an embedded model: what it is, how it was made, what it can do, in words and pictures.

One template, `card.md`, serves all models; each recipe adds what is special about its own.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from diffclf.datasets.world import COLOURS, HELD_OUT, ITEMS
from diffclf.mini.recipe import Recipe
from diffclf.mini.recipes import RECIPES
from diffclf.models.layout import CALIBRATION

__all__ = ["card_text", "write_card"]

_ROWS = (
    ("item (10 classes)", "item", None),
    ("colour (6 captions of the right item)", "colour", None),
    ("coloured item (60 classes), staged search", "coloured item, staged", None),
    ("— combinations seen in training", "coloured item, staged", "seen"),
    ("— held-out combinations", "coloured item, staged", "held out"),
    ("coloured item (60 classes), exhaustive search", "coloured item, exhaustive", None),
    ("binding, two objects (colours swapped)", "binding", None),
    ("relation, two objects (the opposite relation)", "relation", None),
    ("— left and right", "relation", "left/right"),
    ("— above and below", "relation", "above/below"),
)
"""Label, entry of measures.json, and part of the entry."""

_TEMPLATE = Path(__file__).with_name("card.md")

_RACE = """
## Race

`racing.json` holds the threshold that the default race uses with these weights: a class is dropped when its mean
paired difference to the best class exceeds {threshold} standard errors. It is the smallest threshold that drops the
winner of the full evaluation ({trials} trials) with a probability of at most {tune[bound]:.1%} (one-sided
{tune[level]:.0%} bound; {tune[n_images]} tune images and ten classes, {tune[n_dropped]} dropped). On {test[n_images]}
test images: {test[n_dropped]} dropped, {test[n_evaluations]:.0f} evaluations an image instead of {full_evaluations},
accuracy {test[accuracy]:.1%} against {test[accuracy_of_the_full_evaluation]:.1%} of the full evaluation.
"""

_STUDY = """
`study.json` has its accuracy and cost beside those of the paper's schedules, on ten and on sixty classes: what
`diffclf bench --full` found and notebook 04 draws.
"""


def card_text(folder: Path, seed: int = 0) -> str:
    """Return the card of the model in a folder.

    Args:
        folder: the model, with `measures.json` and the logs `training/*.csv`; its name is the model's.
        seed: the seed it was trained with.

    Raises:
        ValueError: no recipe has the folder's name.
    """
    if folder.name not in RECIPES:
        raise ValueError(f"model must be one of {list(RECIPES)}, got {folder.name!r}")
    recipe = RECIPES[folder.name]
    measures = json.loads((folder / "measures.json").read_text())
    parts, parameters = _parts(folder, recipe)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=folder.name,
        recipe=recipe,
        parameters=parameters,
        colours=", ".join(COLOURS),
        held_out=", ".join(" ".join(pair) for pair in HELD_OUT),
        parts=parts,
        training="\n".join(_training_row(name, log) for name, log in _read_logs(folder).items()),
        seed=seed,
        measures=measures,
        accuracies=_accuracies(measures),
        race=_race(folder),
        checksums=_checksums(folder),
    )


def write_card(folder: Path, seed: int = 0) -> None:
    """Write `README.md`, `samples.png` and `loss.png` into a model's folder; arguments as for `card_text`."""
    text = card_text(folder, seed)
    _draw_loss(_read_logs(folder), folder / "loss.png")
    _draw_samples(RECIPES[folder.name], folder)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _parts(folder: Path, recipe: Recipe) -> tuple[str, float]:
    """Return a table row per network, and the millions of parameters of all."""
    rows, total = [], 0
    for part, label in recipe.parts.items():
        (path,) = (folder / part).glob("*.safetensors")
        with safe_open(path, "pt") as file:
            count = sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
        rows.append(f"| {label} | {path.stat().st_size / 1e6:.1f} MB | {count / 1e6:.2f} M |")
        total += count
    return "\n".join(rows), total / 1e6


def _read_logs(folder: Path) -> dict[str, np.ndarray]:
    """Return each log of `diffclf.mini.training` as an array with named columns."""
    paths = sorted((folder / "training").glob("*.csv"))
    return {path.stem: np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True)) for path in paths}


def _training_row(name: str, log: np.ndarray) -> str:
    """Return the table row of one log; the final loss is the mean of its last ten entries."""
    loss = log["loss"][-10:].mean()
    return f"| {name} | {log['samples'][-1]:,.0f} | {log['seconds'][-1] / 60:.0f} | {loss:.4f} |"


def _accuracies(measures: dict) -> str:
    """Return a table row per task that was measured."""
    rows = []
    for label, key, part in _ROWS:
        entry = measures.get(key, {})
        entry = entry.get(part, {}) if part else entry
        if entry:
            interval = f"{entry['low']:.1%} to {entry['high']:.1%}"
            rows.append(f"| {label} | {entry['accuracy']:.1%} | {interval} | {entry['n']} |")
    return "\n".join(rows)


def _race(folder: Path) -> str:
    """Return what the card says of the race, nothing where no threshold was calibrated."""
    path = folder / CALIBRATION
    if not path.is_file():
        return ""
    stored = json.loads(path.read_text())
    text = _RACE.format(**stored, full_evaluations=len(ITEMS) * stored["trials"] * stored["repeats"])
    return text + (_STUDY if (folder / "study.json").is_file() else "")


def _checksums(folder: Path) -> str:
    """Return a line per file of weights: SHA-256 and path."""
    paths = sorted(folder.rglob("*.safetensors"))
    return "\n".join(
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in paths
    )


def _draw_loss(logs: dict[str, np.ndarray], path: Path) -> None:
    """Draw the training losses, one panel per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(logs), 3), layout="constrained")
    panels = figure.subplots(1, len(logs), squeeze=False)[0]
    for ax, (name, log) in zip(panels, logs.items(), strict=True):
        samples, loss = log["samples"] / 1000, log["loss"]
        ax.plot(samples, loss, color="#0072B2", lw=0.8, alpha=0.5)
        width = max(1, len(loss) // 20)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        ax.plot(samples[width - 1 :], smooth, color="#0072B2")
        ax.set(xlabel="thousand samples", ylabel="loss", title=name, ylim=(None, np.quantile(loss, 0.98)))
    figure.savefig(path, dpi=90)


@torch.inference_mode()
def _draw_samples(recipe: Recipe, folder: Path) -> None:
    """Draw the recipe's samples as `samples.png`, ten in a row, at twice their size."""
    from PIL import Image

    images = recipe.draw_samples(folder)
    sheet = Image.new("RGB", (10 * 34, -(-len(images) // 10) * 34), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (1 + 34 * (i % 10), 1 + 34 * (i // 10)))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(folder / "samples.png")
