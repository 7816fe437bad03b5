"""`diffclf bench`: what the evaluator and the race save over the paper's loop, as ratios measured in one run.

What is compared runs in turn, a - b - a - b …, so that a machine whose speed drifts disturbs both alike; medians of the
ratios pair by pair are reported, with the least and the largest.

    overhead       the evaluator over the bare forward passes of the network on the same batches
    throughput     evaluations per second: Algorithm 2 written down plainly, the evaluator, the evaluator compiled
    utilisation    floating-point operations per second over those of a large matrix product on this machine
    tasks          seconds per image: the plain loop with the paper's schedule, and races, many images in flight

Accuracies take hundreds of images and many minutes; they are read from the study that lies with the model's weights,
and computed anew with --full (`diffclf.workbook.study`).
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffclf.classifier import DiffusionClassifier
from diffclf.datasets import ImageSet, load_dataset
from diffclf.evaluator import Evaluator
from diffclf.images import load_images, to_pixels
from diffclf.mini.harness import TASKS, races
from diffclf.models import load_model
from diffclf.models.loading import built_in_models
from diffclf.models.protocol import DiffusionModel
from diffclf.plainloop import plain_staged
from diffclf.pruning import Pruning, Staged
from diffclf.racing import Racing, calibrated
from diffclf.trials import Trials, image_key, uniform
from diffclf.workbook.study import read_study, write_study

__all__ = ["add_arguments", "measure_overhead", "measure_task", "measure_throughput", "run"]


def _seconds(act: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _in_turn(acts: list[Callable[[], object]], n_rounds: int, device: torch.device) -> np.ndarray:
    """Return (n_rounds, n_acts) seconds of acts run in turn, after one run of each that does not count."""
    for act in acts:
        act()
    return np.array([[_seconds(act, device) for act in acts] for _ in range(n_rounds)])


def _spread(ratios: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(ratios)), "least": float(ratios.min()), "largest": float(ratios.max())}


def _problem(model: DiffusionModel, n: int, n_prompts: int = 10) -> tuple[torch.Tensor, torch.Tensor, Trials, Any]:
    """Return a clean latent, conditionings, trials, and n triples of one image."""
    n_trials = -(-n // n_prompts)
    if model.labels is None:
        cond = model.encode_prompts([f"a photo of number {i}" for i in range(n_prompts)])
    else:
        cond = model.encode_prompts([i % len(model.labels) for i in range(n_prompts)])
    n_timesteps = len(model.alphas_cumprod)
    timesteps = np.resize(uniform(min(n_trials, n_timesteps), n_timesteps), n_trials)
    trials = Trials(timesteps, 0, 0, model.latent_shape)
    triples = np.array([(0, p, t) for t in range(n_trials) for p in range(n_prompts)])[:n]
    return trials.noise([0]).to(model.device), cond, trials, triples


def measure_overhead(
    model: DiffusionModel, *, n_pairs: int = 11, batch_size: int | None = None, n_batches: int = 4
) -> dict[str, Any]:
    """Time the evaluator against bare forward passes on the same batches.

    Args:
        model: the model; its weights do not matter.
        n_pairs: interleaved pairs of runs.
        batch_size: evaluations per forward pass; None: the evaluator's choice.
        n_batches: forward passes per run.

    Returns:
        The overhead (evaluator / bare - 1), the median evaluations per second of each, and how it was measured.
    """
    evaluator = Evaluator(model, ["l2", "l1", "huber"], batch_size)
    n = evaluator.batch_size * n_batches
    x0, cond, trials, triples = _problem(model, n)
    batches = []
    for start in range(0, n, evaluator.batch_size):
        part = triples[start : start + evaluator.batch_size]
        x_t = torch.randn(len(part), *model.latent_shape, generator=torch.Generator().manual_seed(start))
        t = torch.from_numpy(trials.timesteps[part[:, 2]])
        batches.append((x_t.to(model.device), t.to(model.device), cond[torch.from_numpy(part[:, 1]).to(model.device)]))

    @torch.inference_mode()
    def bare() -> None:
        for x_t, t, c in batches:
            model.denoise(x_t, t, c)

    def ours() -> None:
        evaluator.errors(x0, cond, [trials], triples)

    seconds = _in_turn([bare, ours], n_pairs, model.device)
    return {
        "overhead": _spread(seconds[:, 1] / seconds[:, 0] - 1),
        "bare_per_second": n / float(np.median(seconds[:, 0])),
        "evaluator_per_second": n / float(np.median(seconds[:, 1])),
        "pairs": n_pairs,
        "batch_size": evaluator.batch_size,
        "evaluations_per_run": n,
    }


def _plain_unet(name: str, device: str | None) -> DiffusionModel:
    """Return the model with its network in the memory format that diffusers loads it in."""
    model = load_model(name, device=device)
    model.network.to(memory_format=torch.contiguous_format)
    return model


def _gigaflops(model: DiffusionModel, batch_size: int) -> tuple[float, float]:
    """Return billions of operations of one evaluation, and per second of a large matrix product (best of 5)."""
    from torch.utils.flop_counter import FlopCounterMode

    x0, cond, _, _ = _problem(model, 10)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.denoise(x0, torch.zeros(1, dtype=torch.int64, device=model.device), cond[:1])
    a = torch.randn(2048, 2048, device=model.device, dtype=model.dtype)
    fastest = _in_turn([lambda: a @ a], 5, model.device).min()
    return counter.get_total_flops() / 1e9, 2 * 2048**3 / fastest / 1e9


def measure_throughput(
    name: str, device: str | None = None, *, n_rounds: int = 5, compile: bool = True, n: int = 1024
) -> dict[str, Any]:
    """Time the plain loop, the evaluator, and the evaluator compiled on the same evaluations.

    Args:
        name: a Stable Diffusion model, as `load_model` takes it.
        device: where; None: the fastest there is.
        n_rounds: interleaved rounds.
        compile: whether to measure the compiled network, too (a minute more).
        n: evaluations per run.

    Returns:
        Median evaluations per second of each, the ratios to the plain loop, and the utilisation.
    """
    plain, eager = _plain_unet(name, device), load_model(name, device=device)
    models = {"evaluator": eager} | ({"compiled": load_model(name, device=device, compile=True)} if compile else {})
    x0, cond, trials, triples = _problem(eager, n)
    first = Staged(trials=(len(trials),), keep=(1,), grid="nested")
    acts = [lambda: plain_staged(plain.network, plain.alphas_cumprod, x0, cond, trials, first)]
    for model in models.values():
        evaluator = Evaluator(model, ["l2"])
        acts.append(lambda evaluator=evaluator: evaluator.errors(x0, cond, [trials], triples))
    counts = np.array([len(trials) * len(cond), *[len(triples)] * len(models)])
    rates = counts / _in_turn(acts, n_rounds, eager.device)
    work, machine = _gigaflops(eager, 1)
    names = ["plain loop", *models]
    return {
        "evaluations_per_second": {name: float(np.median(rate)) for name, rate in zip(names, rates.T, strict=True)},
        "over_plain": {name: _spread(rates[:, i] / rates[:, 0]) for i, name in enumerate(names) if i},
        "utilisation": {n: float(np.median(r)) * work / machine for n, r in zip(names, rates.T, strict=True)},
        "gigaflops_of_an_evaluation": work,
        "gigaflops_per_second_of_a_matrix_product": machine,
        "rounds": n_rounds,
    }


def measure_task(
    model: DiffusionModel,
    plain: DiffusionModel,
    data: ImageSet,
    schedule: Staged,
    strategies: Mapping[str, Pruning],
    *,
    n_rounds: int = 5,
    n_plain: int = 1,
) -> dict[str, Any]:
    """Time the plain loop with a schedule against other strategies, seconds per image.

    Args:
        model: runs the strategies; compiled or not.
        plain: runs the plain loop.
        data: images; each round the plain loop takes the next n_plain of them, every strategy all.
        schedule: of the plain loop.
        strategies: by name.
        n_rounds: interleaved rounds.
        n_plain: images per round of the plain loop.

    Returns:
        Median seconds and mean evaluations per image of all, and the ratios to the plain loop, round by round.
    """
    texts = list(data.prompts.values())
    cond = plain.encode_prompts(texts)
    timesteps = schedule.timesteps(len(plain.alphas_cumprod))
    spent = {"plain loop": float(schedule.evaluations(len(texts)))}
    turn = iter(range(10**9))

    def plainly() -> None:
        for _ in range(n_plain):
            image = load_images([data.images[next(turn) % len(data)]])[0]
            pixels = to_pixels(image, plain.image_size)
            x0 = plain.encode_images(pixels[None])
            trials = Trials(timesteps, 0, image_key(pixels), plain.latent_shape, schedule.noises())
            plain_staged(plain.network, plain.alphas_cumprod, x0, cond, trials, schedule)

    def classify(name: str, classifier: DiffusionClassifier) -> None:
        spent[name] = float(np.mean([table.n_evaluations for table in classifier.error_tables(data.images)]))

    acts = [plainly]
    for name, strategy in strategies.items():
        acts.append(partial(classify, name, DiffusionClassifier(model, data.prompts, pruning=strategy)))
    seconds = _in_turn(acts, n_rounds, model.device) / [n_plain, *[len(data)] * len(strategies)]
    own = dict(zip(["plain loop", *strategies], seconds.T, strict=True))
    return {
        "seconds_per_image": {name: float(np.median(clock)) for name, clock in own.items()},
        "evaluations_per_image": spent,
        "times_fewer_seconds": {name: _spread(own["plain loop"] / own[name]) for name in strategies},
        "times_fewer_evaluations": {name: spent["plain loop"] / spent[name] for name in strategies},
        "images": len(data),
        "rounds": n_rounds,
    }


def _peak_memory(device: torch.device) -> float:
    """Return the largest memory held so far, in GB: of the process, on CUDA of the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf bench`."""
    parser.add_argument("--model", default="mini-sd", help="a Stable Diffusion model (default %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, …; by default the fastest there is")
    parser.add_argument("--batch-size", type=int, help="evaluations per forward pass, for the overhead")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=11, help="interleaved pairs for the overhead (default %(default)s)"
    )
    parser.add_argument("--images", type=int, default=16, help="test images a race is timed on (default %(default)s)")
    parser.add_argument("--only-overhead", action="store_true", help="the evaluator over the bare network, no more")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled network out: a minute less")
    parser.add_argument(
        "--full", action="store_true", help="compute the accuracies anew, on 500 or 1000 test images a task: hours"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="error banks of --full; it resumes there")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf bench`."""
    if args.full and (args.only_overhead or args.model not in built_in_models()):
        raise ValueError(f"full is for a built-in model and all measurements, got {args.model!r}")
    model = load_model(args.model, device=args.device)
    where = f"{args.model} on {model.device}, {torch.get_num_threads()} CPU threads"
    result: dict[str, Any] = {"overhead": measure_overhead(model, n_pairs=args.pairs, batch_size=args.batch_size)}
    if not args.only_overhead:
        compile = not args.no_compile
        result["throughput"] = measure_throughput(args.model, args.device, n_rounds=args.rounds, compile=compile)
        fast = load_model(args.model, device=args.device, compile=compile)
        plain = _plain_unet(args.model, args.device)
        if args.full:
            write_study(fast, args.work)
        study, race = read_study(fast), calibrated(Racing(), fast)
        for name, task in TASKS.items():
            data, schedule = load_dataset(name, n_images=args.images), replace(task.schedule, grid="official")
            timed = measure_task(fast, plain, data, schedule, races(task, race), n_rounds=args.rounds)
            result.setdefault("tasks", {})[name] = timed | ({"study": study["tasks"][name]} if study else {})
    result["peak_memory_gb"] = _peak_memory(model.device)
    print(json.dumps(result, indent=1) if args.json else "\n".join([where, *_lines(result)]))
    return 0


def _study_lines(study: dict[str, Any]) -> list[str]:
    """Return what the stored study says of a task: accuracy at what cost."""
    rows = study["strategies"]
    official = rows["paper's schedule"]["evaluations"]["value"]
    lines = [
        f"accuracy on {study['images']} test images, from the study ({study['race']}); all on the same nested, "
        "mirrored trials, where the schedule may cost less than on its own grid:"
    ]
    for name, row in rows.items():
        spent, accuracy, difference = (row[key] for key in ("evaluations", "accuracy", "difference"))
        line = f"  {name:<20} {spent['value']:6.0f} evaluations, {accuracy['value']:.1%} right"
        if name != "paper's schedule":
            line += (
                f", {official / spent['value']:4.1f} times fewer, {100 * difference['value']:+.1f} points "
                f"(one-sided 95%: at least {100 * difference['low']:+.1f})"
            )
        lines.append(line)
    return lines


def _lines(result: dict[str, Any]) -> list[str]:
    """Return the results in words."""

    def spread(values: dict[str, float], form: str) -> str:
        return f"{values['median']:{form}} ({values['least']:{form}} to {values['largest']:{form}})"

    over = result["overhead"]
    lines = [
        f"evaluator over bare forward passes  {spread(over['overhead'], '+.1%')}, {over['pairs']} pairs, "
        f"batches of {over['batch_size']}"
    ]
    for name, rate in result.get("throughput", {}).get("evaluations_per_second", {}).items():
        more = result["throughput"]["over_plain"].get(name)
        lines.append(
            f"{name:<12} {rate:8.0f} evaluations/s, {result['throughput']['utilisation'][name]:4.0%} of a matrix "
            f"product's speed" + (f", {spread(more, '.1f')} times the plain loop" if more else "")
        )
    for name, task in result.get("tasks", {}).items():
        evaluations, seconds = task["evaluations_per_image"], task["seconds_per_image"]
        lines += [
            "",
            f"{name}, {task['images']} test images, {task['rounds']} rounds:",
            f"  plain loop, official schedule: {evaluations['plain loop']:.0f} evaluations, "
            f"{seconds['plain loop']:.2f} s an image",
        ]
        lines += [
            f"  {search}: {evaluations[search]:.0f} evaluations, {seconds[search]:.3f} s; {fewer:.1f} times fewer "
            f"evaluations, {spread(task['times_fewer_seconds'][search], '.1f')} times fewer seconds"
            for search, fewer in task["times_fewer_evaluations"].items()
        ]
        lines += _study_lines(task["study"]) if "study" in task else []
    return [*lines, f"peak memory {result['peak_memory_gb']:.2f} GB"]
