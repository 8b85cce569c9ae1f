"""Which demonstrations stand before a request, and how they are asked.

A small model copies the pattern it sees, so all demonstrations of a prompt are of one form, and ask
in the very words of its last turns. The draw is by SHA-256 over seed, request and try: it depends
neither on the order of the file nor on what became of other requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from fedrai.constitution.checking import NEAR, similarity
from fedrai.constitution.document import Constitution, Demonstration, Principle
from fedrai.constitution.records import Request
from fedrai.evaluation.refusal import Reply, judge
from fedrai.records import Message


def drawn_number(*parts: int | str) -> int:
    """A number from 0 to 2**62 - 1 that the parts decide."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def draw_demonstrations(
    request: Request, constitution: Constitution, count: int, seed: int, index: int, attempt: int
) -> tuple[Demonstration, ...]:
    """Draw demonstrations of one form for a request.

    Those that decline are for harmful requests, those that answer for harmless ones; where there
    are none of the kind, all count. What asks nearly the same as the request is never shown. Of the
    form, those whose principle has the request's category are taken first.

    Args:
        request: what is asked.
        constitution: has the demonstrations.
        count: how many; fewer come back where the form has fewer.
        seed: of the draw.
        index: which request.
        attempt: which try; each has a draw of its own.
    """
    usable = [
        d for d in constitution.demonstrations if similarity(d.request, request.prompt) < NEAR
    ]
    fitting = [
        d for d in usable if (judge(d.revision) is Reply.REFUSAL) is request.harmful
    ] or usable
    if not fitting or not count:
        return ()
    form = min({d.form for d in fitting}, key=lambda name: drawn_number(seed, index, attempt, name))

    def place(one: Demonstration) -> tuple[bool, int]:
        return not _of_category(one, constitution, request), drawn_number(
            seed, index, attempt, one.request
        )

    return tuple(sorted((d for d in fitting if d.form == form), key=place)[:count])


def _of_category(one: Demonstration, constitution: Constitution, request: Request) -> bool:
    if not one.principle or not request.category:
        return False
    return request.category in constitution.principle(one.principle).categories


def filled(asking: str, request: str) -> str:
    """What a principle asks, with the user's request in the place of `{request}`.

    A small model that reads the request again right before it answers stays with its topic.
    """
    return asking.replace("{request}", request)


def lead(
    shown: Sequence[Demonstration], principle: Principle, *, own_words: bool
) -> tuple[Message, ...]:
    """The turns of demonstrations.

    Args:
        shown: the demonstrations; the first stands last, nearest to the request.
        principle: whose critique request and revision request they are asked with.
        own_words: whether they keep their own requests instead, and what stands before theirs.
    """
    return tuple(
        turn
        for one in reversed(shown)
        for turn in (one.turns if own_words else _asked_again(one, principle))
    )


def _asked_again(one: Demonstration, principle: Principle) -> tuple[Message, ...]:
    return (
        Message("user", one.request),
        Message("assistant", one.answer),
        Message("user", filled(principle.critique_request, one.request)),
        Message("assistant", one.critique),
        Message("user", filled(principle.revision_request, one.request)),
        Message("assistant", one.revision),
    )
