"""Checkpoints in a single safetensors file, as Stability AI and the makers of web interfaces publish them.

The file has the weights alone, under other names than diffusers', which translates them. Everything else (the networks'
configurations, tokenizers, noise schedule) comes from a model of the same kind in diffusers' layout.
"""

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.protocol import ModelError

__all__ = ["check_single_file", "read_single_file"]


def check_single_file(name: object) -> Path:
    """Return the path of a checkpoint in a single file; raise ModelError unless it is a safetensors file."""
    file = Path(str(name)).expanduser()
    if file.suffix != ".safetensors" or not file.is_file():
        raise ModelError(f"config is for a checkpoint in a single .safetensors file, which must exist, got {name!r}")
    return file


def read_single_file(
    file: Path,
    model_class: type[LatentDiffusionModel],
    folders: Mapping[str, Path],
    scheduler: Any,  # noqa: ANN401 (diffusers' type)
    dtype: torch.dtype,
) -> dict[str, nn.Module]:
    """Return the networks of a pipeline with the weights of a file, by the name of the part.

    `folders` has the parts of the model that gives the configurations. Its weights are never read: a part that the file
    lacks is an error.

    Raises:
        ModelError: the file lacks weights of a part.
        Exception: the file is of another kind, as diffusers finds out in many ways.
    """
    pipeline_class = getattr(import_module("diffusers"), model_class.kind)
    with TemporaryDirectory() as small:
        for part, folder in folders.items():
            shutil.copytree(folder, Path(small, part), ignore=_weights)
        index = next(iter(folders.values())).parent / "model_index.json"
        shutil.copy(index, small)
        absent = dict.fromkeys(set(model_class.parts) - set(folders))
        options = {"scheduler": scheduler, "local_files_only": True, "torch_dtype": dtype, **absent}
        pipeline = pipeline_class.from_single_file(str(file), config=small, **options, **model_class.left_out)
    networks = {part: getattr(pipeline, part) for part in folders if isinstance(getattr(pipeline, part), nn.Module)}
    for part, network in networks.items():
        if missing := [name for name, value in network.named_parameters() if value.is_meta]:
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ModelError(f"{file} lacks {len(missing)} weights of {part}: {some}; is config= of its kind?")
    return networks


def _weights(folder: str, names: list[str]) -> list[str]:
    """Return the names of a folder's files that are not read: weights, and the lists of their shards."""
    small = (".json", ".txt", "spiece.model")
    return [name for name in names if not name.endswith(small) or ".index." in name]
