"""The base classes of sections."""

from __future__ import annotations

from types import NoneType
from typing import get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the recipe. Frozen; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


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
