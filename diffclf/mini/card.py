"""The card of an embedded model: what it is, how it was made, what it can do, in words and pictures.

The words are in templates: `card.md` for diffusion models, `network_card.md` for networks trained with labels,
`opponent_card.md` for the CLIPs and the baselines of Table 1.
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

from diffclf.datasets.world import COLOURS, HELD_OUT, ITEMS, OWN_COLOURS
from diffclf.mini import sd, supervised
from diffclf.mini.recipes import RECIPES
from diffclf.mini.supervised import NETWORKS
from diffclf.mini.synthetic import N_IMAGES
from diffclf.models.layout import CALIBRATION
from diffclf.paths import data_dir

__all__ = ["card_text", "write_card"]


def card_text(folder: Path) -> str:
    """Return the card of the model in a folder, which has `measures.json`, the logs `training/*.csv` and its name.

    Raises:
        ValueError: no recipe has the folder's name.
    """
    if folder.name not in RECIPES:
        raise ValueError(f"model must be one of {list(RECIPES)}, got {folder.name!r}")
    if folder.name in NETWORKS:
        template, facts = "network_card.md", _network_facts(folder)
    elif (folder / "config.json").is_file():
        template, facts = "opponent_card.md", _opponent_facts(folder)
    else:
        template, facts = "card.md", _pipeline_facts(folder)
    text = Path(__file__).with_name(template).read_text(encoding="utf-8")
    return (
        Environment(trim_blocks=True, keep_trailing_newline=True)
        .from_string(text)
        .render(
            name=folder.name,
            colours=COLOURS,
            held_out=HELD_OUT,
            own_colours=[f"{colour} {item}" for colour, item in zip(OWN_COLOURS, ITEMS, strict=True)],
            logs=_read_logs(folder),
            measures=json.loads((folder / "measures.json").read_text()),
            checksums={
                path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*.safetensors"))
            },
            **facts,
        )
    )


def _pipeline_facts(folder: Path) -> dict[str, object]:
    """Return what the card of a diffusion model needs beside the facts of every model."""
    counts = {path: _n_parameters(path) for path in folder.glob("*/*.safetensors")}
    race = folder / CALIBRATION
    return {
        "n_parameters": sum(counts.values()),
        "sizes": {
            path.parent.name: f"{path.stat().st_size / 1e6:.1f} MB | {n / 1e6:.2f} M" for path, n in counts.items()
        },
        "versions": sd.VERSIONS.values(),
        "n_arm": sd.N_SAMPLES_ARM,
        "race": json.loads(race.read_text()) if race.is_file() else None,
    }


def _network_facts(folder: Path) -> dict[str, object]:
    """Return what the card of a discriminative network needs beside the facts of every model."""
    network = NETWORKS[folder.name]
    roles = {
        "filter": "serves as the filter that selects adversarial images and is not evaluated",
        "shortcut": "is compared with shortcut-dit where colour is a shortcut",
        "mini": "is compared with mini-dit",
    }
    return {
        "family": "ResNet" if "resnet" in folder.name else "ViT",
        "n_parameters": _n_parameters(folder / "model.safetensors"),
        "role": roles[folder.name.partition("-")[0]],
        "seed": network.seed,
        "shortcut": network.shortcut,
        "versions": list(supervised.VERSIONS) if network.versions else [],
        "log": _read_logs(folder)["classifier"],
    }


def _opponent_facts(folder: Path) -> dict[str, object]:
    """Return what the card of a CLIP or of a baseline of Table 1 needs beside the facts of every model."""
    kind, _, task = folder.name.removeprefix("mini-").partition("-")
    supervised = json.loads((data_dir() / "models" / "mini-resnet-l" / "measures.json").read_text())["item"]
    return {
        "kind": kind,
        "supervised": supervised["accuracy"],
        "n_per_class": N_IMAGES.get(task),
        "n_parameters": _n_parameters(folder / "model.safetensors"),
        "log": next(iter(_read_logs(folder).values())),
    }


def write_card(folder: Path) -> None:
    """Write `README.md` into a model's folder, and of a diffusion model `samples.png` and `loss.png`.

    What `card_text` needs must be there.
    """
    text = card_text(folder)
    if draw_samples := RECIPES[folder.name].draw_samples:
        _draw_loss(_read_logs(folder), folder / "loss.png")
        with torch.inference_mode():
            samples = [ImageOps.expand(image, 1, "white") for image in draw_samples(folder)]
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
