"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere.

Everything goes to stderr, so that stdout stays for results. Shows names, counts and figures only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, TextIO

from rich.box import HEAVY_HEAD, MARKDOWN
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from fedrai.assets import RichProgress
from fedrai.cli.show.suites import missing, side_by_side, suite_parts
from fedrai.cli.show.summary import (
    ALIGNED_COLUMNS,
    ALIGNED_NOTE,
    NO_FILTER,
    alignment_line,
    alignments,
    comparison,
    filter_line,
    rows_notes,
)
from fedrai.federation.run.observer import Observer
from fedrai.progress import ProgressLines, duration
from fedrai.records import TrainingStep
from fedrai.runs.record import EvaluationRecord, Summary
from fedrai.runs.record.evaluations import COLUMNS

SMOOTH = 0.1  # weight of the newest step in the mean time of a step


class Display(Observer):
    """Shows the events of runs; use it as a context manager.

    Args:
        stream: where to write; None: stderr.
        clock: seconds that only grow.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self.live = self.console.is_terminal
        self.downloads = RichProgress()
        self._progress = ProgressLines(self._line, clock)
        self._open = ExitStack()
        self._left, self._pace = 0, 0.0
        self._tokens = self._seconds = 0.0
        self._round = ""
        self._judging = False
        self._missing: set[str] = set()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""

    def __enter__(self) -> Display:
        if not self.live:
            self._open.enter_context(self._progress.beating())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self._close()

    def plan(self, total_steps: int, done_steps: int, summary: Summary) -> None:
        """A run starts or resumes: what became of rows that are not trained on."""
        self._left, self._pace = total_steps - done_steps, 0.0
        self._judging = False
        self._missing.clear()
        for line in rows_notes(summary):
            self.say(line)

    def event(self, kind: str, /, **fields: Any) -> None:
        """An event of the round loop."""
        if kind == "constitution-progress":
            self._aligning(**fields)
            return
        show = getattr(self, "_on_" + kind.replace("-", "_"), None)
        if show is not None:
            self._close()
            show(**fields)

    def step(self, client: str, step: TrainingStep) -> None:
        """A step of local training."""
        self._left -= 1
        self._pace = (
            step.seconds if not self._pace else ((1 - SMOOTH) * self._pace + SMOOTH * step.seconds)
        )
        self._tokens += step.tokens
        self._seconds += step.seconds
        if step.step == 1:
            self._tokens, self._seconds = step.tokens, step.seconds
        rate = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tokens/s"
        loss, left = f"loss {step.loss:.3f}", self._time_left()
        if self.live:
            text = f"  {self._round} {client}  {loss}  {rate}  {left}"
            self._bar(text, f"train {client}", step.step, step.steps)
        else:
            self._progress.report(
                f"  {self._round} {client}", step.step, step.steps,
                unit="steps", note=f"{loss}, {rate}", left=left,
            )  # fmt: skip

    def judged(self, client: str, done: int, of: int) -> None:
        """Answers that the safety filter's guard has judged."""
        if not (self.live or self._judging):
            self._judging = True
            self._line("filter: the guard judges every row")
        self._bar(f"  filter: {client}", f"filter {client}", done, of)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._close()
        self._line(text)

    def heading(self, text: str) -> None:
        """The start of one of several runs."""
        self._plain(f"== {text}", "bold")

    def note(self, text: str) -> None:
        """A line of its own, without the time."""
        self._plain(text)

    def warn(self, text: str) -> None:
        """What may change the result."""
        self._plain(f"note: {text}")

    def _plain(self, text: str, style: str = "") -> None:
        self._close()
        self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def answers(self, suite: str, done: int, of: int) -> None:
        """A batch of answers of an evaluation."""
        self._bar(self._title(f"evaluation: {suite}"), f"ask {suite}", done, of)

    def _on_constitution_started(self, round: int, why: str) -> None:  # noqa: A002
        self._round = f"round {round}" if round else ""
        self._line(f"  constitution: {why}")

    def _on_constitution_skipped(self, round: int, why: str) -> None:  # noqa: A002
        self._line(f"  constitution: not this round, {why}")

    def _on_constitution_finished(self, **figures: Any) -> None:
        self._line(f"  constitution: {alignment_line(figures)}")

    def _aligning(self, phase: str, done: int, of: int) -> None:
        """What an alignment has got through; without a terminal a line when a part is done."""
        self._bar(self._title(f"constitution: {phase}"), f"align {phase}", done, of)
        if not self.live and of and done == of and phase not in ("probe", "training"):
            self._line(f"  constitution: {of} {phase}")

    def _title(self, what: str) -> str:
        return f"  {self._round} {what}" if self._round else f"  {what}"

    def _bar(self, text: str, key: str, done: int, of: int) -> None:
        if not self.live:
            self._progress.report(text, done, of)
            return
        if self._label != key:
            self._close()
            self._label = key
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(text, total=of)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=text, completed=done)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None
        self._label = ""
        self._progress.end()

    def _time_left(self) -> str:
        seconds = max(0, int(self._left * self._pace))
        return f"{duration(seconds)} of training left"

    def _line(self, text: str, style: str = "") -> None:
        stamp = "" if self.live else time.strftime("%H:%M:%S ")
        self.console.print(stamp + text, style=style or None, markup=False, soft_wrap=True)
        self._progress.spoke()

    def _on_round_started(self, round: int, clients: list[str]) -> None:  # noqa: A002
        self._round = f"round {round}"
        self._line(f"round {round}: {len(clients)} clients ({', '.join(clients[:6])}"
                   f"{', ...' if len(clients) > 6 else ''})")  # fmt: skip

    def _on_client_finished(self, client: str, **numbers: Any) -> None:
        timed = "tokens" in numbers and "seconds" in numbers  # a node may keep any of them
        rate = f"{numbers['tokens'] / max(numbers['seconds'], 1e-9):,.0f}" if timed else "?"
        left = f"  {self._time_left()}" if self._pace else ""
        told = "loss_first" in numbers and "loss_last" in numbers
        loss = f"{numbers['loss_first']:.3f} -> {numbers['loss_last']:.3f}" if told else "not told"
        self._line(f"  {client}  loss {loss}  {rate} tokens/s{left}")

    def _on_client_kept(self, client: str, **_: Any) -> None:
        self._line(f"  {client}  kept from the interrupted round")

    def _on_client_set_aside(self, client: str, reason: str, **_: Any) -> None:
        self._line(f"  {client}  set aside: {reason}", "yellow")

    def _on_weight_capped(self, client: str, rows: float, counted: float, **_: Any) -> None:
        text = f"  {client}  states {rows:,.0f} rows; they count as {counted:,.0f}"
        self._line(f"{text} (federation.weight_cap)", "yellow")

    def _on_client_log_lost(self, client: str, why: str) -> None:
        self._line(f"  {client}  a line of its log is lost: {why}", "yellow")

    def _on_filter_stopped(self) -> None:
        self._line("stopped before training; verdicts so far are kept")

    def _on_filter_not_kept(self, why: str) -> None:
        self._line(f"filter: {why}", "yellow")

    def _on_filter_finished(
        self, total: dict[str, Any] | None, skipped: str, cost: dict[str, Any]
    ) -> None:
        if skipped or total is None:
            self._line(f"{NO_FILTER}: {skipped}", "bold red")
            return
        self._line(f"filter: {filter_line(total)}, {cost['seconds']:.0f} s")

    def _on_nodes_present(self, clients: list[str]) -> None:
        self._line(f"nodes: {', '.join(clients) or 'none yet'}")

    def _on_names_unproven(self) -> None:
        self._line("nodes have no keys here: which node has which name is their own word", "yellow")

    def _on_node_refused(self, client: str, reason: str, **_: Any) -> None:
        why = {
            "name-not-proven": f"a node calls itself {client} without {client}'s key",
            "name-not-registered": f"a node calls itself {client}, and there is no {client}.pub",
        }.get(reason, f"a second node calls itself {client}")
        self._line(f"  {why}; it takes no part", "yellow")

    def _on_waiting_for_nodes(self, missing: int) -> None:
        self._bar(f"  waiting for {missing} more nodes", "waiting", 0, 1)

    def _on_waiting(self, clients: list[str]) -> None:
        self._bar(f"  waiting for {len(clients)} clients", "waiting", 0, 1)

    def _on_evaluation_started(self, round: int) -> None:  # noqa: A002
        self._round = f"round {round}"
        what = "the base model" if round == 0 else f"the model after round {round}"
        self._line(f"evaluating {what}")

    def _on_suites_missing(self, unavailable: Mapping[str, str]) -> None:
        for line in missing({"unavailable": unavailable}):
            if line not in self._missing:
                self._line(line, "yellow")
                self._missing.add(line)

    def _on_evaluation_finished(self, **found: Any) -> None:
        shown = EvaluationRecord.from_json(0, found)
        words = {"safe": "AdvBench safe", "safe-legacy": "(legacy)", "refused": "ordinary refused"}
        parts = [f"{words[n]} {shown.rates[n].format()}" for n in words if n in shown.rates]
        if shown.loss is not None:
            parts.append(f"held-out loss {shown.loss:.3f}")
        for line in (parts, suite_parts(found)):
            if line:
                self._line("  " + ", ".join(line))
        self._on_suites_missing(shown.unavailable)


def print_table(
    columns: list[str],
    rows: list[list[str]],
    title: str = "",
    *,
    words: int = 1,
    framed: bool = True,
) -> None:
    """A table on stdout, as wide as it needs when stdout is no terminal and COLUMNS is not set.

    Nothing is cut: where the width is too small for the longest words, each row becomes a few lines
    of its own.

    Args:
        columns: headings.
        rows: as many cells each.
        title: stands above.
        words: how many columns at the left are words; the others are numbers.
        framed: with lines around; without, a table that Markdown knows too.
    """
    console = Console(highlight=False)
    table = Table(title=title or None, title_justify="left", box=HEAVY_HEAD if framed else MARKDOWN)
    for number, column in enumerate(columns):
        first = max((cell_len(row[0]) for row in rows), default=0) if number == 0 else None
        justify: Literal["left", "right"] = "left" if number < words else "right"
        table.add_column(column, justify=justify, overflow="fold", min_width=first)
    for row in rows:
        table.add_row(*map(escape, row))
    needed = Measurement.get(console, console.options.update(max_width=10_000), table)
    if not (console.is_terminal or os.environ.get("COLUMNS", "").isdigit()):
        console = Console(highlight=False, width=max(160, needed.maximum))
    elif needed.minimum > console.width:
        _print_rows(console, columns, rows, title)
        return
    console.print(table)


def _print_rows(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str
) -> None:
    """Rows one below the other: the first cell, then a line for each of the others."""
    lines = [title] if title else []
    for first, *others in rows:
        lines.append(first)
        lines += [f"  {name}: {cell}" for name, cell in zip(columns[1:], others, strict=True)]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def print_comparison(runs: Sequence[tuple[str, Summary]]) -> None:
    """Runs side by side on stdout: rates and loss, then what constitutions did, if there are any.

    Args:
        runs: (label, summary) pairs.
    """
    print_table(["", *COLUMNS], comparison(runs))
    print_alignments(runs)


def print_suites(evaluations: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """What suites beside the common ones measured, on stdout, and why some could not.

    Args:
        evaluations: (label, figures) pairs.
    """
    columns, *rows = side_by_side(evaluations)
    if rows:
        print_table(columns, rows)
    for line in dict.fromkeys(line for _, found in evaluations for line in missing(found)):
        print(line)


def print_alignments(runs: Sequence[tuple[str, Summary]]) -> None:
    """What constitutions did, on stdout; nothing where no run has one.

    Args:
        runs: (label, summary) pairs.
    """
    if rows := alignments(runs):
        print_table(["", *ALIGNED_COLUMNS], rows)
        print(ALIGNED_NOTE)
