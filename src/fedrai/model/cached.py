"""One forward pass with a key/value cache, whatever the installed transformers calls it.

The argument and the output are called `past_key_values` up to transformers 5.23 and `cache` from
5.24 on, where the old name warns. The model's signature has the name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def forward_cached(model: Any, cache: Any, **inputs: Any) -> tuple[Any, Any]:
    """The output of a transformers model, and the cache with these tokens.

    Args:
        model: a decoder, with or without its output layer.
        cache: cache of the tokens before; None if there are none.
        inputs: the other arguments of the model.
    """
    name = _cache_argument(type(model).forward)
    output = model(**inputs, **{name: cache}, use_cache=True)
    return output, getattr(output, name)


@functools.cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
