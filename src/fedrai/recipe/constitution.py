"""The sections of a constitution's file, and of the JSON layout that others use for theirs."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedrai.recipe.base import Section


def _said(text: str) -> str:
    """The text without the space around it; it says something and cannot steer a terminal."""
    plain = text.strip()
    if not plain:
        raise ValueError("expected a text, got an empty one")
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\r\t" for sign in plain):
        raise ValueError("a control character or half a character stands in it")
    return plain


def _short_name(text: str) -> str:
    if len(text) > LONGEST_ID or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise ValueError(
            f"expected small letters, digits and single hyphens, at most {LONGEST_ID} of them"
        )
    return text


LONGEST_ID = 40
Text = Annotated[str, AfterValidator(_said)]
ShortName = Annotated[str, AfterValidator(_short_name)]


class PrincipleTable(Section):
    """`[[principles]]`: one thing that an answer is criticised and revised for."""

    id: ShortName
    """Short name in small letters, digits and hyphens; no other principle has it."""
    title: Text
    """The principle in one line."""
    look_for: Text
    """What is wrong under this principle; for readers of the file, the model does not see it."""
    critique_request: Text
    """What the model is asked about its last answer."""
    revision_request: Text
    """What the model is asked to write in place of that answer."""
    categories: list[str] = []
    """Hazard categories of the requests it is drawn for; empty: any request."""


class DemonstrationTable(Section):
    """`[[demonstrations]]`: one exchange that a model sees before its own turn."""

    principle: str
    """Id of the principle whose critique and revision are asked for."""
    request: Text
    """What the user asks."""
    answer: Text
    """The first answer; of a harmful request only a beginning without content."""
    critique: Text
    """What is wrong with it, in one or two sentences."""
    revision: Text
    """The better answer; if it declines, it says why and offers something lawful."""
    form: ShortName = ""
    """Name of the pattern it is written in; demonstrations of one form are shown together."""


class ConstitutionFile(Section):
    """A whole constitution."""

    name: Text
    """What people call it."""
    version: Text
    """Its version, a text such as "1"."""
    principles: list[PrincipleTable] = Field(min_length=1)
    """The principles, in any order."""
    demonstrations: list[DemonstrationTable] = []
    """The exchanges to learn the form from, in the order in which they are shown."""


class PrinciplePair(Section):
    """A principle of the JSON layout."""

    critic: Text
    """The critique request."""
    revision: Text
    """The revision request."""


class Turn(Section):
    """A turn of a dialogue of the JSON layout."""

    role: Literal["user", "assistant"]
    """Who speaks; dialogues begin with the user."""
    content: Text
    """What is said."""


class PairsFile(Section):
    """The JSON layout of the Constitutional AI examples of Anthropic and Hugging Face."""

    constitutions: list[PrinciplePair] = Field(min_length=1)
    """The principles; they have no ids, titles or categories."""
    system_chat: list[list[Turn]] = []
    """Dialogues of an even number of turns, the last six being: request, answer, critique request, critique, revision request, revision."""
