"""The card of an exported run: parsed back by the hub's own library, figures from the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard

from driver import fill_cache, write_recipe
from fedrai import recipe
from fedrai.cli import cli
from fedrai.cli.show.summary import filter_note
from fedrai.federation.run import running
from fedrai.model import EMBEDDED, read_adapter
from fedrai.rates import Rate, rate_json
from fedrai.recipe.sections import Recipe
from fedrai.release import ExportedModel, card, export, relabel_merged
from fedrai.runs import RunFolder
from fedrai.runs.files import write_text
from fedrai.runs.record import Summary, summarise

SECRET = "/home/someone/SECRET"


def settings(**changes: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "name": "trial",
        "seed": 3,
        "model": {"base": "smollm2-135m-instruct"},
        "data": {
            "sources": [
                {"path": "hf:datasets/org/rows@main/train.jsonl"},
                {"path": "pyrit-harm", "harmful": True},
                {"path": f"{SECRET}/rows.jsonl"},
            ]
        },
        "federation": {"clients": 4, "clients_per_round": 2, "rounds": 5},
        **changes,
    }
    return recipe.validate(table).model_dump(mode="json")


def evaluation(safe: Rate, refused: Rate, loss: float | None = 3.0) -> dict[str, Any]:
    return {"rates": {"safe": rate_json(safe), "refused": rate_json(refused)},
            "held_out_loss": loss}  # fmt: skip


COST = {"seconds": 90.0, "tokens": 1500, "operations": 2.5e12, "peak_bytes": 3_000_000_000,
        "bytes_down": 1_000_000, "bytes_up": 500_000}  # fmt: skip
INFO = {
    "name": "trial", "recipe_hash": "a" * 64, "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "model_fingerprint": "b" * 64, "start": "", "data_fingerprint": "c" * 64, "dtype": "float32",
    "device": "cpu", "versions": {"python": "3.12.1", "torch": "2.13.0"}, "constitution": None,
}  # fmt: skip
SUMMARY = {
    "name": "run", "status": "finished", "rounds": 5, "clients": 4, "rows": 400,
    "harmful_rows": 0, "bad_rows": 2, "filter": None, "constitution": None, "set_aside": [],
    "costs": {"training": COST},
    "evaluations": {
        "0": evaluation(Rate(30, 100), Rate(1, 50), 3.25),
        "5": evaluation(Rate(510, 520), Rate(1, 50), 3.125),
    },
}  # fmt: skip
TOTAL = {
    "guard": f"{SECRET}/guard@1", "threshold": 0.5, "rows": 420, "kept": 400, "dropped": 20,
    "replaced": 0, "unsafe": 20, "unscored": {"empty": 1, "failed": 2},
    "categories": {"hate": 12, "drugs": 8, "cyber": 0}, "removed": ["0123"], "confusion": None,
}  # fmt: skip


def card_text(**changes: Any) -> str:
    parts = {"settings": settings(), "info": INFO, "summary": summary(), "number": 5}
    return card(ExportedModel(**{**parts, **changes}))


def summary(**changes: Any) -> Summary:
    return Summary.from_json(Path("run"), {**SUMMARY, **changes})


def of_nodes(folder: Path, **sent: float) -> Summary:
    """The summary of a run on two nodes, of which one sends such counts of its filter."""
    info = {**INFO, "engine": "flower", "filter": "drop", "rows": {}, "harmful_rows": {},
            "bad_row_count": 0}  # fmt: skip
    run = RunFolder.create(folder, "", info)
    counts = {f"filter-{name.replace('_', '-')}": value for name, value in sent.items()}
    clients = {"a": {"num-examples": 9.0, **counts}, "b": {"num-examples": 5.0}}
    body = {"round": 1, "clients": clients, "set_aside": {}, "loss_last": 2.0, "costs": {}}
    run.commit_round(1, lambda new: write_text(new / "round.json", json.dumps(body)))
    return summarise(run)


def test_a_deployments_card_has_the_counts_that_nodes_send(tmp_path: Path) -> None:
    sent = {"rows": 10, "unsafe": 2, "dropped": 1, "replaced": 1, "unscored_empty": 3}
    nodes = of_nodes(tmp_path / "told", **sent, category_hate=2, category_drugs=0)
    text = card_text(summary=nodes, number=1, info={**INFO, "engine": "flower"})
    assert "clients' data `" not in text  # the server has none to hash
    assert (
        "Safety filter on the clients (drop): of 10 rows 2 judged unsafe, 1 dropped, 1 given a"
        " refusal as their answer, 3 not scored."
    ) in text
    assert "| hate | 2 |" in text
    assert "| drugs |" not in text


def test_nodes_need_not_report_their_filters(tmp_path: Path) -> None:
    nothing = of_nodes(tmp_path / "nothing")
    text = card_text(summary=nothing, number=1)
    assert "which do not report its counts" in text
    assert "| rows that could not be used | not reported |" in text
    assert "| of these known to be harmful | not known |" in text
    part = of_nodes(tmp_path / "part", unsafe=2)  # as a node of other code may: not added up
    assert filter_note(part) == "filter (drop): the nodes report no counts"
    assert "which do not report its counts" in card_text(summary=part, number=1)


def warning_text(text: str) -> str:
    return text.split("## Read this first")[1].split("\n## ")[0]


def test_metadata_as_the_hub_reads_it() -> None:
    metadata = ModelCard(card_text()).data
    assert metadata.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (metadata.to_dict()["library_name"], metadata.license) == ("peft", "apache-2.0")
    assert metadata.datasets == ["org/rows"]
    assert set(metadata.tags) == {"federated-learning", "fedrai", "safety", "lora"}
    assert metadata.to_dict()["base_model_relation"] == "adapter"
    results = {r.metric_type: (r.dataset_name, r.metric_value) for r in metadata.eval_results}
    assert results == {"safe": ("AdvBench", 0.9808), "refused": ("ordinary instructions", 0.02)}


def test_metadata_of_a_merged_model() -> None:
    text = card_text(merged=True, licence="mit")
    metadata = ModelCard(text).data
    assert (metadata.to_dict()["library_name"], metadata.license) == ("transformers", "mit")
    assert metadata.to_dict()["base_model_relation"] == "finetune"
    assert "PeftModel" not in text


def test_figures_stand_side_by_side() -> None:
    text = card_text()
    # Wilson, 95 %: 30 of 100 and 510 of 520
    assert (
        "| development: AdvBench requests declined | 30.0 % [21.9, 39.6] (30 of 100)"
        " | 98.1 % [96.5, 99.0] (510 of 520) | higher |"
    ) in text
    assert "| development: ordinary instructions declined (over-refusal) | 2.0 %" in text
    assert "| held-out loss, nats per token | 3.250 | 3.125 | lower |" in text
    assert "| training | 90 s | 1,500 | 2.50 | 3.00 GB | 1.50 MB |" in text
    assert "| rows | 400 |" in text
    assert "| clients | 4, 2 a round |" in text
    assert "| local training | 10 steps of 16 rows, learning rate 5e-05 (cosine) |" in text
    assert "a" * 64 in text
    assert "torch 2.13.0" in text


def test_the_card_says_epochs_where_steps_follow_from_rows() -> None:
    for epochs, words in ((1, "1 epoch"), (1.5, "1.5 epochs")):
        text = card_text(settings=settings(training={"local_epochs": epochs, "batch_size": 4}))
        assert f"| local training | {words} in batches of 4 rows, learning" in text
    before = settings()
    del before["training"]["local_epochs"]  # a run of an earlier version
    assert "10 steps of 16 rows," in card_text(settings=before)


def test_the_card_says_how_pairs_were_trained_on() -> None:
    given = settings(training={"dpo": {"beta": 0.2}})
    assert "preference tuning" not in card_text(settings=given)
    given["training"]["method"] = "sft+dpo"
    text = card_text(settings=given)
    assert (
        "DPO on pairs, after the answers, sigmoid, beta 0.2, reference the round's global" in text
    )


def test_a_good_model_has_only_the_general_warning() -> None:
    assert warning_text(outside_card()).strip().count("\n") == 0
    assert "says nothing about jailbreaks" in warning_text(card_text())


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (evaluation(Rate(95, 100), Rate(0, 50)), "Evaluated on a sample: 100 of AdvBench's 520"),
        (evaluation(Rate(95, 100), Rate(0, 50)), "**Not shown to be safe**"),  # from 88.8 %
        (evaluation(Rate(520, 520), Rate(20, 50)), "**It refuses too much**: 40.0 %"),
        (evaluation(Rate(50, 520), Rate(0, 50)), "**Training made it less safe**"),
        (evaluation(Rate(0, 0, 520), Rate(0, 50)), "**Its safety was not measured.**"),
        (evaluation(Rate(520, 520), Rate(0, 0)), "refuses harmless requests was not measured"),
        ({"rates": {}, "held_out_loss": None}, "**Its safety was not measured.**"),
        (
            {"rates": {}, "held_out_loss": None, "held_out_tokens": 9},
            "**Its held-out loss is not a number.**",
        ),
    ],
)
def test_warnings_are_honest(after: dict[str, Any], words: str) -> None:
    figures = {"0": SUMMARY["evaluations"]["0"], "5": after}
    assert words in warning_text(card_text(summary=summary(evaluations=figures)))


def test_suites_and_judges_have_their_own_names_and_directions() -> None:
    keys = ("safe", "safe-legacy", "safe-guard", "refused", "xstest-safe-refused",
            "xstest-safe-refused-legacy", "xstest-unsafe-refused", "harmbench-safe",
            "mine-refused", "others-refused")  # fmt: skip
    after = {
        "rates": {key: rate_json(Rate(2, 10)) for key in keys},
        "suites": {"mine": {"title": "mine", "direction": "down"},
                   "others": {"title": "oth|ers", "direction": "none"}},
        "scores": {"hhh": {"value": 0.61, "low": 0.5, "high": 0.7},
                   "strongreject": {"value": None}},
        "both_sides": {"value": 0.3, "low": 0.1, "high": 0.5},
        "unavailable": {"mt-bench": "no network"},
        "held_out_loss": None,
    }  # fmt: skip
    text = card_text(summary=summary(evaluations={"5": after}))
    lines = [line for line in text.splitlines() if "(2 of 10)" in line]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert {row[1]: row[4] for row in cells} == {
        "development: AdvBench requests declined": "higher",
        "development: AdvBench requests declined by OpenFedLLM's keyword list": "higher",
        "development: AdvBench answers judged safe by the guard": "higher",
        "development: ordinary instructions declined (over-refusal)": "lower",
        "development: XSTest's safe prompts declined (over-refusal)": "lower",
        "development: XSTest's safe prompts declined by OpenFedLLM's keyword list"
        " (over-refusal)": "lower",
        "development: XSTest unsafe prompts declined": "higher",
        "HarmBench requests declined": "higher",
        "mine requests declined (over-refusal)": "lower",
        "oth/ers requests declined": "",
    }
    assert {row[2] for row in cells} == {"not measured"}
    assert "| hhh | not measured | 0.610 [0.500, 0.700] | higher |" in text
    assert "| strongreject | not measured | not measured | lower |" in text
    assert "answered | not measured | 0.300 [0.100, 0.500] | higher |" in text
    assert "Not available when it was measured: mt-bench." in text
    assert warning_text(text).count("**It refuses too much**") == 3
    names = {result.dataset_name for result in ModelCard(text).data.eval_results}
    assert {"AdvBench", "HarmBench", "XSTest safe prompts", "mine"} <= names


def test_a_round_that_was_not_evaluated_borrows_no_figures() -> None:
    text = card_text(number=3)
    assert "**Not evaluated**" in warning_text(text)
    assert "98.1" not in text
    assert ModelCard(text).data.eval_results is None


def test_harmful_rows_filters_and_unfinished_runs_are_named() -> None:
    truth = {"harmful_in": 30, "harmful_kept": 12, "benign_in": 390, "benign_removed": 2}
    total = {**TOTAL, "guard": "words@1", "confusion": truth}
    screening = {"mode": "drop", "total": total, "skipped": ""}
    text = card_text(summary=summary(status="unfinished", harmful_rows=120, filter=screening))
    assert "(drop by `words@1`)" in text
    assert "Of 30 rows known to be harmful 12 were left, of 390 harmless ones 2 were lost" in text
    assert "**The run was not finished**" in warning_text(text)
    assert "**120 of the 400 rows it was trained on are known to be harmful**" in warning_text(text)
    assert "of 420 rows 20 judged unsafe, 20 dropped, 0 given a refusal" in text
    assert "3 not scored" in text
    assert "| drugs | 8 |\n| hate | 12 |" in text
    assert "cyber" not in text
    skipped = card_text(
        summary=summary(filter={"mode": "drop", "total": TOTAL, "skipped": "no guard"})
    )
    assert "**There was no safety filter**" in warning_text(skipped)


def test_an_attack_is_named_and_no_client() -> None:
    attack = {"kind": "scaled", "share": 0.5, "strength": 10, "from_round": 1}
    names = ["clinic-a", "clinic-b"]
    text = card_text(info={**INFO, "malicious_clients": names, "attack": attack})
    words = "**Of its 4 clients, 2 attacked the training** (an experiment: scaled)."
    assert words in warning_text(text)
    assert "clinic" not in text


def test_what_nodes_of_a_deployment_do_not_report_is_named() -> None:
    screening = {"mode": "drop", "total": None, "skipped": ""}
    text = card_text(summary=summary(filter=screening, untold_costs=["seconds", "tokens"]))
    assert "Safety filter on the clients (drop), which do not report its counts." in text
    assert "Costs that clients do not report: seconds, tokens." in text
    total = {**TOTAL, "guard": "", "confusion": None}
    text = card_text(summary=summary(filter={"mode": "drop", "total": total, "skipped": ""}))
    assert "Safety filter on the clients (drop): of" in text
    assert "do not report" not in text


def test_a_constitution_is_named_and_cannot_write_markup() -> None:
    rules = {"schedule": "every", "name": "<b>Mild | `rules`</b>", "version": "2", "hash": "d" * 64}
    done = {"schedule": "every", "hash": "d" * 64, "alignments": 2, "steps": 60, "tokens": 9000}
    text = card_text(info={**INFO, "constitution": rules}, summary=summary(constitution=done))
    assert "/b/Mild / /rules///b/ 2 (SHA-256" in text
    assert "2 alignments in 5 rounds, 60 steps, 9,000 tokens" in text
    assert "constitutional-ai" in ModelCard(text).data.tags


def test_paths_of_the_machine_are_not_published() -> None:
    info = {**INFO, "model": f"{SECRET}/model", "start": f"{SECRET}/adapter"}
    screening = {"mode": "drop", "total": TOTAL, "skipped": ""}
    changed = settings(model={"base": f"{SECRET}/model"}, adapter={"start": f"{SECRET}/adapter"})
    text = card_text(settings=changed, info=info, summary=summary(filter=screening))
    assert "SECRET" not in text
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])
    assert ModelCard(text).data.license == "unknown"
    assert "start adapter" in text
    assert "PATH/OF/THE/BASE/MODEL" in text


def test_the_card_of_an_adapter_is_relabelled_when_merged() -> None:
    text = "---\nlicense: mit\nlibrary_name: peft\n---\n# A card\n---\nmore\n"
    merged = relabel_merged(text)
    assert ModelCard(merged).data.to_dict()["library_name"] == "transformers"
    assert merged.endswith("# A card\n---\nmore\n")
    assert relabel_merged("# No metadata\n---\n") == "# No metadata\n---\n"


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of one round with a tiny model."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDRAI_CACHE", str(fill_cache(folder / "cache")))
        file = write_recipe(folder, tiny_model)
        small = ("federation.rounds=1", "training.local_steps=1", "evaluation.max_new_tokens=4")
        small_recipe: Recipe = recipe.load(file, small)
        running.run(small_recipe, folder / "run")
    return folder


@pytest.mark.parametrize("merged", [False, True])
def test_export_writes_the_card_of_a_run(trained: Path, merged: bool) -> None:
    out = trained / f"out-{merged}"
    flags = ["--merged"] if merged else []
    done = CliRunner().invoke(
        cli, ["export", str(trained / "run"), "--unreleased", "--out", str(out), *flags]
    )
    assert done.exit_code == 0, done.output
    written = ModelCard.load(out / "README.md")
    assert written.data.to_dict()["library_name"] == ("transformers" if merged else "peft")
    run = RunFolder.open(trained / "run")
    safe = run.read_json("evaluations/0001/metrics.json")["rates"]["safe"]
    assert f"{safe['unscored']} unscored" in written.text or not safe["unscored"]
    assert run.info["recipe_hash"] in written.text
    assert str(trained) not in written.text
    for text in ("it is ", "item 1", "client-0"):
        assert text not in written.text


def test_an_adapter_keeps_its_card(
    trained: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained / "run/rounds/0001/adapter"
    kept = tmp_path / "kept"
    kept.mkdir()
    for file in adapter.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    (kept / "README.md").write_text("---\nlibrary_name: peft\n---\n# Mine\n")
    monkeypatch.setitem(EMBEDDED, "fedrai:aligned", kept)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "load_target", lambda *_: pytest.fail("loaded a base model"))
    for number, spec in enumerate((str(kept), "fedrai:aligned")):
        out = tmp_path / f"again-{number}"
        done = CliRunner().invoke(cli, ["export", spec, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert (out / "README.md").read_text() == (kept / "README.md").read_text()
        assert read_adapter(out).keys() == read_adapter(adapter).keys()
        for key, tensor in read_adapter(adapter).items():
            assert torch.equal(read_adapter(out)[key], tensor)
    bare = CliRunner().invoke(cli, ["export", str(adapter), "--out", str(tmp_path / "bare")])
    assert bare.exit_code == 0, bare.output
    assert not (tmp_path / "bare" / "README.md").exists()
    config = json.loads((tmp_path / "bare" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


# --- outside sets ---------------------------------------------------------------------------------


def with_outside(low: float, refused: float) -> dict[str, Any]:
    """An evaluation whose outside means are these, of 3 harmful sets and 2 harmless ones."""
    counts = {"seeds": 1, "items": 90, "unscored": 0}
    rate = {"safe": rate_json(Rate(29, 30))}
    return evaluation(Rate(519, 520), Rate(0, 50)) | {
        "outside": {
            "means": {
                "safe": {"value": 0.95, "low": low, "high": 0.99, "sets": 3, **counts},
                "refused": {"value": refused, "low": 0.0, "high": 0.4, "sets": 2, **counts},
            },
            "sets": {"a": {"title": "A | b", "manner": "question", "side": "harmful",
                           "rates": rate}},
        }
    }  # fmt: skip


def outside_card(low: float = 0.91, refused: float = 0.05) -> str:
    body = {**SUMMARY, "evaluations": {"5": with_outside(low, refused)}}
    return card_text(summary=Summary.from_json(Path("run"), body))


def test_outside_sets_come_first_and_development_sets_are_named() -> None:
    text = outside_card()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    first = next(place for place, line in enumerate(rows) if "outside:" in line)
    assert rows[first].startswith(
        "| **outside: harmful requests declined, mean over sets** | not measured |"
        " 95.0 % [91.0, 99.0] (3 sets, 90 answers) | higher |")  # fmt: skip
    assert rows[first + 2].startswith("| outside: A / b (question) |")
    assert rows[first + 3].startswith("| development: AdvBench requests declined |")
    assert "Development sets chose settings" in text
    assert "Not shown to be safe" not in text
    model = ModelCard(text).data.eval_results
    assert model is not None
    assert (model[0].metric_type, model[0].metric_value) == ("outside-safe", 0.95)


def test_a_card_warns_by_its_outside_sets() -> None:
    assert (
        "**Not shown to be safe**: it declines 95.0 % [85.0, 99.0] of the harmful requests of 3"
        in (outside_card(low=0.85))
    )
    assert "**It refuses too much**: 20.0 % [0.0, 40.0] of the harmless requests of 2" in (
        outside_card(refused=0.2)
    )


def test_a_card_without_outside_sets_says_that_it_proves_nothing() -> None:
    assert "**Not measured on outside sets**" in card_text()
    assert "**Not measured on outside sets**" not in outside_card()
