"""A request, or a request and its answer, as token ids for a trained guard (`trained`).

The frame's special tokens stand where the frame puts them and nowhere else, whatever a row spells.
Long texts are cut into overlapping windows; a long request before an answer keeps its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedrai.errors import GuardError
from fedrai.guards.base import Conversation
from fedrai.guards.kinds.prompting import arranged
from fedrai.guards.windows import window_starts
from fedrai.model.chat import any_of, break_marks, control_tokens

REQUEST, ANSWER = 0, 1  # rows of the head
WINDOWS = 256  # most windows of one text; a longer one is not judged in part


@dataclass(frozen=True, slots=True)
class Piece:
    """Token ids that go through the body at once, and the row of the head that reads the end."""

    ids: tuple[int, ...]
    row: int


class Framing:
    """Requests and answers as token ids, between special tokens that no row can spell.

    Args:
        tokenizer: the body's tokenizer.
        frame: see `Config`.
        max_length: most tokens of a piece.
        opening: tokens of an answer's beginning that are repeated in each of its later windows, so
            that the rest of an answer that declines is read as that.

    Raises:
        GuardError: a part of the frame has no special token, or it leaves no room for a text.
    """

    def __init__(
        self, tokenizer: Any, frame: Sequence[str], max_length: int, opening: int = 0
    ) -> None:
        self._tokenizer, self._unknown = tokenizer, tokenizer.unk_token_id
        special = control_tokens(tokenizer)
        self._special = set(special) - {self._unknown}
        self._marks = any_of(special.values())
        self._before, self._between, self._after = (self._part(part) for part in frame)
        room = max_length - len(self._before) - len(self._between) - len(self._after)
        if room < 16:
            raise GuardError(
                f"max_length {max_length} leaves {room} tokens for a text; it needs 16 or more"
            )
        self._room, self._opening = room, opening

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The last exchange in one piece, or in windows; empty if there is nothing to judge.

        A text of which the tokenizer leaves nothing known (emoji, to many encoders) is nothing.

        Raises:
            TooLongError: it takes more than `WINDOWS` windows.
        """
        if not conversation or not conversation[-1].content.strip():
            return []
        turns = arranged(conversation)
        text = self._text(turns[-1].content)
        if not set(text) - {self._unknown}:
            return []
        if turns[-1].role == "user":
            parts = self._windows(text, self._room)
            return [Piece((*self._before, *p, *self._between), REQUEST) for p in parts]
        request: Sequence[int] = self._text(turns[-2].content)
        request = _ends(request, max(self._room // 3, self._room - len(text)))
        head = (*self._before, *request, *self._between)
        parts = self._answer_windows(text, self._room - len(request))
        return [Piece((*head, *p, *self._after), ANSWER) for p in parts]

    def _answer_windows(self, ids: Sequence[int], size: int) -> list[Sequence[int]]:
        """Windows of an answer, the later ones behind its opening."""
        opening = ids[: min(self._opening, size // 2)]
        if not opening or len(ids) <= size:
            return self._windows(ids, size)
        rest = self._windows(ids[len(opening) :], size - len(opening))
        return [[*opening, *part] for part in rest]

    def _ids(self, text: str) -> list[int]:
        encoding = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return list(encoding["input_ids"])

    def _part(self, text: str) -> list[int]:
        """Ids of a part of the frame."""
        ids = self._ids(text)
        if not self._special & set(ids):
            special = ", ".join(sorted(control_tokens(self._tokenizer).values())[:12])
            raise GuardError(
                f"the frame's part {text!r} holds no special token of the tokenizer, so a row could"
                " imitate it",
                hint=f"set frame to three strings with special tokens, such as: {special}",
            )
        return ids

    def _text(self, text: str) -> list[int]:
        """Ids of a row's text; what it spells never becomes a special token."""
        return [i for i in self._ids(break_marks(text, self._marks)) if i not in self._special]

    @staticmethod
    def _windows(ids: Sequence[int], size: int) -> list[Sequence[int]]:
        return [ids[start : start + size] for start in window_starts(len(ids), size, WINDOWS)]


def _ends(ids: Sequence[int], size: int) -> Sequence[int]:
    """The ids, or the first and last of them."""
    half = size // 2
    return ids if len(ids) <= size else [*ids[: size - half], *ids[len(ids) - half :]]
