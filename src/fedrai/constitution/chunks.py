"""Requests in chunks of a fixed size, so that an interruption loses at most one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from fedrai.constitution.records import Request
from fedrai.errors import ConstitutionError


class Answered(Protocol):
    """A record of one request."""

    @property
    def request(self) -> Request:
        """The request."""


A = TypeVar("A", bound=Answered)


def in_chunks(
    requests: Sequence[Request],
    size: int,
    done: Sequence[A],
    answer_chunk: Callable[[Sequence[Request], int], Sequence[A]],
    on_chunk: Callable[[Sequence[A]], None],
) -> tuple[A, ...]:
    """Answer requests chunk by chunk, after the whole chunks that are done.

    Args:
        requests: all requests.
        size: requests of a chunk.
        done: records of an earlier call with the same arguments, in order.
        answer_chunk: makes the records of some requests, which start at a place of the list.
        on_chunk: called after each chunk with all records so far; may raise to stop.

    Returns:
        One record for each request, in their order.

    Raises:
        ConstitutionError: `done` is of other requests.
    """
    records = list(whole_chunks(done, requests, size))
    for start in range(len(records), len(requests), size):
        records += answer_chunk(requests[start : start + size], start)
        on_chunk(records)
    return tuple(records)


def whole_chunks(done: Sequence[A], requests: Sequence[Request], size: int) -> Sequence[A]:
    """The records of whole chunks.

    Raises:
        ConstitutionError: they are of other requests.
    """
    if len(done) > len(requests) or any(
        record.request != request for record, request in zip(done, requests, strict=False)
    ):
        raise ConstitutionError(
            f"the {len(done)} stored records do not match these {len(requests)} requests",
            hint="start again without them; another list of requests needs other records",
        )
    return done if len(done) == len(requests) else done[: len(done) - len(done) % size]
