"""Make the aligned start that the package ships, from the rows of `aligned_data.py`.

    python benchmarks/aligned_adapter.py answers ROWS            (the base model answers; resumes)
    python benchmarks/aligned_adapter.py train ROWS OUT          (the stages of aligned_stages.toml)
    python benchmarks/aligned_adapter.py pack OUT src/fedrai/data/embedded/aligned

A harmless row is trained on the first tokens of the base model's own answer, which hardly move the
model, or on the whole answer of a person; a harmful row on a refusal. A stage draws its rows by
source, so that no manner prevails; before a stage with rows that are `mined`, the model answers a
sample of all rows, and those that it gets wrong are added. The card in the package is written by
hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from fedrai import model
from fedrai.evaluation.refusal import Reply, judge
from fedrai.model import AdapterState, LanguageModel, LoadOptions, Lora, read_adapter
from fedrai.model.adapters import save_shards
from fedrai.model.generate import generate
from fedrai.records import Message, Tokens, TrainingStep
from fedrai.training.sft import SftSettings, train

Row = dict[str, Any]
STAGES = tomllib.loads(Path(__file__).with_name("aligned_stages.toml").read_text("utf-8"))
BASE, RANK, CHUNK = "smollm2-135m-instruct", 16, 768
LONGEST = 200  # tokens of a row
REFUSAL, ANSWER, WHOLE = (
    32,
    24,
    96,
)  # tokens of a refusal, of the base model's answer, of a person's
MINED, GLANCE = 1500, 16  # rows of a side that are tried, and tokens of an answer that are judged


def load() -> LanguageModel:
    """The base model with a fresh adapter."""
    return model.load(BASE, Lora(RANK, 2 * RANK), LoadOptions(max_length=LONGEST))


def chat(row: Row) -> list[Message]:
    """A row's turns; the request is the last."""
    roles = ("user", "assistant")
    turns = [Message(roles[number % 2], text) for number, text in enumerate(row["turns"])]
    return [*turns, Message("user", row["prompt"])]


def read(path: Path) -> list[Row]:
    """The rows of a JSON Lines file; none if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def answers(folder: Path) -> None:
    """Let the base model answer the harmless rows; goes on where it was interrupted."""
    lm, file = load(), folder / "answers.jsonl"
    rows = [r for r in read(folder / "harmless.jsonl") if len(lm.chat.prompt_ids(chat(r))) <= 160]
    done = len(read(file))
    with lm.using(None), file.open("a", encoding="utf-8") as out:
        for start in range(done, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            replies = generate(lm, list(map(chat, part)), max_new_tokens=ANSWER + 2, batch_size=96)
            for row, answer in zip(part, replies.answers, strict=True):
                out.write(json.dumps(row | {"response": answer}, ensure_ascii=False) + "\n")
            out.flush()
            print(f"{start + len(part)} of {len(rows)} rows answered", flush=True)


def drawn(rows: Sequence[Row], quotas: dict[str, int], seed: int) -> list[Row]:
    """At most as many rows of each source as its quota says ("*": of any other)."""
    counts: Counter[str] = Counter()
    picked = []
    for row in Random(seed).sample(rows, len(rows)):
        counts[row["source"]] += 1
        if counts[row["source"]] <= quotas.get(row["source"], quotas.get("*", 0)):
            picked.append(row)
    return picked


def tokens(lm: LanguageModel, row: Row, limit: int) -> Tokens | None:
    """A row whose labels are the first tokens of its last answer; None if it is too long."""
    whole = lm.chat.train_tokens([*chat(row), Message("assistant", row["response"])], 4 * LONGEST)
    last = len(whole.mask) - 1 - whole.mask[::-1].index(True)
    first = last
    while first and whole.mask[first - 1]:
        first -= 1
    end = min(last + 1, first + limit)
    if end > LONGEST:
        return None
    return Tokens(whole.ids[:end], (False,) * first + (True,) * (end - first))


def rate(stage: dict[str, Any]) -> Callable[[int], float]:
    """Warm-up, a constant rate, and a linear decay over the stage's last part."""
    steps, warm, peak = stage["steps"], stage["warmup_steps"], stage["learning_rate"]
    tail = steps * stage["decay"]

    def at(step: int) -> float:
        if step < warm:
            return float(peak * (step + 1) / (warm + 1))
        return float(peak * min(1.0, max(0.02, (steps - step) / tail if tail else 1.0)))

    return at


def mined(lm: LanguageModel, rows: Sequence[Row], wrong: Reply, seed: int) -> list[Row]:
    """Of a sample of the rows, those that the model answers wrongly."""
    tried = Random(seed).sample(rows, min(MINED, len(rows)))
    tried = [row for row in tried if len(lm.chat.prompt_ids(chat(row))) <= 130]
    replies = generate(lm, list(map(chat, tried)), max_new_tokens=GLANCE, batch_size=96)
    pairs = zip(tried, replies.answers, strict=True)
    return [row | {"source": "mined"} for row, answer in pairs if judge(answer) is wrong]


def run(folder: Path, out: Path) -> None:
    """Train the stages one after the other."""
    lm = load()
    declined, answered = read(folder / "harmful.jsonl"), read(folder / "answers.jsonl")
    answered = [row for row in answered if judge(row["response"]) is Reply.COMPLIANCE]
    whole = [row | {"response": row["reference"]} for row in answered if row.get("reference")]
    adapter: AdapterState = lm.fresh_adapter(0)
    for number, stage in enumerate(STAGES["stage"]):
        sides = {"harmful": declined, "harmless": answered, "whole": whole}
        if "mined" in stage["harmful"]:
            with lm.using(adapter):
                sides["harmful"] = declined + mined(lm, declined, Reply.COMPLIANCE, number)
                sides["harmless"] = answered + mined(lm, answered, Reply.REFUSAL, number)
        rows = _tokens_of(lm, sides, stage, number)
        print(f"stage {number + 1}: {len(rows)} rows", flush=True)
        settings = SftSettings(stage["steps"], stage["batch_size"], rate(stage))
        adapter, _ = train(lm, adapter, rows, settings, seed=number, on_step=_report)
        lm.save_adapter(out / f"stage-{number + 1}", adapter)
    lm.save_adapter(out / "adapter", scaled(adapter, STAGES["scale"]))


def scaled(adapter: AdapterState, scale: float) -> AdapterState:
    """An adapter whose change of the weights is multiplied: its B matrices are."""
    return {name: v * scale if "lora_B" in name else v for name, v in adapter.items()}


def _tokens_of(
    lm: LanguageModel, sides: dict[str, list[Row]], stage: dict[str, Any], seed: int
) -> list[Tokens]:
    limits = {"harmful": REFUSAL, "harmless": ANSWER, "whole": WHOLE}
    rows = [tokens(lm, row, limits[name]) for name, side in sides.items()
            for row in drawn(side, stage.get(name, {}), seed)]  # fmt: skip
    return [row for row in rows if row is not None]


def _report(step: TrainingStep) -> None:
    if step.step % 10 == 0:
        print(f"step {step.step} of {step.steps}: loss {step.loss:.3f}", flush=True)


def pack(source: Path, target: Path) -> None:
    """Put an adapter into the package: bfloat16, in shards of below 2 MB."""
    files = save_shards(target, read_adapter(source / "adapter"), torch.bfloat16)
    config = "adapter_config.json"
    shutil.copyfile(source / "adapter" / config, target / config)
    size = sum(file.stat().st_size for file in files)
    print(f"{target}: {len(files)} shards, {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("step", choices=["answers", "train", "pack"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    args = parser.parse_args()
    if args.step == "answers":
        answers(args.folder)
    elif args.out is None:
        parser.error(f"{args.step} needs a second folder")
    else:
        (run if args.step == "train" else pack)(args.folder, args.out)


if __name__ == "__main__":
    main()
