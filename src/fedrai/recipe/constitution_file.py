"""The sections of a constitution's file, and of the JSON layout of other projects."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedrai.recipe.base import Section


def _printable(text: str) -> str:
    """The text without surrounding space; not empty, and without terminal control characters."""
    plain = text.strip()
    if not plain:
        raise ValueError("expected a text, got an empty one")
    if any(unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\r\t" for sign in plain):
        raise ValueError("it contains a control character or an incomplete character")
    return plain


def _short_name(text: str) -> str:
    if len(text) > LONGEST_ID or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise ValueError(
            f"expected lower-case letters, digits and single hyphens, at most {LONGEST_ID} characters"
        )
    return text


LONGEST_ID = 40
Text = Annotated[str, AfterValidator(_printable)]
ShortName = Annotated[str, AfterValidator(_short_name)]


class PrincipleTable(Section):
    """`[[principles]]`: a principle that answers are criticised and revised by."""

    id: ShortName
    """Unique short name in lower-case letters, digits and hyphens."""
    title: Text
    """The principle in one line."""
    look_for: Text
    """What is wrong under this principle; for readers of the file, not shown to the model."""
    critique_request: Text
    """What the model is asked about its last answer."""
    revision_request: Text
    """What the model is asked to write instead of that answer."""
    categories: list[str] = []
    """Hazard categories of the requests that it is drawn for. Empty: any request."""


class DemonstrationTable(Section):
    """`[[demonstrations]]`: an example exchange that is shown to the model."""

    principle: str
    """Id of the principle whose critique and revision it shows."""
    request: Text
    """The user's request."""
    answer: Text
    """The first answer; for a harmful request only an opening without content."""
    critique: Text
    """What is wrong with it, in one or two sentences."""
    revision: Text
    """The better answer; if it declines, it gives the reason and offers a lawful alternative."""
    form: ShortName = ""
    """Name of its wording pattern; demonstrations of one form are shown together."""


class ConstitutionFile(Section):
    """A whole constitution."""

    name: Text
    """Its name."""
    version: Text
    """Its version, as a text such as "1"."""
    principles: list[PrincipleTable] = Field(min_length=1)
    """The principles, in any order."""
    demonstrations: list[DemonstrationTable] = []
    """Example exchanges, in the order in which they are shown."""


class PrinciplePair(Section):
    """A principle of the JSON layout."""

    critic: Text
    """The critique request."""
    revision: Text
    """The revision request."""


class Turn(Section):
    """A turn of a dialogue of the JSON layout."""

    role: Literal["user", "assistant"]
    """Who speaks; dialogues start with the user."""
    content: Text
    """The text of the turn."""


class PairsFile(Section):
    """The JSON layout of the Constitutional AI examples of Anthropic and Hugging Face."""

    constitutions: list[PrinciplePair] = Field(min_length=1)
    """The principles, without ids, titles and categories."""
    system_chat: list[list[Turn]] = []
    """Dialogues of an even number of turns, the last six being: request, answer, critique request, critique, revision request, revision."""
