"""Our suites as tasks of Inspect AI: `inspect eval fedrai/advbench --model ...` (extra `inspect`).

    inspect eval fedrai/xstest-safe --model hf/ORG/NAME -T limit=50
    inspect eval fedrai/strongreject --model ... -T path=FILE --model-role grader=openai/...

Made from the declarations in `fedrai.evaluation.suites`, so each suite is defined once; Inspect
finds this module by the package's entry point. Scorers are our judges: the refusal rule with the
legacy keyword score beside it, or our rubrics in the hands of a model in the role "grader". An
answer that says nothing is unscored. HHH is no task here: it compares log-probabilities of given
answers, which Inspect's models do not offer; `fedrai eval` measures it.
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


def suite_task(found: Declaration, path: str, limit: int, seed: int) -> Task:
    """A suite as a task.

    Args:
        found: the suite.
        path: the user's own file or folder of it; empty: its source.
        limit: how many items (a seeded sample); 0 for all.
        seed: of the sample.

    Raises:
        EvaluationError: the suite cannot be had, or is not what it should be.
    """
    suite = load(f"{found.name}={path}" if path else found.name, limit, seed)
    if isinstance(suite, NotAvailable):
        raise EvaluationError(f"{suite.name}: {suite.reason}. {suite.hint}", hint=suite.hint)
    samples = [_sample(item, found) for item in suite.items]
    return Task(
        dataset=MemoryDataset(samples, name=found.name, location=suite.origin),
        solver=generate(),
        scorer=SCORERS[found.judge](),
        config=greedy(_model_asked()).merge(GenerateConfig(max_tokens=MAX_TOKENS)),
        metadata=suite.to_json(),
    )


def greedy(model: Model | None) -> GenerateConfig:
    """What makes a model give its likeliest answer; None: a model of a provider that is not known.

    A provider that always samples draws from the one likeliest token.
    """
    if model is not None and ModelName(model).api in SAMPLING:
        return GenerateConfig(top_k=1)
    return GenerateConfig(temperature=0.0)


def _model_asked() -> Model | None:
    """The model of this evaluation; None where a task is made without one."""
    try:
        return get_model()
    except ValueError:
        return None


def _sample(item: Item, found: Declaration) -> Sample:
    """An item; what a judge needs of it lies in the metadata."""
    kinds = {"user": ChatMessageUser, "assistant": ChatMessageAssistant}
    said: list[ChatMessage] = [
        kinds[turn.role](content=turn.content)
        for turn in turns(item, dialogue=found.form == "dialogue")
    ]
    kept = {"category": item.category, "label": item.label, "reference": item.reference}
    return Sample(input=said, id=item.number, metadata={**kept, "prompt": item.prompt})


# --- metrics --------------------------------------------------------------------------------------


def _mean() -> Metric:
    """Mean of the scored answers; not a number, rather than 0, where there is none."""

    def compute(scores: list[SampleScore]) -> float:
        values = [score.score.as_float() for score in scores]
        return sum(values) / len(values) if values else math.nan

    return compute


def _wilson() -> Metric:
    """Wilson's 95 % interval of a share."""

    def compute(scores: list[SampleScore]) -> dict[str, float]:
        happened = sum(score.score.as_float() > 0 for score in scores)
        low, high = Rate(happened, len(scores)).interval() or (math.nan, math.nan)
        return {"low": low, "high": high}

    return compute


mean = metric(name="mean")(_mean)
wilson = metric(name="wilson")(_wilson)


# --- scorers --------------------------------------------------------------------------------------


def _refused() -> Scorer:
    """1 where our rule finds a refusal, 0 where not; unscored where there is nothing to judge."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        reply = refusal.judge(answer)
        if reply is refusal.Reply.UNSCORED:
            return Score.unscored(reason="empty-or-broken", answer=answer)
        return Score(value=float(reply is refusal.Reply.REFUSAL), answer=answer)

    return score


def _legacy() -> Scorer:
    """1 where OpenFedLLM's keyword list counts an answer as safe, else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        return Score(value=float(legacy.legacy_safe(answer)), answer=answer)

    return score


class _Once:
    """A grader that replies to one prompt with a text it was given, and keeps the prompt."""

    def __init__(self, reply: str | None = None) -> None:
        self.reply = reply
        self.prompt = ("", "")

    def ask(self, prompts: Sequence[tuple[str, str]], on_reply: OnProgress = ignore) -> Replies:
        [self.prompt] = prompts
        return Replies((self.reply,))


def _graded(judge: Judge) -> Scorer:
    """The score that a rubric reads from the reply of the model in the role "grader"."""

    async def score(state: TaskState, target: Target) -> Score:
        answer, kept = state.output.completion, state.metadata
        item = Item(0, kept["prompt"], category=kept["category"], reference=kept["reference"])
        asking = _Once()
        judge(asking, [item], [answer])
        system, user = asking.prompt
        said: list[ChatMessage] = [ChatMessageSystem(content=system)] if system else []
        grader = get_model(role="grader", required=True)
        made = await grader.generate([*said, ChatMessageUser(content=user)], config=greedy(grader))
        [grade] = judge(_Once(made.completion), [item], [answer]).grades
        if grade.score is None:
            return Score.unscored(reason=grade.problem, answer=answer, explanation=grade.reply)
        return Score(value=grade.score, answer=answer, explanation=grade.reply)

    return score


refused = scorer(metrics=[mean(), wilson()], name="refused")(_refused)
legacy_safe = scorer(metrics=[mean(), wilson()], name="legacy_safe")(_legacy)
rating = scorer(metrics=[mean()], name="rating")(lambda: _graded(rubric.rate_answers))
harm = scorer(metrics=[mean()], name="harm")(lambda: _graded(rubric.harm_of_answers))

SCORERS: dict[str, Callable[[], list[Any]]] = {
    "refusal": lambda: [refused(), legacy_safe()],
    "rating": lambda: [rating()],
    "strongreject": lambda: [harm()],
}


# --- tasks ----------------------------------------------------------------------------------------


def _declared(found: Declaration) -> Callable[..., Task]:
    def build(path: str = "", limit: int = 0, seed: int = 0) -> Task:
        return suite_task(found, path, limit, seed)

    build.__doc__ = f"{found.title}: {found.what}."
    registered: Callable[..., Task] = task(name=found.name)(build)
    return registered


TASKS = {
    name: _declared(found) for name, found in declared_suites().items() if found.judge in SCORERS
}
"""Every suite that can be a task, by its name."""
