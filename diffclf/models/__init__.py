"""Diffusion models behind one small protocol, and how to load them.

Importing this package imports torch, not diffusers: that takes several seconds and waits until a model is loaded.
"""

from diffclf.models.conditioning import Conditioning
from diffclf.models.loading import load_model
from diffclf.models.protocol import DiffusionModel, ModelError, UnsupportedModelError

__all__ = ["Conditioning", "DiffusionModel", "ModelError", "UnsupportedModelError", "load_model"]
