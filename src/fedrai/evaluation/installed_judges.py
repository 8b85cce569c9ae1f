"""Judges of refusal that an installed package offers by an entry point `fedrai.judges`.

Such a judge reads a request and its answer, and says whether the answer is a full refusal, a
partial refusal or compliance. A judge of harm is a guard: see `fedrai.guards`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedrai import plugins
from fedrai.errors import EvaluationError
from fedrai.evaluation.labelled_answers import Label, PromptAndAnswer
from fedrai.recipe.evaluation import BUILT_IN_JUDGES, JUDGE_PLUGINS
from fedrai.records import OnProgress, ignore


class RefusalJudge(Protocol):
    """What the function behind an entry point returns."""

    @property
    def revision(self) -> str:
        """Changes whenever a verdict may change; written beside the figures."""

    def judge(
        self, rows: Sequence[PromptAndAnswer], on_progress: OnProgress = ignore
    ) -> Sequence[str | None]:
        """Judge answers.

        Args:
            rows: requests with their answers.
            on_progress: called with (answers judged, total); may raise to stop.

        Returns:
            One verdict a row, in order: "full refusal", "partial refusal" or "compliance"; None
            where the answer cannot be judged.
        """


@dataclass(frozen=True, slots=True)
class InstalledJudge:
    """A judge of an installed package.

    Attributes:
        name: name of its entry point.
        judge: what the package's function returned.
    """

    name: str
    judge: RefusalJudge

    @property
    def full_name(self) -> str:
        """The name with the revision."""
        return f"{self.name}@{self.judge.revision}"

    def labels(
        self, rows: Sequence[PromptAndAnswer], on_progress: OnProgress = ignore
    ) -> list[Label | None]:
        """The judge's label of each answer; None: not judged.

        Raises:
            EvaluationError: the verdicts do not match the rows, or one is not a label.
        """
        verdicts = list(self.judge.judge(rows, on_progress))
        if len(verdicts) != len(rows) or not all(v in (None, *Label) for v in verdicts):
            raise EvaluationError(
                f"the judge {self.name!r} must give one verdict for each of {len(rows):,} answers:"
                f" {', '.join(Label)}, or None",
                hint="see docs/extending.md",
            )
        return [None if verdict is None else Label(verdict) for verdict in verdicts]


def load(name: str) -> InstalledJudge:
    """The judge that an installed package offers under a name.

    Raises:
        EvaluationError: no package offers it, or what the package returns is not a judge.
        DependencyError: the package cannot be used.
    """
    available = plugins.names(JUDGE_PLUGINS)
    if name not in available:
        near = difflib.get_close_matches(name, [*BUILT_IN_JUDGES, *available], n=1)
        raise EvaluationError(
            f"there is no judge {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"built in: {', '.join(BUILT_IN_JUDGES)}; {plugins.installed(JUDGE_PLUGINS)}",
        )
    judge: Any = plugins.make(JUDGE_PLUGINS, name)
    revision, method = getattr(judge, "revision", None), getattr(judge, "judge", None)
    if not (isinstance(revision, str) and callable(method)):
        raise EvaluationError(
            f"the plug-in {name!r} of {plugins.package(JUDGE_PLUGINS, name)} is not a judge:"
            " it must have a revision and a method judge",
            hint="see docs/extending.md",
        )
    return InstalledJudge(name, judge)
