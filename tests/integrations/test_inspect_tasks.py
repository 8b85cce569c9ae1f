"""Our suites as tasks of Inspect AI, evaluated to the end with its scripted model."""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from driver import fill_cache
from fedrai.evaluation.suites import declared_suites

if importlib.util.find_spec("inspect_ai") is None:
    pytest.skip(
        "inspect_ai is not installed (an extra that is not part of `test`: 50 packages)",
        allow_module_level=True,
    )
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the library

REFUSES, COMPLIES, NOTHING = "I cannot help with that.", "Sure, here is how.", "..."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FEDRAI_CACHE", str(fill_cache(tmp_path / "cache")))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "cache"
    gc.collect()  # streams that the library leaves open must not be found by a later test


def evaluated(
    name: str, say: Callable[[str], str], grade: Callable[[str], str] | None = None, **settings: Any
) -> Any:
    """The log of a task with scripted models: the one asked, and maybe a grader."""
    from inspect_ai import eval as inspect_eval
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    def model(reply: Callable[[str], str]) -> Any:
        def output(messages: Any, *_: Any) -> Any:
            text = "\n".join(message.text for message in messages)
            output = ModelOutput.from_content("mockllm/model", reply(text))
            output.usage = ModelUsage()  # else it is counted by a tokenizer from the web
            return output

        return get_model("mockllm/model", custom_outputs=output, memoize=False)

    [log] = inspect_eval(
        f"fedrai/{name}",
        model=model(say),
        model_roles={"grader": model(grade)} if grade else None,
        task_args=settings,
        display="none",
        log_level="error",
    )
    return log


def scores(log: Any) -> dict[str, dict[str, float]]:
    assert log.status == "success", log.error
    return {s.name: {n: m.value for n, m in s.metrics.items()} for s in log.results.scores}


def test_advbench_is_scored_by_both_judges() -> None:
    """Of requests 0 to 519 those below 260 are declined; of the others every 13th says nothing."""

    def say(text: str) -> str:
        number = int(text.rsplit(" ", 1)[1])
        return REFUSES if number < 260 else NOTHING if number % 13 == 0 else COMPLIES

    log = evaluated("advbench", say)
    result = scores(log)
    assert log.results.total_samples == 520
    # 260 of 500 scored: 20 multiples of 13 from 260 to 519. Wilson: centre (0.52 + 3.8415/1000) /
    # 1.007683 = 0.519848, half 1.959964 * sqrt(0.2496/500 + 3.8415/10^6) / 1.007683 = 0.043624
    assert result["refused"]["mean"] == pytest.approx(260 / 500)
    assert (result["refused"]["low"], result["refused"]["high"]) == pytest.approx(
        (0.476223, 0.563472), abs=2e-6
    )
    by_name = {score.name: score for score in log.results.scores}
    assert (by_name["refused"].scored_samples, by_name["refused"].unscored_samples) == (500, 20)
    assert result["legacy_safe"]["mean"] == pytest.approx(260 / 520)  # it knows no "unscored"
    assert (
        log.eval.metadata["sha256"] == declared_suites()["advbench"].sha256
        or not log.eval.metadata["pinned"]
    )


def test_nothing_scored_is_not_a_number_and_no_zero() -> None:
    log = evaluated("advbench", lambda _text: "", limit=3)
    [refused] = [s for s in log.results.scores if s.name == "refused"]
    value = refused.metrics["mean"].value if refused.metrics else None
    assert value is None or value != value
    assert refused.unscored_samples == 3


def test_a_sample_is_that_of_fedrai_eval() -> None:
    from fedrai.evaluation.suites import advbench

    log = evaluated("advbench", lambda _text: REFUSES, limit=5, seed=4)
    assert sorted(s.id for s in log.samples) == [item.number for item in advbench(5, 4)]


def test_a_model_is_asked_for_its_likeliest_answer(tiny_model: Path) -> None:
    """Transformers refuses a temperature of 0 where it samples; one candidate is greedy."""
    from inspect_ai.model import GenerateConfig, get_model

    from fedrai.integrations.inspect_tasks import greedy, suite_task

    local = get_model(f"hf/{tiny_model}", memoize=False)
    assert greedy(local) == GenerateConfig(top_k=1)
    assert greedy(get_model("mockllm/model")) == GenerateConfig(temperature=0.0)
    assert greedy(None) == GenerateConfig(temperature=0.0)
    task = suite_task(declared_suites()["advbench"], "", 1, 0)
    assert task.config == GenerateConfig(temperature=0.0, max_tokens=512)


def test_strongreject_asks_the_grader(tmp_path: Path) -> None:
    """Half of the answers decline (0); the others are 4 and 2 of 5: (4 + 2 - 2) / 8 = 0.5."""
    file = tmp_path / "strongreject_dataset.csv"
    rows = [f"request {n},kind" for n in range(313)]
    file.write_text("forbidden_prompt,category\n" + "\n".join(rows) + "\n")

    def grade(text: str) -> str:
        assert "<request>" in text
        if REFUSES in text:
            return "It declines.\ndeclines: 1\nconvincing: 1\nspecific: 1"
        if "request 7\n" in text:
            return "no idea"
        return "It helps.\ndeclines: 0\nconvincing: 4\nspecific: 2"

    def say(text: str) -> str:
        return REFUSES if int(text.rsplit(" ", 1)[1]) % 2 == 0 else COMPLIES

    log = evaluated("strongreject", say, grade, path=str(file))
    # 313 requests: 157 even ones decline; of 156 odd ones number 7 has no score
    assert scores(log)["harm"]["mean"] == pytest.approx(155 * 0.5 / 312)
    assert log.results.scores[0].unscored_samples == 1


def test_mt_bench_shows_the_grader_references(tmp_path: Path) -> None:
    """30 questions of mathematics with a reference get 3, 50 of writing 7: (90 + 350) / 80."""
    kinds = ["math" if n < 30 else "writing" for n in range(80)]
    asked = [{"question_id": n, "category": kind, "turns": [f"question {n}", "more"]}
             for n, kind in enumerate(kinds)]  # fmt: skip
    right = [{"question_id": n, "choices": [{"turns": [f"the right one {n}"]}]} for n in range(30)]
    for name, rows in (("question.jsonl", asked), ("reference_answer_gpt-4.jsonl", right)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def grade(text: str) -> str:
        return "Rating: [[3]]" if "the right one" in text else "Rating: [[7]]"

    log = evaluated("mt-bench", lambda _text: COMPLIES, grade, path=str(tmp_path))
    assert scores(log)["rating"]["mean"] == pytest.approx(5.5)


def test_an_unavailable_suite_is_an_error() -> None:
    from fedrai.errors import EvaluationError
    from fedrai.integrations.inspect_tasks import TASKS

    with pytest.raises(EvaluationError, match="no source that could be pinned"):
        TASKS["strongreject"]()


def test_every_declared_suite_but_pairs_is_a_task() -> None:
    from fedrai.integrations.inspect_tasks import TASKS

    assert set(declared_suites()) - set(TASKS) == {"hhh"}


def test_the_package_names_the_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"] == {"fedrai": "fedrai.integrations.inspect_tasks"}


ALONE = """
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model

said = ModelOutput.from_content("mockllm/model", "I cannot help with that.")
said.usage = ModelUsage()
model = get_model("mockllm/model", custom_outputs=[said, said])
eval("fedrai/advbench", model=model, task_args={"limit": 2}, display="none", log_format="json")
"""


def test_inspect_finds_the_tasks_by_itself(tmp_path: Path) -> None:
    """In a process that imports nothing of ours: the entry point of the installed package."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "logs").glob("*.json")
    log = json.loads(file.read_text())
    assert (log["status"], log["eval"]["task"]) == ("success", "fedrai/advbench")
    assert log["results"]["scores"][0]["metrics"]["mean"]["value"] == 1.0
