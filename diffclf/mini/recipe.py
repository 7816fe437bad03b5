"""What a recipe of an embedded model consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

__all__ = ["Job", "Recipe"]


@dataclass(frozen=True)
class Job:
    """What a recipe is asked for.

    Attributes:
        out: directory of the finished model.
        work: checkpoints, cached latents and loss logs; the same folder resumes.
        photo_folder: folder of Fashion-MNIST's IDX files; None: where `load_photos` looks by itself.
        n_samples: samples that the main network sees; None: the recipe's number.
        seed: seed of everything.
        start_from: an exported model whose networks are trained on; None: random weights.
        scale: share of the recipe's scenes and autoencoder samples; below 1 for trials.
    """

    out: Path
    work: Path
    photo_folder: str | None = None
    n_samples: int | None = None
    seed: int = 0
    start_from: Path | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """How an embedded model is made, and what its card says of it (texts are Markdown).

    Attributes:
        train: trains and exports it.
        draw_samples: directory of the model -> samples, in rows of ten.
        hours: that the training takes on one thread of a CPU, about.
        title: what the model is, "a miniature ...".
        kind: the same in the field's words: "latent diffusion model".
        usage: Python code that draws a sample.
        samples: what the drawn samples show.
        data: what it is trained on, after the photographs themselves.
        parts: folder of the weights -> what it is.
        design: how the condition enters the network, its outputs, its precision.
        training: how it is trained, after the table of numbers.
        limits: what it cannot do.
    """

    train: Callable[[Job], None]
    draw_samples: Callable[[Path], list[Image]]
    hours: float
    title: str
    kind: str
    usage: str
    samples: str
    data: str
    parts: Mapping[str, str]
    design: str
    training: str
    limits: str
