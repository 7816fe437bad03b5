"""How a pipeline of diffusers is stored, in a folder or on the Hugging Face hub, and which kinds are supported.

A folder has `model_index.json`, which names the pipeline's class and the library and class of every part, and one
sub-folder per part. All checks here read small JSON files and file names only. A model on the hub is downloaded once
into its cache: only the files that a classifier reads.

A part may hold its weights in several variants, which its file names state (model.fp16.safetensors). The main variant,
without such a word, is read; where there is none, the only variant, if the variants differ in precision alone.
"""

import json
import os
import re
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from diffclf.models.dit import DiTModel
from diffclf.models.latent import LatentDiffusionModel
from diffclf.models.mirrors import mirror_of
from diffclf.models.pixart import PixArtAlphaModel, PixArtSigmaModel
from diffclf.models.protocol import ModelError, UnsupportedModelError
from diffclf.models.sd3 import SD3Model
from diffclf.models.sdxl import SDXLModel
from diffclf.models.stable_diffusion import StableDiffusionModel

__all__ = ["CALIBRATION", "HUB_ID", "INDEX", "READ_ERRORS", "check_files", "check_kind", "check_scheduler"]
__all__ += ["check_shards", "first_line", "hub_folder", "leave_out", "parts_of", "read_object", "weight_files"]

INDEX = "model_index.json"
CALIBRATION = "racing.json"

KINDS = (StableDiffusionModel, DiTModel, SDXLModel, SD3Model, PixArtAlphaModel, PixArtSigmaModel)
MODELS: dict[str, type[LatentDiffusionModel]] = {model.kind: model for model in KINDS}
SUPPORTED = f"supported: {', '.join(MODELS)}"
SCHEDULER = "scheduler_config.json"
MAX_TIMESTEPS = 100_000  # published models have 1000; tables of many more would fill the memory
WITHOUT_WEIGHTS = ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler")
PIECES = "spiece.model"  # of T5's tokenizer, unless a tokenizer.json has them
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
PRECISIONS = ("fp16", "bf16", "fp32")  # variants that have the same weights as the main one
SINGLE_FILE = (".safetensors", ".ckpt", ".pt", ".pth")
READ_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError)
"""What the libraries raise for files that cannot be read."""
WEIGHTS = re.compile(r"(?:\.(?P<variant>[\w-]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")


def read_object(file: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a model; raise ModelError if it is missing or holds no JSON object."""
    try:
        if not file.is_file():
            if file.name == INDEX:
                raise ModelError(f"{name} has no {INDEX} (in {file.parent}), {_advice(file.parent)}")
            raise ModelError(f"{name} has no {file.name} (in {file.parent})")
        content = json.loads(file.read_text(encoding="utf-8"))
    except ModelError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} of {name} cannot be read: {first_line(error)} (in {file.parent})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file.name} of {name} must hold an object, got {type(content).__name__}")
    return content


def check_kind(index: dict[str, Any], name: str) -> type[LatentDiffusionModel]:
    """Return the class of model for a pipeline, having checked that the pipeline and its parts are supported."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in MODELS:
        raise UnsupportedModelError(f"{name} is a {kind}, which is not supported; {SUPPORTED}")
    for part in parts_of(MODELS[kind], index):
        accepted, entry = MODELS[kind].parts[part], index.get(part)
        library, cls = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if library not in ("diffusers", "transformers") or not isinstance(cls, str) or accepted and cls not in accepted:
            expected = " or ".join(accepted) or "one of diffusers' schedulers"
            raise UnsupportedModelError(f"{part} of {name} must be {expected}, got {entry}")
    return MODELS[kind]


def leave_out(without: Sequence[str], index: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a pipeline's index without some parts; raise ModelError for one that its kind cannot do without."""
    optional = [part for model in KINDS if model.kind == index.get("_class_name") for part in model.optional]
    if not set(without) <= set(optional):
        can = ", ".join(optional) or "nothing"
        raise ModelError(f"without must name parts that {name} can do without, {can}, got {', '.join(without):.80}")
    return index | dict.fromkeys(without)


def parts_of(model_class: type[LatentDiffusionModel], index: dict[str, Any]) -> list[str]:
    """Return the parts of a pipeline that are read: all of its kind but the optional ones that it lacks."""
    lacks = [part for part in model_class.optional if index.get(part) in (None, [None, None])]
    lacks += [model_class.optional[part] for part in lacks]
    return [part for part in model_class.parts if part not in lacks]


def check_files(part: str, folder: Path, name: str, weights: bool = True) -> None:
    """Raise ModelError unless a part's folder is there and its weights, if it has any, are in safetensors files.

    Without `weights` the folder may lack them.
    """
    if not folder.is_dir():
        may_lack = any(part in model.optional for model in KINDS)
        advice = f" (to do without it: load_model(..., without=[{part!r}]), or --without {part})" if may_lack else ""
        raise ModelError(f"{name} has no {part}: {folder} is missing{advice}")
    if part in WITHOUT_WEIGHTS and (folder / PIECES).is_file() and not (folder / "tokenizer.json").is_file():
        if missing := [module for module in ("sentencepiece", "google.protobuf") if not _is_installed(module)]:
            raise ModelError(f"{part} of {name} needs {', '.join(missing)} to read {PIECES}: pip install 'diffclf[t5]'")
    if weights and part not in WITHOUT_WEIGHTS:
        _variant(part, [path.name for path in folder.iterdir()], f"{name} (in {folder})", str(folder.parent))
    if weights:
        check_shards(folder, name)


def check_shards(folder: Path, name: str) -> None:
    """Raise ModelError if an index in a folder names other files than safetensors; a hub id is no folder."""
    for index in folder.glob("*.safetensors.index*.json"):
        weights = read_object(index, name).get("weight_map")
        shards = [*weights.values()] if isinstance(weights, dict) else [weights]
        if other := sorted({str(shard) for shard in shards if not str(shard).endswith(".safetensors")}):
            raise ModelError(f"{index.name} of {name} must name safetensors files only, got {', '.join(other)}")
        if missing := sorted({str(shard) for shard in shards if not (folder / str(shard)).is_file()}):
            what = f"{folder.name} of {name} lacks {', '.join(missing)}"
            raise ModelError(f"{what}, which {index.name} names (in {folder})")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # of the package around it
        return False


def check_scheduler(named: str, folder: Path, name: str) -> None:
    """Raise ModelError unless a scheduler's own configuration is of the class that the pipeline's index names.

    Which of the two classes is meant cannot be known, and one of them may belong to another model. Also checked: the
    number of timesteps.
    """
    config = read_object(folder / SCHEDULER, name)
    own, n_timesteps = config.get("_class_name"), config.get("num_train_timesteps", 1000)
    if own not in (None, named):
        raise ModelError(
            f"{SCHEDULER} of {name} must be of {named}, which {INDEX} names, got {own!r:.80} (in {folder})"
        )
    if not isinstance(n_timesteps, int) or not 2 <= n_timesteps <= MAX_TIMESTEPS:
        must = f"num_train_timesteps of {name} must be a whole number from 2 to {MAX_TIMESTEPS}"
        raise ModelError(f"{must}, got {n_timesteps!r:.80} (in {folder / SCHEDULER})")


def _stem(part: str) -> str:
    """Return the beginning of the names of a part's weights."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def _variants(part: str, files: Sequence[str]) -> dict[str, list[str]]:
    """Return the safetensors files of a part's weights by variant; the main variant is ""."""
    found: dict[str, list[str]] = {}
    for file in sorted(files):
        if file.startswith(_stem(part)) and (match := WEIGHTS.fullmatch(file.removeprefix(_stem(part)))):
            found.setdefault(match["variant"] or "", []).append(file)
    return found


def weight_files(part: str, files: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the files of a part's weights, of those in its folder, and their variant (None: the main one).

    An unusual name is left to diffusers, which says what it expects: no files are returned.
    """
    variants = _variants(part, files)
    if "" in variants or len(variants) != 1:
        return variants.get("", []), None
    ((variant, weights),) = variants.items()
    return weights, variant


def _variant(part: str, files: Sequence[str], where: str, pipeline: str, revision: str = "") -> str:
    """Return the variant of a part's weights that is read, "" for the main one; `pipeline`: its folder or hub id.

    Raises ModelError if there are no weights in safetensors files, or several that may be meant. Pickles run code when
    they are read, so the conversion is left to the user.
    """
    variants = _variants(part, files)
    if "" in variants or len(variants) == 1 and set(variants) <= set(PRECISIONS):
        return "" if "" in variants else next(iter(variants))
    if variants:
        one = next(iter(variants.values()))[0]
        main = one.replace(f".{next(iter(variants))}", "", 1)
        command = f"mv {shlex.quote(f'{pipeline}/{part}/{one}')} {shlex.quote(f'{pipeline}/{part}/{main}')}"
        raise ModelError(
            f"{part} of {where} must have weights {_stem(part)}.safetensors, got the variants {', '.join(variants)}; "
            f"choose one, as: {command}"
        )
    advice = ""
    if any(file.endswith((".bin", ".msgpack", ".h5")) for file in files):
        load = f"P.from_pretrained({pipeline!r}" + (f", revision={revision!r}" if revision else "") + ")"
        index = f"cp {shlex.quote(f'{pipeline}/{INDEX}')} FOLDER"  # save_pretrained loses the names of the classes
        if where.endswith("(hub)"):
            index = f"hf download {pipeline} {INDEX} --local-dir FOLDER" + (
                f" --revision {revision}" if revision else ""
            )
        advice = f". {_convert(load)} && {index}"
    shown = ", ".join(sorted(files)) or "no file"
    raise ModelError(f"{part} of {where} must have weights in a safetensors file, got {shown}{advice}")


def _convert(load: str, kind: str = "DiffusionPipeline") -> str:
    """Return the advice to convert a model: a command that loads it with Python code, up to the new FOLDER."""
    code = f"from diffusers import {kind} as P; {load}.save_pretrained('FOLDER')"
    return (
        "If you trust its author (files other than safetensors can run code), convert it, then give FOLDER as the "
        f"model: python -c {shlex.quote(code) if chr(34) in code else chr(34) + code + chr(34)}"
    )


def _advice(path: Path) -> str:
    """Return what a file or folder without an index may be, and what to do."""
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SINGLE_FILE)
    if checkpoints := [file for file in files if file.suffix in SINGLE_FILE]:
        load, config = f"P.from_single_file({str(checkpoints[0])!r})", ""
        if checkpoints[0].suffix == ".safetensors":
            config = (
                f"Give a model of its kind as config=, as: load_model({str(checkpoints[0])!r}, config='sd-2-base'). "
            )
        advice = config + _convert(load, "StableDiffusionPipeline")
        return f"but {checkpoints[0].name}, a checkpoint in a single file. {advice}"
    return f"so it is no pipeline of diffusers; {SUPPORTED}"


def hub_folder(name: str, *, local_only: bool = False, weights: bool = True, without: Sequence[str] = ()) -> Path:
    """Download the needed files of a model on the hub, after a check of its kind; return its folder in the cache.

    The folder's name is the commit. With `local_only` nothing is downloaded, and without `weights` the small files
    alone. Parts in `without` are left out. Raises ModelError if a file is missing.
    """
    from huggingface_hub import constants, errors, hf_hub_download, snapshot_download

    repository, _, revision = name.partition("@")
    at = {"repo_id": repository, "revision": revision or None, "local_files_only": local_only}
    fetch = f"from diffclf import load_model; load_model({name!r}, device='cpu')"
    fetch = f'to download what is missing: HF_HUB_OFFLINE=0 python -c "{fetch}"'
    try:
        index = leave_out(without, read_object(Path(hf_hub_download(filename=INDEX, **at)), name), name)
        parts = parts_of(check_kind(index, name), index)
        needed = [INDEX, CALIBRATION, *(f"{part}/*{ending}" for part in parts for ending in (".json", ".txt", PIECES))]
        weighty = [part for part in parts if weights and part not in WITHOUT_WEIGHTS]
        variants = {} if local_only else _hub_variants(weighty, name)
        for part in weighty:
            variant = variants.get(part, "")
            start = f"{part}/{_stem(part)}" + (f".{variant}" if variant else "")
            needed += [f"{start}.safetensors", f"{start}-*.safetensors"]
        folder = Path(snapshot_download(**at, allow_patterns=needed))
    except ModelError:
        raise
    # Without a network, or with a bad one, the library ends in one of half a dozen classes. HTTPError is httpx2's in
    # version 2 of the library, and httpx's in version 1.
    except (OSError, RuntimeError, ValueError, errors.HTTPError, errors.RevisionResolutionError) as error:
        log_in = f"open https://huggingface.co/{repository}, then: hf auth login"
        instead = mirror_of(repository)
        withdrawn = (
            f"its owner has withdrawn it; load {instead!r}, a copy" if instead else f"if it is private, {log_in}"
        )
        reasons = {
            errors.GatedRepoError: f"the hub asks for its terms to be accepted: {log_in}",
            errors.RepositoryNotFoundError: f"the hub has no such model, or none for this user; {withdrawn}",
            errors.RevisionNotFoundError: f"the model on the hub has no revision {revision!r}",
            errors.RemoteEntryNotFoundError: f"the model on the hub has no {INDEX}; {SUPPORTED}",
            errors.LocalEntryNotFoundError: f"the hub cannot be reached; {fetch}",
            Exception: f"the hub answers with {type(error).__name__}: {first_line(error)}",
        }
        why = next(reason for kind, reason in reasons.items() if isinstance(error, kind))
        if constants.is_offline_mode():
            why = f"HF_HUB_OFFLINE is set, so it is not looked for on the hub; {fetch}"
        raise ModelError(
            f"no model {name!r} here: no such directory, not (or not all of it) in the cache {constants.HF_HUB_CACHE}, "
            f"and {why}"
        ) from error
    if weights and not variants:
        # Without the hub's list of files a download that was broken off looks like a whole one.
        try:
            for part in parts:
                check_files(part, folder / part, name)
        except ModelError as error:
            raise ModelError(f"{error}; {fetch}") from error
    return folder


def _hub_variants(parts: Sequence[str], name: str) -> dict[str, str]:
    """Return the variant of each part's weights on the hub; offline none.

    Raises ModelError if a part has no weights in a safetensors file, or several that may be meant.
    """
    from huggingface_hub import model_info

    repository, _, revision = name.partition("@")
    try:
        found = [file.rfilename for file in model_info(repository, revision=revision or None, timeout=10).siblings]
    except Exception:  # the download, which comes next, finds the files in the cache or says what is wrong
        return {}
    by_part = {part: [file.partition("/")[2] for file in found if file.startswith(f"{part}/")] for part in parts}
    return {part: _variant(part, files, f"{name} (hub)", repository, revision) for part, files in by_part.items()}


def at_revision(name: str | os.PathLike[str]) -> tuple[str, str]:
    """Return a folder or hub id without its revision, and the revision: "owner/name@refs/pr/1", else "main"."""
    place, _, revision = (str(name), "", "") if Path(name).is_dir() else str(name).partition("@")
    return place, revision or "main"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
