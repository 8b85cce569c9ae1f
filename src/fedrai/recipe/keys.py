"""Types of keys that several sections have.

Those with a description mean the same everywhere; the others are described at each field.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fedrai.recipe import lora


def strict_or_number(value: object) -> object:
    """A threshold: a guard's own `strict` or `loose`, or a probability.

    Raises:
        ValueError: it is neither.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if value not in ("strict", "loose") and not number:
        raise ValueError(f'expected "strict", "loose" or a number from 0 to 1, got {value!r}')
    return value


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
LoraRule = Annotated[lora.LoraRule, Field(description="What is averaged of LoRA's factors, whose product B A is what counts. `plain` (FedIT): A and B, each by itself. `ffa`: B, with A frozen. `rolora`: B and A in turn. `flexlora`: the product, cut to `adapter.rank`. `raflora`: the same, weighted by rank. `flora`: the product of an adapter that begins anew in each round. `fedex`: A and B, with the rest of the product beside. See docs/algorithms.md.")]
WeightDecay = Annotated[float, Field(ge=0, description="AdamW's decoupled weight decay.")]
ClipNorm = Annotated[float, Field(gt=0, description="Largest norm of the gradient; a larger gradient is scaled down to it.")]
MicroBatchTokens = Annotated[int, Field(ge=64, description="Most tokens in one forward pass, with padding. Bounds memory; the result changes by rounding only.")]
TopP = Annotated[float, Field(gt=0, le=1, description="Nucleus of the sampling: the likeliest tokens up to this probability.")]
# fmt: on
