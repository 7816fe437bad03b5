"""Training of the small networks that baselines need: cross-entropy, AdamW, early stopping on held-out samples."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from diffclf.progress import progress

__all__ = ["SMALL", "Epoch", "Fit", "fit", "usual_fit"]

SMALL = 64
"""Images of more pixels a side get the paper's networks and settings."""


class Epoch(NamedTuple):
    """Losses of one epoch: samples seen so far, mean training loss, loss on the held-out samples."""

    samples: int
    loss: float
    held_out: float


class Fit(NamedTuple):
    """How a network is trained: AdamW with a cosine decay to zero."""

    n_epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    share_held_out: float = 0.1


PAPER = {
    "synthetic": Fit(batch_size=256, learning_rate=0.1, weight_decay=1e-4),
    "features": Fit(batch_size=16, learning_rate=1e-4),
}
"""How the paper trains the networks of its baselines, where it says so (Li et al. 2023, appendix F.4)."""


def usual_fit(baseline: str, image_size: int, n_epochs: int) -> Fit:
    """Return how the network of "synthetic" or "features" is trained: as in the paper, unless images are small."""
    return (PAPER[baseline] if image_size > SMALL else Fit())._replace(n_epochs=n_epochs)


def fit(
    network: torch.nn.Module,
    inputs: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor, torch.Generator | None], Tensor],
    groups: Tensor | None = None,
    how: Fit = Fit(),  # noqa: B008 (immutable)
    seed: int = 0,
) -> list[Epoch]:
    """Train a network in place, and leave it with the weights of the epoch that is best on held-out samples.

    Args:
        network: inputs (b, ...) -> logits (b, n_classes).
        inputs: (n, ...) samples of any type; one batch at a time is read, so that they may lie in a mapped file.
        labels: (n,) int64 classes.
        prepare: samples of a batch, and a generator for random augmentation or None -> what the network takes.
        groups: (n,) int64; samples of a group, such as those of a photograph, are held out together. None: each alone.
        how: sizes and rates.
        seed: of what is held out, the order and the augmentation; the weights are the caller's.

    Returns:
        The losses of each epoch.

    Raises:
        ValueError: too few samples to hold any out.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(len(labels)) if groups is None else groups
    different = groups.unique()
    n_held_out = round(how.share_held_out * len(different))
    if n_held_out < 1 or n_held_out == len(different):
        raise ValueError(f"samples must be enough to hold {how.share_held_out:.0%} out, got {len(different)}")
    chosen = different[torch.randperm(len(different), generator=generator)[:n_held_out]]
    held_out = torch.isin(groups, chosen)
    kept, apart = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
    options = {"lr": how.learning_rate, "weight_decay": how.weight_decay}
    optimizer = torch.optim.AdamW(network.parameters(), **options)
    n_steps = how.n_epochs * -(-len(kept) // how.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    epochs: list[Epoch] = []
    best: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    for number in (bar := progress(range(how.n_epochs), desc="training", unit="epoch")):
        losses = []
        for index in kept[torch.randperm(len(kept), generator=generator)].split(how.batch_size):
            batch = prepare(inputs[index], generator).to(device)
            loss = cross_entropy(network.train()(batch), labels[index].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        value = _held_out_loss(network, inputs, labels, apart, prepare)
        if value <= min((epoch.held_out for epoch in epochs), default=value):
            best = copy.deepcopy(network.state_dict())
        epochs.append(Epoch((number + 1) * len(kept), torch.stack(losses).mean().item(), value))
        bar.set_postfix(held_out=f"{value:.4f}")
    network.load_state_dict(best)
    network.eval()
    return epochs


@torch.inference_mode()
def _held_out_loss(
    network: torch.nn.Module, inputs: Tensor, labels: Tensor, index: Tensor, prepare: Callable[..., Tensor]
) -> float:
    """Return the mean cross-entropy of some samples, without augmentation."""
    device, total = next(network.parameters()).device, 0.0
    for part in index.split(256):
        logits = network.eval()(prepare(inputs[part], None).to(device))
        total += cross_entropy(logits, labels[part].to(device), reduction="sum").item()
    return total / len(index)
