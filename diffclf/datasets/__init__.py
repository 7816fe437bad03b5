"""Images to classify: embedded ones, folders, and data sets of the Hugging Face hub."""

from diffclf.datasets.imageset import ImageSet
from diffclf.datasets.loading import load_dataset

__all__ = ["ImageSet", "load_dataset"]
