"""A short name for all that determines a model's numbers.

The hash covers every weight as loaded (so a model in half precision has another fingerprint than in single
precision), the settings of the networks that their weights do not show (heads, activations, epsilons), and what the
caller adds: noise schedule, prediction type, scaling of the latents, tokenizer. It does not cover the device, the
sampler, or where the files were.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

__all__ = ["fingerprint", "network_settings"]


def fingerprint(networks: Mapping[str, torch.nn.Module], settings: Mapping[str, Any]) -> str:
    """Return a hash of networks, by name, and of settings that JSON can hold: 16 hexadecimal digits (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for part, network in sorted(networks.items()):
        # transformers 5 dropped this prefix from its names; the weights are the same.
        weights = {key.removeprefix("text_model."): value for key, value in network.state_dict().items()}
        for key, value in sorted(weights.items()):
            digest.update(f"{part}.{key}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def network_settings(network: torch.nn.Module) -> dict[str, Any]:
    """Return the settings of a diffusers network that differ from its class's defaults.

    Only those: a default that a later version of the library adds must not change the fingerprint.
    """
    defaults = inspect.signature(type(network).__init__).parameters
    given = {key: value for key, value in network.config.items() if not key.startswith("_") and key in defaults}
    as_json = partial(json.dumps, default=str)  # in which tuples and lists are the same
    return {key: value for key, value in given.items() if as_json(value) != as_json(defaults[key].default)}
