"""Low-rank changes of a model's weights (LoRA), added to them once, so that the network is as fast as without.

    W' = W + scale (alpha / r) B A

for each layer that the file names, with A (r, inputs) and B (outputs, r); alpha = r where the file states none. Layouts
of files: diffusers' own, old and new, and kohya's, whose names diffusers translates.

Source: Hu et al. 2021, arXiv 2106.09685, section 4.1.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from diffclf.models.protocol import ModelError, UnsupportedModelError

__all__ = ["LORA_FILE", "add_lora", "lora_file"]

LORA_FILE = "pytorch_lora_weights.safetensors"
FACTOR = re.compile(r"(?P<layer>\w+\..+?)[._]lora(?:_linear_layer)?[._](?P<factor>A|B|down|up)\.weight")
OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_w", "lokr_w")  # DoRA, LoHa, LoKr
OLD_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}  # in text encoders


def lora_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a LoRA, from its path or its folder.

    Raises ModelError if there is no such file, or it is not a safetensors file.
    """
    file = Path(path).expanduser()
    file = file / LORA_FILE if file.is_dir() else file
    if file.suffix != ".safetensors" or not file.is_file():
        advice = f"from the hub: hf download OWNER/NAME {LORA_FILE} --local-dir FOLDER, then give FOLDER"
        raise ModelError(f"lora must be a .safetensors file or a folder with {LORA_FILE}, got {str(path)!r}; {advice}")
    return file


@torch.no_grad()
def add_lora(pipeline: Any, file: Path, scale: float, name: str) -> dict[str, Any]:  # noqa: ANN401 (diffusers' type)
    """Add a LoRA to the weights of a pipeline's networks; return the file's name, the scale and the file's SHA-256.

    Raises:
        UnsupportedModelError: the pipeline takes no LoRA, or the file is of a relative of LoRA (DoRA, LoHa, LoKr).
        ModelError: the file cannot be read or does not fit the model in every layer, or it changes no weight.
    """
    problem = f"LoRA {file} does not fit {name}"
    if not math.isfinite(scale):
        raise ModelError(f"lora_scale must be a finite number, got {scale!r}")
    if not hasattr(pipeline, "lora_state_dict"):
        raise UnsupportedModelError(f"{problem}: diffusers knows no LoRA for a {type(pipeline).__name__}")
    try:
        weights, trained = load_file(file), _metadata(file)
        if other := [key for key in weights if any(kind in key for kind in OTHER_KINDS)]:
            raise UnsupportedModelError(f"{problem}: it must be a plain LoRA, got weights as {other[0]}")
        options = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
        translated = pipeline.lora_state_dict(weights, **options)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, IndexError, AttributeError, SafetensorError) as error:
        raise ModelError(f"LoRA {file} cannot be read: {str(error).strip().splitlines()[0]:.200}") from error
    weights, alphas = translated if isinstance(translated, tuple) else (translated, None)
    changed, layers = 0, _layers(weights, problem)
    for layer, (down, up, alpha_key) in layers.items():
        part, _, path = layer.partition(".")
        weight = _weight(pipeline, part, path, problem)
        down, up = (factor.to(weight.device, torch.float32).flatten(1) for factor in (down, up))
        if (len(up), len(down), down.shape[1]) != (len(weight), up.shape[1], weight[0].numel()):
            shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
            raise ModelError(f"{problem}: {layer} has weights {tuple(weight.shape)}, got factors {shapes}")
        alpha = (alphas or {}).get(alpha_key, trained.get(f"{part}.lora_alpha", len(down)))
        new = (weight.float() + scale * float(alpha) / len(down) * (up @ down).view(weight.shape)).to(weight.dtype)
        changed += not torch.equal(new, weight)
        weight.copy_(new)
    if not changed:
        raise ModelError(f"{problem}: at scale {scale:g} it changes none of the {len(layers)} weights that it names")
    return {"name": file.name, "scale": float(scale), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _metadata(file: Path) -> Mapping[str, Any]:
    """Return how a LoRA was trained, as diffusers notes it; raise ValueError for a rule that is not supported."""
    with safe_open(file, "pt") as opened:
        noted = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    rules = [key for key in noted if key.endswith(("alpha_pattern", "use_rslora", "use_dora")) and noted[key]]
    if rules:
        raise ValueError(f"{', '.join(rules)} must not be set")
    return noted


def _layers(weights: Mapping[str, Tensor], problem: str) -> dict[str, tuple[Tensor, Tensor, str]]:
    """Return name of the part and path of the layer -> A, B, the key of alpha; raise ModelError for a stray weight."""
    found: dict[str, dict[str, tuple[str, Tensor]]] = {}
    stray = []
    for key, value in weights.items():
        if (match := FACTOR.fullmatch(key)) is None:
            stray.append(key)
            continue
        which = {"A": "down", "B": "up"}.get(match["factor"], match["factor"])
        found.setdefault(match["layer"].replace(".processor.", "."), {})[which] = (key, value)
    stray += [layer for layer, factors in found.items() if len(factors) != 2]
    if stray or not found:
        some = ", ".join(stray[:3]) or "no weight"
        raise ModelError(f"{problem}: each weight must be one of the two factors of a layer, got {some}")
    layers = {}
    for layer, factors in found.items():
        (key, down), (_, up) = factors["down"], factors["up"]
        layers[layer] = down, up, (key if ".lora." not in key else key.partition(".lora.")[0]) + ".alpha"
    return layers


def _weight(pipeline: Any, part: str, path: str, problem: str) -> nn.Parameter:  # noqa: ANN401 (diffusers' type)
    """Return the weight of a layer, under its own name or an older one; raise ModelError if there is none."""
    names = [path, f"{path}.0"]  # the output of attention is a list of a layer and dropout
    if part.startswith("text_encoder"):
        start, _, last = path.rpartition(".")
        names = [path, f"{start}.{OLD_NAMES.get(last, last)}"]
        names += [name.removeprefix("text_model.") for name in names]  # transformers 5 dropped it
    network = getattr(pipeline, part, None)
    layers = dict(network.named_modules()) if isinstance(network, nn.Module) else {}
    for name in names:
        weight = getattr(layers.get(name), "weight", None)
        if isinstance(weight, nn.Parameter):
            return weight
    raise ModelError(f"{problem}: it has no layer {part}.{path}")
