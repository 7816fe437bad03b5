"""How a pipeline of diffusers lies in a directory, and which of them are supported.

A directory has `model_index.json`, which names the pipeline's class and the library and class of every part, and one
sub-directory per part. All checks here read that file and file names only.
"""

import json
from pathlib import Path
from typing import Any

from diffclf.models.protocol import ModelError, UnsupportedModelError

__all__ = ["INDEX", "PIPELINES", "check_files", "check_kind", "first_line", "read_index"]

INDEX = "model_index.json"

# The parts of each kind of pipeline that are read, and the classes they may have.
PIPELINES: dict[str, dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (),
    },
    "DiTPipeline": {
        # The first published DiTs call it Transformer2DModel; weights and outputs are the same.
        "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
        "scheduler": (),
    },
}
SUPPORTED = f"supported: {', '.join(PIPELINES)}"
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")


def read_index(file: Path, name: str) -> dict[str, Any]:
    """Return the content of a pipeline's model_index.json."""
    if not file.is_file():
        raise ModelError(f"{name} has no {INDEX} (in {file.parent}): it is not a pipeline of diffusers; {SUPPORTED}")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{INDEX} of {name} cannot be read: {error}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{INDEX} of {name} must hold an object, got {type(index).__name__}")
    return index


def check_kind(index: dict[str, Any], name: str) -> str:
    """Return the pipeline's class, having checked that it and its parts are supported."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise UnsupportedModelError(f"{name} is a {kind}, which is not supported; {SUPPORTED}")
    for part, accepted in PIPELINES[kind].items():
        entry = index.get(part)
        library, cls = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if library not in ("diffusers", "transformers") or not isinstance(cls, str) or accepted and cls not in accepted:
            expected = " or ".join(accepted) or "one of diffusers' schedulers"
            raise UnsupportedModelError(f"{part} of {name} must be {expected}, got {entry}")
    return kind


def check_files(part: str, folder: Path, name: str) -> None:
    """Check that a part's directory is there and, if it has weights, that they are in safetensors files."""
    if not folder.is_dir():
        raise ModelError(f"{name} has no {part}: {folder} is missing")
    if part in ("tokenizer", "scheduler") or any(folder.glob("*.safetensors")):
        return
    others = sorted(path.name for path in folder.iterdir() if path.suffix in UNSAFE)
    found = f"only {', '.join(others)}, which may run code when read" if others else "no weights"
    raise ModelError(f"{part} of {name} must have weights in a safetensors file, got {found} (in {folder})")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
