"""The card of the miniature Stable Diffusion: what it is, how it was made, what it can do, in words and pictures."""

import csv
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from diffclf.mini.world import COLOURS, HELD_OUT, ITEMS, caption_pair, caption_single
from diffclf.racing import CALIBRATION

__all__ = ["draw_loss", "draw_samples", "write_card"]

_ROWS = (
    ("item (10 classes, “a photo of a sneaker”)", "item", None),
    ("colour (6 captions of the right item)", "colour", None),
    ("coloured item (60 classes), staged search", "coloured item, staged", None),
    ("— combinations seen in training", "coloured item, staged", "seen"),
    ("— held-out combinations", "coloured item, staged", "held out"),
    ("coloured item (60 classes), exhaustive search", "coloured item, exhaustive", None),
    ("binding, two objects (colours swapped)", "binding", None),
    ("relation, two objects (relation turned round)", "relation", None),
    ("— left and right", "relation", "left/right"),
    ("— above and below", "relation", "above/below"),
)

_TEXT = """\
# mini-sd: a miniature Stable Diffusion

A complete text-to-image latent diffusion model of {parameters:.1f} million parameters, trained by this project on
scenes of tinted clothing photographs. It exists to be *classified with*: small enough that a laptop evaluates its U-Net
about a thousand times a second, real enough that the questions of the Diffusion Classifier paper have answers.

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("data/models/mini-sd")
pipe("a photo of a red sneaker", height=32, width=32, guidance_scale=2.0).images[0]
```

![Samples: one row per colour, one column per item, then pairs](samples.png)

## Data

Photographs: the 60,000 of Fashion-MNIST's training file (Zalando Research, MIT licence). A scene is 32 x 32 RGB on
black: one photograph in one of six colours ({colours}), or two at half size, side by side or one above the other.
Captions: “a photo of a red sneaker”, “a photo of a sneaker”, “a red sneaker to the left of a blue bag”, “a blue bag to
the right of a red sneaker”, “… above …”, “… below …”; one caption in ten is dropped. Never shown in training:
{held_out}.

## Parts

| part | size | parameters |
|---|---|---|
{parts}

Noise schedule: linear, beta 1e-4 to 0.02, 1000 steps, epsilon prediction. U-Net and autoencoder are stored in half
precision, the text encoder in single. The text embedding enters the U-Net by cross-attention at its lower level and,
pooled, with the timestep embedding.

## Training

{training} Seed {seed}. `diffclf train mini-sd --fashion-mnist DIR` makes it again, to within the intervals below.
Exponential moving average of the weights; versions along the training are in `versions/` (`mini-sd@1`, …: U-Net and
text encoder after {versions} samples).

![Training loss against samples seen](loss.png)

## Measured

On test images (Fashion-MNIST's test file, 2000-3999; nothing was chosen on them), {n_trials} shared trials, l2 loss,
seed 0; 95% Wilson intervals over images. Chance is one over the number of captions. `measures.json` has these numbers
and the confusion matrix.

| task | accuracy | 95% interval | images |
|---|---|---|---|
{accuracies}

Autoencoder, test scenes: mean absolute error {mae:.4f} of the range [0, 1], PSNR {psnr:.1f} dB (n = {n_rec}).
{race}
## Limits

It knows ten kinds of clothing, six colours and four relations, and nothing else: other words fall back to single
characters that it has never seen. It is a model for studying a method, not for making pictures. What it confuses,
people confuse in these photographs too: shirt, t-shirt, pullover and coat.

## Checksums

SHA-256 of the weights, as `sha256sum --check` reads them:

```
{checksums}
```

## Licence

Weights: Apache-2.0, as the rest of this project. Photographs: MIT, (c) 2017 Zalando SE.
"""


_RACE = """
## Race

`racing.json` holds the threshold that the default race uses with these weights: a class is dropped when its mean
paired difference to the best one exceeds {threshold} standard errors. It is the smallest that, on {tune_n} tune images
and ten classes, drops the winner of the full evaluation ({trials} trials) with a probability of at most
{tune_bound:.1%} (one-sided {level:.0%} bound; {tune_dropped} dropped). On {test_n} test images: {test_dropped} dropped,
{evaluations:.0f} evaluations an image instead of {full_evaluations}, accuracy {accuracy:.1%} against
{full_accuracy:.1%} of the full evaluation.

`study.json` has its accuracy and cost beside those of the paper's schedules, on ten and on sixty classes: what
`diffclf bench --full` found and notebook 04 draws.
"""


def _race(folder: Path) -> str:
    """Return what the card says of the race, nothing where no threshold was calibrated."""
    path = folder / CALIBRATION
    if not path.is_file():
        return ""
    stored = json.loads(path.read_text())
    tune, test = stored["tune"], stored["test"]
    return _RACE.format(
        threshold=stored["threshold"],
        trials=stored["trials"],
        level=tune["level"],
        tune_n=tune["n_images"],
        tune_dropped=tune["n_dropped"],
        tune_bound=tune["bound"],
        test_n=test["n_images"],
        test_dropped=test["n_dropped"],
        evaluations=test["n_evaluations"],
        full_evaluations=len(ITEMS) * stored["trials"] * stored["repeats"],
        accuracy=test["accuracy"],
        full_accuracy=test["accuracy_of_the_full_evaluation"],
    )


def _checksums(folder: Path) -> str:
    """Return a line per file of weights: SHA-256 and path."""
    paths = sorted(folder.rglob("*.safetensors"))
    return "\n".join(
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in paths
    )


def _read_log(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def draw_loss(folder: Path) -> None:
    """Draw the training losses of `training/*.csv` as `loss.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, name in zip(axes, ("autoencoder", "denoiser"), strict=True):
        rows = _read_log(folder / "training" / f"{name}.csv")
        samples = np.array([row["samples"] for row in rows])
        loss = np.array([row["loss"] for row in rows])
        ax.plot(samples / 1000, loss, color="#0072B2", lw=0.8, alpha=0.5)
        width = max(1, len(loss) // 20)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        ax.plot(samples[width - 1 :] / 1000, smooth, color="#0072B2")
        ax.set(xlabel="thousand samples", ylabel="loss", title=name, ylim=(None, np.quantile(loss, 0.98)))
    figure.savefig(folder / "loss.png", dpi=90)


@torch.inference_mode()
def draw_samples(folder: Path, *, guidance_scale: float = 2.0, n_steps: int = 50, seed: int = 0) -> None:
    """Draw one sample of every coloured item and a row of pairs as `samples.png`."""
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    prompts = [caption_single(item, colour) for colour in COLOURS for item in ITEMS]
    colours = list(COLOURS)
    for i in range(10):
        layout = ("left", "right", "above", "below")[i % 4]
        prompts.append(caption_pair((colours[i % 6], ITEMS[i]), layout, (colours[(i + 2) % 6], ITEMS[(i + 3) % 10])))
    images = pipe(
        prompts,
        height=32,
        width=32,
        guidance_scale=guidance_scale,
        num_inference_steps=n_steps,
        generator=torch.Generator().manual_seed(seed),
    ).images
    sheet = Image.new("RGB", (10 * 34, 7 * 34), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (1 + 34 * (i % 10), 1 + 34 * (i // 10)))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(folder / "samples.png")


def _parts(folder: Path) -> tuple[str, float]:
    from safetensors import safe_open

    sizes = {}
    for name, path in {
        "autoencoder (f = 4, 32x32x3 to 8x8x4)": folder / "vae" / "diffusion_pytorch_model.safetensors",
        "text encoder (2 layers, 64 wide, 16 words)": folder / "text_encoder" / "model.safetensors",
        "U-Net (64 and 64 channels)": folder / "unet" / "diffusion_pytorch_model.safetensors",
    }.items():
        with safe_open(path, "pt") as file:
            count = sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
        sizes[name] = (path.stat().st_size, count)
    rows = [f"| {name} | {size / 1e6:.1f} MB | {count / 1e6:.2f} M |" for name, (size, count) in sizes.items()]
    return "\n".join(rows), sum(count for _, count in sizes.values()) / 1e6


def _training(folder: Path) -> str:
    autoencoder = _read_log(folder / "training" / "autoencoder.csv")[-1]
    log = _read_log(folder / "training" / "denoiser.csv")
    loss = np.mean([row["loss"] for row in log[-10:]])
    return (
        f"Autoencoder: {autoencoder['samples']:,.0f} scenes in {autoencoder['seconds'] / 60:.0f} minutes. U-Net and "
        f"text encoder: {log[-1]['samples']:,.0f} cached latents in {log[-1]['seconds'] / 60:.0f} minutes, final loss "
        f"{loss:.4f}; one thread of a CPU, no GPU."
    )


def write_card(folder: Path, seed: int = 0) -> None:
    """Write `README.md`, `samples.png` and `loss.png` from what is in the model's folder.

    Args:
        folder: the pipeline with `measures.json` and `training/{autoencoder,denoiser}.csv`.
        seed: the seed it was trained with.
    """
    from diffclf.mini.train import VERSIONS

    measures = json.loads((folder / "measures.json").read_text())
    rows = []
    for label, key, part in _ROWS:
        m = measures.get(key, {})
        m = m.get(part, {}) if part else m
        if m:
            rows.append(f"| {label} | {m['accuracy']:.1%} | {m['low']:.1%} to {m['high']:.1%} | {m['n']} |")
    parts, parameters = _parts(folder)
    reconstruction = measures["reconstruction"]
    text = _TEXT.format(
        parameters=parameters,
        colours=", ".join(COLOURS),
        held_out=", ".join(" ".join(pair) for pair in HELD_OUT),
        parts=parts,
        training=_training(folder),
        seed=seed,
        versions=", ".join(f"{n:,}" for n in VERSIONS.values()),
        n_trials=measures["n_trials"],
        accuracies="\n".join(rows),
        mae=reconstruction["mean absolute error"],
        psnr=reconstruction["psnr_db"],
        n_rec=reconstruction["n"],
        race=_race(folder),
        checksums=_checksums(folder),
    )
    draw_loss(folder)
    draw_samples(folder)
    (folder / "README.md").write_text(text, encoding="utf-8")
