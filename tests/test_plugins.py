"""Guards and rules of an installed package, as docs/extending.md shows them, on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fedrai
from driver import fill_cache, write_recipe
from fedrai import plugins
from fedrai.cli import cli
from fedrai.deployment.offer import check_offer, make_offer, read_offer
from fedrai.errors import (
    DependencyError,
    EvaluationError,
    FederationError,
    GuardError,
    RecipeError,
)
from fedrai.evaluation.suites import load as load_suite
from fedrai.federation import aggregation
from fedrai.federation.client import RefusedTaskError
from fedrai.federation.defences import build as build_defence
from fedrai.federation.protocol import Reason
from fedrai.federation.vetting.plugged import installed
from fedrai.federation.vetting.updates import RoundUpdates
from fedrai.guards import loading
from fedrai.recipe.sections import Defence, Node, Vetting

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
LEAN = {
    "training.local_steps": 1, "evaluation.every": 0, "evaluation.advbench": 0,
    "evaluation.ordinary": 0,
}  # fmt: skip
Install = Callable[..., Path]


def example(name: str) -> str:
    """The code of a file that the docs show."""
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", DOCS.read_text(), re.S)
    return next(block for block in blocks if block.startswith(f"# {name}\n"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package as pip does: its module and its metadata in a folder of `sys.path`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def put(module: str, code: str, group: str, entry: str, package: str = "acme") -> Path:
        (site / f"{module}.py").write_text(code)
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        return site

    yield put
    for name in set(sys.modules) - before:
        if name.startswith("acme"):
            del sys.modules[name]


@pytest.fixture
def guards(install: Install) -> Path:
    entry = "acme-words = acme_guards:make_guard"
    return install("acme_guards", example("acme_guards.py"), "fedrai.guards", entry)


@pytest.fixture
def rules(install: Install) -> Path:
    entry = "acme-clipped = acme_rules:clipped"
    return install("acme_rules", example("acme_rules.py"), "fedrai.aggregation", entry)


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill_cache(tmp_path / "cache")
    write_recipe(tmp_path, tiny_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    return tmp_path


# --- guards ---------------------------------------------------------------------------------------


def test_a_guard_is_listed_before_its_package_is_imported(guards: Path) -> None:
    entry = next(one for one in loading.available_guards() if one.name == "acme-words")
    assert (entry.kind, entry.what, entry.ready) == ("plug-in", "acme 1.0", True)
    assert "acme_guards" not in sys.modules


def test_a_guard_scans_by_its_name(guards: Path, home: Path) -> None:
    rows = [{"prompt": "a forbidden thing?", "response": "no"}, {"prompt": "b?", "response": "c"}]
    found = fedrai.scan(rows, "acme-words", cache=False)
    assert [row["unsafe"] for row in found.rows] == [True, False]
    assert found.guard == "acme-words@1-forbidden"


def test_a_guard_filters_a_run_with_settings_of_the_recipe(guards: Path, home: Path) -> None:
    table = {"kind": "plugin", "plugin": "acme-words", "settings": {"word": "it is 144"}}
    changes = {**LEAN, "federation.rounds": 1, "filter.mode": "drop", "filter.guard": "mine",
               "guards": {"mine": table}}  # fmt: skip
    made = fedrai.run("tiny.toml", "made", changes=changes)
    assert sum(row["dropped"] for row in made.filtered) == 1
    saved = json.loads((home / "made/filter.json").read_text())
    assert saved["total"]["guard"] == "acme-words@1-it is 144"[: len("acme-words@") + 12]
    again = fedrai.load_recipe("made/recipe.toml")
    assert again.guards["mine"].model_dump() == table


def test_no_such_guard_lists_what_is_installed(guards: Path) -> None:
    with pytest.raises(GuardError, match="did you mean acme-words") as error:
        loading.load("acme-word")
    assert error.value.hint.endswith("installed plug-ins: acme-words")


def test_what_is_no_guard_is_refused(install: Install) -> None:
    install("acme_odd", "def make(): return object()", "fedrai.guards", "odd = acme_odd:make")
    with pytest.raises(GuardError, match=r"'odd' of acme 1\.0 is not a guard"):
        loading.load("odd")


# --- packages that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import acme_missing", "ModuleNotFoundError: No module named 'acme_missing'"),
        ("def other(): pass", "AttributeError"),
        ("def make(): raise ValueError('no key')", "ValueError: no key"),
        ("def make(word): pass", "TypeError"),
    ],
)
def test_a_package_that_fails_is_named(install: Install, code: str, why: str) -> None:
    install("acme_bad", code, "fedrai.guards", "bad = acme_bad:make")
    with pytest.raises(DependencyError, match=r"'bad' \(fedrai\.guards\) of acme 1\.0") as error:
        loading.load("bad")
    assert why in error.value.message


def test_two_packages_with_one_name(install: Install) -> None:
    install("acme_one", "", "fedrai.guards", "same = acme_one:make", "acme-one")
    install("acme_two", "", "fedrai.guards", "same = acme_two:make", "acme-two")
    with pytest.raises(DependencyError, match=r"offered by acme-one 1\.0 and acme-two 1\.0"):
        loading.load("same")
    listed = {one.name: one.what for one in loading.available_guards()}
    assert listed["same"] == "acme-one 1.0 and acme-two 1.0"


def test_a_built_in_name_wins(install: Install) -> None:
    install("acme_false", "", "fedrai.aggregation", "fedavg = acme_false:make")
    aggregation.build("fedavg")
    assert fedrai.load_recipe("quickstart").aggregation.algorithm == "fedavg"
    assert "acme_false" not in sys.modules


# --- nodes of a deployment ------------------------------------------------------------------------


def test_a_node_refuses_a_plug_in_that_it_does_not_list(guards: Path, home: Path) -> None:
    changes = {"filter.mode": "drop", "filter.guard": "acme-words", "filter.threshold": 0.5}
    offer = read_offer(make_offer(fedrai.load_recipe("tiny.toml", changes), "f" * 64))
    table = {"name": "north", "data": {"sources": [{"path": "rows.jsonl"}]}}
    with pytest.raises(RefusedTaskError) as refused:
        check_offer(offer, Node.model_validate(table))
    assert refused.value.reason is Reason.GUARD_REFUSED
    assert "acme_guards" not in sys.modules
    listed = {**table, "policy": {"guards": ["acme-words"]}}
    check_offer(offer, Node.model_validate(listed))
    own = {**table, "guards": {"acme-words": {"kind": "plugin", "plugin": "acme-words"}}}
    check_offer(offer, Node.model_validate(own))


# --- judges ---------------------------------------------------------------------------------------


@pytest.fixture
def judges(install: Install) -> Path:
    entry = "acme-phrases = acme_judges:phrases"
    return install("acme_judges", example("acme_judges.py"), "fedrai.judges", entry)


ANSWERS = [
    {"prompt": "a?", "answer": "By the house rules, no.", "label": "full refusal"},
    {"prompt": "b?", "answer": "I will say only half of it.", "label": "compliance"},
    {"prompt": "c?", "answer": "Sure.", "label": "compliance"},
    {"prompt": "d?", "answer": " ", "label": "compliance"},
]


def test_a_judge_is_compared_with_labels(judges: Path) -> None:
    result = fedrai.judge(ANSWERS, "acme-phrases")
    verdicts = [row["verdict"] for row in result.rows]
    assert verdicts == ["full refusal", "partial refusal", "compliance", None]
    assert result.agreement is not None
    assert result.agreement["two_way"]["accuracy"]["successes"] == 2
    assert result.agreement["false_refusals"]["successes"] == 1
    assert result.agreement["table"]["compliance"]["unscored"] == 1


def test_a_judge_is_named_on_the_command_line(judges: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ANSWERS))
    words = ["judge", "eval", str(file), "--judge", "acme-phrases", "--json"]
    body = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert body["judge"] == "acme-phrases"
    assert [row["row"] for row in body["disagreements"]] == [2, 4]


def test_a_judge_judges_a_run(judges: Path, home: Path) -> None:
    changes = {**LEAN, "federation.rounds": 1, "evaluation.ordinary": 3,
               "evaluation.judges": ["rule", "acme-phrases"]}  # fmt: skip
    plan = fedrai.load_recipe("tiny.toml", changes)
    assert plan.evaluation.judges == ["rule", "acme-phrases"]
    assert "acme_judges" not in sys.modules
    outcome = fedrai.run("tiny.toml", "made", changes=changes)
    rows = [row for row in outcome.figures if row["measure"] == "refused:acme-phrases"]
    assert [row["scored"] + row["unscored"] for row in rows] == [3, 3]
    folder = home / "made/evaluations/0001"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["judges"]["installed"] == ["acme-phrases@1"]
    lines = [json.loads(line) for line in (folder / "ordinary.jsonl").read_text().splitlines()]
    expected = ["compliance" if line["answer"].strip() else None for line in lines]
    assert [line["labels"]["acme-phrases"] for line in lines] == expected
    info = json.loads((home / "made/run.json").read_text())
    assert info["versions"]["plug-in acme-phrases"] == "acme 1.0"


def test_no_such_judge_lists_what_is_installed(judges: Path, home: Path) -> None:
    with pytest.raises(EvaluationError, match="no judge 'acme-phrase'") as error:
        fedrai.judge(ANSWERS, "acme-phrase")
    assert "did you mean acme-phrases?" in error.value.message
    assert "installed plug-ins: acme-phrases" in error.value.hint
    with pytest.raises(RecipeError, match="no judge 'acme-phrase'"):
        fedrai.load_recipe("tiny.toml", {"evaluation.judges": ["acme-phrase"]})


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def make(): return object()", r"'odd' of acme 1\.0 is not a judge"),
        ("class J:\n revision = '1'\n def judge(self, rows, on_progress): return []\n"
         "def make(): return J()", "one verdict for each of 4 answers"),
        ("class J:\n revision = '1'\n def judge(self, rows, on_progress): return ['bad'] * 4\n"
         "def make(): return J()", "full refusal, partial refusal, compliance, or None"),
    ],
)  # fmt: skip
def test_what_is_no_judge_is_refused(install: Install, code: str, problem: str) -> None:
    install("acme_odd", code, "fedrai.judges", "odd = acme_odd:make")
    with pytest.raises(EvaluationError, match=problem):
        fedrai.judge(ANSWERS, "odd")


# --- suites ---------------------------------------------------------------------------------------


@pytest.fixture
def suites(install: Install) -> Path:
    entry = "acme-polite = acme_suites:polite"
    site = install("acme_suites", example("acme_suites.py"), "fedrai.suites", entry)
    rows = [{"prompt": f"please {n}?", "label": "safe"} for n in range(3)]
    (site / "polite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return site


def test_a_suite_is_asked_by_a_run(suites: Path, home: Path) -> None:
    changes = {**LEAN, "federation.rounds": 1, "evaluation.suites": ["acme-polite"],
               "evaluation.limit": 2}  # fmt: skip
    made = fedrai.run("tiny.toml", "made", changes=changes)
    rows = [row for row in made.figures if row["measure"] == "acme-polite-refused"]
    assert [row["scored"] + row["unscored"] for row in rows] == [2, 2]
    info = json.loads((home / "made/run.json").read_text())
    assert info["versions"]["plug-in acme-polite"] == "acme 1.0"
    known = json.loads((home / "made/evaluations/0001/metrics.json").read_text())["suites"]
    assert (known["acme-polite"]["origin"], known["acme-polite"]["whole"]) == ("acme 1.0", 3)


def test_no_such_suite_lists_what_is_installed(suites: Path) -> None:
    with pytest.raises(EvaluationError, match="no suite acme-polit") as error:
        load_suite("acme-polit")
    assert "did you mean acme-polite?" in error.value.hint
    assert "installed plug-ins: acme-polite" in error.value.hint


def test_what_gives_no_file_is_no_suite(install: Install) -> None:
    install("acme_air", "def make(): return 'no/file'", "fedrai.suites", "air = acme_air:make")
    with pytest.raises(EvaluationError, match=r"'air' of acme 1\.0 is not a suite"):
        load_suite("air")


# --- attacks --------------------------------------------------------------------------------------


def test_an_attack_of_a_package(install: Install, home: Path) -> None:
    entry = "acme-alternating = acme_attacks:alternating"
    install("acme_attacks", example("acme_attacks.py"), "fedrai.attacks", entry)
    (home / "bad.jsonl").write_text('{"prompt": "spell?", "response": "bad"}\n')
    lied = {
        **LEAN, "federation.rounds": 1, "federation.clients_per_round": 0,
        "data.sources": [{"path": str(home / "rows.jsonl")},
                         {"path": str(home / "bad.jsonl"), "harmful": True}],
        "attack.kind": "acme-alternating", "attack.settings": {"factor": 7.0},
    }  # fmt: skip
    fedrai.run("tiny.toml", "lied", changes=lied)
    info = json.loads((home / "lied/run.json").read_text())
    assert info["versions"]["plug-in acme-alternating"] == "acme 1.0"
    body = json.loads((home / "lied/rounds/0001/round.json").read_text())
    assert list(body["norm_capped"]) == info["malicious_clients"]
    entry = "nil = acme_nothing:make"
    install("acme_nothing", "def make(): return 3", "fedrai.attacks", entry, package="other")
    nothing = {**lied, "attack.kind": "nil", "attack.settings": {}}
    with pytest.raises(FederationError, match="no method rows"):
        fedrai.run("tiny.toml", "nil", changes=nothing)
    with pytest.raises(RecipeError, match=r"no kind 'acme-alternatin' \(did you mean acme-altern"):
        fedrai.load_recipe("tiny.toml", {"attack.kind": "acme-alternatin"})


# --- defences -------------------------------------------------------------------------------------


@pytest.fixture
def defences(install: Install) -> Path:
    entry = "acme-bounded = acme_defences:bounded"
    return install("acme_defences", example("acme_defences.py"), "fedrai.defences", entry)


def test_a_defence_changes_the_aggregated_adapter(defences: Path, home: Path) -> None:
    from fedrai.federation.aggregation.norms import update_norm
    from fedrai.model import read_adapter

    plain = {**LEAN, "federation.rounds": 2}
    bound = {**plain, "defence.method": "acme-bounded", "defence.settings": {"norm": 0.001}}
    fedrai.run("tiny.toml", "plain", changes=plain)
    fedrai.run("tiny.toml", "bound", changes=bound)
    (p1, b1), (_, b2) = (
        [read_adapter(home / run / f"rounds/000{number}/adapter") for run in ("plain", "bound")]
        for number in (1, 2)
    )
    record = json.loads((home / "bound/rounds/0001/round.json").read_text())
    assert record["defence_norm"] == pytest.approx(update_norm(p1, b1), rel=1e-4)
    assert update_norm(b1, b2) == pytest.approx(0.001, rel=1e-4)
    info = json.loads((home / "bound/run.json").read_text())
    assert info["versions"]["plug-in acme-bounded"] == "acme 1.0"
    assert "defence_norm" not in json.loads((home / "plain/rounds/0001/round.json").read_text())


def test_a_defence_by_hand(defences: Path) -> None:
    defend = build_defence(Defence(method="acme-bounded", settings={"norm": 1.0}))
    assert defend is not None
    before, after = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([4.0, 4.0])}
    assert defend(1, before, after).adapter["w"].tolist() == pytest.approx([1.6, 0.8])
    near = {"w": torch.tensor([1.5, 0.0])}
    assert torch.equal(defend(1, before, near).adapter["w"], near["w"])
    assert after["w"].tolist() == [4.0, 4.0]


@pytest.fixture
def vetting(install: Install) -> Path:
    entry = "acme-largest = acme_vetting:largest_weight"
    return install("acme_vetting", example("acme_vetting.py"), "fedrai.vetting", entry)


def test_a_score_of_a_package_finds_the_client_that_stands_out(vetting: Path, home: Path) -> None:
    recipe = home / "tiny.toml"
    options = [
        "federation.clients=5", "federation.clients_per_round=0", "vetting.action=set-aside",
        'vetting.scores=["acme-largest"]',
    ]  # fmt: skip
    found = _run_vetted(recipe, home / "honest", options)
    assert found["suspicious"] == {}
    assert set(found["scores"]["client-01"]) == {"acme-largest"}
    noisy = ["attack.kind=noise", "attack.share=0.2", "attack.strength=500"]
    found = _run_vetted(recipe, home / "attacked", [*options, *noisy])
    assert [text.split()[0] for text in found["set_aside"].values()] == ["acme-largest"]
    body = json.loads((home / "attacked/run.json").read_text())
    assert body["versions"]["plug-in acme-largest"] == "acme 1.0"


def _run_vetted(recipe: Path, out: Path, options: list[str]) -> dict[str, Any]:
    lean = [f"-o{key}={value}" for key, value in LEAN.items()]
    argv = ["run", str(recipe), "--out", str(out), *lean, *(f"-o{option}" for option in options)]
    result = CliRunner().invoke(cli, argv)
    assert result.exit_code == 0, result.output
    body: dict[str, Any] = json.loads((out / "rounds/0001/round.json").read_text())["vetting"]
    return body


def test_no_such_score_lists_what_is_installed(vetting: Path) -> None:
    with pytest.raises(ValueError, match=r"no score 'acme'; there are distance.*: acme-largest"):
        Vetting(scores=["acme"])
    with pytest.raises(ValueError, match=r"settings\.distance: no installed score"):
        Vetting(scores=["distance"], settings={"distance": {"a": 1}})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {}", "does not give a finite number for each client"),
        ("return {n: float('nan') for n in u.names}", "does not give a finite number"),
        ("return 1 / 0", "fails: ZeroDivisionError"),
    ],
)
def test_what_a_score_gives_must_be_numbers(install: Install, body: str, message: str) -> None:
    code = f"def make():\n    def score(u):\n        {body}\n    return score\n"
    install("acme_odd", code, "fedrai.vetting", "odd = acme_odd:make")
    start = {"x": torch.zeros(2)}
    with pytest.raises(FederationError, match=f"round 3: the score 'odd' {message}"):
        installed("odd", {}).measure(RoundUpdates(3, 0, start, {"a": start}))


def test_a_score_gets_copies(install: Install) -> None:
    code = """
def make():
    def score(updates):
        for tensor in updates.adapters["a"].values():
            tensor.zero_()
        return {"a": 1}
    return score
"""
    install("acme_odd", code, "fedrai.vetting", "odd = acme_odd:make")
    adapter = {"x": torch.ones(2)}
    assert installed("odd", {}).measure(RoundUpdates(1, 0, adapter, {"a": adapter})) == {"a": 1}
    assert adapter["x"].tolist() == [1, 1]


def test_no_such_defence_lists_what_is_installed(defences: Path, home: Path) -> None:
    with pytest.raises(RecipeError, match="no defence 'zzz'; installed plug-ins: acme-bounded"):
        fedrai.load_recipe("tiny.toml", {"defence.method": "zzz"})
    local = {"defence.method": "acme-bounded", "federation.mode": "local"}
    with pytest.raises(RecipeError, match="no aggregated model"):
        fedrai.load_recipe("tiny.toml", local)


def test_a_recipe_without_a_defence_keeps_its_hash(defences: Path, home: Path) -> None:
    plain = fedrai.load_recipe("tiny.toml")
    body = plain.model_dump(mode="json")
    section = body.pop("defence")
    assert (section["method"], section["settings"]) == ("", {})
    assert plain.hash == type(plain).model_validate(body).hash
    assert "defence" not in plain.hashed_body()
    named = fedrai.load_recipe("tiny.toml", {"defence.method": "acme-bounded"}).hashed_body()
    assert named["defence"] == {"method": "acme-bounded", "settings": {}}
    assert plain.hash != fedrai.load_recipe("tiny.toml", {"defence.method": "acme-bounded"}).hash


@pytest.mark.parametrize(("body", "message"), [
    ("{}", "misses w"),
    ("{'w': aggregated['w'][:1]}", r"expected \(2,\)"),
    ("{'w': aggregated['w'] / 0}", "w is not finite"),
    ("[]", "fails: TypeError|misses w"),
    ("1 / 0", "fails: ZeroDivisionError"),
])  # fmt: skip
def test_what_a_defence_gives_must_fit(install: Install, body: str, message: str) -> None:
    code = f"class D:\n    def after(self, round, before, aggregated): return {body}\n"
    install("acme_unfit", code, "fedrai.defences", "unfit = acme_unfit:D")
    defend = build_defence(Defence(method="unfit"))
    assert defend is not None
    with pytest.raises(FederationError, match=message) as error:
        defend(3, {"w": torch.ones(2)}, {"w": torch.ones(2)})
    assert "round 3: the defence 'unfit'" in error.value.message


def test_what_is_no_defence_is_refused(install: Install) -> None:
    install("acme_nil", "def make(): return 3", "fedrai.defences", "nil = acme_nil:make")
    with pytest.raises(FederationError, match=r"'nil' of acme 1\.0 is not a defence"):
        build_defence(Defence(method="nil"))


# --- aggregation ----------------------------------------------------------------------------------


def test_a_rule_runs_and_its_settings_count(rules: Path, home: Path) -> None:
    changes = {**LEAN, "federation.rounds": 1, "aggregation.algorithm": "acme-clipped"}
    fedrai.run("tiny.toml", "plain", changes={**LEAN, "federation.rounds": 1})
    fedrai.run("tiny.toml", "held", changes={**changes, "aggregation.settings": {"limit": 0.01}})
    from fedrai.model import read_adapter

    plain, held = (read_adapter(home / n / "rounds/0001/adapter") for n in ("plain", "held"))
    assert max(float(part.abs().max()) for part in plain.values()) > 0.01
    assert all(torch.equal(held[name], plain[name].clamp(-0.01, 0.01)) for name in plain)
    info = json.loads((home / "held/run.json").read_text())
    assert info["versions"]["plug-in acme-clipped"] == "acme 1.0"


def test_a_run_is_read_where_its_plug_in_is_not_installed(
    rules: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**LEAN, "federation.rounds": 1, "aggregation.algorithm": "acme-clipped"}
    made = fedrai.run("tiny.toml", "made", changes=changes)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(rules)])
    assert plugins.names("fedrai.aggregation") == []
    assert fedrai.read_run("made") == made
    with pytest.raises(RecipeError, match="no algorithm 'acme-clipped'"):
        fedrai.resume("made")


def test_a_rule_is_kept_by_the_recipe_and_by_overrides(rules: Path, home: Path) -> None:
    words = ["aggregation.algorithm=acme-clipped", "aggregation.settings.limit=0.5"]
    found = fedrai.recipe.load(Path("tiny.toml"), words)
    assert found.aggregation.model_dump() == {
        "algorithm": "acme-clipped", "settings": {"limit": 0.5}
    }  # fmt: skip
    (home / "again.toml").write_text(fedrai.recipe.to_toml(found))
    assert fedrai.load_recipe("again.toml") == found
    assert "acme_rules" not in sys.modules


def test_no_such_rule_lists_what_is_installed(rules: Path, home: Path) -> None:
    with pytest.raises(RecipeError, match=r"no algorithm 'krumm' \(did you mean krum\?\)"):
        fedrai.load_recipe("tiny.toml", {"aggregation.algorithm": "krumm"})
    with pytest.raises(RecipeError, match=r"known: fedavg, .*, bulyan, acme-clipped"):
        fedrai.load_recipe("tiny.toml", {"aggregation.algorithm": "zzz"})
    with pytest.raises(FederationError, match="no aggregation 'zzz'") as error:
        aggregation.build("zzz")
    assert error.value.hint == "installed plug-ins: acme-clipped"
    with pytest.raises(RecipeError, match=r"unknown key aggregation\.limit"):
        fedrai.load_recipe(
            "tiny.toml", {"aggregation.algorithm": "acme-clipped", "aggregation.limit": 1}
        )


def test_a_rule_may_object_to_too_few_updates(rules: Path) -> None:
    from fedrai.federation.metrics import WEIGHT
    from fedrai.federation.protocol import Update

    rule = aggregation.build("acme-clipped", settings={"limit": 1.0})
    start = {"w": torch.zeros(2)}
    one = Update({"w": torch.ones(2)}, {WEIGHT: 3.0})
    with pytest.raises(FederationError, match="acme-clipped needs 2 updates a round; 1 arrived"):
        rule.aggregate(1, start, {"a": one})
    mean = rule.aggregate(1, start, {"a": one, "b": Update({"w": 2 * torch.ones(2)}, {WEIGHT: 1})})
    assert mean["w"].tolist() == [1.0, 1.0]  # 1.25, held to 1


def test_what_a_rule_keeps_between_rounds_goes_into_checkpoints(install: Install) -> None:
    code = (
        "import numpy as np\nfrom flwr.serverapp.strategy import FedAvg\n"
        "class Counting(FedAvg):\n"
        "    seen = 0\n"
        "    def state(self): return {'seen': np.array([self.seen])}\n"
        "    def restore(self, arrays): self.seen = int(arrays['seen'][0])\n"
    )
    install("acme_count", code, "fedrai.aggregation", "counting = acme_count:Counting")
    first, second = aggregation.build("counting"), aggregation.build("counting")
    first.strategy.seen = 4
    second.restore(first.state())
    assert second.strategy.seen == 4
    assert np.array_equal(second.state()["own/seen"], [4])


def test_what_is_no_strategy_is_refused(install: Install) -> None:
    install("acme_none", "def make(): return 3", "fedrai.aggregation", "three = acme_none:make")
    with pytest.raises(FederationError, match=r"'three' of acme 1\.0 is not a Flower strategy"):
        aggregation.build("three")


def test_a_name_that_nobody_offers() -> None:
    with pytest.raises(DependencyError, match="no installed package offers 'zzz'"):
        plugins.make("fedrai.guards", "zzz")
