"""A cache of verdicts, so that the same guard judges the same text once.

    FOLDER/salt                  32 random bytes; without them a key reveals nothing of a text
    FOLDER/NAME-HASH.jsonl       one verdict a line, for one name and revision of a guard
    FOLDER/.lock                 held while a process writes

A key is the HMAC-SHA256 of the conversation under the salt; no text is ever written. Anyone
who can read the folder can still test whether a text they have was judged here, so the folder must
stay with the client (only the owner can read the files). Files only grow; a line that is damaged,
or was cut short by a kill, is skipped.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, get_args

from filelock import FileLock

from fedrai.errors import GuardError
from fedrai.guards.base import Conversation, Guard, OnProgress, VerdictBatch, full_name
from fedrai.records import Problem, Verdict
from fedrai.runs.files import write_bytes

CHUNK = 256
"""Conversations that a guard gets at once: what a kill can lose, and what it can sort by length."""

CACHE_FORMAT = 2  # increased when guards of one revision judge differently; older files are ignored
SALT_BYTES = 32
LINE_BYTES = 4096  # a longer line is damage
LOCK_SECONDS = 60.0
TRANSIENT_PROBLEMS: frozenset[Problem] = frozenset({"no-answer", "failed"})
"""Problems that may not occur again, so they are not cached."""


def conversation_key(salt: bytes, conversation: Conversation) -> str:
    """HMAC-SHA256 (FIPS 198-1) of a conversation's canonical JSON under `salt`, 64 hex digits."""
    turns = [[message.role, message.content] for message in conversation]
    text = json.dumps(turns, separators=(",", ":"))  # ASCII: lone surrogates are escaped
    return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()


class VerdictCache:
    """The verdicts of one client, on disk. Works with several processes at once.

    If the folder cannot be read or written, texts are judged again.

    Args:
        folder: created if missing.
        on_problem: called once, with a sentence, when verdicts cannot be cached any more.

    Attributes:
        salt: the client's secret, 32 bytes.
    """

    def __init__(
        self, folder: Path, on_problem: Callable[[str], None] = lambda _problem: None
    ) -> None:
        self.folder = folder
        self.problem: str | None = None
        self._on_problem = on_problem
        try:
            self.salt = _known_salt(folder / "salt") or self._new_salt()
        except OSError as error:
            self.salt = secrets.token_bytes(SALT_BYTES)  # of no use after this process
            self._give_up(error)

    def key(self, conversation: Conversation) -> str:
        """What a conversation's verdict is kept under; the same in every process."""
        return conversation_key(self.salt, conversation)

    def find(self, guard: Guard, keys: Iterable[str]) -> dict[str, Verdict]:
        """The verdicts that are known of these keys, by key."""
        requested, name, verdicts = set(keys), full_name(guard), {}
        try:
            with self._file(guard).open("rb") as file:
                for line in _lines(file):
                    entry = _entry(line, name)
                    if entry and entry[0] in requested:
                        verdicts[entry[0]] = entry[1]
        except FileNotFoundError:
            pass
        except OSError as error:
            self._give_up(error)
        return verdicts

    def add(self, guard: Guard, verdicts: Mapping[str, Verdict]) -> None:
        """Keep verdicts by key; those that may be otherwise next time are left out."""
        body = b"".join(
            _line(key, verdict)
            for key, verdict in verdicts.items()
            if verdict.problem not in TRANSIENT_PROBLEMS
        )
        if self.problem is not None or not body:
            return
        try:
            with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
                _append(self._file(guard), body)
        except OSError as error:
            self._give_up(error)

    def _new_salt(self) -> bytes:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
            path = self.folder / "salt"
            return _known_salt(path) or _write_salt(path)

    def _file(self, guard: Guard) -> Path:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", guard.name).strip(".-")[:60]
        identity = f"{guard.name}\n{guard.revision}\n{CACHE_FORMAT}"
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return self.folder / f"{plain}-{digest[:16]}.jsonl"

    def _give_up(self, error: OSError) -> None:
        if self.problem is None:
            reason = error.strerror or type(error).__name__
            self.problem = f"verdicts are not cached in {self.folder}: {reason}"
            self._on_problem(self.problem)


def judge(
    guard: Guard,
    conversations: Sequence[Conversation],
    cache: VerdictCache | None,
    on_progress: OnProgress = lambda _done, _of: None,
) -> VerdictBatch:
    """Judge conversations without a cached verdict, equal ones once; cached after every `CHUNK`.

    Args:
        guard: the guard.
        conversations: what to judge.
        cache: verdicts of earlier times; `None` keeps none.
        on_progress: called with (different conversations with a verdict, different ones in all).

    Returns:
        Verdicts in the order of the conversations. Tokens and operations are of this call alone.

    Raises:
        GuardError: the guard as a whole cannot work. What was judged before is kept.
    """
    key_of = cache.key if cache else lambda talk: conversation_key(b"", talk)
    keys = [key_of(talk) for talk in conversations]
    different = dict(zip(keys, conversations, strict=True))
    verdicts = cache.find(guard, different) if cache else {}
    missing = [key for key in different if key not in verdicts]
    on_progress(len(verdicts), len(different))
    tokens, operations = 0, 0.0
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        report = _shift_progress(on_progress, len(verdicts), len(different))
        batch = guard.judge([different[key] for key in part], report)
        fresh = _by_key(guard, part, batch)
        if cache:
            cache.add(guard, fresh)
        verdicts |= fresh
        tokens, operations = tokens + batch.tokens, operations + batch.operations
        on_progress(len(verdicts), len(different))
    return VerdictBatch(tuple(verdicts[key] for key in keys), tokens, operations)


def _shift_progress(on_progress: OnProgress, before: int, of: int) -> OnProgress:
    return lambda done, _of: on_progress(before + done, of)


def _by_key(guard: Guard, keys: Sequence[str], batch: VerdictBatch) -> dict[str, Verdict]:
    """Fresh verdicts, named as those from the cache are."""
    if len(batch.verdicts) != len(keys):
        raise GuardError(
            f"guard {guard.name} gave {len(batch.verdicts)} verdicts for {len(keys)} conversations"
        )
    name = full_name(guard)
    return {k: replace(v, guard=name) for k, v in zip(keys, batch.verdicts, strict=True)}


# --- files ----------------------------------------------------------------------------------------


def _known_salt(path: Path) -> bytes | None:
    """The folder's salt; `None` if it is missing or damaged."""
    salt = path.read_bytes() if path.is_file() else b""
    return salt if len(salt) == SALT_BYTES else None


def _write_salt(path: Path) -> bytes:
    """Make a salt whole or not at all; the caller holds the lock."""
    salt = secrets.token_bytes(SALT_BYTES)
    write_bytes(path, salt, mode=0o600)
    return salt


def _append(path: Path, body: bytes) -> None:
    """Add whole lines; a torn last line is ended first. The caller holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            body = b"\n" + body
        rest = memoryview(body)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(descriptor)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines of at most `LINE_BYTES`, never more than that in memory."""
    is_start = True
    while piece := file.readline(LINE_BYTES):
        if is_start and piece.endswith(b"\n"):
            yield piece
        is_start = piece.endswith(b"\n")


def _line(key: str, verdict: Verdict) -> bytes:
    entry = {
        "key": key,
        "p": verdict.probability,
        "categories": verdict.categories,
        "problem": verdict.problem,
    }
    return json.dumps(entry).encode() + b"\n"


def _entry(line: bytes, guard: str) -> tuple[str, Verdict] | None:
    """The key and verdict of a line; `None` if it is damaged."""
    try:
        entry = json.loads(line)
        key, p, problem = entry["key"], entry["p"], entry["problem"]
        categories = tuple(entry["categories"])
        if not isinstance(key, str) or not all(isinstance(c, str) for c in categories):
            return None
        if problem not in (None, *get_args(Problem)) or isinstance(p, bool | str):
            return None
        return key, Verdict(p, guard, categories, problem)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
