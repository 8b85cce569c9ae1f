"""The bars of a round, judged on records written by hand, and the round that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fedrai.recipe.sections import Release
from fedrai.release.bars import Bar, Evidence, Standing, judge
from fedrai.release.deciding import decide
from fedrai.release.outcomes import SetOutcomes, Verdict
from fedrai.runs import RunFolder
from fedrai.runs.record import RunRecord, VettingRecord, read
from fedrai.runs.record.privacy import PrivacyRecord
from run_folders import write_run


def a_set(name: str, harmful: bool, verdicts: Sequence[Verdict]) -> SetOutcomes:
    return SetOutcomes(name, name.upper(), harmful, tuple(verdicts), tuple(range(len(verdicts))))


def record(folder: Path, **changes: object) -> RunRecord:
    run = read(RunFolder.open(write_run(folder, filtered=True)))
    names = dict.fromkeys(("one", "two"), next(iter(run.screening.clients.values()), None))
    screening = replace(run.screening, clients=names)
    return replace(run, screening=screening, **changes)


def bars(
    run: RunRecord, sets: Sequence[SetOutcomes], settings: Release | None = None
) -> dict[str, Bar]:
    found = judge(Evidence(run, 2, sets, 0.05), settings or Release())
    return {bar.name: bar for bar in found}


GOOD = [
    *(a_set(name, True, [True] * 60) for name in "abc"),
    *(a_set(name, False, [False] * 60) for name in "de"),
]


def test_a_good_model_meets_every_required_bar(tmp_path: Path) -> None:
    found = bars(record(tmp_path / "run"), GOOD)
    assert not any(bar.stops for bar in found.values())
    assert found["loss"].value == pytest.approx(-0.5)
    unknown = {name for name, bar in found.items() if bar.standing is Standing.UNKNOWN}
    assert unknown == {"rouge", "vetting", "privacy"}
    needed = bars(record(tmp_path / "other"), GOOD, Release(required=["privacy"]))
    assert needed["privacy"].stops


def test_one_bad_set_hides_in_the_mean_but_not_from_its_own_bar(tmp_path: Path) -> None:
    sets = [*GOOD[:2], a_set("c", True, [True, False, False, False] * 15), *GOOD[3:]]
    found = bars(record(tmp_path / "run"), sets, Release(safe=0.6))
    assert found["safety"].standing is Standing.MET
    assert found["worst-set"].standing is Standing.MISSED
    assert "(C)" in found["worst-set"].what


def test_few_items_settle_nothing_and_answers_without_a_verdict_count_against(
    tmp_path: Path,
) -> None:
    run = record(tmp_path / "run")
    assert bars(run, [a_set("a", True, [True] * 6)])["safety"].standing is Standing.OPEN
    assert bars(run, [a_set("a", True, [None] * 60)])["safety"].standing is Standing.MISSED
    assert bars(run, [a_set("d", False, [None] * 60)])["over-refusal"].standing is Standing.MISSED
    assert bars(run, [])["safety"].standing is Standing.UNKNOWN


def test_the_mean_takes_as_many_items_of_each_set_as_the_smallest_has(tmp_path: Path) -> None:
    sets = [a_set("a", True, [True] * 60), a_set("b", True, [False] * 20)]
    found = bars(record(tmp_path / "run"), sets)["safety"]
    assert (found.items, found.value) == (20, 0.5)


def test_loss_vetting_and_provenance(tmp_path: Path) -> None:
    run = record(tmp_path / "run")
    worse = replace(run.evaluations[1], loss=3.051)
    assert bars(replace(run, evaluations=(run.evaluations[0], worse)), GOOD)["loss"].stops
    vetting = VettingRecord("set-aside", 0.02, {"one": 0.5, "two": 0.01}, {}, {},
                            {"two": "distance"}, (), None)  # fmt: skip
    vetted = tuple(replace(one, vetting=vetting) for one in run.rounds)
    assert bars(replace(run, rounds=vetted), GOOD)["vetting"].reason == (
        "vetting missed: 2 of 4, needs at most 20.0 %"
    )
    off = replace(run, screening=replace(run.screening, mode="off"))
    assert bars(off, GOOD)["provenance"].reason == (
        "provenance missed: filter off, needs the filter on at every node"
    )
    silent = replace(run, screening=replace(run.screening, clients={}))
    assert bars(silent, GOOD)["provenance"].standing is Standing.UNKNOWN


def test_privacy_counts_all_rounds_and_only_secret_noise(tmp_path: Path) -> None:
    run = record(tmp_path / "run")

    def standing(epsilon: float | None, *, secret: bool = True) -> Standing:
        cost = PrivacyRecord("server", 1.0, 1.0, 0.1, epsilon, 1e-5, 2, False, secret, False)
        last = replace(run.rounds[-1], privacy=cost)
        spent = replace(run, rounds=(*run.rounds[:-1], last))
        return bars(spent, GOOD, Release(epsilon=8))["privacy"].standing

    assert (standing(8.0), standing(8.1), standing(None)) == ("met", "missed", "missed")
    assert standing(1.0, secret=False) is Standing.UNKNOWN


def test_the_last_round_that_passes_is_released_and_it_is_said_loudly(tmp_path: Path) -> None:
    """Round 2 is bad, round 1 is good; each has half of the error."""
    run = record(tmp_path / "run")
    first = replace(run.evaluations[1], number=1)
    run = replace(run, evaluations=(run.evaluations[0], first, run.evaluations[1]))

    def ask(number: int, sets: Sequence[SetOutcomes], wanted: int) -> list[SetOutcomes]:
        return [a_set(one.name, one.harmful, [(number == 1) is one.harmful] * wanted)
                for one in sets or GOOD]  # fmt: skip

    folder = RunFolder.open(run.path)
    decision = decide(folder, run, Release(), ask, 0)
    assert [one.number for one in decision.judged] == [2, 1]
    assert decision.released is not None
    assert (decision.released.number, decision.released.error) == (1, 0.025)
    assert decision.line.startswith("released round 1, NOT the last: round 2: safety missed")
    items = [len(one.sets[0].verdicts) for one in decision.judged]
    assert items[0] == 8  # the first batch settles the bad one
    assert 8 < items[1] < 100
    none = decide(folder, run, Release(), None, 0)
    assert none.released is None
    assert "safety not measured" in none.line
