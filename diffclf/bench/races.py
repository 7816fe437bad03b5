"""Seconds per image: the plain loop with the paper's schedule, and races with many images in flight."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle

from diffclf.bench.clock import Comparison, compare
from diffclf.bench.plain_loop import plain_loop
from diffclf.classifier import DiffusionClassifier
from diffclf.datasets import ImageSet
from diffclf.images import load_images, to_pixels
from diffclf.models.protocol import DiffusionModel
from diffclf.prompts import resolve_prompts
from diffclf.pruning import Staged, Strategy
from diffclf.trials import Trials, image_key

__all__ = ["time_races"]


def time_races(
    model: DiffusionModel,
    plain: DiffusionModel,
    data: ImageSet,
    staged: Staged,
    strategies: Mapping[str, Strategy],
    n_rounds: int = 5,
) -> Comparison:
    """Return seconds and mean evaluations per image of the plain loop and of strategies.

    Args:
        model: runs the strategies; compiled or not.
        plain: runs the plain loop.
        data: images; in each round the plain loop classifies the next image, each strategy classifies all.
        staged: of the plain loop.
        strategies: name -> strategy.
        n_rounds: interleaved rounds.
    """
    prompts = data.prompts if plain.labels is None else data.classnames
    cond = plain.encode_prompts(resolve_prompts(prompts, plain.labels)[0])
    spent = {"plain loop": float(staged.evaluations(len(cond)))}
    images = cycle(data.images)

    def plainly() -> None:
        pixels = to_pixels(load_images([next(images)])[0], plain.image_size)
        trials = Trials(staged.trial_list(len(plain.schedule)), 0, image_key(pixels), plain.latent_shape)
        plain_loop(plain, plain.encode_images(pixels[None]), cond, trials, staged)

    def classify(name: str, classifier: DiffusionClassifier) -> None:
        spent[name] = sum(table.n_evaluations for table in classifier.error_tables(data.images)) / len(data)

    acts: dict[str, Callable[[], object]] = {"plain loop": plainly}
    for name, strategy in strategies.items():
        acts[name] = partial(classify, name, DiffusionClassifier(model, prompts, pruning=strategy))
    found = compare(acts, [1, *[len(data)] * len(strategies)], n_rounds)
    return {name: row | {"evaluations": spent[name]} for name, row in found.items()}
