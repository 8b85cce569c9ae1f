"""Check that a chat template renders, in a process of its own.

A template is a program that comes with a model. Jinja's sandbox keeps it from files and modules,
but it may loop forever or build gigabytes of text. So each template is first rendered in a process
with limits of time and memory, which takes a tenth of a second. A template that misbehaves on
certain words only is not detected.
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
PATIENCE = 60  # seconds of wall time, for busy machines and systems without other limits
LARGEST = 1 << 20  # characters of a template
HINT = "use the template of the model's makers: chat_template.jinja, or tokenizer_config.json"


def check_templates(tokenizer: Any) -> None:
    """Render each chat template of a tokenizer once, in a process of its own.

    Raises:
        ModelError: one takes too much time or memory, or the process cannot be started.
    """
    templates = getattr(tokenizer, "chat_template", None)
    tokens = getattr(tokenizer, "special_tokens_map", {})
    plain = {name: str(text) for name, text in tokens.items() if isinstance(text, str)}
    for template in templates.values() if isinstance(templates, Mapping) else [templates]:
        if isinstance(template, str):
            _check(template, tuple(sorted(plain.items())))


@functools.cache
def _check(template: str, tokens: tuple[tuple[str, str], ...]) -> None:
    if len(template) > LARGEST:
        raise ModelError(f"the chat template has {len(template):,} characters", hint=HINT)
    task = {"path": [str(p) for p in sys.path if p], "template": template, "tokens": dict(tokens),
            "memory": MEMORY, "seconds": SECONDS}  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(child.__file__))],
            input=json.dumps(task),
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
        raise ModelError(f"the chat template cannot be checked: {error.strerror}") from error
    if done.returncode not in (child.DONE, child.REFUSED):
        raise _error(done.returncode)


def _error(code: int) -> ModelError:
    """The error for an exit code of the process."""
    if code == child.TOO_LONG:
        problem = f"makes more than {child.LONGEST:,} characters of a few words"
    elif code == child.NO_MEMORY:
        problem = f"takes more than {MEMORY >> 20} MB of memory for a few words"
    elif code < 0:  # a signal: the limit of processor time
        return _endless()
    else:
        return ModelError(f"the chat template cannot be checked (exit code {code})")
    return ModelError(f"the chat template {problem}", hint=HINT)


def _endless() -> ModelError:
    return ModelError(
        f"the chat template does not finish a few words within {SECONDS} seconds", hint=HINT
    )
