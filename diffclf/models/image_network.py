"""Networks of transformers that take images, with their preprocessing, from a folder or the hub.

Weights come from safetensors files, and code beside them is not run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffclf.models.layout import READ_ERRORS, at_revision, check_shards, first_line
from diffclf.models.loading import quiet
from diffclf.models.protocol import ModelError

__all__ = ["load_image_network"]


def load_image_network(
    kind: Any,  # noqa: ANN401 (a class of transformers, or one of its Auto classes)
    place: str,
    what: str,
    device: torch.device,
    families: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """Return a network in float32 on a device, ready to evaluate, and its image processor.

    Args:
        kind: class of the network, with transformers' `from_pretrained`.
        place: a folder, or a hub id with or without a revision (`diffclf.models.layout.at_revision`).
        what: the network's name in messages, such as "network microsoft/resnet-50".
        device: where it goes.
        families: `model_type` -> name of the kinds that are accepted; None: `kind` alone decides.

    Raises:
        ModelError: there is no such network, it is of another kind, or its files are incomplete.
    """
    from transformers import AutoConfig, AutoImageProcessor

    place, revision = at_revision(place)
    with quiet():
        try:
            check_shards(Path(place), what)
            if families is not None:
                own = AutoConfig.from_pretrained(place, trust_remote_code=False, revision=revision).model_type
                if own not in families:
                    raise ModelError(f"{what} must be a {' or a '.join(families.values())}, got {own}")
            network, info = kind.from_pretrained(
                place,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
                revision=revision,
            )
            processor = AutoImageProcessor.from_pretrained(
                place, backend="pil", trust_remote_code=False, revision=revision
            )
        except ModelError:
            raise
        except READ_ERRORS as error:
            raise ModelError(f"{what} cannot be read: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{what} lacks {len(missing)} of its weights: {', '.join(missing[:3])}")
    return network.eval().to(device), processor
