"""What libraries say goes to the run's log, not to the terminal; what we say reaches the user."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from driver import ENVIRONMENT, fill_cache, write_recipe
from fedrai import captured_log
from fedrai.captured_log import FILE, captured, into

pytestmark = pytest.mark.slow

LOUD = """
import logging, sys, warnings
from fedrai.cli import main
from fedrai.federation.run import preparation

def loud(load):
    def call(*given, **named):
        model = load(*given, **named)
        warnings.warn("an old name of peft", FutureWarning, stacklevel=2)  # as if by our own file
        warnings.warn("an old name of peft", FutureWarning, stacklevel=2)
        from transformers.utils import logging as theirs
        theirs.get_logger("transformers.generation").warning("advice of transformers")
        for name in ("huggingface_hub.file_download", "peft.tuners", "flwr", "py.warnings"):
            logging.getLogger(name).warning("advice of %s", name)
        logging.warning("advice of the root")
        return model
    return call

preparation.load_model = loud(preparation.load_model)  # before `targets` takes it
main()
"""
ADVICE = (
    "an old name of peft", "advice of transformers", "advice of huggingface_hub.file_download",
    "advice of peft.tuners", "advice of flwr", "advice of py.warnings", "advice of the root",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    home = tmp_path_factory.mktemp("loud")
    fill_cache(home / "cache")
    write_recipe(home / "data", tiny_model)
    (home / "tiny").symlink_to(tiny_model)
    return home


def loudly(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in which every loading of a model is loud."""
    return subprocess.run(
        [sys.executable, "-c", LOUD, *arguments], cwd=home, check=False, text=True,
        capture_output=True, timeout=240,
        env={**os.environ, **ENVIRONMENT, "FEDRAI_CACHE": str(home / "cache"), **variables},
    )  # fmt: skip


def test_a_run_keeps_what_libraries_say_in_its_log(home: Path) -> None:
    recipe = next((home / "data").glob("*.toml"))
    done = loudly(home, "run", str(recipe), "--out", "run", "-o", "federation.rounds=1")
    assert done.returncode == 0, done.stderr
    for text in ("advice", "old name", "Warning", "it/s"):
        assert text not in done.stderr + done.stdout
    kept = (home / "run" / FILE).read_text()
    assert [kept.count(text) for text in ADVICE] == [1] * len(ADVICE), kept
    assert "FutureWarning" in kept
    assert "WARNING transformers.generation: advice of transformers" in kept
    again = loudly(home, "run", "--resume", "run")
    assert (again.returncode, again.stderr) == (0, "run is finished; there is nothing to resume\n")


def test_a_command_without_a_run_says_nothing_of_it(home: Path) -> None:
    before = set(home.rglob("*"))
    done = loudly(home, "eval", "tiny", "--advbench", "1", "--ordinary", "0",
                  "--max-new-tokens", "2", "--json")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert set(home.rglob("*")) == before


def test_figures_that_are_written_have_the_log_beside_them(home: Path) -> None:
    done = loudly(home, "eval", "tiny", "--advbench", "1", "--ordinary", "0",
                  "--max-new-tokens", "2", "--out", "measured", "--json")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "advice of flwr" in (home / "measured" / FILE).read_text()


def test_a_variable_brings_it_to_the_terminal(home: Path) -> None:
    done = loudly(home, "chat", "tiny", "--prompt", "Hi", "--max-new-tokens", "1",
                  FEDRAI_DEBUG="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "advice of transformers" in done.stderr
    assert "FutureWarning: an old name of peft" in done.stderr


# --- in this process ------------------------------------------------------------------------------


class OwnWarning(UserWarning):
    """As if it were defined in a module of ours."""


OwnWarning.__module__ = "fedrai.runs.folder"


@pytest.mark.filterwarnings("default")
def test_our_own_warnings_are_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    ours = logging.getLogger("fedrai.runs.folder")
    ours.addHandler(handler)
    try:
        with captured(), into(tmp_path):
            warnings.warn("the disk is nearly full", OwnWarning, stacklevel=1)
            ours.warning("as a log line")
            warnings.warn("a library's", UserWarning, stacklevel=1)
    finally:
        ours.removeHandler(handler)
    assert capsys.readouterr().err == "warning: the disk is nearly full\n"
    assert [record.getMessage() for record in heard] == ["as a log line"]
    [line] = (tmp_path / FILE).read_text().splitlines()
    assert line.endswith(": a library's")
    assert " UserWarning tests/test_captured_log.py:" in line


@pytest.mark.filterwarnings("default")
def test_everything_is_as_before_afterwards(tmp_path: Path) -> None:
    before = (warnings.showwarning, logging.Logger.callHandlers)
    with pytest.raises(ValueError, match="x"), captured(), into(tmp_path):
        raise ValueError("x")
    assert (warnings.showwarning, logging.Logger.callHandlers) == before
    assert not (tmp_path / FILE).exists()


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    with captured(), into(tmp_path / "is not there"):
        logging.getLogger("peft").warning("advice")


def test_each_run_has_its_own_lines(tmp_path: Path) -> None:
    """What was said before the first is the first's; nothing is kept twice, nor without end."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with captured():
        for number in range(captured_log.MOST_WAITING + 5):
            logging.getLogger("peft").warning("before %d", number)
        with into(tmp_path / "one"):
            logging.getLogger("peft").warning("first")
            logging.getLogger("peft").warning("first")
        with into(tmp_path / "two"):
            logging.getLogger("peft").warning("first")
    one, two = ((tmp_path / name / FILE).read_text().splitlines() for name in ("one", "two"))
    assert len(one) == captured_log.MOST_WAITING + 1
    assert (one[0][26:], one[-1][26:]) == ("WARNING peft: before 5", "WARNING peft: first")
    assert [line[26:] for line in two] == ["WARNING peft: first"]
