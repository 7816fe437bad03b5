"""The training loop of every embedded model: seeded, resumable, with a log of the loss.

A recipe hands over a module, a function that draws the batch of a step, and the loss of a batch. The batch must depend
on the seed and the step alone; a killed run then continues as if nothing had happened.
"""

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from diffclf.files import write_whole

__all__ = ["Job", "Plan", "save_tensors", "train"]

EMA_DECAY, EMA_EARLY_DECAY, EMA_WARM_UP = 0.9995, 0.99, 1000
LOG_EVERY = 100
LOG_HEADER = "step,samples,loss,seconds"

Batch = TypeVar("Batch")
Module = TypeVar("Module", bound=torch.nn.Module)


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
    photo_folder: str | None
    n_samples: int | None
    seed: int
    start_from: Path | None
    scale: float


@dataclass(frozen=True)
class Plan:
    """How a module is trained: AdamW with a warm-up and a decay to zero.

    Attributes:
        name: of the checkpoint `<name>.pt` and the log `<name>.csv`.
        n_samples: samples seen in all.
        batch_size: samples per step.
        learning_rate: the peak, after the warm-up.
        decay: "linear" or "cosine".
        warm_up: steps of linear increase at the start.
        weight_decay: of AdamW.
        betas: of AdamW.
        average: whether an exponential moving average of the weights is returned instead of the last ones.
        save_every: steps between checkpoints.
    """

    name: str
    n_samples: int
    batch_size: int
    learning_rate: float
    decay: str = "linear"
    warm_up: int = 500
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    average: bool = True
    save_every: int = 500

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        left = 1 - step / (self.n_samples // self.batch_size)
        shape = {"linear": min(1.0, 1.05 * left), "cosine": 0.5 * (1 - math.cos(math.pi * left))}[self.decay]
        return self.learning_rate * min((step + 1) / self.warm_up, 1.0) * shape


def train(
    module: Module,
    draw: Callable[[int], Batch],
    loss: Callable[[Module, Batch], torch.Tensor],
    plan: Plan,
    folder: Path,
    milestones: Mapping[int, Callable[[Module], None]] | None = None,
) -> Module:
    """Train a module in place; resume from `folder` if it holds a checkpoint.

    Args:
        module: what is trained.
        draw: step -> batch.
        loss: module and batch -> loss to minimise.
        plan: how.
        folder: where the checkpoint and the log go.
        milestones: number of samples -> function, called once with the weights of that time.

    Returns:
        The trained module (or its moving average) in evaluation mode.
    """
    options = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay, "betas": plan.betas}
    parts = {"module": module, "optimizer": torch.optim.AdamW(module.parameters(), **options)}
    if plan.average:
        parts["ema"] = AveragedModel(module)
    result = parts["ema"].module if plan.average else module
    checkpoint, log = folder / f"{plan.name}.pt", folder / f"{plan.name}.csv"
    start, seconds = _load_checkpoint(checkpoint, parts)
    rows, losses, began = _read_log(log, start), [], time.monotonic() - seconds
    n_steps = plan.n_samples // plan.batch_size
    bar = tqdm(range(start, n_steps), initial=start, total=n_steps, desc=plan.name, mininterval=5)
    for step in bar:
        losses.append(_take_step(parts, loss(module, draw(step)), plan.rate(step), step))
        n_samples, elapsed = (step + 1) * plan.batch_size, time.monotonic() - began
        if (step + 1) % LOG_EVERY == 0:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            rows.append(f"{step + 1},{n_samples},{mean:.6f},{elapsed:.1f}")
            write_whole(log, "\n".join(rows) + "\n")
            bar.set_postfix(loss=f"{mean:.4f}")
        if (step + 1) % plan.save_every == 0 or step + 1 == n_steps:
            states = {name: part.state_dict() for name, part in parts.items()}
            save_tensors(checkpoint, {"step": step + 1, "seconds": elapsed} | states)
        for milestone, act in (milestones or {}).items():
            if n_samples - plan.batch_size < milestone <= n_samples:
                act(result)
    return result.eval()


def _take_step(parts: Mapping[str, object], loss: torch.Tensor, rate: float, step: int) -> torch.Tensor:
    """Take one step of the optimiser and of the average; return the loss without waiting for it."""
    module, optimizer = parts["module"], parts["optimizer"]
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    if "ema" in parts:
        parts["ema"].multi_avg_fn = get_ema_multi_avg_fn(EMA_DECAY if step >= EMA_WARM_UP else EMA_EARLY_DECAY)
        parts["ema"].update_parameters(module)
    return loss.detach()


def save_tensors(path: Path, content: object) -> None:
    """Write tensors as `torch.save` does, in one step: a killed write leaves the old file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def _load_checkpoint(path: Path, parts: Mapping[str, torch.nn.Module | torch.optim.Optimizer]) -> tuple[int, float]:
    """Restore the parts in place and return (steps done, seconds spent); (0, 0.0) if there is no checkpoint."""
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]


def _read_log(path: Path, step: int) -> list[str]:
    """Return the log's header and its rows up to a step: steps after the last checkpoint are taken again."""
    rows = path.read_text().splitlines()[1:] if path.is_file() else []
    return [LOG_HEADER, *(row for row in rows if int(row.partition(",")[0]) <= step)]
