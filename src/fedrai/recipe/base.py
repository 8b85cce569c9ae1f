"""The base classes of sections."""

from __future__ import annotations

from types import NoneType
from typing import Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the recipe. Frozen; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
    added_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that were added after the first runs; a recipe's hash leaves out their defaults."""

    def hashed_body(self) -> dict[str, Any]:
        """Plain values without added keys that have their default.

        So the hash of a recipe is the same as before these keys existed.
        """
        fields, body = type(self).model_fields, self.model_dump(mode="json")
        values = {name: getattr(self, name) for name in fields}
        left_out = {name for name in self.added_keys if values[name] == fields[name].get_default()}
        return {
            name: _hashed(value, body[name])
            for name, value in values.items()
            if name not in left_out
        }


def _hashed(value: object, plain: Any) -> Any:
    """A field's plain value; that of a section, or of a list of them, without added keys."""
    if isinstance(value, Section):
        return value.hashed_body()
    if isinstance(value, list):
        return [_hashed(one, other) for one, other in zip(value, plain, strict=True)]
    return plain


class KindSection(Section):
    """A table whose `kind` decides which other keys it has."""

    kind: str


class EndpointSection(Section):
    """An OpenAI-style endpoint and how requests are sent to it."""

    url: str
    """Base address, such as `http://localhost:8000/v1`."""
    model: str
    """Name of the model there."""
    api_key_env: str = ""
    """Environment variable that holds the API key; empty: no key is sent."""
    concurrency: int = Field(8, ge=1, le=256)
    """Requests in progress at once."""
    retries: int = Field(4, ge=0)
    """How many times a failed request is sent again."""
    timeout: float = Field(60, gt=0)
    """Seconds for one try."""
    allow_plain_http: bool = False
    """Allow an address without TLS on another machine: conversations then travel unencrypted."""


def sections(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """The fields of a section that are sections themselves, with their models."""
    pairs = []
    for name, field in model.model_fields.items():
        parts = get_args(field.annotation)
        wrapped = get_origin(field.annotation) is list or parts[1:] == (NoneType,)
        inner = parts[0] if wrapped else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            pairs.append((name, inner))
    return pairs
