"""General ability by lm-evaluation-harness (ARC, HellaSwag, IFEval ...).

The model with its adapter is passed to the harness in memory: nothing is merged or written. Tasks,
prompts, metrics and standard errors are the harness's own
(https://github.com/EleutherAI/lm-evaluation-harness); tasks are greedy or by likelihood.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrai.errors import DependencyError, EvaluationError

SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")

if TYPE_CHECKING:
    from fedrai.model import AdapterState, LanguageModel


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One figure of one task.

    Attributes:
        task: a task of the harness, or a group of its tasks.
        metric: such as "acc" or "exact_match".
        filter: how the answer was extracted from the text; "none" where it was not.
        value: the figure in the metric's own unit; most are shares of 1.
        stderr: its standard error; None where the harness has none.
        count: documents evaluated; None for a group.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    count: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HarnessSettings:
    """Settings of a measurement.

    Attributes:
        limit: documents of each task; None: all.
        shots: examples in the prompt; None: the task's own number.
        chat: put prompts into the model's chat template.
        batch_size: requests answered at once.
        include: a folder with the user's own tasks (YAML); code in it is run.
        seed: for all of the harness's draws.
    """

    limit: int | None = None
    shots: int | None = None
    chat: bool = False
    batch_size: int = 8
    include: Path | None = None
    seed: int = 0


def check() -> None:
    """Check that the harness is installed, without importing it.

    Raises:
        DependencyError: it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DependencyError(
            "lm-evaluation-harness is not installed", hint="pip install 'fedrai[lm-eval]'"
        )


def measure(
    model: LanguageModel,
    adapter: AdapterState | None,
    tasks: Sequence[str],
    settings: HarnessSettings = HarnessSettings(),
) -> list[TaskScore]:
    """Have the harness measure a model.

    Args:
        model: the base model.
        adapter: the adapter on it; None: the base model alone.
        tasks: names of tasks, groups or tags.
        settings: settings of the measurement.

    Raises:
        DependencyError: the harness is not installed.
        EvaluationError: a task does not exist, its data is not available, or it runs generated
            code.
    """
    check()
    with _quiet():
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        manager = _manager(settings.include, tasks)
        _check_tasks(manager, tasks)
        _check_data(manager, tasks)
        with model.using(adapter), model.mode(training=False):
            results = simple_evaluate(
                HFLM(pretrained=model.base, tokenizer=model.tokenizer,
                     batch_size=settings.batch_size),
                tasks=list(tasks),
                task_manager=manager,
                limit=settings.limit,
                num_fewshot=settings.shots,
                apply_chat_template=settings.chat,
                log_samples=False,
                **dict.fromkeys(SEEDS, settings.seed),
            )  # fmt: skip
    return list(_scores(results))


def harness_version() -> str:
    """The harness's version; figures of different versions may differ."""
    return version("lm_eval")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the harness's advice, and git's, which it asks for a commit; errors are kept."""
    from unittest.mock import patch

    from lm_eval import evaluator

    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with patch.object(evaluator, "get_git_commit_hash", lambda: None):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _manager(include: Path | None, tasks: Sequence[str]) -> Any:
    """The harness's index of tasks; its own ten thousand are read only if one of them is named."""
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=str(include), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=str(include) if include else None)


def _check_tasks(manager: Any, tasks: Sequence[str]) -> None:
    if not tasks:
        raise EvaluationError("no task is named", hint="for example --tasks arc_easy,hellaswag")
    for name in tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise EvaluationError(
                f"lm-evaluation-harness has no task {name}",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "`lm-eval ls tasks` lists them",
            )


def _check_data(manager: Any, tasks: Sequence[str]) -> None:
    """Load the tasks, which fetches their data, before the model answers anything."""
    for name in tasks:
        try:
            loaded = manager.load([name])["tasks"]
        except ImportError as error:
            raise DependencyError(
                f"the task {name} needs the package {error.name or 'that it names'}",
                hint="install it in the environment of lm-eval",
            ) from None
        except (OSError, ValueError) as error:  # datasets raises both: no network, nothing cached
            raise EvaluationError(
                f"the data of {name} is not available ({type(error).__name__})",
                hint="the harness fetches it from the hub: go online once (HF_HUB_OFFLINE unset),"
                " or name a task on files of your own with --include",
            ) from None
        unsafe = [n for n, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe:
            raise EvaluationError(
                f"the task {unsafe[0]} runs code that the model writes",
                hint="run such tasks with `lm-eval` itself, in a sandbox",
            )


def _scores(results: Mapping[str, Any]) -> Iterator[TaskScore]:
    counts = results.get("n-samples", {})
    for task, values in sorted(results["results"].items()):
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            yield TaskScore(
                task,
                metric,
                filtered,
                float(value),
                float(error) if isinstance(error, int | float) else None,
                counts.get(task, {}).get("effective"),
            )
