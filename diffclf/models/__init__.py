"""Diffusion models behind one small protocol, and how to load them.

Importing this package imports torch, not diffusers: that takes several seconds and waits until a model is loaded.
"""

from diffclf.models.loading import load_model
from diffclf.models.protocol import DiffusionModel, ModelError, UnsupportedModelError

__all__ = ["DiffusionModel", "ModelError", "UnsupportedModelError", "load_model"]
