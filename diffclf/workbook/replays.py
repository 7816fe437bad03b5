"""What a pruning strategy would have decided, read off stored errors.

A strategy asks for entries of an error table and gets stored ones instead of computed ones, so that any number of
strategies can be compared on the same images and the same noise, each at the price of reading. A table here has the
entries that the strategy asked for and NaN elsewhere.

    evaluations of an image = entries asked for
    decision                = argmax of the prompts' scores (`diffclf.errortable.prompt_scores`)
    fate of the true class  = chosen, or lost after stage i
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from diffclf.bank import ErrorBank
from diffclf.errortable import prompt_scores
from diffclf.pruning import Pruning, Staged, replay, takes_trials_of

__all__ = [
    "agreement",
    "decisions",
    "evaluations",
    "fate_groups",
    "fates",
    "fill_each",
    "fill_on_demand",
    "fitted",
    "last_stages",
    "replay_images",
    "schedule_label",
    "schedules",
    "stage_timesteps",
]


def fitted(entries: Sequence[Mapping[str, Sequence[int]]], n_trials: int) -> list[dict[str, list[int]]]:
    """Return schedules with their trials in proportion so that the last stage has n_trials.

    A profile writes its schedules for its own number of trials; this makes them fit another one. A stage that would
    have no trial more than the one before is left out.

    Args:
        entries: mappings with `trials` and `keep`.
        n_trials: trials of the last stage.
    """
    made = []
    for entry in entries:
        last = entry["trials"][-1]
        # From the last stage to the first, each with fewer trials than the one after it.
        trials, keep = [n_trials], [entry["keep"][-1]]
        for n, k in zip(entry["trials"][-2::-1], entry["keep"][-2::-1], strict=True):
            scaled = max(1, round(n * n_trials / last))
            if scaled < trials[0]:
                trials, keep = [scaled, *trials], [k, *keep]
        made.append({"trials": trials, "keep": keep})
    return made


def schedule_label(schedule: Staged) -> str:
    """Return a schedule in words: 10/100 keep 5 1."""
    return f"{'/'.join(map(str, schedule.trials))} keep {' '.join(map(str, schedule.keep))}"


def schedules(entries: Sequence[Mapping[str, Sequence[int]]], n_prompts: int) -> dict[str, Staged]:
    """Return label -> strategy for schedules as a profile lists them, on both grids where these differ in cost.

    Args:
        entries: mappings with `trials` and `keep`.
        n_prompts: prompts that will be compared.
    """
    made: dict[str, Staged] = {}
    for entry in entries:
        trials, keep = tuple(entry["trials"]), tuple(entry["keep"])
        official, nested = (Staged(trials=trials, keep=keep, grid=grid) for grid in ("official", "nested"))
        label = schedule_label(official)
        made[label] = official
        if nested.evaluations(n_prompts) != official.evaluations(n_prompts):
            made[f"{label}, nested"] = nested
    return made


def stage_timesteps(strategy: Staged, n_timesteps: int = 1000) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each stage, the timesteps it evaluates for the first time, and those of all earlier stages."""
    timesteps, seen, stages = strategy.timesteps(n_timesteps), np.array([], dtype=np.int64), []
    for stage in strategy.stages():
        new = np.setdiff1d(stage, seen)
        stages.append((timesteps[new], timesteps[seen]))
        seen = np.append(seen, new)
    return stages


def replay_images(strategy: Pruning, errors: np.ndarray) -> np.ndarray:
    """Run a strategy on the stored errors of each image.

    Args:
        strategy: its trials must be the table's columns, in this order.
        errors: (n_images, n_prompts, n_trials) all errors it may ask for.

    Returns:
        (n_images, n_prompts, n_trials) the entries it asked for, NaN elsewhere.
    """
    return np.stack([replay(strategy, table) for table in errors])


def fill_on_demand(
    strategy: Pruning,
    bank: ErrorBank,
    images: object,
    loss: str = "l2",
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Run a strategy on a bank, computing only what it asks for and the bank does not have.

    Args:
        strategy: its trials must be the first ones of the bank, in this order.
        bank: where the errors are kept.
        images: n images.
        loss: the loss that decides.
        progress: as `ErrorBank.fill` takes it, called anew for every stage.

    Returns:
        (n_images, n_prompts, n_trials) the entries it asked for, NaN elsewhere; n_trials are the strategy's own.

    Raises:
        ValueError: the bank holds other trials.
    """
    return fill_each([strategy] * len(images), bank, images, loss, progress)


def fill_each(
    strategies: Sequence[Pruning],
    bank: ErrorBank,
    images: object,
    loss: str = "l2",
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Do as `fill_on_demand` with a strategy for each image, all with the same trials, as a shortlist makes them."""
    n_trials = len(strategies[0].timesteps(len(bank.model.alphas_cumprod)))
    for strategy in set(strategies):
        if not takes_trials_of(strategy, bank.timesteps, bank.noises, len(bank.model.alphas_cumprod)):
            raise ValueError(f"bank must hold the trials of {strategy}, got {len(bank.timesteps)} other ones")
    stored = np.full((len(images), len(bank.prompts), len(bank.timesteps)), np.nan, dtype=np.float32)
    tables = stored[:, :, :n_trials].copy()
    while True:
        wanted = [strategy.next(table) for strategy, table in zip(strategies, tables, strict=True)]
        masks = np.zeros(stored.shape, dtype=bool)
        for mask, own in zip(masks, wanted, strict=True):
            if own is not None:
                mask[:, :n_trials] = own
        if not masks.any():
            return tables
        if np.isnan(stored[masks]).any():
            bank.fill(images, masks, progress)
            stored = bank.errors(images, loss)
        own = masks[:, :, :n_trials]
        tables[own] = stored[:, :, :n_trials][own]


def decisions(tables: np.ndarray) -> np.ndarray:
    """Return (n_images,) the prompt each table decides for."""
    return np.array([prompt_scores(table).argmax() for table in tables])


def evaluations(tables: np.ndarray) -> np.ndarray:
    """Return (n_images,) the denoiser evaluations behind each table."""
    return (~np.isnan(tables)).sum(axis=(1, 2))


def last_stages(strategy: Staged, tables: np.ndarray) -> np.ndarray:
    """Return (n_images, n_prompts) the number of the last stage, from 1, in which each prompt was evaluated.

    Raises:
        ValueError: a prompt has a number of trials that no stage ends with.
    """
    sizes = [len(set(np.concatenate(strategy.stages()[: i + 1]).tolist())) for i in range(len(strategy.trials))]
    counts = (~np.isnan(tables)).sum(axis=2)
    if not np.isin(counts, sizes).all():
        raise ValueError(f"trials of a prompt must be one of {sizes}, got {counts[~np.isin(counts, sizes)][0]}")
    # A stage that adds no trial looks like the one before it; prompts are counted as dropped by the later of them.
    return np.searchsorted(sizes, counts, side="right")


def fates(strategy: Staged, tables: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (n_images,) what became of the true prompt: 0 if chosen, else the stage after which it was lost.

    Args:
        strategy: the strategy that made the tables.
        tables: (n_images, n_prompts, n_trials) with NaN where nothing was evaluated.
        labels: (n_images,) the true prompt of each image.
    """
    labels = np.asarray(labels)
    stage = last_stages(strategy, tables)[np.arange(len(labels)), labels]
    return np.where(decisions(tables) == labels, 0, stage)


def fate_groups(fate: np.ndarray, n_stages: int, exhaustive_right: np.ndarray) -> dict[str, np.ndarray]:
    """Return label -> (n_images,) bool: where pruning and exhaustive search go different ways, and where both fail.

    Args:
        fate: (n_images,) as `fates` returns it.
        n_stages: stages of the strategy; who is lost after the last of them was not dropped early.
        exhaustive_right: (n_images,) bool, which images exhaustive search classifies correctly.
    """
    right = np.asarray(exhaustive_right, dtype=bool)
    early, late = (fate > 0) & (fate < n_stages), fate == n_stages
    return {
        "dropped early, exhaustive right": early & right,
        "dropped early, exhaustive wrong": early & ~right,
        "lost at the end, exhaustive right": late & right,
        "lost at the end, exhaustive wrong": late & ~right,
        "found, exhaustive wrong": (fate == 0) & ~right,
    }


def agreement(live: np.ndarray, replayed: np.ndarray, rtol: float = 1e-4) -> np.ndarray:
    """Return (n_images,) whether two tables have the same entries, the same errors to rtol and the same decision."""
    same = [
        np.array_equal(np.isnan(a), np.isnan(b)) and np.allclose(a, b, rtol=rtol, atol=0, equal_nan=True)
        for a, b in zip(live, replayed, strict=True)
    ]
    return np.array(same) & (decisions(live) == decisions(replayed))
