"""Trackers get each committed figure once, and nothing else; none can stop a run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from driver import fill_cache, run_cases, write_recipe
from fedrai import recipe
from fedrai.errors import DependencyError, RecipeError
from fedrai.rates import Rate, rate_json
from fedrai.recipe.tracking import Tracking
from fedrai.runs import RunFolder, tracking
from fedrai.runs.tracking import FigureSender
from fedrai.runs.tracking.figures import evaluation_figures, filter_figures, round_figures, settings
from fedrai.runs.tracking.trackers import without_secrets

pytestmark = pytest.mark.slow

TENSORBOARD = '\n[tracking]\nkind = "tensorboard"\n'


def needs(module: str) -> pytest.MarkDecorator:
    """Skip where an extra that the tests do not install is missing."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed (an optional extra)")


# --- which figures --------------------------------------------------------------------------------

ROUND = {
    "round": 2,
    "clients": {"a": {"num-examples": 8.0, "loss-last": 1.5}, "b": {"loss-last": float("nan")}},
    "set_aside": {"c": "no-reply"},
    "usable": 2,
    "aside": 1,
    "loss_first": 3.0,
    "loss_last": 1.75,
    "costs": {"training": {"seconds": 4.0, "tokens": 10, "bytes_up": 7}},
    "constitution": {"ran": True, "why": "a reason", "steps": 30, "yield": 0.25,
                     "probe_before": {"safe": 0.5}, "probe_after": {"safe": 1.0, "useful": None}},
}  # fmt: skip


def test_figures_of_a_round() -> None:
    assert round_figures(ROUND) == {
        "loss/first": 3.0,
        "loss/last": 1.75,
        "clients/usable": 2.0,
        "clients/set_aside": 1.0,
        "cost/training/seconds": 4.0,
        "cost/training/tokens": 10.0,
        "cost/training/bytes_up": 7.0,
        "constitution/steps": 30.0,
        "constitution/yield": 0.25,
        "constitution/safe_before": 0.5,
        "constitution/safe_after": 1.0,
        "client/a/num_examples": 8.0,
        "client/a/loss_last": 1.5,
    }


def test_outside_means_go_to_a_tracker_with_their_intervals() -> None:
    mean = {"value": 0.67, "low": 0.5, "high": 0.8, "sets": 7, "items": 350}
    found = evaluation_figures({"outside": {"means": {"safe": mean, "refused": None}}})
    assert found == {
        "evaluation/outside-safe": 0.67,
        "evaluation/outside-safe_low": 0.5,
        "evaluation/outside-safe_high": 0.8,
    }


def test_figures_of_an_evaluation_have_their_interval() -> None:
    found = evaluation_figures(
        {
            "rates": {"safe": rate_json(Rate(5, 10, 2)), "refused": rate_json(Rate(0, 0, 3))},
            "scores": {"hhh": {"value": 0.5, "low": 0.4, "high": 0.6}, "mt-bench": None},
            "both_sides": {"value": 0.25, "low": 0.125, "high": None},
            "held_out_loss": None,
            "costs": {},
        }
    )
    low, high = found.pop("evaluation/safe_low"), found.pop("evaluation/safe_high")
    # Wilson for 5 of 10: (0.5 -+ z * sqrt(0.025 + z^2/400)/(1 + z^2/10)), z = 1.959964
    assert (low, high) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert found == {
        "evaluation/safe": 0.5,
        "evaluation/safe_scored": 10.0,
        "evaluation/safe_unscored": 2.0,
        "evaluation/refused_scored": 0.0,
        "evaluation/refused_unscored": 3.0,
        "evaluation/hhh": 0.5,
        "evaluation/hhh_low": 0.4,
        "evaluation/hhh_high": 0.6,
        "evaluation/both_sides": 0.25,
        "evaluation/both_sides_low": 0.125,
    }


def test_figures_of_a_filter() -> None:
    total = {"rows": 9, "kept": 7, "dropped": 2, "replaced": 0, "unsafe": 2, "guard": "words",
             "unscored": {"empty": 1, "failed": 1}, "categories": {"hate": 2},
             "removed": ["0123"]}  # fmt: skip
    found = filter_figures({"total": total, "cost": {"seconds": 2.0}, "skipped": ""})
    assert found == {
        "filter/rows": 9.0, "filter/kept": 7.0, "filter/dropped": 2.0, "filter/replaced": 0.0,
        "filter/unsafe": 2.0, "filter/unscored": 2.0, "filter/category/hate": 2.0,
        "cost/filter/seconds": 2.0,
    }  # fmt: skip


def test_settings_hold_no_path_and_no_address(tmp_path: Path) -> None:
    made = recipe.load(write_recipe(tmp_path, tmp_path / "SECRET"), ("adapter.start=SECRET",))
    shown = settings(made.model_dump(mode="json"))
    assert "SECRET" not in json.dumps(shown)
    assert str(tmp_path) not in json.dumps(shown)
    assert (shown["seed"], shown["federation.rounds"], shown["adapter.rank"]) == (7, 3, 4)
    assert shown["aggregation.algorithm"] == "fedavg"


# --- what is sent, and when -----------------------------------------------------------------------


class Scripted:
    """A tracker that keeps what it is given; it fails at the calls whose numbers it was told."""

    def __init__(self, identity: str = "", fails: tuple[int, ...] = ()) -> None:
        self.id = identity or "fresh"
        self.viewer = "show it"
        self.calls: list[tuple[int, Mapping[str, float]]] = []
        self.fails, self.closed, self.tries = fails, None, 0

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.tries += 1
        if self.tries in self.fails:
            raise ConnectionError("SECRET")
        self.calls.append((step, figures))

    def close(self, finished: bool) -> None:
        self.closed = finished


SENT_TO = "figures are also sent to mlflow: show it"
PLACE = Tracking(kind="mlflow", project="p", name="n", uri="https://me:SECRET@host/?token=SECRET")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text('{"recipe_hash": "abc"}')
    return RunFolder(path)


def commit_round(run: RunFolder, number: int) -> None:
    folder = run.round_folder(number)
    folder.mkdir(parents=True)
    (folder / "round.json").write_text(json.dumps({"loss_last": float(number), "costs": {}}))


def commit_evaluation(run: RunFolder, number: int) -> None:
    folder = run.evaluation_folder(number)
    folder.mkdir(parents=True)
    body = {"rates": {}, "held_out_loss": 10.0 + number, "costs": {}}
    (folder / "metrics.json").write_text(json.dumps(body))


def following(run: RunFolder, tracker: Scripted, said: list[str]) -> FigureSender:
    def connect(_place: Tracking, identity: str, _settings: Any) -> Scripted:
        tracker.id = identity or tracker.id
        return tracker

    return FigureSender(run, PLACE, {}, said.append, connect)


def test_each_committed_figure_is_sent_once(run: RunFolder) -> None:
    one, said = Scripted(), []
    follower = following(run, one, said)
    commit_evaluation(run, 0)
    follower.event("evaluation-finished")
    commit_round(run, 1)
    follower.event("client-finished")  # nothing is looked for
    assert len(one.calls) == 1
    follower.event("round-finished")
    follower.event("round-finished")
    follower.close()
    assert one.closed is False
    commit_evaluation(run, 1)  # committed, and killed before anybody heard of it
    two = Scripted("other")
    again = following(run, two, said)
    assert two.id == "fresh"
    commit_round(run, 2)
    run.event("finished")
    again.close()
    assert one.calls == [(0, {"evaluation/held_out_loss": 10.0}), (1, {"loss/last": 1.0})]
    assert two.calls == [(1, {"evaluation/held_out_loss": 11.0}), (2, {"loss/last": 2.0})]
    assert (two.closed, said) == (True, [SENT_TO, SENT_TO])


def test_a_tracker_that_fails_is_left_alone_and_gets_the_rest_later(run: RunFolder) -> None:
    for number in (1, 2, 3):
        commit_round(run, number)
    broken, said = Scripted(fails=(2,)), []
    follower = following(run, broken, said)
    follower.event("round-finished")
    follower.close()
    assert [step for step, _ in broken.calls] == [1]
    assert (broken.tries, broken.closed) == (2, None)
    assert said == [SENT_TO, "mlflow failed (ConnectionError) and gets no more figures; the run"
                    " continues, and `fedrai run --resume` sends the missing ones"]  # fmt: skip
    later = Scripted()
    following(run, later, said).close()
    assert [step for step, _ in later.calls] == [2, 3]
    assert said[2:] == [SENT_TO]
    assert "SECRET" not in (run.path / "tracking.json").read_text()


def test_another_tracker_gets_everything(run: RunFolder) -> None:
    commit_round(run, 1)
    following(run, Scripted(), []).close()
    other = Scripted("new")
    FigureSender(run, Tracking(kind="wandb", project="p", name="n"), {}, print, lambda *_: other)
    assert [step for step, _ in other.calls] == [1]


def test_a_tracker_that_cannot_be_opened_stops_nothing(run: RunFolder) -> None:
    said: list[str] = []

    def connect(*_: Any) -> Scripted:
        raise OSError("no route")

    follower = FigureSender(run, PLACE, {}, said.append, connect)
    follower.event("finished")
    follower.close()
    assert len(said) == 1
    assert "OSError" in said[0]


# --- the recipe -----------------------------------------------------------------------------------


def test_tracking_is_not_part_of_the_hash(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, tmp_path)
    plain = recipe.load(file)
    other = recipe.load(file, ("tracking.kind=wandb", "tracking.offline=true"))
    assert plain.hash == other.hash
    assert plain.hash != recipe.load(file, ("seed=8",)).hash
    assert recipe.load(_written(tmp_path, other)).tracking == other.tracking


def _written(folder: Path, settings: recipe.Recipe) -> Path:
    (folder / "resolved.toml").write_text(recipe.to_toml(settings))
    return folder / "resolved.toml"


@pytest.mark.parametrize(
    "changes",
    [
        ("tracking.uri=http://host",),
        ("tracking.kind=tensorboard", "tracking.offline=true"),
        ("tracking.kind=mlflow", "tracking.uri=http://host", "tracking.folder=here"),
        ("tracking.kind=wandb", "tracking.uri=http://host", "tracking.offline=true"),
        ("tracking.kind=neptune",),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, changes: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="tracking"):
        recipe.load(write_recipe(tmp_path, tmp_path), changes)


def test_a_missing_library_is_said_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r'tracking\.kind = "trackio"') as caught:
        tracking.check("trackio")
    assert "fedrai[trackio]" in caught.value.hint
    tracking.check("none")


# --- TensorBoard, with runs that are killed -------------------------------------------------------

KILLS: dict[str, dict[str, Any]] = {
    "between commit and evaluation": {"kind": "event", "pattern": "evaluation-started", "nth": 3},
    "round committed, nobody heard": {"kind": "event", "pattern": "round-finished", "nth": 2},
    "note is being written": {"kind": "replace", "pattern": r"\.new-tracking\.json", "nth": 4},
    "second client of round 2 trains": {"kind": "step", "nth": 11},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run with TensorBoard, others that are killed and resumed, and one without a tracker."""
    folder = tmp_path_factory.mktemp("tracked")
    cache = fill_cache(folder / "cache")
    plain = write_recipe(folder / "data", tiny_model)
    file = folder / "data" / "tracked.toml"
    file.write_text(plain.read_text() + TENSORBOARD)
    cases: list[dict[str, Any]] = [
        {"name": "whole", "argv": ["run", file, "--out", "whole"]},
        {"name": "plain", "argv": ["run", plain, "--out", "plain"]},
    ]
    broken = folder / "data" / "broken.toml"
    broken.write_text(file.read_text() + f'folder = "{plain}/no-folder"\n')
    cases.append({"name": "broken", "argv": ["run", broken, "--out", "broken"]})
    for name, at in KILLS.items():
        cases.append({"name": name, "argv": ["run", file, "--out", name], "at": at})
        cases.append({"name": f"{name}, resumed", "argv": ["run", "--resume", name]})
    results = run_cases(cases, tiny_model, folder, cache)
    assert all(r["code"] == (-9 if n in KILLS else 0) for n, r in results.items()), results
    for name in ("broken", "plain", "whole"):
        (folder / f"{name}.err").write_text(results[name]["err"])
    return folder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of the event files, also those that are there twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.*")):
        read = EventAccumulator(str(file), size_guidance={"tensors": 0})
        read.Reload()
        for tag in read.Tags()["tensors"]:
            for event in read.Tensors(tag):
                value = float(tensor_util.make_ndarray(event.tensor_proto))
                found.setdefault(tag, []).append((event.step, value))
    return found


@needs("tensorboard")
def test_tensorboard_holds_the_figures_of_the_run(folder: Path) -> None:
    found, run = scalars(folder / "whole" / "tracking"), RunFolder(folder / "whole")
    rounds = {n: run.read_json(f"rounds/{n:04d}/round.json") for n in (1, 2, 3)}
    measured = {n: run.read_json(f"evaluations/{n:04d}/metrics.json") for n in range(4)}

    def close(points: dict[int, float]) -> Any:
        return [(step, pytest.approx(value, rel=1e-6)) for step, value in points.items()]

    assert found["loss/last"] == close({n: r["loss_last"] for n, r in rounds.items()})
    assert found["evaluation/held_out_loss"] == close(
        {n: m["held_out_loss"] for n, m in measured.items()}
    )
    assert found["evaluation/safe_high"] == close(
        {n: m["rates"]["safe"]["high"] for n, m in measured.items() if m["rates"]["safe"]["scored"]}
    )
    assert found["evaluation/safe_unscored"] == close(
        {n: m["rates"]["safe"]["unscored"] for n, m in measured.items()}
    )
    assert found["cost/training/tokens"] == close(
        {n: r["costs"]["training"]["tokens"] for n, r in rounds.items()}
    )
    for name in {c for r in rounds.values() for c in r["clients"]}:
        assert found[f"client/{name}/loss_last"] == close(
            {n: r["clients"][name]["loss-last"] for n, r in rounds.items() if name in r["clients"]}
        )


@needs("tensorboard")
@pytest.mark.parametrize("name", list(KILLS))
def test_a_resumed_run_sends_nothing_twice_and_misses_nothing(folder: Path, name: str) -> None:
    whole, found = (scalars(folder / n / "tracking") for n in ("whole", name))
    steps = {tag: [step for step, _ in points] for tag, points in whole.items()}
    assert {tag: [step for step, _ in points] for tag, points in found.items()} == steps
    assert found["loss/last"] == whole["loss/last"]
    assert found["evaluation/safe"] == whole["evaluation/safe"]


@needs("tensorboard")
def test_a_tracker_that_cannot_write_stops_no_run(folder: Path) -> None:
    said = (folder / "broken.err").read_text()
    assert said.count("tensorboard failed (") == 1
    assert any(event["event"] == "finished" for event in RunFolder(folder / "broken").events())


@needs("tensorboard")
def test_a_run_says_where_its_figures_are(folder: Path) -> None:
    heard = (folder / "whole.err").read_text()
    assert (
        heard.count("figures are also sent to tensorboard: tensorboard --logdir whole/tracking\n")
        == 1
    )
    assert "figures are also" not in (folder / "plain.err").read_text()


@needs("tensorboard")
def test_a_tracker_changes_no_result(folder: Path) -> None:
    names = ("plain", "whole", "broken", *KILLS)
    files = [folder / name / "rounds/0003/adapter/adapter_model.safetensors" for name in names]
    assert len({file.read_bytes() for file in files}) == 1
    hashes = {RunFolder(folder / name).info["recipe_hash"] for name in ("whole", "plain")}
    assert len(hashes) == 1
    assert not (folder / "plain" / "tracking").exists()


@needs("tensorboard")
def test_no_text_of_a_row_is_sent(folder: Path) -> None:
    sent = b"".join(f.read_bytes() for f in (folder / "whole" / "tracking").iterdir())
    assert b"loss/last" in sent
    for text in (b"it is ", b"request number", b"item ", str(folder).encode()):
        assert text not in sent


# --- the others, where they are installed ---------------------------------------------------------

STEPS = [(0, {"evaluation/safe": 0.25}), (1, {"loss/last": 1.5, "client/a b?/x": 2.0}),
         (2, {"loss/last": 1.25})]  # fmt: skip


def test_an_address_is_shown_without_its_secrets() -> None:
    assert without_secrets("https://me:SECRET@host:5000/ml?token=SECRET") == "https://host:5000/ml"
    assert without_secrets("sqlite:////a/b.db") == "sqlite:////a/b.db"


def sent_in_two_parts(place: Tracking) -> tuple[str, str]:
    """Three steps; the run is gone on with after the second.

    Gives the tracker's own id, and how it says that the run is looked at.
    """
    first = tracking.connect(place, "", {"seed": 3, "filter.mode": "drop"})
    for step, values in STEPS[:2]:
        first.log(values, step)
    first.close(False)
    again = tracking.connect(place, first.id, {"seed": 3, "filter.mode": "drop"})
    assert again.id == first.id
    again.log(STEPS[2][1], 2)
    again.close(True)
    return first.id, again.viewer


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # those of the library
def test_mlflow_keeps_the_figures(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    place = Tracking(kind="mlflow", project="fedrai", name="tiny", folder=str(tmp_path / "ml"))
    number, viewer = sent_in_two_parts(place)
    assert viewer == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/ml/mlflow.db"
    client = MlflowClient(viewer.split()[-1])
    run = client.get_run(number)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params == {"seed": "3", "filter.mode": "drop"}
    history = {key: [(m.step, m.value) for m in client.get_metric_history(number, key)]
               for key in run.data.metrics}  # fmt: skip
    assert history == {"evaluation/safe": [(0, 0.25)], "loss/last": [(1, 1.5), (2, 1.25)],
                       "client/a b_/x": [(1, 2.0)]}  # fmt: skip


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    place = Tracking(
        kind="wandb", project="fedrai", name="tiny", folder=str(tmp_path / "wb"), offline=True
    )
    number, viewer = sent_in_two_parts(place)
    sync, kept = viewer.rsplit(" ", 1)
    assert sync == "wandb sync"
    assert (Path(kept) / f"run-{number}.wandb").is_file()
    assert capfd.readouterr().out == ""
    files = sorted((tmp_path / "wb").glob(f"wandb/offline-run-*/run-{number}.wandb"))
    assert [(step, v) for f in files for step, v in wandb_history(f)] == STEPS


def wandb_history(file: Path) -> list[tuple[int, dict[str, float]]]:
    """Steps of a file in W&B's layout: 7 bytes, then records of crc (4), length (2), type (1)."""
    from wandb.proto import wandb_internal_pb2

    body, place, found = file.read_bytes(), 7, []
    assert len(body) < 1 << 15  # one block, so every record is whole
    while place < len(body):
        size, kind = int.from_bytes(body[place + 4 : place + 6], "little"), body[place + 6]
        assert kind == 1
        record = wandb_internal_pb2.Record.FromString(body[place + 7 : place + 7 + size])
        place += 7 + size
        if record.WhichOneof("record_type") == "history":
            items = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json)
                     for i in record.history.item}  # fmt: skip
            values = {k: v for k, v in items.items() if not k.startswith("_")}
            found.append((items["_step"], values))
    return found


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "trackio" in sys.modules:
        pytest.skip("trackio reads its folder once, and somebody has imported it")
    monkeypatch.setenv("TRACKIO_DIR", "")
    name, viewer = sent_in_two_parts(
        Tracking(kind="trackio", project="fedrai", name="tiny", folder=str(tmp_path / "tr"))
    )
    assert viewer == f"TRACKIO_DIR={tmp_path}/tr trackio show --project fedrai"
    from trackio.sqlite_storage import SQLiteStorage

    assert capsys.readouterr().out == ""
    logs = SQLiteStorage.get_logs("fedrai", name)
    rows = [(row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")})
            for row in logs]  # fmt: skip
    assert rows == STEPS
