"""The project's own rules: import direction, heavy imports, generated docs, commands in docs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from fedrai import recipe
from fedrai.cli import cli

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way():
    """The contracts of pyproject.toml: the stack of packages, and who knows heavy ones."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom fedrai.cli import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr', 'pydantic', 'numpy', 'rich'}\n"
        "heavy |= {'httpx', 'filelock', 'asyncio'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "compare" in done.stdout


def test_flowers_telemetry_is_off_whatever_is_imported_first():
    """Flower reads its variable when it is first imported."""
    code = (
        "import os, fedrai.federation.run.simulation\n"
        "from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED as read\n"
        "print('READ', read, os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK")
    bare = {key: value for key, value in os.environ.items() if key not in names}
    call = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=bare)
    assert "READ 0 1" in done.stdout


def load_generator(name="generate"):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_references_are_up_to_date():
    generator = load_generator()
    assert (ROOT / "docs" / "recipe.md").read_text() == generator.recipe_reference(), (
        "run make docs"
    )
    assert (ROOT / "docs" / "cli.md").read_text() == generator.cli_reference(), "run make docs"


def test_a_meaning_of_several_lines_stays_one_row_of_the_reference():
    class Kept(BaseModel):
        """A section."""

        drift: float = 0.0
        """Stop from here.

        0 turns it off."""

        model_config = {"use_attribute_docstrings": True}

    lines = list(load_generator()._section("kept", Kept))
    assert lines[2] == "| `drift` | float | `0.0` | Stop from here. 0 turns it off. |"


# --- tables of figures ------------------------------------------------------------------------


def test_tables_of_figures_are_those_of_the_json():
    tables = load_generator("tables")
    for page in tables.pages():
        assert tables.filled(page.read_text()) == page.read_text(), f"{page.name}: run make docs"


def test_every_table_of_figures_has_a_source_and_stands_in_a_page():
    tables = load_generator("tables")
    text = "\n".join(page.read_text() for page in tables.pages())
    shown = {found["name"] for found in tables.BLOCK.finditer(text)}
    assert shown == {file.stem for file in tables.FIGURES.glob("*.json")}
    assert text.count("<!-- figures: ") == text.count("<!-- /figures -->")
    log = (ROOT / "docs" / "LOG.md").read_text()
    for name in shown:
        assert tables.Figures.read(name).source
        for entry in re.findall(r'"(.+?)"', tables.Figures.read(name).source):
            assert re.search(rf"(?m)^## [0-9-]+: {re.escape(entry)}", log), f"{name}: {entry}"


def test_a_changed_figure_reaches_only_the_chosen_columns_and_rows(tmp_path, monkeypatch):
    tables = load_generator("tables")
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    rows = [["FedAvg", "41.7", "2.7"], ["local", "", "3.6"]]
    tables.write("t", tables.Figures("made up", ["", "safe %", "loss"], rows))
    page = "a\n<!-- figures: t | columns: ; loss | rows: local -->\nold\n<!-- /figures -->\nb\n"
    first = tables.filled(page)
    assert first.splitlines()[3:6] == ["| | loss |", "|---|---|", "| local | 3.6 |"]
    tables.write(
        "t", tables.Figures("made up", ["", "safe %", "loss"], [rows[0], ["local", "", "9"]])
    )
    assert tables.filled(first) == first.replace("3.6", "9")
    whole = tables.filled("<!-- figures: t -->\n<!-- /figures -->")
    assert "| local | | 9 |" in whole
    with pytest.raises(SystemExit, match="no such column or row: lost"):
        tables.filled(page.replace("; loss", "; lost"))


def test_figures_are_read_from_the_folder_of_a_comparison(tmp_path, monkeypatch):
    tables = load_generator("tables")
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    with pytest.raises(SystemExit, match=r"comparison\.json is missing"):
        tables.from_runs("t", tmp_path / "runs")
    table = {"columns": ["arm", "held-out loss"], "rows": [["both", "2.685"]]}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "comparison.json").write_text(json.dumps({"axis": "", "table": table}))
    tables.from_runs("t", tmp_path / "runs")
    kept = tables.Figures.read("t")
    assert (kept.columns, kept.rows) == (table["columns"], table["rows"])
    assert kept.source == "fedrai compare, folder runs"


# --- README and the pages ---------------------------------------------------------------------


def documented_commands(page):
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.S)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()
            if line.strip().startswith("fedrai ")]  # fmt: skip


def test_documented_commands_exist():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    commands = [command for page in pages for command in documented_commands(page)]
    assert len(documented_commands(ROOT / "docs" / "tour.md")) >= 30
    for command in commands:
        words = [w for w in command.split()[1:] if not w.startswith(("-", "<"))]
        group = cli
        while words and hasattr(group, "commands"):
            assert words[0] in group.commands, command
            group = group.commands[words.pop(0)]
        options = {o for p in group.params for o in p.opts}
        used = {w.split("=")[0] for w in command.split() if w.startswith("-")}
        assert used <= options, command


def test_the_readme_is_one_screen_and_leads_to_the_start_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 75
    assert "](docs/index.md)" in text
    start = (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages == set(re.findall(r"\]\(([A-Za-z]+\.md)\)", start))


def test_documented_make_targets_exist():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "setup.md").read_text()
    targets = set(re.findall(r"^make ([a-z]+)", text, re.M)) | {"check", "lock", "docs"}
    assert {"quickstart", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_shipped_recipe_names_the_command_that_runs_it():
    for name, file in recipe.shipped().items():
        header = file.read_text().split("\nname =")[0]
        assert re.search(rf"fedrai (run|compare) {name}\b", header), name


def test_relative_links_in_docs_lead_somewhere():
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shown = CliRunner().invoke(cli, ["--version"]).output
    assert project["version"] in shown


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"[A-Za-z]+\.md", str(settings["nav"]))
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    assert settings["theme"]["font"] is False
    assert settings["plugins"] == ["search"]
    assert settings["extra_css"] == ["site.css"]
    assert not {"extra_javascript", "repo_url"} & set(settings)  # either asks another host
    assert "//" not in (ROOT / "docs" / "site.css").read_text()


# --- the locks --------------------------------------------------------------------------------


def locked(name):
    text = (ROOT / "locks" / name).read_text()
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
    pins = [re.match(r"([A-Za-z0-9._-]+)==([^ ]+)", block).groups() for block in blocks]
    assert all("--hash=sha256:" in block for block in blocks), name
    return {canonicalize_name(package): version for package, version in pins}


def requirements(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines if not line.startswith("fedrai[")]


@pytest.mark.parametrize(
    ("lock", "extra"), [("fedrai.txt", "test"), ("integrations.txt", "inspect")]
)
def test_a_lock_pins_every_requirement_within_its_range_and_with_hashes(lock, extra):
    pins = locked(lock)
    for requirement in requirements(extra):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{lock}: {requirement}"


def test_the_lock_of_the_docs_pins_its_extra_alone():
    pins = locked("docs.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["optional-dependencies"]["docs"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    assert "torch" not in pins


def test_the_locks_agree_on_versions_and_on_torch():
    few, more, docs = locked("fedrai.txt"), locked("integrations.txt"), locked("docs.txt")
    assert few.items() <= more.items()
    assert all(few.get(package, version) == version for package, version in docs.items())
    assert f"torch=={few['torch']}" in (ROOT / "constraints.txt").read_text()
    assert locked("torch-cpu.txt")["torch"].partition("+")[0] == few["torch"]
    assert not [name for name in few if name.startswith(("nvidia-", "cuda-", "triton"))]


# --- warnings ---------------------------------------------------------------------------------


def test_our_own_warnings_fail_a_test_and_deprecations_of_others_are_listed(tmp_path):
    (tmp_path / "fedrai_own.py").write_text("import warnings\ndef f(): warnings.warn('careless')\n")
    (tmp_path / "other.py").write_text(
        "import warnings\ndef f(): warnings.warn('old name', FutureWarning, stacklevel=2)\n"
    )
    (tmp_path / "test_both.py").write_text(
        "import fedrai_own, other\ndef test_own(): fedrai_own.f()\ndef test_others(): other.f()\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-q",
               f"--rootdir={tmp_path}", "-p", "no:cacheprovider", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "UserWarning: careless" in done.stdout
    assert "FutureWarning: old name" in done.stdout
    assert "1 failed, 1 passed, 1 warning" in done.stdout
