"""`fedrai constitution`: readable and JSON output, exit codes, warnings on stderr."""

import json
import subprocess
import sys

import pytest

from fedrai.cli import main
from fedrai.constitution import load

TINY = """
name = "tiny"
version = "1"
[[principles]]
id = "kind"
title = "Be kind"
look_for = "Unkind words."
critique_request = "Was it kind?"
revision_request = "Be kinder."
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in `tmp_path`; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedrai", "constitution", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


def test_show_prints_every_text_of_ours(call):
    code, out, err = call("show")
    assert (code, err) == (0, "")
    ours = load("embedded")
    plain = " ".join(out.split())
    for entry in ours.principles:
        texts = (entry.title, entry.look_for, entry.critique_request, entry.revision_request)
        assert all(text in plain for text in texts), entry.id
    for shown in ours.demonstrations:
        assert all(" ".join(turn.content.split()) in plain for turn in shown.turns)
    assert out.startswith(f"fedrai {ours.version}, sha256 {ours.hash}\n")
    assert max(map(len, out.splitlines())) <= 100


def test_show_of_a_small_file_line_by_line(call, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    code, out, _ = call("show", "tiny.toml")
    assert code == 0
    assert out.splitlines() == [
        f"tiny 1, sha256 {load(tmp_path / 'tiny.toml').hash}",
        "",
        "kind: Be kind",
        "  for        any request",
        "  look for   Unkind words.",
        "  critique   Was it kind?",
        "  revision   Be kinder.",
    ]


def test_show_json_holds_what_load_reads(call):
    code, out, _ = call("show", "--json")
    ours = load("embedded")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(ours.to_json()))
    assert json.loads(out)["principles"][0]["categories"] == ["violence", "weapons"]


def test_check_reports_on_stdout_and_warns_on_stderr(call, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    code, out, err = call("check", "tiny.toml")
    assert code == 0
    assert "principles: 1, 1 of them for any request" in out
    assert "demonstrations: 0, about 0 tokens" in out
    assert "categories without a principle: self-harm, violence, " in out
    assert err.splitlines() == [
        "warning: no demonstrations: a small model needs examples of a critique and a revision"
    ]


def test_check_of_ours_has_nothing_to_say(call):
    code, out, err = call("check", "embedded")
    assert (code, err) == (0, "")
    assert "principles: 16, 6 of them for any request" in out
    assert "categories without a principle: none" in out


def test_check_json(call, tmp_path):
    (tmp_path / "pairs.json").write_text('[{"critic": "Was it kind?", "revision": "Be kinder."}]')
    code, out, _ = call("check", "pairs.json", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["principles"] == [
        {"id": "principle-1", "categories": [], "demonstrations": 0, "tokens": 4}
    ]
    assert (found["name"], found["version"], found["demonstrations"]) == ("pairs", "", 0)
    assert len(found["warnings"]) == 1


def test_a_wrong_file_exits_with_two_and_one_line(call, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("title", "titel"))
    for command in ("check", "show"):
        code, out, err = call(command, "tiny.toml")
        assert (code, out) == (2, "")
        assert "principle 1: unknown key titel (did you mean title?)" in err
        assert err.splitlines()[1] == "  see docs/constitution.md"
    assert call("check", "none.toml")[0] == 2
    assert call("check")[0] == 2


def test_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom fedrai.cli import cli\n"
        "cli(['constitution', 'show', '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr', 'numpy', 'rich', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
