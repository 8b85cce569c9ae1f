"""General ability by lm-evaluation-harness (ARC, HellaSwag, IFEval ...) on our models.

The model with its adapter is handed over as it stands in memory: nothing is merged or written. The
harness's tasks, prompts, metrics and standard errors are its own
(https://github.com/EleutherAI/lm-evaluation-harness). Greedy or by likelihood as its tasks say.
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
from unittest.mock import patch

from fedrai.errors import DependencyError, EvaluationError
from fedrai.runs.files import write_text, writing

if TYPE_CHECKING:
    from fedrai.model import AdapterState, LanguageModel


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One figure of one task.

    Attributes:
        task: of the harness, or a group of its tasks.
        metric: such as "acc" or "exact_match".
        filter: how the answer was taken from the text; "none" where it was not.
        value: in the metric's own unit; most are shares of 1.
        stderr: its standard error; None where the harness has none.
        count: documents that were asked; None for a group.
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


def check() -> None:
    """See that the harness is installed, without importing it.

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
    *,
    limit: int = 0,
    shots: int | None = None,
    chat: bool = False,
    batch_size: int = 8,
    include: Path | None = None,
    seed: int = 0,
) -> list[TaskScore]:
    """Have the harness measure a model.

    Args:
        model: the base model.
        adapter: the adapter on it; None: the base model alone.
        tasks: names of tasks, groups or tags.
        limit: documents of each task; 0: all.
        shots: examples in the prompt; None: as many as the task says.
        chat: put prompts into the model's chat template.
        batch_size: requests that are answered at once.
        include: a folder with tasks of one's own (YAML); its code is run where it has some.
        seed: of everything that the harness draws.

    Raises:
        DependencyError: the harness is not installed.
        EvaluationError: there is no such task, its data cannot be had, or it runs generated code.
    """
    check()
    with _quiet():
        from lm_eval.evaluator import simple_evaluate

        manager = _manager(include, tasks)
        _check_tasks(manager, tasks)
        _check_data(manager, tasks)
        with model.using(adapter), model.mode(training=False):
            found = simple_evaluate(
                _wrapped(model, batch_size),
                tasks=list(tasks),
                task_manager=manager,
                limit=limit or None,
                num_fewshot=shots,
                apply_chat_template=chat,
                log_samples=False,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
    return list(_scores(found))


def harness_version() -> str:
    """The harness's version; figures of different ones may differ."""
    return version("lm_eval")


def save(file: Path, text: str) -> None:
    """Write figures to a file, whole or not at all.

    Raises:
        EvaluationError: it cannot be written.
    """
    with writing(file, EvaluationError):
        write_text(file, text + "\n")


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness's advice stays away, and git's, which it asks for a commit; errors are ours."""
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
    """The harness's index of tasks; its own ten thousand are only read if one of them is wanted."""
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=str(include), include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=str(include) if include else None)


def _wrapped(model: LanguageModel, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.base, tokenizer=model.tokenizer, batch_size=batch_size)


def _check_tasks(manager: Any, tasks: Sequence[str]) -> None:
    known = manager.all_tasks
    for name in tasks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise EvaluationError(
                f"lm-evaluation-harness has no task {name}",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "`lm-eval ls tasks` lists them",
            )
    if not tasks:
        raise EvaluationError("no task is named", hint="for example --tasks arc_easy,hellaswag")


def _check_data(manager: Any, tasks: Sequence[str]) -> None:
    """Load the tasks, which fetches their data, before the model is asked anything."""
    for name in tasks:
        try:
            loaded = manager.load([name])["tasks"]
        except ImportError as error:
            raise DependencyError(
                f"the task {name} needs the package {error.name or 'that it names'}",
                hint="install it beside lm-eval",
            ) from None
        except (OSError, ValueError) as error:  # datasets raises both: no network, nothing cached
            raise EvaluationError(
                f"the data of {name} cannot be had ({type(error).__name__})",
                hint="the harness fetches it from the hub: go online once (HF_HUB_OFFLINE unset),"
                " or name a task over files of yours with --include",
            ) from None
        unsafe = [n for n, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)]
        if unsafe:
            raise EvaluationError(
                f"the task {unsafe[0]} runs code that the model writes",
                hint="run such tasks with `lm-eval` itself, in a sandbox",
            )


def _scores(found: Mapping[str, Any]) -> Iterator[TaskScore]:
    counts = found.get("n-samples", {})
    for task, values in sorted(found["results"].items()):
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
