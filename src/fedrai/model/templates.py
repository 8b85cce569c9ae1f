"""Whether a chat template can be rendered at all, found out in a process of its own.

A template is a program that comes with a model. Jinja's sandbox keeps it from files and modules,
but it may loop for ever or build gigabytes of text. So each is rendered once, before this process
does so, with a limit of time and memory; that takes a tenth of a second, once for a template. It
does not see what a template does with other texts: one that waits for a certain word still loops.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrai.errors import ModelError
from fedrai.model import template_child as child

MEMORY = 1 << 30  # bytes
SECONDS = 3  # of processor time; a usual template takes a thousandth
PATIENCE = 60  # seconds of the clock, for machines that are busy, or know no other limit
LARGEST = 1 << 20  # characters of a template
HINT = "use the template of the model's makers: chat_template.jinja, or tokenizer_config.json"


def check_templates(tokenizer: Any) -> None:
    """Render each chat template of a tokenizer once, in a process of its own.

    Raises:
        ModelError: one takes too long, or too much memory, or cannot be tried.
    """
    found = getattr(tokenizer, "chat_template", None)
    each = found.values() if isinstance(found, Mapping) else [found]
    tokens = getattr(tokenizer, "special_tokens_map", {})
    plain = {name: str(text) for name, text in tokens.items() if isinstance(text, str)}
    for template in each:
        if isinstance(template, str):
            _check(template, tuple(sorted(plain.items())))


@functools.cache
def _check(template: str, tokens: tuple[tuple[str, str], ...]) -> None:
    if len(template) > LARGEST:
        raise ModelError(f"the chat template has {len(template):,} characters", hint=HINT)
    given = {"path": [str(p) for p in sys.path if p], "template": template, "tokens": dict(tokens),
             "memory": MEMORY, "seconds": SECONDS}  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(child.__file__))],
            input=json.dumps(given),
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _endless() from None
    except OSError as error:
        raise ModelError(f"the chat template cannot be tried: {error.strerror}") from error
    if done.returncode in (child.DONE, child.REFUSED):
        return
    if done.returncode == child.TOO_LONG:
        raise ModelError(
            f"the chat template makes more than {child.LONGEST:,} characters of a few words",
            hint=HINT,
        )
    if done.returncode == child.NO_MEMORY:
        raise ModelError(
            f"the chat template takes more than {MEMORY >> 20} MB of memory for a few words",
            hint=HINT,
        )
    if done.returncode < 0:  # by a signal: of the limit of its time
        raise _endless()
    raise ModelError(f"the chat template cannot be tried (exit code {done.returncode})")


def _endless() -> ModelError:
    return ModelError(
        f"the chat template is not done with a few words after {SECONDS} seconds", hint=HINT
    )
