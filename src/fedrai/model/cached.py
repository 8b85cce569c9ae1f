"""One forward pass with a key/value cache, in the words of the installed transformers.

The argument and the output are called `past_key_values` up to transformers 5.23 and `cache` from
5.24 on, where the old name warns. Which one it is is read off the model's own signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def forward_cached(model: Any, cache: Any, **inputs: Any) -> tuple[Any, Any]:
    """The output of a transformers model, and the cache that goes on from there.

    Args:
        model: a decoder, with or without its output layer.
        cache: of the tokens before these; None for none.
        inputs: everything else that its forward takes.
    """
    name = _cache_argument(type(model).forward)
    output = model(**inputs, **{name: cache}, use_cache=True)
    return output, getattr(output, name)


@functools.cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    known = inspect.signature(forward).parameters
    return "cache" if "cache" in known else "past_key_values"
