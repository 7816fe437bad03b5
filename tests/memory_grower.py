"""How much memory a classification of 10 and then of 1000 classes needs: run by test_classifier, as a process."""

from pathlib import Path
from types import SimpleNamespace

import torch

from diffclf import DiffusionClassifier, Exhaustive
from diffclf.models.conditioning import Conditioning
from diffclf.schedule import NoiseSchedule


def peak_mb():
    """The peak of this program alone: getrusage would count what the process was before it became this program."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


zeros = SimpleNamespace(
    **{"device": torch.device("cpu"), "dtype": torch.float32, "calibration": None, "learns_variance": False},
    **{"image_size": 8, "latent_shape": (3, 8, 8), "labels": tuple(map(str, range(1000)))},
    schedule=NoiseSchedule.linear(),
    encode_images=lambda pixels: pixels,
    encode_prompts=lambda prompts: Conditioning({"class_index": torch.tensor(prompts)}),
    denoise=lambda x_t, t, cond: torch.zeros_like(x_t),
)
image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
DiffusionClassifier(zeros, range(10), pruning=Exhaustive(1000)).errors(image)
before = peak_mb()
table = DiffusionClassifier(zeros, pruning=Exhaustive(1000)).errors(image)
tables_mb = sum(errors.nbytes for errors in table.losses.values()) / 2**20
print(table.n_evaluations, tables_mb, peak_mb() - before)
