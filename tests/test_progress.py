"""Lines of progress without a terminal: not more than one in half a minute, and not less."""

import io
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock import Clock
from fedrai.cli.show.display import Display
from fedrai.progress import SECONDS_BETWEEN_LINES, ProgressLines
from fedrai.records import TrainingStep
from fedrai.runs.record import Summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def step(number: int, of: int, seconds: float = 5.0) -> TrainingStep:
    return TrainingStep(number, of, 1.5, 500, seconds)


def test_a_line_tells_done_of_and_the_time_left_at_the_pace_of_the_phase() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    progress.report("answers", 0, 1600)
    clock.now = 32.0
    progress.report("answers", 64, 1600)
    assert lines == ["answers: 64 of 1,600, 12 min 48 s left"]  # 1,536 more at 2 a second


def test_what_was_known_from_before_does_not_count_as_pace() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    progress.report("rows", 900, 1000)
    clock.now = 30.0
    progress.report("rows", 930, 1000)
    assert lines == ["rows: 930 of 1,000, 1 min 10 s left"]  # 70 more at 1 a second


def test_a_batch_that_takes_long_is_not_silent() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    progress.report("answers", 0, 128)
    for clock.now in (29.0, 30.0, 59.0, 60.0):
        progress.beat()
    clock.now = 61.0
    progress.report("answers", 64, 128)
    for clock.now in (91.0, 122.0):
        progress.beat()
    assert lines == [
        "answers: 0 of 128", "answers: 0 of 128",
        "answers: 64 of 128, 31 s left",  # 61 s for the other half, of which 30 s are over
        "answers: 64 of 128, slower than before",
    ]  # fmt: skip


def test_nothing_is_said_of_a_phase_that_has_ended() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    progress.report("answers", 128, 128)
    clock.now = 100.0
    progress.beat()
    assert lines == []
    progress.report("answers", 0, 128)  # of the next model: at its own pace
    clock.now = 110.0
    progress.beat()
    assert lines == ["answers: 0 of 128"]


def test_other_lines_count() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    clock.now = 25.0
    progress.reset()
    for clock.now in (30.0, 54.0, 55.0):
        progress.report("steps", int(clock.now), 260)
    assert lines == ["steps: 55 of 260, 3 min 25 s left"]  # 205 more at 1 a second


@given(st.lists(st.tuples(st.floats(0.01, 200.0), st.integers(1, 64)), max_size=40))
def test_never_two_lines_in_half_a_minute_and_never_a_minute_without(
    batches: list[tuple[float, int]],
) -> None:
    """Whatever batches take and hold, with a beat each second."""
    clock, lines = Clock(), []
    progress = ProgressLines(lambda line: lines.append((clock.now, line)), clock)
    of = sum(size for _, size in batches) + 1
    done, at = 0, 0.0
    progress.report("rows", done, of)
    for seconds, size in batches:
        while clock.now + 1 < at + seconds:
            clock.now += 1
            progress.beat()
        at = clock.now = at + seconds
        done += size
        progress.report("rows", done, of)
    times = [0.0, *(when for when, _ in lines), at]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(gap >= SECONDS_BETWEEN_LINES for gap in gaps[:-1])
    assert all(gap <= SECONDS_BETWEEN_LINES + 1 + 1e-6 for gap in gaps)
    assert all(f" of {of:,}" in line or of == 1 for _, line in lines)


def test_beats_come_by_themselves_and_end_with_the_block() -> None:
    lines: list[str] = []
    progress = ProgressLines(lines.append, every=0.05)
    with progress.beating():
        progress.report("answers", 0, 64)
        until = time.monotonic() + 5
        while len(lines) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    ended = len(lines)
    assert ended >= 3
    assert set(lines) == {"answers: 0 of 64"}
    time.sleep(0.15)
    assert len(lines) == ended


def test_a_stream_that_was_closed_ends_the_beats_alone() -> None:
    """A thread that raises would fail the test."""
    stream, clock = io.StringIO(), Clock()
    progress = ProgressLines(lambda line: print(line, file=stream), clock, every=0.02)
    progress.report("answers", 0, 64)
    stream.close()
    clock.now = 1.0
    with progress.beating():
        time.sleep(0.1)


# --- what commands show ---------------------------------------------------------------------------


def shown(stream: io.StringIO) -> list[str]:
    """Lines without their time."""
    return [line[9:] for line in stream.getvalue().splitlines()]


def test_training_steps_show_now_and_then() -> None:
    """260 steps of 5 s: 21 min 40 s."""
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, clock)
    display.plan(260, 0, Summary("run", "unfinished", 0, 1, 0))
    display.event("round-started", round=1, clients=["ward"])
    for number in range(1, 261):
        clock.now = 5.0 * number
        display.step("ward", step(number, 260))
    lines = shown(stream)[1:]
    assert len(lines) == 260 * 5 // 30
    assert lines[0] == (
        "  round 1 ward: 6 of 260 steps, loss 1.500, 100 tokens/s, 21 min 10 s of training left"
    )
    assert lines[-1].startswith("  round 1 ward: 258 of 260 steps")
    assert lines[-1].endswith("10 s of training left")


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (lambda d, n: d.answers("advbench", n, 1600), "  evaluation: advbench: "),
        (lambda d, n: d.judged("ward", n, 1600), "  filter: ward: "),
        (lambda d, n: d.event("constitution-progress", phase="revisions", done=n, of=1600),
         "  constitution: revisions: "),
        (lambda d, n: d.event("constitution-progress", phase="probe", done=n, of=1600),
         "  constitution: probe: "),
        (lambda d, n: d.event("constitution-progress", phase="training", done=n, of=1600),
         "  constitution: training: "),
    ],
)  # fmt: skip
def test_every_long_phase_shows_now_and_then(report, line) -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, clock)
    for second in range(0, 1441, 9):  # 24 minutes
        clock.now = float(second)
        report(display, second * 1600 // 1440)
    lines = [text for text in shown(stream) if text.startswith(line)]
    assert len(lines) == 40  # at 36, 72, ... 1,440 s: reports come every 9 s
    assert lines[0] == f"{line}40 of 1,600, 23 min 24 s left"
    assert lines[-1] == f"{line}1,600 of 1,600"


def test_a_server_that_waits_for_its_clients_says_so() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, clock)
    for clock.now in range(0, 95, 2):
        display.event("waiting", clients=["a", "b", "c"])
    assert shown(stream) == ["  waiting for 3 clients"] * 3
    display.event("round-started", round=2, clients=["a"])
    clock.now = 200.0
    display.lines.beat()
    assert shown(stream)[3:] == ["round 2: 1 clients (a)"]


def test_a_terminal_has_its_bar_and_no_line_more(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), Clock()
    with Display(stream, clock) as display:
        for clock.now in (0.0, 40.0, 80.0):
            display.answers("advbench", int(clock.now), 100)
    assert "evaluation: advbench" in stream.getvalue()
    assert " of 100" not in stream.getvalue()
    assert "left" not in stream.getvalue()
