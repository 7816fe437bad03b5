"""`diffclf baseline`: accuracy of another kind of classifier on a folder with one sub-folder of images per class.

    clip        zero-shot, by the embeddings of image and prompt
    synthetic   a ResNet trained on the diffusion model's own samples of every prompt
    features    a small ResNet on the diffusion model's features, trained with the labels of FOLDER/train

The test images are those of --test, else of FOLDER/test, else of FOLDER. With --out DIR a run has a folder:

    predictions.csv   a line per image: image, label, predicted, correct, probability
    samples/          of synthetic: the samples by the model's weights, size x size x 3 bytes each; a killed run goes on
    config.json, ...  the trained network, which `load_supervised(DIR)` or `load_features(DIR, model)` reads

During training the features lie in a temporary file, in DIR if it is given: 262 kB an image with Stable Diffusion.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.features import FeatureClassifier, Head, mid_features, save_head
from diffclf.baselines.fitting import SMALL, fit, usual_fit
from diffclf.baselines.supervised import SupervisedClassifier
from diffclf.baselines.synthetic import build_processor, build_resnet, sample_images, train_on_images
from diffclf.commands.options import count, first_reasons, positive
from diffclf.datasets.folder import load_folder, shown, unreadable
from diffclf.datasets.imageset import ImageSet
from diffclf.files import check_writable, write_csv
from diffclf.images import load_image, to_pixels
from diffclf.models import load_model
from diffclf.models.loading import quiet
from diffclf.models.protocol import DiffusionModel
from diffclf.models.stable_diffusion import StableDiffusionModel
from diffclf.progress import progress
from diffclf.prompts import TEMPLATE, prompts_from_labels
from diffclf.stats import proportion
from diffclf.texttable import plural, printable

__all__ = ["add_arguments", "run"]

DEFAULTS = {"clip": "mini-clip-large", "synthetic": "mini-sd", "features": "mini-sd"}


class _Classifier(Protocol):
    def probabilities(self, data: ImageSet) -> NDArray[np.float64]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf baseline`."""
    add = parser.add_argument
    add("name", choices=list(DEFAULTS), metavar="NAME", help=f"kind of classifier: {', '.join(DEFAULTS)}")
    add("folder", type=Path, metavar="FOLDER", help="one sub-folder per class, or train and test with these in each")
    add("--test", type=Path, metavar="FOLDER", help="test images (default FOLDER/test if there is one, else FOLDER)")
    add(
        "--template",
        default=TEMPLATE,
        metavar="TEXT",
        help='prompt of a label, {} is its place (default "%(default)s")',
    )
    add("--model", metavar="NAME", help=f"built-in name, directory or hub id (default {', '.join(DEFAULTS.values())})")
    samples = "synthetic: samples of a class (default %(default)s; the paper's 10000)"
    add("--samples", type=count, default=200, metavar="N", help=samples)
    add("--steps", type=count, default=25, metavar="N", help="synthetic: steps of the sampler (default %(default)s)")
    guidance = "synthetic: scale of classifier-free guidance, 1 is none (default %(default)s)"
    add("--guidance", type=positive, default=1.0, metavar="W", help=guidance)
    add("--epochs", type=count, default=30, metavar="N", help="synthetic, features: of training (default %(default)s)")
    add("--seed", type=int, default=0, help="of samples, weights and batches (default %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    add("--out", type=Path, metavar="DIR", help="folder for predictions.csv, the network and its samples")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Train the classifier if it learns, write and print its accuracy, and return the exit status."""
    place, data, train = _load_data(args)
    torch.manual_seed(args.seed)
    p = _make(args, data, train).probabilities(data)
    chosen = p.argmax(axis=1)
    right = chosen == data.labels
    accuracy = proportion(int(right.sum()), len(data))
    if args.out is not None:
        rows = zip(data.images, data.labels, chosen, right, p.max(axis=1), strict=True)
        lines = [
            (shown(path.relative_to(place)), data.classnames[label], data.classnames[found], bool(hit), f"{value:.6g}")
            for path, label, found, hit, value in rows
        ]
        header = ("image", "label", "predicted", "correct", "probability")
        write_csv(args.out / "predictions.csv", [header, *lines])
    if args.json:
        facts = {"baseline": args.name, "n_images": len(data), "n_correct": int(right.sum())}
        print(json.dumps(facts | {"accuracy": asdict(accuracy)}, indent=2))
        return 0
    print(
        f"accuracy {accuracy.value:.2%}, {accuracy.level:.0%} interval {accuracy.low:.2%} to {accuracy.high:.2%} "
        f"(Wilson; {right.sum()} of {plural(len(data), 'image')})"
    )
    if args.out is not None:
        print(f"predictions: {printable(str(args.out))}")
    return 0


def _load_data(args: argparse.Namespace) -> tuple[Path, ImageSet, ImageSet | None]:
    """Return the folder of the test images, the test images, and the training images of features.

    Raises:
        ValueError: other classes in training than in test, a class of one training image, results inside the
            folder of images, or images that cannot be used.
    """
    own_test, own_train = args.folder / "test", args.folder / "train"
    place = args.test or (own_test if own_test.is_dir() else args.folder)
    data = load_folder(place, "all")
    data = replace(data, prompts={name: text for text, name in prompts_from_labels(data.classnames, args.template)})
    train = None
    if args.name == "features":
        source = own_train if own_train.is_dir() else args.folder
        if source.resolve() == place.resolve():
            raise ValueError(f"features need other images to test on: --test, or {own_train} and {own_test}")
        train = load_folder(source, "all")
        if train.classnames != data.classnames:
            raise ValueError(f"classes of {source} must be those of {place}, got {', '.join(train.classnames)}")
        n_images = np.bincount(train.labels, minlength=len(train.classnames))
        if n_images.min() < 2:
            few = train.classnames[n_images.argmin()]
            raise ValueError(f"classes of {source} must have at least 2 images each, got {n_images.min()} of {few}")
    if args.out is not None and args.out.resolve().is_relative_to(args.folder.resolve()):
        raise ValueError(f"out must not lie inside the folder of images {args.folder}, got {args.out}")
    if args.out is not None:
        check_writable("out", args.out)
    if bad := unreadable((path, str(path)) for path in [*data.images, *(train.images if train else [])]):
        raise ValueError(first_reasons(bad))
    return place, data, train


def _make(args: argparse.Namespace, data: ImageSet, train: ImageSet | None) -> _Classifier:
    """Return the classifier, trained and written to the folder of results if it is one that learns."""
    name = args.model or DEFAULTS[args.name]
    if args.name == "clip":
        return load_contrastive(name, args.device)
    model = load_model(name, device=args.device)
    if not isinstance(model, StableDiffusionModel):
        raise ValueError(f"{args.name} needs a model of text with a U-Net, a Stable Diffusion, got {name}")
    return _train_on_samples(args, model, data) if train is None else _train_on_features(args, model, train)


def _train_on_samples(args: argparse.Namespace, model: StableDiffusionModel, data: ImageSet) -> SupervisedClassifier:
    options = {"n_steps": args.steps, "guidance": args.guidance, "seed": args.seed}
    folder = None if args.out is None else args.out / "samples" / model.fingerprint
    if folder is None and model.image_size > SMALL:
        gb = len(data.classnames) * args.samples * 3 * model.image_size**2 / 1e9
        raise ValueError(f"synthetic needs a folder for {gb:.3g} GB of samples of {model.name}: --out DIR, got none")
    images, labels = sample_images(model.pipeline, list(data.prompts.values()), args.samples, **options, folder=folder)
    network = build_resnet(data.classnames, model.image_size).to(model.device)
    train_on_images(network, images, labels, usual_fit(args.name, model.image_size, args.epochs), args.seed)
    processor = build_processor(model.image_size)
    if args.out is not None:
        with quiet():
            network.save_pretrained(args.out)
            processor.save_pretrained(args.out)
    return SupervisedClassifier(network, processor, args.name)


def _train_on_features(args: argparse.Namespace, model: DiffusionModel, train: ImageSet) -> FeatureClassifier:
    paths = progress(train.images, desc="features", unit="image")
    pixels = (to_pixels(load_image(path, str(path)), model.image_size) for path in paths)
    how = usual_fit(args.name, model.image_size, args.epochs)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=args.out) as file:
        features = mid_features(model, pixels, file=file)
        head = Head(features.shape[1], len(train.classnames)).to(model.device)
        fit(head, features, torch.from_numpy(train.labels), lambda part, _: part, how=how, seed=args.seed)
    if args.out is not None:
        save_head(head, train.classnames, model, args.out)
    return FeatureClassifier(model, head, train.classnames, args.name)
