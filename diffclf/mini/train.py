"""`diffclf train mini-sd`: regenerate the miniature Stable Diffusion from a seed.

Three steps, each resumable: the autoencoder; the latents of a large fixed sample of scenes; the U-Net and the text
encoder together on those latents.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from diffclf.mini.autoencoder import encode_scenes, scale_latents, train_autoencoder
from diffclf.mini.denoiser import train_denoiser
from diffclf.mini.export import export_pipeline, export_version, import_denoiser
from diffclf.mini.photos import load_photos
from diffclf.mini.tokenizer import build_tokenizer
from diffclf.mini.world import Scenes, render, sample_scenes

__all__ = ["VERSIONS", "add_arguments", "run", "train_mini_sd"]

VERSIONS = {1: 24_000, 2: 90_000, 3: 240_000}
"""The versions along the training that are kept, by the samples seen."""

N_SINGLE, N_PAIR = 160_000, 60_000


def _cached_latents(
    vae: AutoencoderKL, photos: np.ndarray, labels: np.ndarray, path: Path, seed: int, fraction: float
) -> tuple[torch.Tensor, Scenes]:
    """Return scaled latents (n, 4, 8, 8) in half precision and their scenes, computed once and kept at `path`."""
    rng = np.random.default_rng([seed, 3])
    scenes = sample_scenes(labels, int(N_SINGLE * fraction), int(N_PAIR * fraction), rng=rng)
    if path.is_file():
        latents = torch.load(path, weights_only=True)
        if len(latents) == len(scenes):
            return latents, scenes
    chunks = []
    for start in range(0, len(scenes), 5000):
        chunks.append(encode_scenes(vae, render(scenes[start : start + 5000], photos)))
        print(f"latents: {min(start + 5000, len(scenes))} of {len(scenes)}", flush=True)
    latents = (torch.cat(chunks) * vae.config.scaling_factor).half()
    torch.save(latents, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)
    return latents, scenes


def train_mini_sd(
    out: Path,
    work: Path,
    *,
    photo_folder: str | None = None,
    n_autoencoder: int = 64_000,
    n_samples: int = 700_000,
    seed: int = 0,
    fraction: float = 1.0,
    start_from: Path | None = None,
) -> None:
    """Train everything and write the pipeline with its versions.

    Args:
        out: the pipeline's directory.
        work: checkpoints, cached latents and loss logs; the same folder resumes.
        photo_folder: folder of Fashion-MNIST's IDX files.
        n_autoencoder: scenes the autoencoder sees.
        n_samples: latents the U-Net sees.
        seed: seed of everything.
        fraction: of the fixed sample of scenes to use; below 1 for trials.
        start_from: an exported pipeline whose autoencoder is kept and whose networks are trained on.
    """
    photos, labels = load_photos("train", photo_folder)
    work.mkdir(parents=True, exist_ok=True)
    if start_from is None:
        vae = train_autoencoder(photos, labels, work, n_samples=n_autoencoder, seed=seed)
        sample = sample_scenes(labels, 1000, 500, rng=np.random.default_rng([seed, 4]))
        scale_latents(vae, render(sample, photos))
    else:
        vae = AutoencoderKL.from_pretrained(start_from, subfolder="vae").float().eval()
    tokenizer = build_tokenizer(work / "tokenizer")
    latents, scenes = _cached_latents(vae, photos, labels, work / "latents.pt", seed, fraction)
    milestones = {
        n: lambda denoiser, version=version: export_version(denoiser, out / "versions" / str(version))
        for version, n in VERSIONS.items()
    }
    denoiser = train_denoiser(
        latents,
        scenes,
        tokenizer,
        work,
        n_samples=n_samples,
        seed=seed,
        start_from=import_denoiser(start_from, tokenizer) if start_from else None,
        milestones={} if start_from else milestones,
    )
    export_pipeline(vae, denoiser, out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf train`."""
    parser.add_argument("name", choices=["mini-sd"], help="which embedded model to train")
    parser.add_argument("--fashion-mnist", metavar="DIR", help="folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/mini-sd/pipeline"), help="where the pipeline goes")
    parser.add_argument("--work", type=Path, default=Path("runs/mini-sd"), help="checkpoints; the same folder resumes")
    parser.add_argument("--autoencoder-samples", type=int, default=64_000, help="scenes the autoencoder sees")
    parser.add_argument("--samples", type=int, default=700_000, help="latents the U-Net sees")
    parser.add_argument("--start-from", type=Path, metavar="DIR", help="train on from an exported pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf train`: about two hours on one CPU core with the defaults."""
    torch.set_num_threads(args.threads)
    train_mini_sd(
        args.out,
        args.work,
        photo_folder=args.fashion_mnist,
        n_autoencoder=args.autoencoder_samples,
        n_samples=args.samples,
        seed=args.seed,
        start_from=args.start_from,
    )
    print(f"the pipeline is in {args.out}; measure it with `diffclf measure {args.name}`")
    return 0
