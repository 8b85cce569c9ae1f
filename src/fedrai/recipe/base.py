"""What sections share: their base class, and keys that several of them have."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A table of the recipe. Frozen; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


def strict_or_number(value: object) -> object:
    """A threshold: a guard's own `strict` or `loose`, or a probability.

    Raises:
        ValueError: it is neither.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if value not in ("strict", "loose") and not number:
        raise ValueError(f'expected "strict", "loose" or a number from 0 to 1, got {value!r}')
    return value


# Keys of several sections. Those with a description mean the same everywhere; the others get theirs
# where they stand.
# fmt: off
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
MaxLength = Annotated[int, Field(ge=8)]
Threshold = Annotated[Literal["strict", "loose"] | float, BeforeValidator(strict_or_number)]
Seed = Annotated[int, Field(ge=0, description="Seed that all randomness is derived from.")]
DType = Annotated[Literal["auto", "bfloat16", "float32"], Field(description="Number format of the base model. `auto`: bfloat16 where the hardware multiplies in it, else float32.")]
Device = Annotated[str, Field(description="`auto` (CUDA if available, else the CPU), `cpu`, `cuda` or `cuda:N`.")]
Quantization = Annotated[Literal["none", "nf4"], Field(description="`nf4`: the base model in 4 bits (QLoRA); needs CUDA and the `qlora` extra. `none` is exact.")]
Attention = Annotated[Literal["auto", "eager", "sdpa", "flash_attention_2"], Field(description="Attention kernel. `auto`: `eager` for short sequences on a CPU (faster there), else `sdpa`.")]
Rank = Annotated[int, Field(ge=1, le=512, description="Rank of the two LoRA factors; a higher one learns more and is larger to send.")]
Alpha = Annotated[float, Field(gt=0, description="LoRA scale: the product of the factors is multiplied by alpha / rank.")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="Dropout probability on the LoRA branch's input, in training only.")]
TargetModules = Annotated[Literal["all-linear"] | list[str], Field(description="Linear layers that get an adapter: `all-linear` (all but the output layer) or names of modules.")]
WeightDecay = Annotated[float, Field(ge=0, description="AdamW's decoupled weight decay.")]
ClipNorm = Annotated[float, Field(gt=0, description="Largest norm of the gradient; a larger gradient is scaled down to it.")]
MicroBatchTokens = Annotated[int, Field(ge=64, description="Most tokens in one forward pass, with padding. Bounds memory; the result changes by rounding only.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Nucleus of the sampling: the likeliest tokens up to this probability.")]
# fmt: on


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
