"""Compile a chat template and render short conversations, in a process of its own.

Run as a script by `templates.py`. It imports nothing of the package, so it starts in a tenth of a
second. It reads JSON from its input (`path`, `template`, `tokens`, `memory`, `seconds`) and exits
with one of the codes below.
"""

from __future__ import annotations

import json
import sys
from typing import Any

DONE, REFUSED, NO_MEMORY, TOO_LONG = 0, 10, 11, 12
LONGEST = 100_000  # most characters that a template may make of a few words
TURNS = (
    ("user",),
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
)


def limit(memory: int, seconds: int) -> None:
    """Limit this process; on systems without these limits, the parent stops it by the clock."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in (("RLIMIT_AS", memory), ("RLIMIT_CPU", seconds), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, kind), (most, most))
        except (AttributeError, OSError, ValueError):
            continue


def compiled(template: str) -> Any:
    """The template, as transformers compiles it."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Transformers' block around an assistant's turn."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_more: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _form: "26 Jul 2024"
    return environment.from_string(template)


def render(template: str, tokens: dict[str, str]) -> int:
    """Render a template and give the exit code."""
    refused = False
    try:
        program = compiled(template)
    except MemoryError:
        return NO_MEMORY
    except Exception:
        return REFUSED
    for roles in TURNS:
        for prompt in (False, True):
            messages = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]
            try:
                text = program.render(messages=messages, add_generation_prompt=prompt, tools=None,
                                   documents=None, date_string="26 Jul 2024",
                                   enable_thinking=False, **tokens)  # fmt: skip
            except MemoryError:
                return NO_MEMORY
            except Exception:  # it may refuse a turn; the rendering that needs it reports that
                refused = True
                continue
            if len(text) > LONGEST:
                return TOO_LONG
    return REFUSED if refused else DONE


if __name__ == "__main__":
    task = json.loads(sys.stdin.read())
    sys.path[:] = task["path"]
    import jinja2.sandbox  # noqa: F401  # before the limits: its modules need memory

    limit(task["memory"], task["seconds"])
    sys.exit(render(task["template"], task["tokens"]))
