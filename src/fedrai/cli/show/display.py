"""What a person sees while a run proceeds: a bar on a terminal, plain lines elsewhere.

Everything goes to stderr, so that stdout is for results. Shows names, counts and figures only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from fedrai.assets import RichProgress
from fedrai.cli.show.live import Live
from fedrai.cli.show.suites import missing, suite_parts
from fedrai.cli.show.summary import (
    NO_FILTER,
    VISIBLE_ERROR,
    alignment_line,
    defence_line,
    error_text,
    filter_line,
    rows_notes,
    tuning_text,
)
from fedrai.federation.run.observer import Observer
from fedrai.progress import duration
from fedrai.records import TrainingStep
from fedrai.runs.record import EvaluationRecord, Summary

LINES = {
    "constitution-skipped": ("  constitution: not this round, {why}", ""),
    "client-kept": ("  {client}  kept from the interrupted round", ""),
    "client-set-aside": ("  {client}  set aside: {reason}", "yellow"),
    "client-log-lost": ("  {client}  a line of its log is lost: {why}", "yellow"),
    "norm-capped": (
        "  {client}  update of norm {norm:.3g} counts as {counted:.3g} (federation.norm_cap)",
        "yellow",
    ),
    "filter-stopped": ("stopped before training; verdicts so far are kept", ""),
    "filter-not-kept": ("filter: {why}", "yellow"),
    "names-unproven": ("nodes have no keys here: their names are not proven", "yellow"),
}
"""Events whose line is their fields in a sentence, and its style."""
SMOOTH = 0.1  # weight of the newest step in the mean time of a step


class Display(Live, Observer):
    """Shows the events of runs; use it as a context manager.

    Args:
        stream: where to write; None: stderr.
        clock: seconds that only grow.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream, clock)
        self.downloads = RichProgress()
        self._left, self._pace = 0, 0.0
        self._tokens = self._seconds = 0.0
        self._round = ""
        self._judging = False
        self._missing: set[str] = set()

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line with the time, which a terminal does not need."""
        stamp = "" if self.live else time.strftime("%H:%M:%S ")
        super().print_line(stamp + text, style)
        self.lines.reset()

    def plan(self, total_steps: int, done_steps: int, summary: Summary) -> None:
        """A run starts or resumes: what clients hold, and which rows are not trained on."""
        self._left, self._pace = total_steps - done_steps, 0.0
        self._judging = False
        self._missing.clear()
        for line in rows_notes(summary):
            self.say(line)

    def event(self, kind: str, /, **fields: Any) -> None:
        """An event of the round loop."""
        if kind in ("constitution-progress", "defence-progress"):
            self._working(kind.removesuffix("-progress"), **fields)
            return
        if kind in LINES:
            text, style = LINES[kind]
            self.close_bar()
            self.print_line(text.format(**fields), style)
        elif (show := getattr(self, "_on_" + kind.replace("-", "_"), None)) is not None:
            self.close_bar()
            show(**fields)

    def step(self, client: str, step: TrainingStep) -> None:
        """A step of local training."""
        self._left -= 1
        pace = self._pace or step.seconds
        self._pace = (1 - SMOOTH) * pace + SMOOTH * step.seconds
        self._tokens += step.tokens
        self._seconds += step.seconds
        if step.step == 1:
            self._tokens, self._seconds = step.tokens, step.seconds
        rate = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tokens/s"
        loss, left = f"loss {step.loss:.3f}", self._time_left()
        if self.live:
            text = f"  {self._round} {client}  {loss}  {rate}  {left}"
            self.bar(f"train {client}", text, step.step, step.steps)
        else:
            self.lines.report(
                f"  {self._round} {client}", step.step, step.steps,
                unit="steps", note=f"{loss}, {rate}", left=left,
            )  # fmt: skip

    def judged(self, client: str, done: int, of: int) -> None:
        """Answers that the safety filter's guard has judged."""
        if not (self.live or self._judging):
            self._judging = True
            self.print_line("filter: the guard judges every row")
        self.bar(f"filter {client}", f"  filter: {client}", done, of)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close_bar()
        self.print_line(text)

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
        self.close_bar()
        super().print_line(text, style)

    def answers(self, suite: str, done: int, of: int) -> None:
        """A batch of answers of an evaluation."""
        self.bar(f"ask {suite}", self._title(f"evaluation: {suite}"), done, of)

    def _on_aggregation_finished(self, of_change: float, **_: Any) -> None:
        if of_change >= VISIBLE_ERROR:
            self.print_line(f"  aggregation: {error_text(of_change)}")

    def _on_privacy_accounted(
        self, epsilon: float, delta: float, releases: int, secret: bool, **_: Any
    ) -> None:
        kind = "" if secret else " (noise from the seed: an experiment)"
        after = f"{releases} round{'s' * (releases != 1)} of one client{kind}"
        self.print_line(f"  privacy: epsilon {epsilon:.3g}, delta {delta:g} after {after}")

    def _on_weight_capped(self, client: str, counted: float, **fields: Any) -> None:
        unit = "tokens" if "tokens" in fields else "rows"
        self.print_line(
            f"  {client}  states {fields[unit]:,.0f} {unit}; they count as {counted:,.0f}"
            " (federation.weight_cap)",
            "yellow",
        )

    def _on_defence_finished(self, steps: list[dict[str, Any]], **_: Any) -> None:
        for step in steps:
            self.print_line(f"  defence: {defence_line(step)}")

    def _on_constitution_started(self, round: int, why: str) -> None:  # noqa: A002
        self._round = f"round {round}" if round else ""
        self.print_line(f"  constitution: {why}")

    def _on_constitution_finished(self, **figures: Any) -> None:
        self.print_line(f"  constitution: {alignment_line(figures)}")

    def _working(self, part: str, *, phase: str, done: int, of: int) -> None:
        """Progress of long work on the server; without a terminal a line when a part is done."""
        self.bar(f"{part} {phase}", self._title(f"{part}: {phase}"), done, of)
        if not self.live and of and done == of and phase not in ("probe", "training"):
            self.print_line(f"  {part}: {of} {phase}")

    def _title(self, what: str) -> str:
        return f"  {self._round} {what}" if self._round else f"  {what}"

    def _time_left(self) -> str:
        seconds = max(0, int(self._left * self._pace))
        return f"{duration(seconds)} of training left"

    def _on_round_started(self, round: int, clients: list[str]) -> None:  # noqa: A002
        self._round = f"round {round}"
        self.print_line(f"round {round}: {len(clients)} clients ({', '.join(clients[:6])}"
                   f"{', ...' if len(clients) > 6 else ''})")  # fmt: skip

    def _on_round_shared(self, source: str, steps: int, **fields: Any) -> None:
        self._round, self._left = f"round {fields['round']}", self._left - steps
        self.print_line(f"{self._round}: the same as in {source}, not trained again")

    def _on_client_finished(self, client: str, **numbers: Any) -> None:
        timed = "tokens" in numbers and "seconds" in numbers  # a node may keep any of them
        rate = f"{numbers['tokens'] / max(numbers['seconds'], 1e-9):,.0f}" if timed else "?"
        left = f"  {self._time_left()}" if self._pace else ""
        reported = "loss_first" in numbers and "loss_last" in numbers
        ends = (f"{numbers[key]:.3f}" for key in ("loss_first", "loss_last") if reported)
        parts = [f"loss {' -> '.join(ends)}"] if reported else []
        parts += filter(None, [tuning_text(numbers)])
        losses = ", ".join(parts) or "loss not reported"
        self.print_line(f"  {client}  {losses}  {rate} tokens/s{left}")

    def _on_client_suspicious(self, client: str, action: str, reason: str, **_: Any) -> None:
        what = {"set-aside": "set aside by vetting", "weigh": "weighs less after vetting"}
        line = f"  {client}  {what.get(action, 'suspicious (only recorded)')}: {reason}"
        self.print_line(line, "yellow")

    def _on_filter_finished(
        self, total: dict[str, Any] | None, skipped: str, cost: dict[str, Any]
    ) -> None:
        if skipped or total is None:
            self.print_line(f"{NO_FILTER}: {skipped}", "bold red")
            return
        self.print_line(f"filter: {filter_line(total)}, {cost['seconds']:.0f} s")

    def _on_nodes_present(self, clients: list[str]) -> None:
        self.print_line(f"nodes: {', '.join(clients) or 'none yet'}")

    def _on_node_refused(self, client: str, reason: str, **_: Any) -> None:
        why = {
            "name-not-proven": f"a node calls itself {client} without {client}'s key",
            "name-not-registered": f"a node calls itself {client}, but there is no {client}.pub",
        }.get(reason, f"a second node calls itself {client}")
        self.print_line(f"  {why}; it is left out", "yellow")

    def _on_waiting_for_nodes(self, missing: int) -> None:
        self.bar("waiting", f"  waiting for {missing} more nodes", 0, 1)

    def _on_waiting(self, clients: list[str]) -> None:
        self.bar("waiting", f"  waiting for {len(clients)} clients", 0, 1)

    def _on_evaluation_started(self, round: int) -> None:  # noqa: A002
        self._round = f"round {round}"
        what = "the base model" if round == 0 else f"the model after round {round}"
        self.print_line(f"evaluating {what}")

    def _on_suites_missing(self, unavailable: Mapping[str, str]) -> None:
        for line in missing({"unavailable": unavailable}):
            if line not in self._missing:
                self.print_line(line, "yellow")
                self._missing.add(line)

    def _on_evaluation_finished(self, **figures: Any) -> None:
        record = EvaluationRecord.from_json(0, figures)
        means = {"safe": record.outside_safe, "refused": record.outside_refused}
        outside = [f"outside {n} {mean.format()}" for n, mean in means.items() if mean is not None]
        words = {"safe": "AdvBench safe", "safe-legacy": "(legacy)", "refused": "ordinary refused"}
        parts = [f"{words[n]} {record.rates[n].format()}" for n in words if n in record.rates]
        if record.loss is not None or record.loss_is_nan:
            parts.append(f"held-out loss {record.loss_text()}")
        for line in (outside, parts, suite_parts(figures)):
            if line:
                self.print_line("  " + ", ".join(line))
        self._on_suites_missing(record.unavailable)
