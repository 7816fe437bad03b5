"""The files of a data set on the Hugging Face hub: which there are at one revision, downloaded once into its cache.

Files are taken one by one, so that a part of a large data set is downloaded alone.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, get_token, hf_hub_download, snapshot_download

from diffclf.models.layout import first_line

__all__ = ["Repository", "cached_folder", "file_names", "matching", "terms"]

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")


class Repository:
    """A data set's repository at one revision.

    Attributes:
        repo: id on the hub.
        commit: hash of the revision that is used.
        names: its files, as far as they are known: offline those in the cache.

    Args:
        repo: id on the hub.
        revision: branch, tag or hash; None: the newest, or offline the newest in the cache.
        gated: whether the hub asks for terms to be accepted and for a token.
        licence: words for messages.

    Raises:
        ConnectionError: not in the cache, and offline, gated without a token, or unknown to the hub; with what to do.
    """

    def __init__(self, repo: str, revision: str | None = None, gated: bool = False, licence: str = "") -> None:
        self.repo, self._revision, self._gated, self._licence = repo, revision, gated, licence
        cached, locked = cached_folder(repo, revision), gated and get_token() is None
        if cached is None and locked:
            raise self.error("its terms must be accepted, and there is no token of a user who has done so")
        reason: Exception = OSError("HF_HUB_OFFLINE is set, so it is not looked for")
        if not (locked or constants.is_offline_mode()):
            try:
                info = HfApi().dataset_info(repo, revision=revision, timeout=10)
                self.commit, self.names = str(info.sha), sorted(file.rfilename for file in info.siblings or ())
                return
            except Exception as error:  # without a network, or with a bad one, the library ends in many classes
                reason = error
        if cached is None:
            raise self.error(first_line(reason)) from reason
        self.commit = cached.name
        self.names = file_names(cached)

    def fetch(self, name: str) -> Path:
        """Return a file in the cache, downloaded if it is not there; raise ConnectionError if it cannot be."""
        try:
            return Path(hf_hub_download(self.repo, name, repo_type="dataset", revision=self.commit))
        except errors.GatedRepoError as error:
            raise self.error("its terms must be accepted") from error
        except Exception as error:  # as above
            raise self.error(f"{name}: {first_line(error)}") from error

    def error(self, reason: str) -> ConnectionError:
        """Return the ConnectionError of what cannot be had, with the commands that get it."""
        at = f" --revision {self._revision}" if self._revision else ""
        command = f"`hf download {self.repo} --repo-type dataset{at}`"
        if self._gated:
            command = f"{terms(self.repo)}, then {command}"
        licence = f", {self._licence}" if self._licence else ""
        return ConnectionError(
            f"{self.repo}{licence}, cannot be had: {reason}. With a network: {command}, once, into "
            f"{constants.HF_HUB_CACHE}; or give a folder of images with one sub-folder per class"
        )


def cached_folder(repo: str, revision: str | None = None) -> Path | None:
    """Return the folder of a data set's files in the cache, which may lack some of them; None: there is none."""
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


def terms(repo: str) -> str:
    """Return what a user of a gated data set must do."""
    return f"accept the terms at {constants.ENDPOINT}/datasets/{repo} and log in (`hf auth login`)"


def file_names(folder: Path) -> list[str]:
    """Return the files below a folder, sorted, as the hub names them."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def matching(names: Sequence[str], pattern: str) -> list[str]:
    """Return the files that match a pattern; of numbered shards all that there must be, also those not among them."""
    found = [name for name in names if fnmatch(name, pattern)]
    if found and (shard := _SHARD.search(found[0])) and len(found) < (n := int(shard[1])):
        start, end = found[0][: shard.start()], found[0][shard.end() :]
        found = [f"{start}-{number:05}-of-{n:05}.{end}" for number in range(n)]
    return found
