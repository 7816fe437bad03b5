"""Data sets as they lie in the Hugging Face hub's cache: random pictures of a few pixels, real columns and counts."""

import io
import tarfile
from hashlib import sha256

import numpy as np
from PIL import Image

from diffclf.datasets.hub import HUB
from diffclf.paths import data_dir
from diffclf.prompts import read_prompts

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(cache, repo, files, commit=COMMIT, kind="dataset", ref="main"):
    """Write files (name -> bytes) of a repository into a cache as the hub's library does; return their folder."""
    place = cache / f"{kind}s--{repo.replace('/', '--')}"
    for folder in ("refs", "blobs", "snapshots"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (place / "refs" / ref).write_text(commit)
    for name, content in files.items():
        path, blob = place / "snapshots" / commit / name, place / "blobs" / sha256(content).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        path.unlink(missing_ok=True)
        path.symlink_to(blob)
    return place / "snapshots" / commit


def picture(label, kind="PNG"):
    """Return a picture of one colour, which tells the label, as the bytes of a file."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (label % 256, label // 256, 9)).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def shown_label(encoded):
    """Return the label that a picture's colour tells."""
    low, high, _ = np.asarray(Image.open(io.BytesIO(encoded)))[0, 0].tolist()
    return low + 256 * high


def parquet(labels, names, image="image", label="label"):
    """Return a Parquet file as `datasets` writes it."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Picture

    known = {value: {"bytes": picture(value), "path": None} for value in set(labels)}
    features = Features({image: Picture(), label: ClassLabel(names=list(names))})
    table = Dataset.from_dict({image: [known[value] for value in labels], label: list(labels)}, features)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def tar(labels, image, start=0):
    """Return a tar file in WebDataset's form: s0000000.cls and the image of each."""
    buffer = io.BytesIO()
    kind = {"jpg": "PNG", "png": "PNG", "webp": "WEBP"}[image]  # JPEG would change the colour
    known = {value: picture(value, kind) for value in set(labels)}
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, value in enumerate(labels, start):
            for suffix, content in (("cls", str(value).encode()), (image, known[value])):
                member = tarfile.TarInfo(f"s{number:07}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def own_names(name):
    """Return class names as a data set of the hub states them."""
    file = data_dir() / "prompts" / f"{name}.csv"
    if file.is_file():
        return [classname.replace(" ", "_") for _, classname in read_prompts(file)]
    return [f"name_{label}" for label in range(HUB[name].n_classes)]


def save_hub(cache, name, split="test", n_shards=1, shards=None, names=None, listed=None, labels=None, **columns):
    """Write a data set's split into a cache, the classes in turn; `shards`: only some of its files.

    `names` are the class names in the column of labels, `listed` those of the file of names, if there is one.
    """
    source = HUB[name]
    hub_split, n = source.splits[split]
    labels = [i % source.n_classes for i in range(n)] if labels is None else labels
    columns = {"image": source.image, "label": source.label} | columns
    names = own_names(name) if names is None else names
    files, place = {}, 0
    for number in range(n_shards):
        size = len(labels) // n_shards + (number < len(labels) % n_shards)
        own, start = labels[place : place + size], place
        place += size
        if shards is not None and number not in shards:
            continue
        if source.files.endswith(".tar"):
            files[f"{hub_split}/{number}.tar"] = tar(own, columns["image"], start)
        else:
            files[f"data/{hub_split}-{number:05}-of-{n_shards:05}.parquet"] = parquet(own, names, **columns)
    if source.names:
        repo, _, file = source.names.rpartition("/")
        put(cache, repo or source.repo, {file: "\n".join(listed or names).encode()})
    return put(cache, source.repo, files)
