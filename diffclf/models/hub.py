"""Models on the Hugging Face hub, downloaded once into its cache.

Only the files that a classifier reads are downloaded, in the main variant: a repository may hold the same weights in
half a dozen forms.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from diffclf.models.layout import CALIBRATION, INDEX, SUPPORTED, check_kind, first_line, read_object
from diffclf.models.protocol import ModelError, UnsupportedModelError

__all__ = ["HUB_ID", "hub_folder"]

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
WEIGHTS = (".safetensors", "-?????-of-?????.safetensors", ".safetensors.index.json")


def hub_folder(name: str) -> Path:
    """Download the needed files of a model on the hub, after a check of its kind; return its folder in the cache."""
    import httpx
    from huggingface_hub import constants, errors, hf_hub_download, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        index = Path(hf_hub_download(repository, INDEX, revision=revision or None))
        patterns = [INDEX, CALIBRATION, *_patterns(check_kind(read_object(index, name), name).parts)]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ModelError(f"{name} on the hub asks for its terms to be accepted: do so there and log in") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"no model {name!r}: neither a directory nor, for this user, on the hub") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} on the hub has no revision {revision!r}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise UnsupportedModelError(
            f"{name} on the hub has no {INDEX}: it is not a pipeline of diffusers; {SUPPORTED}"
        ) from error
    except ModelError:
        raise
    # Without a network, or with a bad one, the library ends in one of half a dozen classes.
    except (OSError, RuntimeError, ValueError, httpx.HTTPError, errors.RevisionResolutionError) as error:
        if constants.is_offline_mode():
            why = "HF_HUB_OFFLINE is set, so it is not looked for on the hub"
        elif isinstance(error, errors.LocalEntryNotFoundError):
            why = "the hub cannot be reached"
        else:
            why = f"the hub answers with {type(error).__name__}: {first_line(error)}"
        raise ModelError(
            f"no model {name!r} here: no such directory, not (or not all of it) in the cache {constants.HF_HUB_CACHE}, "
            f"and {why}"
        ) from error


def _patterns(parts: Iterable[str]) -> list[str]:
    """Return the needed files of a repository: none of other variants, formats or parts."""
    files = ["config.json", "scheduler_config.json"]
    files += [f"{stem}{tail}" for stem in ("diffusion_pytorch_model", "model") for tail in WEIGHTS]
    files += ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    return [f"{part}/{file}" for part in parts for file in files]
