"""FedRAI's suites as tasks of Inspect AI: `inspect eval fedrai/advbench --model ...`.

    inspect eval fedrai/xstest-safe --model hf/ORG/NAME -T limit=50
    inspect eval fedrai/strongreject --model ... -T path=FILE --model-role grader=openai/...

Needs the extra `inspect`. Tasks are made from the declarations in `fedrai.evaluation.suites`;
Inspect finds this module by the package's entry point. Scorers are FedRAI's judges: the refusal
rule and the legacy keyword score, or the rubrics with a model in the role "grader". An empty or
broken answer is unscored. HHH is not a task: it compares log-probabilities of fixed answers, which
Inspect's models do not offer; `fedrai eval` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelName,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from fedrai.errors import EvaluationError
from fedrai.evaluation import legacy, refusal, rubric
from fedrai.evaluation.chats import Grader, Replies
from fedrai.evaluation.suites import Declaration, Item, NotAvailable, declared_suites, load
from fedrai.evaluation.suites.items import turns
from fedrai.rates import Rate
from fedrai.records import OnProgress, ignore

Judge = Callable[[Grader, Sequence[Item], Sequence[str]], rubric.Grades]
MAX_TOKENS = 512  # of an answer; `--max-tokens` sets another
SAMPLING = ("hf",)  # providers that always sample, and take no temperature of 0


def suite_task(declaration: Declaration, path: str, limit: int, seed: int) -> Task:
    """A suite as a task.

    Args:
        declaration: the suite's declaration.
        path: the user's own file or folder of it; empty: its source.
        limit: number of items (a seeded sample); 0 for all.
        seed: for drawing the sample.

    Raises:
        EvaluationError: the suite is not available, or the file is not the suite.
    """
    name = declaration.name
    suite = load(f"{name}={path}" if path else name, limit, seed)
    if isinstance(suite, NotAvailable):
        raise EvaluationError(f"{suite.name}: {suite.reason}. {suite.hint}", hint=suite.hint)
    samples = [_sample(item, declaration) for item in suite.items]
    return Task(
        dataset=MemoryDataset(samples, name=name, location=suite.origin),
        solver=generate(),
        scorer=SCORERS[declaration.judge](),
        config=greedy(_current_model()).merge(GenerateConfig(max_tokens=MAX_TOKENS)),
        metadata=suite.to_json(),
    )


def greedy(model: Model | None) -> GenerateConfig:
    """The settings for a model's likeliest answer; None: the model is unknown.

    A provider that always samples is limited to the one likeliest token.
    """
    if model is not None and ModelName(model).api in SAMPLING:
        return GenerateConfig(top_k=1)
    return GenerateConfig(temperature=0.0)


def _current_model() -> Model | None:
    """The model of this evaluation; None where a task is made without one."""
    try:
        return get_model()
    except ValueError:
        return None


def _sample(item: Item, declaration: Declaration) -> Sample:
    """An item, with the judge's inputs as metadata."""
    kinds = {"user": ChatMessageUser, "assistant": ChatMessageAssistant}
    messages: list[ChatMessage] = [
        kinds[turn.role](content=turn.content)
        for turn in turns(item, dialogue=declaration.form == "dialogue")
    ]
    keys = ("category", "label", "reference", "prompt")
    metadata = {key: getattr(item, key) for key in keys}
    return Sample(input=messages, id=item.number, metadata=metadata)


# --- metrics --------------------------------------------------------------------------------------


def _mean() -> Metric:
    """Mean of the scored answers; nan, not 0, where there are none."""

    def compute(scores: list[SampleScore]) -> float:
        values = [score.score.as_float() for score in scores]
        return sum(values) / len(values) if values else math.nan

    return compute


def _wilson() -> Metric:
    """Wilson's 95 % interval of a share."""

    def compute(scores: list[SampleScore]) -> dict[str, float]:
        successes = sum(score.score.as_float() > 0 for score in scores)
        low, high = Rate(successes, len(scores)).interval() or (math.nan, math.nan)
        return {"low": low, "high": high}

    return compute


mean = metric(name="mean")(_mean)
wilson = metric(name="wilson")(_wilson)


# --- scorers --------------------------------------------------------------------------------------


def _refusal_scorer() -> Scorer:
    """1 for a refusal by the refusal rule, else 0; unscored where there is nothing to judge."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        reply = refusal.judge(answer)
        if reply is refusal.Reply.UNSCORED:
            return Score.unscored(reason="empty-or-broken", answer=answer)
        return Score(value=float(reply is refusal.Reply.REFUSAL), answer=answer)

    return score


def _legacy() -> Scorer:
    """1 for an answer that OpenFedLLM's keyword list counts as safe, else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        return Score(value=float(legacy.legacy_safe(answer)), answer=answer)

    return score


class _OneReply:
    """A grader that records one prompt and replies with a fixed text."""

    def __init__(self, reply: str | None = None) -> None:
        self.reply = reply
        self.prompt = ("", "")

    def ask(self, prompts: Sequence[tuple[str, str]], on_reply: OnProgress = ignore) -> Replies:
        [self.prompt] = prompts
        return Replies((self.reply,))


def _grade_scorer(judge: Judge) -> Scorer:
    """The score in the reply of the model in the role "grader"."""

    async def score(state: TaskState, target: Target) -> Score:
        answer, metadata = state.output.completion, state.metadata
        item = Item(0, **{key: metadata[key] for key in ("prompt", "category", "reference")})
        recorder = _OneReply()
        judge(recorder, [item], [answer])
        system, user = recorder.prompt
        messages: list[ChatMessage] = [ChatMessageSystem(content=system)] if system else []
        messages.append(ChatMessageUser(content=user))
        grader = get_model(role="grader", required=True)
        output = await grader.generate(messages, config=greedy(grader))
        [grade] = judge(_OneReply(output.completion), [item], [answer]).grades
        if grade.score is None:
            return Score.unscored(reason=grade.problem, answer=answer, explanation=grade.reply)
        return Score(value=grade.score, answer=answer, explanation=grade.reply)

    return score


refused = scorer(metrics=[mean(), wilson()], name="refused")(_refusal_scorer)
legacy_safe = scorer(metrics=[mean(), wilson()], name="legacy_safe")(_legacy)
rating = scorer(metrics=[mean()], name="rating")(lambda: _grade_scorer(rubric.rate_answers))
harm = scorer(metrics=[mean()], name="harm")(lambda: _grade_scorer(rubric.harm_of_answers))

SCORERS: dict[str, Callable[[], list[Any]]] = {
    "refusal": lambda: [refused(), legacy_safe()],
    "rating": lambda: [rating()],
    "strongreject": lambda: [harm()],
}


# --- tasks ----------------------------------------------------------------------------------------


def _task(declaration: Declaration) -> Callable[..., Task]:
    def build(path: str = "", limit: int = 0, seed: int = 0) -> Task:
        return suite_task(declaration, path, limit, seed)

    build.__doc__ = f"{declaration.title}: {declaration.what}."
    registered: Callable[..., Task] = task(name=declaration.name)(build)
    return registered


TASKS = {
    name: _task(declaration)
    for name, declaration in declared_suites().items()
    if declaration.judge in SCORERS
}
"""Every suite that can be a task, by its name."""
