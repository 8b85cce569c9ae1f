"""What all sections share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the recipe. Frozen; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def strict_or_number(value: object) -> object:
    """A threshold as it is: a guard's own `strict` or `loose`, or a probability."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if value not in ("strict", "loose") and not number:
        raise ValueError(f'expected "strict", "loose" or a number from 0 to 1, got {value!r}')
    return value
