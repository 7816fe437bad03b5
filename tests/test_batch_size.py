"""The batch size: one number on CPUs, measured once and remembered elsewhere."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diffclf.evaluator import Evaluator
from diffclf.models import Conditioning, batch_size
from diffclf.models.batch_size import choose_batch_size, measure_batch_size
from diffclf.schedule import NoiseSchedule


class Machine:
    """A model on a made-up device, with a clock: a pass of n takes `start + n / rate` seconds."""

    def __init__(self, start=1.0, rate=100.0, device="cpu", memory=10**9, latent_shape=(4, 2, 2)):
        self.now, self.sizes = 0.0, []
        self.start, self.rate, self.memory = start, rate, memory
        self.device = SimpleNamespace(type=device) if device != "cpu" else torch.device("cpu")
        self.latent_shape, self.labels, self.dtype = latent_shape, None, torch.float32
        self.schedule = NoiseSchedule.linear()

    def encode_prompts(self, prompts):
        return Conditioning({"hidden_states": torch.zeros(len(prompts), 3, 5), "pooled": torch.zeros(len(prompts), 2)})

    def denoise(self, x_t, t, cond):
        assert len(x_t) == len(t) == len(cond) and (t == 500).all()
        if len(x_t) > self.memory:
            raise torch.OutOfMemoryError("no more")
        self.sizes.append(len(x_t))
        self.now += self.start + len(x_t) / self.rate

    def clock(self):
        return self.now


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        # The rate of n is n / (0.1 + n / 100): 4 -> 28.6, ..., 64 -> 86.5, 128 -> 92.8, 256 -> 96.2 in 2.66 s.
        (Machine(start=0.1), 128),
        (Machine(start=0.0), 4),  # a pass costs nothing by itself: the smallest batch is as fast as any
        (Machine(start=0.1, rate=1e6, memory=100), 64),
        (Machine(start=100.0), 4),  # slow
    ],
)
def test_larger_batches_are_taken_while_they_pay(machine, expected):
    assert measure_batch_size(machine, clock=machine.clock) == expected
    assert max(machine.sizes) <= machine.memory


def test_another_device_is_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(batch_size, "measure_batch_size", lambda model: asked.append(model) or 48)
    assert choose_batch_size(Machine(device="mps")) == 48 == choose_batch_size(Machine(device="mps"))
    assert len(asked) == 1
    other = Machine(device="mps", latent_shape=(4, 8, 8))
    assert choose_batch_size(other) == 48 and len(asked) == 2
    (tmp_path / "cache" / "batch_sizes.json").write_text("{damaged")
    assert choose_batch_size(other) == 48 and len(asked) == 3
    monkeypatch.setenv("DIFFCLF_CACHE", str(tmp_path / "cache" / "batch_sizes.json" / "not a folder"))
    assert choose_batch_size(other) == 48 and len(asked) == 4


def test_a_cpu_takes_the_usual_size(gaussian, monkeypatch):
    monkeypatch.setattr(batch_size, "measure_batch_size", lambda model: pytest.fail("measured"))
    assert Evaluator(gaussian).batch_size == 256 and Evaluator(gaussian, batch_size=7).batch_size == 7
    assert choose_batch_size(Machine(latent_shape=(4, 64, 64))) == 32


def test_threads_that_wait_sleep():
    code = "import os; os.environ.pop('OMP_WAIT_POLICY', 0); import diffclf; print(os.environ['OMP_WAIT_POLICY'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "PASSIVE"
