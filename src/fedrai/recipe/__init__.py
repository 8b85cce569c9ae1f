"""The recipe: its sections, loading and writing, and errors that name its keys."""

from fedrai.recipe.loading import (
    arm,
    build,
    load,
    load_alignment,
    load_guards,
    load_node,
    load_training,
    select_arms,
    shipped,
    to_toml,
    validate,
    write_new,
)
from fedrai.recipe.sections import Recipe

__all__ = [
    "Recipe",
    "arm",
    "build",
    "load",
    "load_alignment",
    "load_guards",
    "load_node",
    "load_training",
    "select_arms",
    "shipped",
    "to_toml",
    "validate",
    "write_new",
]
