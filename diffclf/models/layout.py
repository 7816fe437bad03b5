"""How a pipeline of diffusers is stored, in a folder or on the Hugging Face hub, and which kinds are supported.

A folder has `model_index.json`, which names the pipeline's class and the library and class of every part, and one
sub-folder per part. All checks here read that file and file names only. A model on the hub is downloaded once into its
cache: the files that a classifier reads, in the main variant (a repository may hold the same weights in many forms).
"""

import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffclf.models.dit import DiTModel
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.models.stable_diffusion import StableDiffusionModel

__all__ = ["CALIBRATION", "HUB_ID", "INDEX", "check_files", "check_kind", "first_line", "hub_folder", "read_object"]

INDEX = "model_index.json"
CALIBRATION = "racing.json"

MODELS: dict[str, type[LatentDiffusionModel]] = {model.kind: model for model in (StableDiffusionModel, DiTModel)}
SUPPORTED = f"supported: {', '.join(MODELS)}"
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
ENDINGS = (".json", ".txt", ".safetensors")
OTHER_VARIANTS = "*.*.safetensors"  # such as model.fp16.safetensors


def read_object(file: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a model; raise ModelError if it is missing or holds no JSON object."""
    if not file.is_file():
        raise ModelError(
            f"{name} has no {file.name} (in {file.parent}), so it is no pipeline of diffusers; {SUPPORTED}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file.name} of {name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file.name} of {name} must hold an object, got {type(content).__name__}")
    return content


def check_kind(index: dict[str, Any], name: str) -> type[LatentDiffusionModel]:
    """Return the class of model for a pipeline, having checked that the pipeline and its parts are supported."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in MODELS:
        raise UnsupportedModelError(f"{name} is a {kind}, which is not supported; {SUPPORTED}")
    for part, accepted in MODELS[kind].parts.items():
        entry = index.get(part)
        library, cls = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if library not in ("diffusers", "transformers") or not isinstance(cls, str) or accepted and cls not in accepted:
            expected = " or ".join(accepted) or "one of diffusers' schedulers"
            raise UnsupportedModelError(f"{part} of {name} must be {expected}, got {entry}")
    return MODELS[kind]


def check_files(part: str, folder: Path, name: str) -> None:
    """Raise ModelError unless a part's folder is there and its weights, if it has any, are in safetensors files."""
    if not folder.is_dir():
        raise ModelError(f"{name} has no {part}: {folder} is missing")
    found = sorted(path.name for path in folder.iterdir())
    _check_weights(part, found, f"{name} (in {folder})", repr(str(folder.parent)))
    for index in folder.glob("*.safetensors.index.json"):
        weights = read_object(index, name).get("weight_map")
        shards = set(weights.values()) if isinstance(weights, dict) else {weights}
        if other := sorted(str(shard) for shard in shards if not str(shard).endswith(".safetensors")):
            raise ModelError(f"{index.name} of {name} must name safetensors files only, got {', '.join(other)}")


def _check_weights(part: str, files: Sequence[str], where: str, pipeline: str) -> None:
    """Raise ModelError unless one of a part's files is a safetensors file; `pipeline`: arguments to load it by.

    Pickles run code when they are read, so the conversion is left to the user.
    """
    if part in WITHOUT_WEIGHTS or any(file.endswith(".safetensors") for file in files):
        return
    advice = ""
    if any(file.endswith(".bin") for file in files):
        advice = f""". If you trust its author (a .bin file can run code), convert it:
    pipeline = diffusers.DiffusionPipeline.from_pretrained({pipeline}, use_safetensors=False)
    pipeline.save_pretrained("FOLDER", safe_serialization=True)
Then copy the model's {INDEX} over FOLDER/{INDEX}, because save_pretrained loses the names of the classes, and give \
FOLDER as the model"""
    raise ModelError(f"{part} of {where} must have weights in a safetensors file, got {list(files)}{advice}")


def hub_folder(name: str) -> Path:
    """Download the needed files of a model on the hub, after a check of its kind; return its folder in the cache."""
    import httpx
    from huggingface_hub import constants, errors, hf_hub_download, snapshot_download

    repository, _, revision = name.partition("@")
    at = {"repo_id": repository, "revision": revision or None}
    try:
        parts = check_kind(read_object(Path(hf_hub_download(filename=INDEX, **at)), name), name).parts
        _check_hub_files(parts, name)
        needed = [INDEX, CALIBRATION, *(f"{part}/*{ending}" for part in parts for ending in ENDINGS)]
        return Path(snapshot_download(**at, allow_patterns=needed, ignore_patterns=OTHER_VARIANTS))
    except ModelError:
        raise
    # Without a network, or with a bad one, the library ends in one of half a dozen classes.
    except (OSError, RuntimeError, ValueError, httpx.HTTPError, errors.RevisionResolutionError) as error:
        reasons = {
            errors.GatedRepoError: "the hub asks for its terms to be accepted: do so there and log in",
            errors.RepositoryNotFoundError: "the hub has no such model, or none for this user",
            errors.RevisionNotFoundError: f"the model on the hub has no revision {revision!r}",
            errors.RemoteEntryNotFoundError: f"the model on the hub has no {INDEX}; {SUPPORTED}",
            errors.LocalEntryNotFoundError: "the hub cannot be reached",
            Exception: f"the hub answers with {type(error).__name__}: {first_line(error)}",
        }
        why = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
        if constants.is_offline_mode():
            why = "HF_HUB_OFFLINE is set, so it is not looked for on the hub"
        raise ModelError(
            f"no model {name!r} here: no such directory, not (or not all of it) in the cache {constants.HF_HUB_CACHE}, "
            f"and {why}"
        ) from error


def _check_hub_files(parts: Iterable[str], name: str) -> None:
    """Raise ModelError if a part has no weights in a safetensors file on the hub; offline there is no check."""
    from huggingface_hub import model_info

    repository, _, revision = name.partition("@")
    try:
        found = [file.rfilename for file in model_info(repository, revision=revision or None, timeout=10).siblings]
    except Exception:  # the download, which comes next, finds the files in the cache or says what is wrong
        return
    pipeline = f"{repository!r}, revision={revision!r}" if revision else repr(repository)
    for part in parts:
        files = [file.partition("/")[2] for file in found if file.startswith(f"{part}/")]
        _check_weights(part, [file for file in files if not fnmatch(file, OTHER_VARIANTS)], f"{name} (hub)", pipeline)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
