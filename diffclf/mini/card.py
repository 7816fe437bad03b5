"""The card of an embedded model: what it is, how it was made, what it can do, in words and pictures.

The words are in one template, `card.md`.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import make_image_grid
from jinja2 import Environment
from PIL import Image, ImageOps
from safetensors import safe_open

from diffclf.datasets.world import COLOURS, HELD_OUT
from diffclf.mini.recipes import RECIPES
from diffclf.mini.sd import VERSIONS
from diffclf.models.layout import CALIBRATION

__all__ = ["card_text", "write_card"]


def card_text(folder: Path) -> str:
    """Return the card of the model in a folder, which has `measures.json`, the logs `training/*.csv` and its name.

    Raises:
        ValueError: no recipe has the folder's name.
    """
    if folder.name not in RECIPES:
        raise ValueError(f"model must be one of {list(RECIPES)}, got {folder.name!r}")
    counts = {path: _n_parameters(path) for path in folder.glob("*/*.safetensors")}
    race = folder / CALIBRATION
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, keep_trailing_newline=True)
        .from_string(text)
        .render(
            name=folder.name,
            n_parameters=sum(counts.values()),
            sizes={
                path.parent.name: f"{path.stat().st_size / 1e6:.1f} MB | {n / 1e6:.2f} M" for path, n in counts.items()
            },
            colours=COLOURS,
            held_out=HELD_OUT,
            logs=_read_logs(folder),
            versions=VERSIONS.values(),
            measures=json.loads((folder / "measures.json").read_text()),
            race=json.loads(race.read_text()) if race.is_file() else None,
            has_study=(folder / "study.json").is_file(),
            checksums={
                path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*.safetensors"))
            },
        )
    )


def write_card(folder: Path) -> None:
    """Write `README.md`, `samples.png` and `loss.png` into a model's folder; what `card_text` needs must be there."""
    text = card_text(folder)
    _draw_loss(_read_logs(folder), folder / "loss.png")
    with torch.inference_mode():
        samples = [ImageOps.expand(image, 1, "white") for image in RECIPES[folder.name].draw_samples(folder)]
    sheet = make_image_grid(samples, rows=len(samples) // 10, cols=10)
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(folder / "samples.png")
    (folder / "README.md").write_text(text, encoding="utf-8")


def _n_parameters(path: Path) -> int:
    """Return the number of parameters in a file of weights."""
    with safe_open(path, "pt") as file:
        return sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118


def _read_logs(folder: Path) -> dict[str, np.ndarray]:
    """Return each log of `diffclf.mini.training` as an array with named columns."""
    paths = sorted((folder / "training").glob("*.csv"))
    return {path.stem: np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True)) for path in paths}


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
