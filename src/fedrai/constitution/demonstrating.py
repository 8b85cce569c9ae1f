"""Which demonstrations come before a request, and their words.

A small model copies the pattern it sees. So all demonstrations of a prompt are of one form, and use
the same critique and revision requests as its last turns. The draw is by SHA-256 over seed, request
and try: it depends neither on the order of the file nor on other requests.
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
    request: Request, constitution: Constitution, count: int, seed: int, place: tuple[int, int]
) -> tuple[Demonstration, ...]:
    """Draw demonstrations of one form for a request.

    Those that decline are for harmful requests, those that answer for harmless ones; where there
    are none of the kind, all are used. A demonstration whose request is nearly the same is never
    drawn. Of the form, those whose principle has the request's category come first.

    Args:
        request: what is asked.
        constitution: has the demonstrations.
        count: how many; fewer are returned where the form has fewer.
        seed: for the draw.
        place: number of the request, and of the try; each has a draw of its own.
    """
    usable = [
        d for d in constitution.demonstrations if similarity(d.request, request.prompt) < NEAR
    ]
    fitting = [
        d for d in usable if (judge(d.revision) is Reply.REFUSAL) is request.harmful
    ] or usable
    if not fitting or not count:
        return ()
    form = min({d.form for d in fitting}, key=lambda name: drawn_number(seed, *place, name))

    def order(one: Demonstration) -> tuple[bool, int]:
        category = _of_category(one, constitution, request)
        return not category, drawn_number(seed, *place, one.request)

    return tuple(sorted((d for d in fitting if d.form == form), key=order)[:count])


def _of_category(one: Demonstration, constitution: Constitution, request: Request) -> bool:
    if not one.principle or not request.category:
        return False
    return request.category in constitution.principle(one.principle).categories


def fill_request(template: str, request: str) -> str:
    """A principle's request, with the user's request in place of `{request}`.

    A small model that reads the request again right before it answers keeps to its topic.
    """
    return template.replace("{request}", request)


def lead(
    demonstrations: Sequence[Demonstration], principle: Principle, *, own_words: bool
) -> tuple[Message, ...]:
    """The turns of demonstrations.

    Args:
        demonstrations: the first comes last, nearest to the request.
        principle: its critique request and revision request are used.
        own_words: use the demonstrations' own requests and earlier turns instead.
    """
    return tuple(
        turn
        for one in reversed(demonstrations)
        for turn in (one.turns if own_words else _with_requests(one, principle))
    )


def _with_requests(one: Demonstration, principle: Principle) -> tuple[Message, ...]:
    return (
        Message("user", one.request),
        Message("assistant", one.answer),
        Message("user", fill_request(principle.critique_request, one.request)),
        Message("assistant", one.critique),
        Message("user", fill_request(principle.revision_request, one.request)),
        Message("assistant", one.revision),
    )
