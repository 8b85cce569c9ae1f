"""Where an adapter's base model is: an export reads back, on this machine and on another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from commands import Call, Outcome, commands
from driver import fill_cache, write_recipe
from fedrai import recipe
from fedrai.errors import ModelError
from fedrai.federation.run import standalone, targets
from fedrai.model import LanguageModel, LoadOptions, Lora, base_of, load, read_start_adapter
from fedrai.model.bases import PLACES
from fedrai.model.loading import _public_name, _revision
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from fedrai.testing import make_tiny_model

SIZES = ("--advbench", "3", "--ordinary", "2", "--max-new-tokens", "3", "--json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("bases")
    fill_cache(home / "cache")
    make_tiny_model(home / "models" / "ward-7")
    return home


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    return commands(home)


@pytest.fixture(scope="module")
def run(home: Path, call: Call) -> Path:
    file = write_recipe(home / "data", home / "models" / "ward-7")
    done = call("run", file, "-o", "federation.rounds=1", "--out", "runs/one")
    assert done.code == 0, done.err
    return home / "runs" / "one"


@pytest.fixture(scope="module")
def figures(call: Call, run: Path) -> dict[str, object]:
    """Of the adapter, with its base named by hand."""
    adapter = run / "rounds" / "0001" / "adapter"
    return measured(call("eval", adapter, "--base", "models/ward-7", *SIZES))


def measured(done: Outcome) -> dict[str, object]:
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    return {"loss": figures["held_out_loss"], "rates": figures["rates"]}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def texts(folder: Path) -> str:
    kinds = (".json", ".md")
    return "".join(f.read_text() for f in folder.rglob("*") if f.suffix in kinds)


def test_an_export_of_a_local_base_is_read_by_every_command(
    home: Path, call: Call, run: Path, figures: dict[str, object]
) -> None:
    assert call("export", run, "--unreleased", "--out", "plain").code == 0
    adapter = ["adapter_config.json", "adapter_model.safetensors", "base.json"]
    wanted = ["README.md", "UNRELEASED.txt", *adapter]
    assert names(home / "plain") == wanted
    assert str(home) not in texts(home / "plain")  # no path of this machine
    assert measured(call("eval", "plain", *SIZES)) == figures
    done = call("chat", "plain", "--prompt", "item 7?", "--max-new-tokens", "3")
    assert done.code == 0, done.err
    start = ("-o", "adapter.start=plain", "-o", "federation.rounds=1", "--out", "runs/again")
    done = call("run", home / "data" / "tiny.toml", *start)
    assert done.code == 0, done.err
    assert call("export", "plain", "--out", "twice").code == 0
    assert measured(call("eval", "twice", *SIZES)) == figures


def test_an_adapter_in_its_run_is_read_by_the_runs_own_recipe(
    call: Call, run: Path, figures: dict[str, object]
) -> None:
    assert measured(call("eval", run / "rounds" / "0001" / "adapter", *SIZES)) == figures


def test_on_another_machine_the_base_is_named(
    home: Path, call: Call, run: Path, figures: dict[str, object], tmp_path: Path
) -> None:
    call("export", run, "--unreleased", "--out", "away")
    (home / "cache" / PLACES).unlink()
    for command in (("eval", "away"), ("chat", "away", "--prompt", "a"),
                    ("align", "away", "--out", "no"), ("export", "away", "--merged", "--out", "no"),
                    ("export", "away", "--with-base", "--out", "no")):  # fmt: skip
        done = call(*command)
        assert (done.code, done.err.splitlines()) == (
            2,
            [
                "error: away was trained on the model ward-7, which is not found",
                "  name the model with --base MODEL: a folder, a .gguf file or a hub id",
            ],
        )
    assert not (home / "no").exists()
    moved = shutil.copytree(home / "models" / "ward-7", tmp_path / "elsewhere")
    done = call("eval", "away", "--base", moved, *SIZES)
    assert measured(done) == figures
    assert done.err == ""
    done = call("export", "away", "--merged", "--base", moved, "--out", "whole")
    assert done.code == 0, done.err
    assert measured(call("eval", "whole", *SIZES))["loss"] == pytest.approx(
        figures["loss"], abs=1e-3
    )


def test_another_base_is_used_with_a_word(
    home: Path, call: Call, run: Path, figures: dict[str, object]
) -> None:
    make_tiny_model(home / "other", seed=4)
    call("export", run, "--unreleased", "--out", "stranger")
    for what in ("stranger", run):
        done = call("eval", what, "--base", "other", *SIZES)
        assert measured(done) != figures
        assert done.err.startswith("note: the files of other are not those that ")


def test_a_folder_of_the_same_name_is_not_taken_for_the_base(
    home: Path, call: Call, run: Path, tmp_path: Path
) -> None:
    call("export", run, "--unreleased", "--out", "named")
    (home / "cache" / PLACES).unlink()
    make_tiny_model(tmp_path / "ward-7", seed=9)
    done = call("eval", home / "named", *SIZES, cwd=tmp_path)
    assert done.code == 2
    assert "which is not found" in done.err
    make_tiny_model(tmp_path / "right" / "ward-7")
    assert call("eval", home / "named", *SIZES, cwd=tmp_path / "right").code == 0


def test_the_base_comes_along(
    home: Path, call: Call, run: Path, figures: dict[str, object], tmp_path: Path
) -> None:
    assert call("export", run, "--unreleased", "--with-base", "--out", "kit").code == 0
    kit = home / "kit"
    assert "base" in names(kit)
    assert 'from_pretrained("PATH/OF/THIS/FOLDER/base")' in (kit / "README.md").read_text()
    (home / "cache" / PLACES).unlink()
    away = shutil.copytree(kit, tmp_path / "kit")
    before = measured(call("eval", run, *SIZES))
    hidden = (home / "models").rename(home / "hidden")
    try:
        assert measured(call("eval", away, *SIZES)) == figures
        assert measured(call("eval", run, "--base", away / "base", *SIZES)) == before
        done = call("export", away, "--with-base", "--out", "second")
        assert done.code == 0, done.err
        done = call("eval", run, *SIZES)
        assert done.code == 2
        assert "--base MODEL" in done.err
    finally:
        hidden.rename(home / "models")
    assert names(home / "second" / "base") == names(kit / "base")
    done = call("export", run, "--unreleased", "--merged", "--with-base", "--out", "no")
    assert done.code == 2
    assert "give --merged or --with-base" in done.err


def test_an_alignment_takes_the_base_and_keeps_it(home: Path, call: Call, run: Path) -> None:
    call("export", run, "--unreleased", "--out", "unsafe")
    (home / "cache" / PLACES).unlink()
    file = home / "words.toml"
    file.write_text(
        '[constitution.revising]\nguard = "words"\n[guards.words]\nkind = "rules"\n'
        'words = ["never"]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        thresholds = (
            "constitution.revising.threshold=0.5",
            "constitution.revising.harmless_threshold=0.5",
        )
        named = [("model.base", "unsafe"), ("adapter_base", "models/ward-7")]
        settings = recipe.load_alignment(file, thresholds, named)
        job = standalone.prepare(settings)
        loaded = recipe.load_alignment(_written(home, recipe.to_toml(settings)))
    assert job.target.recipe.model.base == "models/ward-7"
    assert loaded.adapter_base == "models/ward-7"
    assert loaded.hash == settings.hash


def _written(home: Path, text: str) -> Path:
    (home / "kept.toml").write_text(text)
    return home / "kept.toml"


def test_alignments_from_before_keep_their_hash() -> None:
    """The hash of a recipe without later keys is that of a table that has no such keys."""
    settings = recipe.load_alignment(None, (), [("model.base", "x/y")])
    table = settings.model_dump(mode="json")
    del table["adapter_base"], table["adapter"]["ranks"], table["constitution"]["mined_from"]
    del table["constitution"]["mix"]["examples"]
    before = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    assert settings.hash == before
    assert settings.model_copy(update={"adapter_base": "z"}).hash != before
    mining = recipe.load_alignment(None, ["constitution.mined_from=64"], [("model.base", "x/y")])
    assert mining.hash != before


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        ({"base_model_name_or_path": "org/name"}, "org/name"),
        ({"base_model_name_or_path": "org/name", "revision": "abc"}, "hf:org/name@abc"),
        ({"base_model_name_or_path": "org/name", "revision": "pr/1"}, "hf:org/name@pr%2F1"),
        ({"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"},
         "smollm2-135m-instruct"),
    ],
)  # fmt: skip
def test_hub_names_keep_their_revision(
    config: dict[str, str], spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path))
    assert base_of(tmp_path, config, "a") == spec


@pytest.mark.parametrize(
    ("spec", "name", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@abc", "org/name", "abc"),
        ("hf:org/name@pr%2F1", "org/name", "pr/1"),
        ("hf:org/name@abc/model.gguf", "org/name", None),
        ("smollm2-135m-instruct", "smollm2-135m-instruct", None),
        ("/home/ann/models/ward-7/", "ward-7", None),
        ("https://ann:secret@host/m.gguf#sha256=" + 64 * "0", "https://host/m.gguf", None),
    ],
)
def test_what_an_adapter_says_of_its_base(spec: str, name: str, revision: str | None) -> None:
    """A hub id that PEFT can load, with its revision; no path and no password."""
    assert (_public_name(spec), _revision(spec)) == (name, revision)


@pytest.mark.parametrize("base", ["", None, "/no/such/model", "gone"])
def test_a_base_that_is_not_found(
    base: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as error:
        base_of(tmp_path, {"base_model_name_or_path": base}, "mine")
    assert error.value.message.startswith("mine ")
    assert "--base MODEL" in error.value.hint


def test_a_damaged_list_of_places_changes_nothing(
    call: Call, home: Path, run: Path, figures: dict[str, object]
) -> None:
    call("export", run, "--unreleased", "--out", "listed")
    for text in ("{", "[]", '{"a": 3}'):
        (home / "cache" / PLACES).write_text(text)
        done = call("eval", "listed", *SIZES)
        assert done.code == 2
        assert "which is not found" in done.err
    call("export", run, "--unreleased", "--out", "listed-again")
    assert measured(call("eval", "listed-again", *SIZES)) == figures


def test_start_adapters_of_bases_that_are_called_otherwise(
    tiny: LanguageModel, tiny_model: Path, tmp_path: Path
) -> None:
    state = {name: torch.ones(p.shape) for name, p in tiny.parameters.items()}
    tiny.save_adapter(tmp_path / "a", state)
    copy = load(
        str(shutil.copytree(tiny_model, tmp_path / "renamed")),
        Lora(rank=4),
        LoadOptions(dtype="float32"),
    )
    with pytest.raises(ModelError, match=r"belongs to tiny, and model\.base is renamed"):
        read_start_adapter(str(tmp_path / "a"), copy)
    (tmp_path / "a" / "base.json").write_text(json.dumps({"fingerprint": tiny.fingerprint}))
    assert digest_of(read_start_adapter(str(tmp_path / "a"), copy)) == digest_of(state)
    (tmp_path / "a" / "base.json").unlink()
    file = tmp_path / "a" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": "/home/ann/models/tiny-b"}))
    assert digest_of(read_start_adapter(str(tmp_path / "a"), copy)) == digest_of(state)


def test_a_model_has_no_base(home: Path, call: Call) -> None:
    done = call("eval", "models/ward-7", "--base", "models/ward-7")
    assert (done.code, done.err) == (2, "error: models/ward-7 is itself a model\n  remove --base\n")


def test_the_base_of_a_run_is_told(run: Path) -> None:
    assert targets.base_spec(str(run / "rounds" / "0001" / "adapter")).endswith("models/ward-7")
    assert RunFolder.open(run).info["model"] == "ward-7"
