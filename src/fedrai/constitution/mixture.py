"""Training data of an alignment: rows and preference pairs, in the shares of the recipe.

`prefer.align` draws uniformly from a list, so the shares are those of the list. A list has kinds
(of rows: revisions, look-alikes, ordinary instructions; of pairs: harmful, harmless). Examples are
counted as revisions, or are a kind of their own if they have a share. Its length is the smallest
that

    is at least the size that is requested (what will be drawn, say),
    and holds every item of the first kind with a share above 0: every revision is trained on.

Each kind gets its share of the length, in whole numbers by largest remainder. Its items come in
shuffled passes: none appears twice before all appear once, so their counts differ by one at most. A
kind with a share and no item is an error: other data in its place would be another mixture.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, TypeVar

from fedrai.constitution.harmless import HarmlessAnswer
from fedrai.constitution.records import RevisionRecord
from fedrai.errors import DataError
from fedrai.model.chat import ChatFormat
from fedrai.recipe.alignment import Mix
from fedrai.records import Message, Tokens
from fedrai.training.prefer import PreferencePair, pair_problem
from fedrai.training.sft import label_count

T = TypeVar("T")
HINTS = {
    "revisions": "no revision passed; try more requests, tries or another critic",
    "look-alikes": "add fedrai:look-alikes to `harmless`, or set mix.look_alikes to 0",
    "ordinary": "add fedrai:ordinary to `harmless`, or set mix.refusals and mix.look_alikes to sum"
    " to 1",
    "harmful-pairs": "no first answer complied, so there is none to reject; set mix.pairs to 0",
    "harmless-pairs": "no needless refusal, and no revision that refuses; set mix.harmless_pairs"
    " to 0",
}


@dataclass(frozen=True, slots=True)
class KindCount:
    """One kind in a list.

    Attributes:
        items: different items of the kind.
        used: entries of the list that are of the kind.
    """

    items: int
    used: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """Training data of an alignment.

    Attributes:
        rows: rows for supervised fine-tuning; the same row may appear many times.
        pairs: preference pairs, likewise.
        parts: the kinds that both are made of, by name.
        left_out: items that could not be used, by reason: "row-cut" and "pair-cut" (max_length
            leaves nothing of an answer), "pair-alike" (both sides are the same), "pair-empty" (a
            side has no text), "pair-prompt" (the tokenizer joins the prompt and an answer),
            "no-refusal" (a harmless request without a refusal to reject).
    """

    rows: tuple[Tokens, ...]
    pairs: tuple[PreferencePair, ...]
    parts: Mapping[str, KindCount]
    left_out: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Counts; none of the text."""
        return {
            "rows": len(self.rows),
            "pairs": len(self.pairs),
            "parts": {name: asdict(part) for name, part in self.parts.items()},
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class MixtureSizes:
    """How much a mixture holds.

    Attributes:
        rows: least number of rows; 0: none at all. 1 gives one pass through the revisions.
        pairs: least number of pairs, likewise.
        harmless_pairs: part of the pairs that are of harmless requests.
    """

    rows: int
    pairs: int
    harmless_pairs: float


@dataclass(frozen=True, slots=True)
class Mixer:
    """Composes rows and pairs.

    Rows are request and revision of records that are kept or were safe already, and request and
    answer of harmless ones, look-alikes if their request has a `kind`. Pairs are those of
    `revision_pairs`, and for each harmless request its answer, chosen, with the model's own
    needless refusal, rejected. Where it gave none, a revision that refuses a harmful request of the
    same category is rejected, or any where there is none: the lesson is which request to refuse,
    not a style.

    Records of harmless requests (the benign control) make rows and pairs as all records do; their
    revisions are not borrowed as refusals.

    Attributes:
        chat: the model's.
        records: results of critique and revision.
        harmless: answered harmless requests; those without an answer are ignored.
        mix: shares of the rows.
        max_length: tokens of a conversation; the rest is cut.
        seed: for the order and for the choice of refusals to reject.
        examples: records that are trained on as `records` are; with `mix.examples` they are a kind
            of their own.
    """

    chat: ChatFormat
    records: Sequence[RevisionRecord]
    harmless: Sequence[HarmlessAnswer]
    mix: Mix
    max_length: int
    seed: int
    examples: Sequence[RevisionRecord] = ()

    @property
    def all_records(self) -> tuple[RevisionRecord, ...]:
        """The examples and the records."""
        return (*self.examples, *self.records)

    def compose(self, sizes: MixtureSizes) -> Mixture:
        """Compose a mixture.

        Raises:
            DataError: a kind with a share above 0 has no item.
        """
        left_out: Counter[str] = Counter()
        parts: dict[str, KindCount] = {}
        rows: list[Tokens] = []
        pairs: list[PreferencePair] = []
        if sizes.rows:
            kinds = self._rows(left_out)
            rows = _compose(kinds, self._shares(kinds), sizes.rows, self.seed, parts)
        if sizes.pairs:
            sides = _revision_sides(self.all_records)
            pairs_by_kind = {
                "harmful-pairs": _pairs(self.chat, sides, self.max_length, left_out),
                "harmless-pairs": self._harmless_pairs(left_out),
            }
            share = _exact(sizes.harmless_pairs)
            pairs = _compose(pairs_by_kind, (1 - share, share), sizes.pairs, self.seed, parts)
        return Mixture(tuple(rows), tuple(pairs), parts, dict(sorted((+left_out).items())))

    def _rows(self, left_out: Counter[str]) -> dict[str, list[Tokens]]:
        """Tokenized rows by kind, without those that have no label token."""
        apart = self.mix.examples is not None
        revised = {
            "revisions": self.records if apart else self.all_records,
            **({"examples": self.examples} if apart else {}),
        }
        texts: dict[str, list[tuple[str, str]]] = {
            **{kind: _accepted(records) for kind, records in revised.items()},
            "look-alikes": [],
            "ordinary": [],
        }
        for entry in self.harmless:
            if entry.answer:
                kind = "look-alikes" if entry.request.kind else "ordinary"
                texts[kind].append((entry.request.prompt, entry.answer))
        kinds = {
            kind: [_row(self.chat, *text, self.max_length) for text in some]
            for kind, some in texts.items()
        }
        left_out["row-cut"] += sum(not label_count(row) for some in kinds.values() for row in some)
        return {kind: [row for row in some if label_count(row)] for kind, some in kinds.items()}

    def _shares(self, kinds: Mapping[str, Sequence[Tokens]]) -> tuple[Fraction, ...]:
        """Shares of the rows; of revisions and examples, one takes all if there is no other."""
        refusals, look_alikes = _exact(self.mix.refusals), _exact(self.mix.look_alikes)
        others = (look_alikes, 1 - refusals - look_alikes)
        if self.mix.examples is None:
            return (refusals, *others)
        share = _exact(self.mix.examples) if kinds["revisions"] else Fraction(1)
        share = share if kinds["examples"] else Fraction(0)
        return (refusals * (1 - share), refusals * share, *others)

    def _harmless_pairs(self, left_out: Counter[str]) -> list[PreferencePair]:
        """Pairs of harmless requests."""
        refusals = _refusals(self.all_records)
        sides: list[Sides] = []
        for entry in self.harmless:
            if not entry.answer:
                continue
            pool = refusals.get(entry.request.category) or refusals.get("", [])
            refusal = entry.refused or _choose_refusal(pool, entry.request.prompt, self.seed)
            if refusal:
                sides.append((entry.request.prompt, entry.answer, refusal))
            else:
                left_out["no-refusal"] += 1
        return _pairs(self.chat, sides, self.max_length, left_out)


def revision_pairs(
    chat: ChatFormat, records: Sequence[RevisionRecord], max_length: int
) -> list[PreferencePair]:
    """Pairs of records that are kept: chosen the revision, rejected the first answer.

    Left out are harmful requests that the first answer refuses too, and what cannot be learnt from.
    """
    return _pairs(chat, _revision_sides(records), max_length, Counter())


def epoch_steps(mix: Mix, revisions: float, examples: int) -> int:
    """Steps that go once through the revisions, with the examples unless they have a share.

    Args:
        mix: some of its rows are revisions.
        revisions: revisions that passed; may be an estimate.
        examples: number of examples.
    """
    each, items = mix.rows * mix.refusals, revisions + examples
    if mix.examples is not None and revisions and examples:
        items = revisions if mix.examples < 1 else examples
        each *= 1 - mix.examples if mix.examples < 1 else 1
    return math.ceil(items / each - 1e-9)


# --- rows and pairs -------------------------------------------------------------------------------


def _accepted(records: Iterable[RevisionRecord]) -> list[tuple[str, str]]:
    """Requests and the revisions that are trained on."""
    return [(one.request.prompt, one.accepted) for one in records if one.accepted]


def _row(chat: ChatFormat, prompt: str, answer: str, max_length: int) -> Tokens:
    turns = [Message("user", prompt), Message("assistant", answer.strip())]
    return chat.train_tokens(turns, max_length)


Sides = tuple[str, str, str]  # prompt, chosen, rejected


def _revision_sides(records: Iterable[RevisionRecord]) -> list[Sides]:
    return [
        (record.request.prompt, record.accepted, record.first)
        for record in records
        if record.is_better
    ]


def _refusals(records: Iterable[RevisionRecord]) -> dict[str, list[str]]:
    """Revisions that refuse, by category of their request; all of them under ""."""
    refusals: dict[str, list[str]] = {}
    for record in records:
        if record.request.harmful and record.accepted:
            for category in {record.request.category, ""}:
                refusals.setdefault(category, []).append(record.accepted)
    return refusals


def _choose_refusal(pool: Sequence[str], prompt: str, seed: int) -> str | None:
    """One of some refusals, which depends on them, the request and the seed."""
    return min(pool, key=lambda text: _rank(seed, "refusal", prompt, text), default=None)


def _pairs(
    chat: ChatFormat, sides: Iterable[Sides], max_length: int, left_out: Counter[str]
) -> list[PreferencePair]:
    """Tokenized pairs, without those that cannot be learnt from."""
    pairs = []
    for prompt, chosen, rejected in sides:
        if not chosen.strip() or not rejected.strip():
            left_out["pair-empty"] += 1
            continue
        pair = PreferencePair(
            *(_row(chat, prompt, text, max_length) for text in (chosen, rejected))
        )
        if problem := pair_problem(pair):
            left_out[f"pair-{problem}"] += 1
        else:
            pairs.append(pair)
    return pairs


# --- shares ---------------------------------------------------------------------------------------


def _compose(
    kinds: Mapping[str, Sequence[T]],
    shares: Sequence[Fraction],
    least: int,
    seed: int,
    parts: dict[str, KindCount],
) -> list[T]:
    """The list that the module's text describes; notes its kinds in `parts`.

    Raises:
        DataError: a kind with a share above 0 has no item.
    """
    for name, share in zip(kinds, shares, strict=True):
        if share > 0 and not kinds[name]:
            raise DataError(
                f"{name} must be {float(share):.0%} of the training data, but there are none",
                hint=HINTS[name],
            )
    sizes = [len(items) for items in kinds.values()]
    counts = _apportion(_length(sizes, shares, least), shares)
    entries: list[T] = []
    for (name, items), count in zip(kinds.items(), counts, strict=True):
        parts[name] = KindCount(len(items), count)
        entries += [items[i] for i in _passes(len(items), count, seed, name)]
    return entries


def _exact(share: float) -> Fraction:
    """0.4 as 2/5, so that 40 % of 160 is 64 and no rounding error more.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies between 0 and 1, got {share}")
    return Fraction(share).limit_denominator(1_000_000)


def _length(sizes: Sequence[int], shares: Sequence[Fraction], least: int) -> int:
    """Entries of a list that holds all items of its first kind with a share."""
    first = next((math.ceil(n / s) for n, s in zip(sizes, shares, strict=True) if s > 0), 0)
    return max(least, first)


def _apportion(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole numbers that sum to a total, by largest remainder; the first kind wins ties.

    Raises:
        ValueError: the shares are not at least 0 and 1 together.
    """
    if min(shares) < 0 or sum(shares) != 1:
        raise ValueError(f"shares are at least 0 and 1 together, got {[*map(float, shares)]}")
    counts = [math.floor(total * share) for share in shares]
    by_rest = sorted(range(len(shares)), key=lambda i: (counts[i] - total * shares[i], i))
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _passes(size: int, count: int, seed: int, kind: str) -> list[int]:
    """Numbers below `size`, `count` of them: shuffled passes, of which the last may be cut."""
    order: list[int] = []
    for number in range(math.ceil(count / size) if size else 0):
        order += sorted(range(size), key=lambda i: _rank(seed, kind, number, i))
    return order[:count]


def _rank(*key: object) -> bytes:
    """Where something stands in a shuffled order: the same on every machine."""
    return hashlib.sha256(json.dumps(key).encode()).digest()
