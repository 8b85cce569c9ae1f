"""One run and its tracker: sends figures that the folder has committed and the tracker lacks.

`tracking.json` in the run folder records the tracker, its id of the run, and the figures sent. A
figure is recorded before it is sent, so that a kill in between loses it rather than sends it twice.
If sending fails, the record is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fedrai.recipe.tracking import Tracking
from fedrai.runs.folder import RunFolder
from fedrai.runs.tracking import figures
from fedrai.runs.tracking.trackers import Tracker, connect, identity_of

STATE = "tracking.json"
EVENTS = ("started", "filter-finished", "round-finished", "evaluation-finished", "finished")

Connect = Callable[[Tracking, str, Mapping[str, str | float]], Tracker]


class FigureSender:
    """Sends a run's figures to a tracker as they are committed.

    Args:
        run: the run folder.
        destination: the tracker and where the run's figures go in it.
        settings: settings of the run that the tracker shows with its figures.
        say: receives a line with the destination, and one if the tracker fails.
        connect: opens the tracker.
    """

    def __init__(
        self,
        run: RunFolder,
        destination: Tracking,
        settings: Mapping[str, str | float],
        say: Callable[[str], None],
        connect: Connect = connect,
    ) -> None:
        self._run, self._destination, self._say = run, destination, say
        self._tracker: Tracker | None = None
        self._attempt(lambda: self._open(settings, connect))

    def event(self, kind: str) -> None:
        """Send new figures after an event of the run."""
        if kind in EVENTS:
            self._attempt(self._send_new)

    def close(self) -> None:
        """Send the remaining figures and end the tracker's run; a stopped run is not finished."""
        self._attempt(self._send_new)
        finished = self._run.is_finished()
        tracker = self._tracker
        if tracker is not None:
            self._attempt(lambda: tracker.close(finished))

    def _open(self, settings: Mapping[str, str | float], connect: Connect) -> None:
        state = self._state()
        self._tracker = connect(self._destination, state["id"], settings)
        self._save_state({**state, "id": self._tracker.id})
        self._say(f"figures are also sent to {self._destination.kind}: {self._tracker.viewer}")
        self._send_new()

    def _send_new(self) -> None:
        if self._tracker is None:
            return
        state = self._state()
        sent = list(state["sent"])
        for key, step, read in self._committed():
            if key in sent:
                continue
            self._save_state({**state, "sent": [*sent, key]})
            try:
                self._tracker.log(read(), step)
            except Exception:
                self._save_state({**state, "sent": sent})
                raise
            sent.append(key)

    def _committed(self) -> Iterator[tuple[str, int, Callable[[], figures.Figures]]]:
        """The committed figures in the order of steps: key, step, and how to read them."""
        run = self._run
        if (run.path / "filter.json").is_file():
            yield "filter", 0, partial(self._read, figures.filter_figures, "filter.json")
        rounds, evaluated = run.rounds(), run.evaluations()
        for n in sorted({*rounds, *evaluated}):
            if n in rounds:
                file = f"rounds/{n:04d}/round.json"
                yield f"round-{n}", n, partial(self._read, figures.round_figures, file)
            if n in evaluated:
                file = f"evaluations/{n:04d}/metrics.json"
                yield f"evaluation-{n}", n, partial(self._read, figures.evaluation_figures, file)

    def _read(
        self, form: Callable[[Mapping[str, Any]], figures.Figures], file: str
    ) -> figures.Figures:
        return form(self._run.read_json(file))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Use the tracker; if that fails, say so and stop using it."""
        try:
            action()
        except Exception as error:  # the libraries' exceptions have no common base
            self._tracker = None
            self._say(
                f"{self._destination.kind} failed ({type(error).__name__}) and gets no more"
                " figures; the run continues, and `fedrai run --resume` sends the missing ones"
            )

    def _state(self) -> dict[str, Any]:
        """The figures sent to this tracker; none if the file is of another tracker."""
        fresh = {"tracker": identity_of(self._destination), "id": "", "sent": []}
        if not (self._run.path / STATE).is_file():
            return fresh
        state = self._run.read_json(STATE)
        return state if state.get("tracker") == identity_of(self._destination) else fresh

    def _save_state(self, state: Mapping[str, Any]) -> None:
        self._run.write_json(STATE, state)


def follow(
    run: RunFolder,
    destination: Tracking | None,
    recipe: Mapping[str, Any],
    say: Callable[[str], None],
) -> FigureSender | None:
    """Follow a run with its recipe's tracker; None if the recipe has none.

    Args:
        run: the run folder.
        destination: the tracker and where the run's figures go in it; None: no tracker.
        recipe: the resolved recipe as plain values.
        say: receives a line with the destination, and one if the tracker fails.
    """
    if destination is None:
        return None
    settings = {**figures.settings(recipe), "recipe_hash": run.info["recipe_hash"]}
    return FigureSender(run, destination, settings, say)
