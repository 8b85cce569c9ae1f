"""Examples to the tokenized rows that a model trains on, and why some cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedrai.errors import DataError, ModelError
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Data
from fedrai.records import (
    BadRow,
    Example,
    Message,
    PreferencePair,
    Role,
    Tokens,
    TrainingRow,
)
from fedrai.training.prefer import pair_problem
from fedrai.training.prefer.tokens import pair_tokens
from fedrai.training.sft import label_count


def tokenized(
    lm: LanguageModel,
    examples: Sequence[Example],
    settings: Data,
    tokens: dict[Example, TrainingRow],
) -> tuple[list[Example], list[BadRow]]:
    """The examples that fit the model, whose tokens are added to `tokens`, and the others."""
    bad: list[BadRow] = []
    for example in examples:
        row = row_of(lm, example, settings.max_length)
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            tokens[example] = row
    if bad and settings.on_bad_rows == "stop":
        raise DataError(
            f"{bad[0].origin}: {bad[0].problem} ({len(bad)} such rows)",
            hint=f'{hint_for(bad)}, fix the rows, or set data.on_bad_rows = "skip"',
        )
    return [example for example in examples if example in tokens], bad


def row_of(lm: LanguageModel, example: Example, max_length: int) -> TrainingRow | BadRow:
    """An example as the model trains on it, or why it cannot."""
    return _pair(lm, example, max_length) if example.rejected else _tokens(lm, example, max_length)


def _pair(lm: LanguageModel, example: Example, max_length: int) -> PreferencePair | BadRow:
    sides, shared = (example.messages, example.rejected), example.shared_turns
    try:
        pair = pair_tokens(lm.chat, *sides, shared, max_length)
    except ModelError as error:
        return BadRow(example.origin, _system_problem(lm, example) or error.message)
    problem = pair_problem(pair)
    return BadRow(example.origin, PAIR_PROBLEMS[problem].format(max_length)) if problem else pair


def _tokens(lm: LanguageModel, example: Example, max_length: int) -> Tokens | BadRow:
    try:
        row = lm.chat.train_tokens(example.messages, max_length)
    except ModelError as error:
        return BadRow(example.origin, _system_problem(lm, example) or error.message)
    if not label_count(row):
        return BadRow(example.origin, f"{NO_ANSWER} {max_length} tokens")
    return row


NO_ANSWER = "no answer within the first"
ALIKE = "the two answers are the same within the first"
PAIR_PROBLEMS = {
    "cut": f"{NO_ANSWER} {{}} tokens",
    "alike": f"{ALIKE} {{}} tokens",
    "prompt": "the tokenizer joins the request and an answer",
}
NO_SYSTEM = "the model's chat template has no system turn"


def _system_problem(lm: LanguageModel, example: Example) -> str:
    """`NO_SYSTEM` if the template refuses the system turn alone; else empty."""
    if example.messages[0].role != "system" or not _accepts(lm, ["user", "assistant"]):
        return ""
    return "" if _accepts(lm, ["system", "user", "assistant"]) else NO_SYSTEM


def _accepts(lm: LanguageModel, roles: Sequence[Role]) -> bool:
    """Whether the chat template accepts turns of these roles."""
    try:
        lm.chat.train_tokens([Message(role, "a") for role in roles], 1)
    except ModelError:
        return False
    return True


def hint_for(bad: Sequence[BadRow]) -> str:
    """A hint with the key that solves the most common problem."""
    problems = Counter(row.problem for row in bad)
    problem = problems.most_common(1)[0][0]
    if problem.startswith((NO_ANSWER, ALIKE)):
        return "raise data.max_length"
    if problem == NO_SYSTEM:
        return 'set data.sources.system_turns = "prepend" (into the request) or "drop"'
    return "see which turns the model's chat template accepts"
