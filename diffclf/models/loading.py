"""From a name to a model: built-in, a folder, or the Hugging Face hub.

Small files are checked first (kind of pipeline, its parts, its noise schedule) and weights are read last. Each part is
read with its own `from_pretrained`, which reports the weights that its file lacks; the pipeline's would fill them at
random without an error. The `from_pretrained` of the pipeline's class then puts the pipeline together. Weights come
from safetensors files only, and no code comes with a model.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from diffclf.models import layout
from diffclf.models.compiled import CompiledDenoiser
from diffclf.models.device import choose_device
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.lora import add_lora, lora_file
from diffclf.models.memory import check_memory, save_memory
from diffclf.models.mirrors import MIRRORS
from diffclf.models.precision import choose_dtype
from diffclf.models.protocol import DiffusionModel, ModelError, UnsupportedModelError
from diffclf.models.sanity import warn_if_few_steps, warn_if_wrong
from diffclf.models.single_file import check_single_file, read_single_file
from diffclf.paths import data_dir, embedded_models, known_models

__all__ = ["built_in_models", "load_model", "quiet"]

MAX_PIXELS = 2048  # a network's side; a table of positions takes its square
NETWORKS = ("unet", "transformer")  # what the denoising network is called among the parts
VERSIONED = ("unet", "text_encoder")  # the parts that a version has of its own; a scheduler it may have


def load_model(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    compile: bool = False,
    memory: str = "normal",
    lora: str | os.PathLike[str] | None = None,
    lora_scale: float = 1.0,
    config: str | os.PathLike[str] | None = None,
    without: Sequence[str] = (),
) -> DiffusionModel:
    """Load a diffusion model.

    Args:
        name_or_path: a built-in name ("mini-sd"), one with a version ("mini-sd@2" along its training, "mini-sd@v-1"
            from a training of its own), that of a mirror ("sd-2-base", see `diffclf.models.mirrors`), a folder in
            diffusers' layout, or a hub id, which may carry a revision ("owner/name@refs/pr/1"). A built-in name and a
            mirror's win over a folder of that name; write "./name" for the folder. With `config` also a checkpoint in
            a single safetensors file.
        device: by default "cuda" if there is one, else "cpu".
        dtype: precision of the networks ("float32", "tf32", "float16", "bfloat16" or torch's); by default float16 on
            CUDA, else float32. The autoencoder is in float32 always. For "tf32" see `diffclf.models.precision`.
        compile: compile the network with `torch.compile` (`diffclf.models.compiled`): a minute before the first
            batch, a quarter or so more evaluations per second after it. Worth it for runs of many minutes.
        memory: "normal", or "low" or "lowest" for small GPUs: the same numbers, slower (`diffclf.models.memory`).
        lora: a LoRA to add to the weights: a safetensors file, or a folder with `pytorch_lora_weights.safetensors`
            (`diffclf.models.lora`).
        lora_scale: what its change of the weights is multiplied by.
        config: for a checkpoint in a single file, a model of the same kind, of which everything but the weights is
            read: a folder, a mirror's name or a hub id.
        without: parts to leave out and not to download: "text_encoder_3", the T5 of Stable Diffusion 3.

    Raises:
        ModelError: there is no such model, or its files are incomplete.
        UnsupportedModelError: the model is of a kind that is not supported.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    check_memory(memory)
    lora = lora and lora_file(lora)
    name = os.fspath(name_or_path) if isinstance(name_or_path, os.PathLike) else name_or_path
    file = None if config is None else check_single_file(name)
    folder, version, source = _locate(name_or_path if file is None else config, weights=file is None, without=without)
    index = layout.leave_out(without, layout.read_object(folder / layout.INDEX, name), name)
    model_class = layout.check_kind(index, name)
    classes = {part: (model_class.parts[part] or index[part][1:])[0] for part in layout.parts_of(model_class, index)}
    own = [part for part in classes if version and (part in VERSIONED or (version / part).is_dir())]
    folders = {part: (version if part in own else folder) / part for part in classes}
    for part, part_folder in folders.items():
        layout.check_files(part, part_folder, name, weights=file is None)
    calibration = (version or folder) / layout.CALIBRATION
    stored = layout.read_object(calibration, name) if calibration.is_file() else None
    with quiet():
        parts = dict.fromkeys(set(model_class.parts) - set(classes))  # those that the pipeline lacks
        parts |= _read_parts(model_class, classes, folders, name, device, dtype, memory, file)
        with _explained(f"{name} cannot be put together as a {model_class.kind}", folder):
            pipeline_class = getattr(import_module("diffusers"), model_class.kind)
            pipeline = pipeline_class.from_pretrained(folder, local_files_only=True, **parts, **model_class.left_out)
            applied = lora and add_lora(pipeline, lora, lora_scale, name)
            model = model_class(pipeline, name, **{entry: index.get(entry) for entry in model_class.index_entries})
            save_memory(pipeline, model.network, memory, device)
    with _explained(f"{name} cannot be used: a part fails on an image or an empty prompt", folder):
        x0 = _try_out(model)
    warn_if_wrong(model, x0)
    warn_if_few_steps(parts["scheduler"], name)
    model.stored_calibration, model.lora = stored, applied
    model.source = source if file is None else f"{file.absolute()}, configured as {source}"
    if compile:
        model.denoise = CompiledDenoiser(model.denoise)
    return model


def built_in_models() -> dict[str, list[str]]:
    """Return the names of the built-in models, each with its versions."""
    found = {}
    for name, folder in embedded_models(layout.INDEX).items():
        versions = [path.name for path in (folder / "versions").glob("*") if path.is_dir()]
        found[name] = sorted(versions, key=lambda version: (len(version), version))  # "2" before "10"
    return found


def _locate(name_or_path: str | os.PathLike[str], **download: Any) -> tuple[Path, Path | None, str]:  # noqa: ANN401
    """Return the folder of a model, the folder of its version if one was asked for, and its `source`.

    `download` has options of `layout.hub_folder`.
    """
    if not isinstance(name_or_path, str | os.PathLike) or not os.fspath(name_or_path).strip():
        raise ModelError(f"model must be a built-in name, a directory or a hub id, got {name_or_path!r}")
    name, built_in = os.fspath(name_or_path), built_in_models()
    base, at, version = name.partition("@")
    if isinstance(name_or_path, str) and base in built_in:
        folder = data_dir() / "models" / base
        if at and version not in built_in[base]:
            listed = ", ".join(f"{base}@{known}" for known in built_in[base]) or "none"
            raise ModelError(f"no version {version!r} of {base}; versions: {listed} (and {base}, the final)")
        return folder, folder / "versions" / version if at else None, f"embedded model {name}"
    if isinstance(name_or_path, str) and name in MIRRORS:
        original, mirror = MIRRORS[name]
        folder, _, source = _on_hub(mirror, **download)
        return folder, None, f"{source}, a copy of the withdrawn {original}"
    with _explained(f"model must be a built-in name, a directory or a hub id, got {name!r:.80}", Path.cwd()):
        path = Path(name).expanduser()  # RuntimeError: a home folder of nobody
        if path.exists():  # OSError: a name that is too long
            return path, None, str(path.absolute())
    if isinstance(name_or_path, str) and layout.HUB_ID.fullmatch(name):
        return _on_hub(name, **download)
    known = f"{known_models(built_in)}; copies of withdrawn models: {', '.join(MIRRORS)}"
    raise ModelError(f"no model {name!r}: not built in ({known}), no such directory, and no hub id (owner/name)")


def _on_hub(name: str, **download: Any) -> tuple[Path, None, str]:  # noqa: ANN401
    """Return what `_locate` does for a hub id; its source names the commit."""
    folder = layout.hub_folder(name, **download)
    return folder, None, f"{name.partition('@')[0]}@{folder.name}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and diffusers while a model is loaded; what matters is checked here and raised as errors."""
    with ExitStack() as restore:
        for library in ("transformers", "diffusers"):  # in this order, since importing diffusers makes the first log
            log = import_module(f"{library}.utils.logging")
            restore.callback(log.set_verbosity, log.get_verbosity())
            log.set_verbosity_error()
            if log.is_progress_bar_enabled():
                restore.callback(log.enable_progress_bar)
                log.disable_progress_bar()
        yield


@contextmanager
def _explained(problem: str, folder: Path) -> Iterator[None]:
    """Raise the libraries' errors as a ModelError that says what the problem is and where.

    All errors: a malformed configuration ends in whichever class the line raises that first meets the wrong value.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{problem}: {layout.first_line(error)} (in {folder})") from error


def _read_parts(
    model_class: type[LatentDiffusionModel],
    classes: dict[str, str],
    folders: dict[str, Path],
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    memory: str,
    file: Path | None,
) -> dict[str, Any]:
    """Return the scheduler and the networks of a pipeline, in their places and their precision.

    The weights are those of the parts' folders, or of a checkpoint in a single file.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    cls = getattr(diffusers, classes["scheduler"], None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise UnsupportedModelError(f"scheduler of {name} must be one of diffusers', got {classes['scheduler']}")
    layout.check_scheduler(classes["scheduler"], folders["scheduler"], name)
    with _explained(f"scheduler of {name} cannot be read", folders["scheduler"]):
        parts = {"scheduler": cls.from_pretrained(folders["scheduler"], local_files_only=True)}
        model_class.read_schedule(parts["scheduler"], name)  # checked before the weights are read
    networks = {part: class_name for part, class_name in classes.items() if part not in layout.WITHOUT_WEIGHTS}
    if file is not None:
        configs = {part: layout.read_object(folders[part] / "config.json", f"{part} of {name}") for part in networks}
        with _explained(f"{name} cannot be read", file.parent):
            for part, class_name in networks.items():
                _check_size(_class(class_name), configs[part], [file])
            stored = read_single_file(file, model_class, folders, parts["scheduler"], dtype)
    for part, class_name in networks.items():
        own = torch.float32 if part == "vae" else dtype
        place = device if memory == "normal" or part in NETWORKS else "cpu"
        network = _read_network(class_name, part, folders[part], name, own) if file is None else stored[part]
        # T5 was read in its precision and is not cast: its layers that overflow in float16 stay in float32.
        parts[part] = network.to(place) if part.startswith("text_encoder") else network.to(place, own)
    return parts


def _read_network(class_name: str, part: str, folder: Path, name: str, dtype: torch.dtype) -> torch.nn.Module:
    """Read one part with weights, every one of which must come from the file."""
    cls = _class(class_name)
    files, variant = layout.weight_files(part, [path.name for path in folder.iterdir()])
    # The error of transformers for a wrong shape does not name the weight; its loading info does.
    options = {"ignore_mismatched_sizes": True, "dtype": dtype} if part.startswith("text_encoder") else {}
    with _explained(f"{part} of {name} cannot be read", folder):
        _check_size(cls, layout.read_object(folder / "config.json", f"{part} of {name}"), [folder / f for f in files])
        network, info = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, variant=variant, **options
        )
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    for names, problem in ((info["missing_keys"], "lacks"), (mismatched, "has in another shape")):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise ModelError(f"{part} of {name} {problem} {len(names)} of its weights: {some} (in {folder})")
    return network


def _class(name: str) -> type[torch.nn.Module]:
    """Return a class of diffusers or transformers."""
    import diffusers
    import transformers

    return getattr(diffusers, name, None) or getattr(transformers, name)


def _check_size(cls: type[torch.nn.Module], config: dict[str, Any], files: Sequence[Path]) -> None:
    """Raise ValueError if a configuration asks for a network larger than its weights: building it could take for ever.

    A layer has a weight at least, and a weight has a byte at least.
    """
    n_weights, n_bytes = 0, sum(file.stat().st_size for file in files)
    for file in files:
        try:
            with safe_open(file, "pt") as weights:
                n_weights += len(weights.keys())
        except SafetensorError as error:
            remove = f"rm {shlex.quote(str(file.resolve()))}"
            advice = f"it is damaged or half downloaded: {remove}, then download or copy it again"
            raise ValueError(f"{file.name}: {layout.first_line(error)}; {advice}") from error
    for key, value in config.items():
        numbers = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
        if "layers" in key and max(numbers, default=0) > n_weights:
            raise ValueError(
                f"{key} must be at most the number of weights in the files, {n_weights}, got {value!r:.80}"
            )
    sides = config.get("sample_size")
    if max(sides if isinstance(sides, list) else [sides or 0]) > MAX_PIXELS:
        raise ValueError(f"sample_size must be at most {MAX_PIXELS}, got {sides!r:.80}")
    with torch.device("meta"):
        network = cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class.from_dict(config))
    asked = sum(parameter.numel() for parameter in network.parameters())
    if asked > n_bytes:
        raise ValueError(f"configuration must fit the weights of {n_bytes:,} bytes, got one of {asked:,} weights")


@torch.no_grad()
def _try_out(model: LatentDiffusionModel) -> torch.Tensor:
    """Run every part of a model once, so that a wrong configuration is an error before long work starts.

    Returns the latents of an image, (1, C, H, W): ramps of colour in tiles, which cost less than a whole image.
    """
    factor, side = model.image_size // model.latent_shape[1], model.latent_shape[1]
    ramp = torch.linspace(-1, 1, 8 * factor, device=model.device)
    across = ramp.expand(len(ramp), -1)
    tile = model.latents_of(torch.stack([across, across.T, across * across.T])[None])
    x0 = tile.repeat(1, 1, -(-side // 8), -(-side // 8))[:, :, :side, :side]
    cond = model.encode_prompts([""] if model.labels is None else [0])
    x_t = torch.zeros(1, *model.latent_shape, device=model.device)
    model.denoise(x_t, torch.tensor([len(model.schedule) - 1], device=model.device), cond)
    return x0
