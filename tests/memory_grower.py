"""How much memory a classification of 10 and then of 1000 classes needs: run by test_classifier, as a process."""

from pathlib import Path

import torch

from diffclf import DiffusionClassifier, Exhaustive
from diffclf.gaussian import linear_alphas_cumprod


class Zeros:
    """A class-conditional model that predicts no noise."""

    name, fingerprint, device, dtype = "zeros", "0" * 16, torch.device("cpu"), torch.float32
    image_size, latent_shape, prediction_type, learns_variance = 8, (3, 8, 8), "epsilon", False
    labels = tuple(str(i) for i in range(1000))
    alphas_cumprod = linear_alphas_cumprod()

    def encode_images(self, pixels):
        return pixels

    def encode_prompts(self, prompts):
        return torch.tensor(prompts)

    def denoise(self, x_t, t, cond):
        return torch.zeros_like(x_t)


def peak_mb():
    """The peak of this program alone: getrusage would count what the process was before it became this program."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
DiffusionClassifier(Zeros(), range(10), pruning=Exhaustive(1000)).errors(image)
before = peak_mb()
table = DiffusionClassifier(Zeros(), pruning=Exhaustive(1000)).errors(image)
tables_mb = sum(errors.nbytes for errors in table.losses.values()) / 2**20
print(table.n_evaluations, tables_mb, peak_mb() - before)
