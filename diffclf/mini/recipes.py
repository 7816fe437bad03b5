"""The recipes of all embedded models by name."""

from diffclf.mini import dit, sd
from diffclf.mini.recipe import Recipe

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {"mini-sd": sd.RECIPE, "mini-dit": dit.RECIPE}
