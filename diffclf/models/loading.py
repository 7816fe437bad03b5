"""From a name to a model: built-in, a directory, or the Hugging Face hub.

Everything is checked from small files first (kind of pipeline, its parts, its noise schedule) and weights are read
last. Each part is read with its own `from_pretrained`, since only that one reports which weights a file lacked: the
libraries fill those at random and go on, and so would the classifier. The pipeline is then put together by the
`from_pretrained` of its class. Weights come from safetensors files only, and no code comes with a model.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffclf.models.compiled import CompiledDenoiser
from diffclf.models.hub import HUB_ID, hub_folder
from diffclf.models.layout import INDEX, PIPELINES, check_files, check_kind, first_line, read_index
from diffclf.models.protocol import DiffusionModel, ModelError, UnsupportedModelError
from diffclf.paths import data_dir

__all__ = ["built_in_models", "load_model"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
VERSIONED = ("unet", "text_encoder")  # what a version along the training has of its own


def load_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    compile: bool = False,
) -> DiffusionModel:
    """Load a diffusion model.

    Args:
        name_or_path: A built-in name ("mini-sd"), one with a version along its training ("mini-sd@2"), a directory in
            diffusers' layout, or a hub id, which may carry a revision ("owner/name@refs/pr/1"). A built-in name wins
            over a directory of that name; write "./name" for the directory.
        device: Where to put it; by default "cuda" if there is one, else "cpu".
        dtype: Precision of the networks ("float32", "float16", "bfloat16" or torch's); by default float16 on CUDA,
            else float32. The autoencoder is in float32 always.
        compile: Compile the network with `torch.compile` (`diffclf.models.compiled`): a minute before the first
            batch, a quarter or so more evaluations per second after it. Worth it for runs of many minutes.

    Returns:
        A `StableDiffusionModel` or a `DiTModel`.

    Raises:
        ModelError: there is no such model, or its files are incomplete.
        UnsupportedModelError: it is of a kind that is not supported.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise ModelError(f"model must be a built-in name, a directory or a hub id, got {name_or_path!r}")
    device = _device(device)
    dtype = _dtype(dtype, device)
    name = os.fspath(name_or_path)
    folder, version = _locate(name_or_path)
    index = read_index(folder / INDEX, name)
    kind = check_kind(index, name)
    folders = {part: (version if version and part in VERSIONED else folder) / part for part in PIPELINES[kind]}
    for part, part_folder in folders.items():
        check_files(part, part_folder, name)
    with _quiet():
        model = _load_pipeline(kind, index, folder, folders, name, device, dtype)
    if compile:
        model.denoise = CompiledDenoiser(model.denoise)
    return model


def built_in_models() -> dict[str, list[str]]:
    """Return the names of the built-in models, each with its versions along the training."""
    try:
        root = data_dir() / "models"
    except FileNotFoundError:
        return {}
    return {path.parent.name: _versions(path.parent) for path in sorted(root.glob(f"*/{INDEX}"))}


# What was asked for


def _device(device: str | torch.device | None) -> torch.device:
    """Return the device to use."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"device must be cpu, cuda, cuda:0, ..., got {device!r}") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device must be one that is there, got {device}; CUDA devices: {torch.cuda.device_count()}")
    return chosen


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the precision to use."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return chosen


# Where it is


def _locate(name_or_path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Return the directory of a model, and that of its version if one was asked for."""
    name = os.fspath(name_or_path)
    if not name.strip():
        raise ModelError("model must be a built-in name, a directory or a hub id, got an empty string")
    base, _, version = name.partition("@")
    if isinstance(name_or_path, str) and "/" not in base and os.sep not in base:
        built_in = _built_in(base)
        if built_in:
            return built_in, _version_folder(built_in, version, name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        raise ModelError(f"model must be a directory in diffusers' layout, got the file {name}")
    if isinstance(name_or_path, str) and HUB_ID.fullmatch(name):
        return hub_folder(name), None
    known = ", ".join(built_in_models()) or "none, for lack of a data folder with models"
    raise ModelError(
        f"no model {name!r}: it is not built in (built in: {known}), there is no such directory, and it does not look "
        "like a hub id (owner/name)"
    )


def _built_in(name: str) -> Path | None:
    """Return the directory of a built-in model, or None."""
    try:
        folder = data_dir() / "models" / name
    except FileNotFoundError:
        return None
    return folder if name not in ("", ".", "..") and folder.is_dir() else None


def _versions(folder: Path) -> list[str]:
    """Return the versions along its training that a model has."""
    names = [path.name for path in (folder / "versions").glob("*") if path.is_dir()]
    return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))


def _version_folder(folder: Path, version: str, name: str) -> Path | None:
    """Return the directory of a version, None if none was asked for."""
    if "@" not in name:
        return None
    versions = _versions(folder)
    if version not in versions:
        listed = ", ".join(f"{folder.name}@{known}" for known in versions) or "none"
        raise ModelError(f"no version {version!r} of {folder.name}; versions: {listed} (and {folder.name}, the final)")
    return folder / "versions" / version


# Reading


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and remarks of transformers and diffusers, for the time of a load.

    What matters in them is checked here and raised as an error; the rest (which image processor would be used, the
    type of id2label) does not concern a classifier. transformers comes first: importing diffusers makes it speak.
    """
    from transformers.utils import logging as transformers_logging

    levels, bars = [], []
    for library in ("transformers", "diffusers"):
        if library == "transformers":
            log = transformers_logging
        else:
            from diffusers.utils import logging as log
        levels.append((log, log.get_verbosity()))
        log.set_verbosity_error()
        if log.is_progress_bar_enabled():
            bars.append(log)
            log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level in levels:
            log.set_verbosity(level)
        for log in bars:
            log.enable_progress_bar()


def _load_pipeline(
    kind: str,
    index: dict[str, Any],
    folder: Path,
    folders: dict[str, Path],
    name: str,
    device: torch.device,
    dtype: torch.dtype,
) -> DiffusionModel:
    """Read the parts, put the pipeline together and wrap it."""
    import diffusers
    from transformers import CLIPTextModel

    from diffclf.models.dit import DiTModel
    from diffclf.models.latent import noise_schedule
    from diffclf.models.stable_diffusion import StableDiffusionModel

    classes = {
        "unet": diffusers.UNet2DConditionModel,
        "transformer": diffusers.DiTTransformer2DModel,
        "text_encoder": CLIPTextModel,
        "vae": diffusers.AutoencoderKL,
    }
    scheduler = _scheduler(diffusers, index["scheduler"][1], folders["scheduler"], name)
    noise_schedule(scheduler, name)  # before the weights are read
    parts = {
        part: _network(classes[part], part, folders[part], name).to(
            device=device, dtype=torch.float32 if part == "vae" else dtype
        )
        for part in PIPELINES[kind]
        if part in classes
    }
    # Parts that a classifier does without; passed as None they are not looked for.
    optional = ("safety_checker", "feature_extractor", "image_encoder")
    unused = dict.fromkeys(optional) | {"requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            folder, scheduler=scheduler, local_files_only=True, **parts, **unused
        )
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{name} cannot be put together as a {kind}: {first_line(error)}") from error
    if kind == "DiTPipeline":
        return DiTModel(pipeline, name, index.get("id2label"))
    return StableDiffusionModel(pipeline, name)


def _scheduler(diffusers: Any, cls: str, folder: Path, name: str) -> Any:  # noqa: ANN401 (a module, and its classes)
    """Read a scheduler."""
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    scheduler = getattr(diffusers, cls, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise UnsupportedModelError(f"scheduler of {name} must be one of diffusers' schedulers, got {cls}")
    try:
        return scheduler.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"scheduler of {name} cannot be read: {first_line(error)} (in {folder})") from error


def _network(cls: Any, part: str, folder: Path, name: str) -> torch.nn.Module:  # noqa: ANN401 (any model class)
    """Read one part with weights, every one of which must come from the file."""
    from safetensors import SafetensorError

    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if part == "text_encoder":
        # transformers' error for a wrong shape does not say which; its report does. diffusers' error says it.
        options["ignore_mismatched_sizes"] = True
    try:
        network, info = cls.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise ModelError(f"{part} of {name} cannot be read: {first_line(error)} (in {folder})") from error
    for keys, problem in ((info["missing_keys"], "lacks"), (info["mismatched_keys"], "has in another shape")):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise ModelError(f"{part} of {name} {problem} {len(names)} of its weights: {some} (in {folder})")
    return network
