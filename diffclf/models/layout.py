"""How a pipeline of diffusers is stored in a folder, and which kinds of pipelines are supported.

A folder has `model_index.json`, which names the pipeline's class and the library and class of every part, and one
sub-folder per part. All checks here read that file and file names only.
"""

import json
from pathlib import Path
from typing import Any

from diffclf.models.dit import DiTModel
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.models.stable_diffusion import StableDiffusionModel

__all__ = ["CALIBRATION", "INDEX", "check_files", "check_kind", "first_line", "read_object"]

INDEX = "model_index.json"
CALIBRATION = "racing.json"

MODELS: dict[str, type[LatentDiffusionModel]] = {model.kind: model for model in (StableDiffusionModel, DiTModel)}
"""The class of model for each kind of pipeline. A new kind is one more file and one more entry here."""
SUPPORTED = f"supported: {', '.join(MODELS)}"
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")


def read_object(file: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a model.

    Raises:
        ModelError: there is no such file, or it holds no JSON object.
    """
    if not file.is_file():
        raise ModelError(
            f"{name} has no {file.name} (in {file.parent}): it is not a pipeline of diffusers; {SUPPORTED}"
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
    if part in WITHOUT_WEIGHTS or any(folder.glob("*.safetensors")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in UNSAFE)
    found = f"only {', '.join(others)}, which may run code when read" if others else "no weights"
    raise ModelError(f"{part} of {name} must have weights in a safetensors file, got {found} (in {folder})")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
