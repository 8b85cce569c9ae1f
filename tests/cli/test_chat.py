"""What a person types into `fedrai chat` that is no text."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from commands import commands
from fedrai.cli import chat
from fedrai.errors import DataError


def typed(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body), encoding="utf-8"))


def test_bytes_that_are_no_text_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"caf\xe9\n")
    with pytest.raises(DataError, match="the prompt is not UTF-8") as error:
        chat._read()
    assert "UTF-8 terminal" in error.value.hint


def test_lines_commands_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "  a café \n/quit\n".encode())
    assert chat._read() == "a café"
    assert chat._read() is None
    assert chat._read() is None


def test_a_prompt_with_half_a_character_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    """As Python gives a byte of the command line that is no UTF-8."""
    done = commands(tmp_path)("chat", tiny_model, "--prompt", "caf\udce9")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: the prompt is not UTF-8\n")
    assert len(done.err.splitlines()) == 2
