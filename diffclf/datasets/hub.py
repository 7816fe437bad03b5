"""Data sets of the Hugging Face hub.

What is asked about a class is in data/prompts/NAME.csv where the project may ship the class names, else it is the data
set's own name of the class in a template. Both are what the paper used: one prompt per class, by the authors of CLIP.

A large set whose shards each have all classes is taken shard by shard, in an order that the seed determines, until
there are enough images of every class: 2000 images of ImageNet need about three of its fourteen shards.

Source: Li et al. 2023, arXiv 2303.16203, section 5 and appendix F; the class names of CLIP's authors, Radford et al.
2021, arXiv 2103.00020.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import get_token
from typing_extensions import override

from diffclf.datasets.download import Repository, cached_folder, file_names, matching, terms
from diffclf.datasets.folder import balanced
from diffclf.datasets.imagenet import IMAGENET_A, OBJECTNET
from diffclf.datasets.imageset import ImageSet, n_taken
from diffclf.paths import data_dir
from diffclf.prompts import read_prompts

__all__ = ["HUB", "HubSource", "lacking", "load_hub"]


class HubSource(NamedTuple):
    """Where a data set is on the hub, what must be in it, and how its classes are asked about.

    Attributes:
        repo: id on the hub.
        splits: "tune" and "test" -> name of the hub's split and the images in it. Where both name the same split of
            the hub, its shards of odd number are "tune", those of even number "test".
        n_classes: number of classes in the repository.
        licence: as stated on the hub.
        template: the prompt of a class without one in data/prompts, {} standing for the class name.
        gated: whether the hub asks for terms to be accepted.
        image: name of the column of images.
        label: name of the column of labels, 0 to n_classes - 1.
        names: text file with one class name per line, "FILE" of the repository or "owner/name/FILE" of another one; ""
            if the column of labels has the names.
        files: files of a split, {} standing for its name.
        indices: as in `ImageSet`.
        revision: branch, tag or hash on the hub; None: the newest. `ImageSet.source` records the commit.
        download_gb: about how much the files of the test images take on the hub; None: not known.
    """

    repo: str
    splits: dict[str, tuple[str, int]]
    n_classes: int
    licence: str
    template: str = "a photo of a {}."
    gated: bool = False
    image: str = "image"
    label: str = "label"
    names: str = ""
    files: str = "*{}-*.parquet"
    indices: dict[int, int] | None = None
    revision: str | None = None
    download_gb: float | None = None

    @property
    def sharded(self) -> bool:
        """Whether "tune" and "test" are shards of one split of the hub."""
        return len({hub_split for hub_split, _ in self.splits.values()}) < len(self.splits)


_TAR = {"label": "cls", "names": "classnames.txt", "files": "{}/*.tar"}

HUB = {
    "pets": HubSource(
        "timm/oxford-iiit-pet",
        splits={"tune": ("train", 3680), "test": ("test", 3669)},
        n_classes=37,
        licence="CC-BY-SA-4.0",
        download_gb=0.4,
    ),
    "food101": HubSource(
        "ethz/food101",
        splits={"tune": ("train", 75_750), "test": ("validation", 25_250)},
        n_classes=101,
        licence="fair use for research",
    ),
    "cifar10": HubSource(
        "uoft-cs/cifar10",
        splits={"tune": ("train", 50_000), "test": ("test", 10_000)},
        n_classes=10,
        licence="none stated",
        image="img",
    ),
    "aircraft": HubSource(
        "clip-benchmark/wds_fgvc_aircraft",
        splits={"test": ("test", 3333)},
        n_classes=100,
        licence="non-commercial research",
        image="webp",
        **_TAR,
    ),
    "flowers": HubSource(
        "dpdl-benchmark/oxford_flowers102",
        splits={"tune": ("train", 1020), "test": ("test", 6149)},
        n_classes=102,
        licence="none stated",
        download_gb=2.5,
    ),
    "stl10": HubSource(
        "tanganke/stl10",
        splits={"tune": ("train", 5000), "test": ("test", 8000)},
        n_classes=10,
        licence="none stated; made of ImageNet",
        download_gb=0.1,
    ),
    "imagenet": HubSource(  # the names of CLIP's authors; its own are lists of synonyms ("tench, Tinca tinca")
        "ILSVRC/imagenet-1k",
        splits={"tune": ("validation", 50_000), "test": ("validation", 50_000)},
        n_classes=1000,
        licence="ImageNet terms of access, non-commercial research",
        download_gb=3.4,
        gated=True,
        names="clip-benchmark/wds_imagenetv2/classnames.txt",
        files="data/{}-*.parquet",
        indices={index: index for index in range(1000)},
    ),
    "imagenet-v2": HubSource(  # the matched-frequency variant
        "clip-benchmark/wds_imagenetv2",
        splits={"test": ("test", 10_000)},
        n_classes=1000,
        licence="MIT",
        image="webp",
        indices={index: index for index in range(1000)},
        **_TAR,
    ),
    "imagenet-a": HubSource(
        "clip-benchmark/wds_imagenet-a",
        splits={"test": ("test", 7500)},
        n_classes=200,
        licence="MIT",
        download_gb=0.7,
        image="jpg",
        indices={index: label for label, index in enumerate(IMAGENET_A)},
        **_TAR,
    ),
    "objectnet": HubSource(  # the classes that ImageNet has, too; the images keep their red border, one pixel wide
        "clip-benchmark/wds_objectnet",
        splits={"test": ("test", 18_574)},
        n_classes=113,
        licence="ObjectNet's terms: never to tune a model",
        image="png",
        indices=OBJECTNET,
        **_TAR,
    ),
}


class _Encoded(Sequence):
    """A column of images as the bytes of their files, each read when it is taken: this package decodes with limits."""

    def __init__(self, table: Any, image: str) -> None:  # noqa: ANN401 (a table of `datasets`)
        self._column = table[image]

    def __len__(self) -> int:
        return len(self._column)

    @override
    def __getitem__(self, place: int) -> bytes:
        return self._column[place]["bytes"]


def load_hub(name: str, split: str = "test", n_images: int | None = None, seed: int = 0) -> ImageSet:
    """Download (once) and return a data set of the hub, the classes in nearly equal numbers.

    Arguments as for `load_dataset`. "tune" is the hub's training split, which a zero-shot classifier does not need;
    "tune" and "test" of "imagenet" are shards of its validation images, because networks have seen the training
    images. "imagenet-v2", "imagenet-a", "objectnet" and "aircraft" are test sets only.

    Raises:
        ModuleNotFoundError: the package `datasets` is not installed.
        ConnectionError: offline and not downloaded before, or terms not accepted.
        ValueError: unknown split, not the columns, images, classes or class names that were expected, or too many
            images asked for.
    """
    source = HUB[name]
    if split not in source.splits:
        raise ValueError(f"split of {name!r} must be one of {list(source.splits)}, got {split!r}")
    if n_images is not None:
        n_taken(n_images, source.splits[split][1] // (2 if source.sharded else 1))
    repository = Repository(source.repo, source.revision, source.gated, source.licence)
    names = _listed_names(source, repository)
    quota = -(-n_images // source.n_classes) if n_images else None
    tables, labels, groups, rows = [], np.empty(0, dtype=np.int64), [], []
    for shard, start, table in _tables(name, source, repository, split, seed):
        names = names or list(table.features[source.label].names)
        own = np.asarray(table[source.label])
        rng = np.random.default_rng([seed, 6] if shard is None else [seed, 6, shard])
        rows.append(len(labels) + rng.permutation(len(own)))
        groups.append(start + np.arange(len(own)))
        labels = np.concatenate([labels, own])
        tables.append(table)
        if quota is not None and np.bincount(labels, minlength=source.n_classes).min() >= quota:
            break
    _check_labels(name, source, labels, names)
    order = np.concatenate(rows)
    order = order[balanced(labels[order])][: n_taken(n_images, len(order))]
    prompts = _prompts(name, source, names)
    return ImageSet(
        name,
        _Encoded(_concatenated(tables, source.image).select(order), source.image),
        labels[order],
        tuple(prompts),
        prompts,
        np.concatenate(groups)[order],
        indices=source.indices,
        source=f"{source.repo}@{repository.commit}",
    )


def lacking(name: str) -> str:
    """Return what the test images of a data set lack to be loaded without a network, "" if nothing, and what to do.

    Nothing is downloaded. Of a set in shards one shard is enough: how many are needed depends on the number of images.
    """
    source, folder = HUB[name], cached_folder(HUB[name].repo, HUB[name].revision)
    here = [] if folder is None else file_names(folder)
    wanted = matching(here, source.files.format(source.splits["test"][0]))
    absent = [file for file in wanted if file not in here]
    if wanted and (not absent or source.sharded and set(wanted[::2]) - set(absent)):
        owner, _, file = source.names.rpartition("/")
        place = cached_folder(owner) if owner else folder
        return (
            "" if not file or place and (place / file).is_file() else f"its class names ({source.names}) are not here"
        )
    part = f"{len(absent)} of {len(wanted)} files are" if absent else "it is"
    token = f"; {terms(source.repo)}" if source.gated and get_token() is None else ""
    return f"{part} not in the cache{token}"


def _tables(
    name: str, source: HubSource, repository: Repository, split: str, seed: int
) -> Iterator[tuple[int | None, int, Any]]:
    """Yield tables of a split, in the order in which they are taken: shard (None: all), first position, table.

    Raises ValueError unless each has the columns and the number of images that are expected.
    """
    hub_split, n = source.splits[split]
    files = matching(repository.names, source.files.format(hub_split))
    if len(files) < 1 + source.sharded:
        expected = f"files {source.files.format(hub_split)}" + ", two or more" * source.sharded
        raise repository.error(f"it must have {expected}, got {', '.join(files) or 'none'}")
    if not source.sharded:
        yield None, 0, _read(name, source, [repository.fetch(file) for file in files], hub_split, n)
        return
    sizes = [n // len(files) + (number < n % len(files)) for number in range(len(files))]
    own = np.arange(len(files))[split == "tune" :: 2]
    for shard in np.random.default_rng([seed, 6]).permutation(own).tolist():
        table = _read(name, source, [repository.fetch(files[shard])], hub_split, sizes[shard])
        yield shard, sum(sizes[:shard]), table


def _read(name: str, source: HubSource, paths: Sequence[Path], hub_split: str, n: int) -> Any:  # noqa: ANN401
    """Return a table of `datasets` of some files, whose images are not decoded."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        message = f"data set {name!r} needs the package `datasets`: pip install 'diffclf[data]'"
        raise ModuleNotFoundError(message) from error
    kind = "webdataset" if paths[0].suffix == ".tar" else "parquet"
    table = datasets.load_dataset(kind, data_files={hub_split: [str(path) for path in paths]}, split=hub_split)
    columns = list(table.features)
    if not {source.image, source.label} <= set(columns):
        raise ValueError(f"{_called(name)} must have columns {source.image} and {source.label}, got {columns}")
    if len(table) != n:
        raise ValueError(f"{_called(name)} must hold {n} images in {hub_split}, got {len(table)} in {len(paths)} files")
    return table.cast_column(source.image, datasets.Image(decode=False))


def _concatenated(tables: Sequence[Any], image: str) -> Any:  # noqa: ANN401 (a table of `datasets`)
    from datasets import concatenate_datasets

    return concatenate_datasets([table.select_columns([image]) for table in tables])


def _called(name: str) -> str:
    """Return how messages call a data set."""
    return f"data set {name!r} ({HUB[name].repo})"


def _listed_names(source: HubSource, repository: Repository) -> list[str]:
    """Return the class names that a file lists; none if the column of labels has them."""
    if not source.names:
        return []
    owner, _, file = source.names.rpartition("/")
    place = Repository(owner) if owner else repository
    return [line.strip() for line in place.fetch(file).read_text("utf-8").split("\n") if line.strip()]


def _check_labels(name: str, source: HubSource, labels: np.ndarray, names: Sequence[str]) -> None:
    """Raise ValueError unless there are as many class names as classes, and images of each class and no other."""
    if len(names) != source.n_classes:
        raise ValueError(
            f"{_called(name)} must have {source.n_classes} classes, got {len(names)}: {list(names)[:3]} ..."
        )
    if not np.array_equal(np.unique(labels), np.arange(source.n_classes)):
        raise ValueError(
            f"labels of {_called(name)} must be 0 to {source.n_classes - 1}, each of them at least once, got "
            f"{labels.min()} to {labels.max()}, {len(np.unique(labels))} different"
        )


def _prompts(name: str, source: HubSource, names: Sequence[str]) -> dict[str, str]:
    """Return class name -> prompt in the order of the labels, from data/prompts or of the data set's own names.

    Raises ValueError if the data set has another class at a label. Names may be spelt in another way: of all expected
    names, that of the same label must be the nearest in spelling.
    """
    file = data_dir() / "prompts" / f"{name}.csv"
    if not file.is_file():
        return {shown: source.template.format(shown) for shown in _distinct(names)}
    prompts = {classname: prompt for prompt, classname in read_prompts(file)}
    plain = [_plain(classname) for classname in prompts]
    for label, (classname, got) in enumerate(zip(prompts, names, strict=True)):
        if _plain(got) != plain[label] and get_close_matches(_plain(got), plain, n=1, cutoff=0) != [plain[label]]:
            raise ValueError(f"label {label} of {_called(name)} must be {classname!r} (see {file}), got {got!r}")
    return prompts


def _plain(name: str) -> str:
    """Return a class name in small letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _distinct(names: Sequence[str]) -> list[str]:
    """Return class names with spaces for underscores, and with the label where classes share a name.

    The names of CLIP's authors have "missile" (657 and 744) and "sunglasses" (836 and 837) twice. The paper asks about
    both classes in the same words, so that the second one never wins; here it is "missile (744)" in name and prompt.
    """
    plain = [name.replace("_", " ") for name in names]
    counts = Counter(plain)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(plain)]
