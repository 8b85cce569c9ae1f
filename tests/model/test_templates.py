"""Chat templates that loop or build gigabytes are refused before they run in this process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from commands import commands
from fedrai.errors import ModelError
from fedrai.model import load, templates
from fedrai.model.chat import ChatFormat
from fedrai.testing import CHATML, make_tiny_model, tiny_tokenizer

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(s='aa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}"
)


@pytest.fixture(autouse=True)
def _anew() -> None:
    templates._check.cache_clear()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ 'a' * 3000000000 }}" + CHATML, "more than 1024 MB of memory"),
        ("{{ '%3000000000d' % 1 }}" + CHATML, "more than 1024 MB of memory"),
        ("{{ 'a' * 200000 }}" + CHATML, "more than 100,000 characters of a few words"),
        ("{# " + "a" * (1 << 20) + " #}" + CHATML, "characters"),
    ],
)
def test_bombs_are_named(template: str, problem: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=problem) as error:
        ChatFormat(tiny_tokenizer(template))
    assert "template of the model's makers" in error.value.hint
    assert time.monotonic() - start < 50


@pytest.mark.parametrize(
    "template",
    [
        LOOP + CHATML,
        "{% if messages|length == 4 %}" + LOOP + "{% endif %}" + CHATML,
        "{% if add_generation_prompt %}" + LOOP + "{% endif %}" + CHATML,
    ],
)
def test_loops_are_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 1)
    with pytest.raises(ModelError, match="does not finish a few words within 1 seconds") as error:
        ChatFormat(tiny_tokenizer(template))
    assert "template of the model's makers" in error.value.hint


def test_a_text_that_doubles_is_stopped_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 60)  # a busy machine copies a gigabyte slowly
    with pytest.raises(ModelError, match="more than 1024 MB of memory"):
        ChatFormat(tiny_tokenizer(DOUBLING + CHATML))


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        CHATML + "{{ raise_exception('never') if messages|length == 3 }}",
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
        "{{ m['role'] + strftime_now('%d') + m | tojson }}{{ bos_token }}{% endfor %}",
        "{% if %}",
    ],
)
def test_usual_templates_and_those_that_only_refuse_pass(template: str) -> None:
    templates.check_templates(tiny_tokenizer(template))


def test_each_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = templates.subprocess.run
    monkeypatch.setattr(
        templates.subprocess, "run", lambda *a, **k: calls.append(1) or run(*a, **k)
    )
    for template in (CHATML, CHATML, CHATML + " "):
        ChatFormat(tiny_tokenizer(template))
    assert len(calls) == 2


def test_named_templates_are_all_tried() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": CHATML, "tool_use": LOOP}
    with pytest.raises(ModelError, match="does not finish a few words"):
        templates.check_templates(tokenizer)


def test_a_model_with_such_a_template_is_one_line(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "bomb", template="{{ 'a' * 3000000000 }}" + CHATML)
    with pytest.raises(ModelError, match="memory"):
        load(str(tmp_path / "bomb"))
    done = commands(tmp_path)("chat", "bomb", "--prompt", "Hello")
    assert done.code == 2
    assert done.err.startswith("error: the chat template takes more than 1024 MB of memory")


def test_an_interpreter_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates.sys, "executable", "/no/such/python")
    with pytest.raises(ModelError, match="cannot be checked"):
        templates.check_templates(tiny_tokenizer(CHATML))
