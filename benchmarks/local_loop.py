"""Tokens/s of the local loop against TRL's SFTTrainer on the same model, rows, batch and adapter.

Both see the same rows once, 16 a step, LoRA 16 on all linear layers, bfloat16 base, loss on the
assistant's tokens. TRL runs as it comes (random batches) and with batches by length.
Tokens are counted without padding for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import datasets
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import common
from fedrai.model import model_folder, pick_dtype
from fedrai.records import Tokens
from fedrai.training.sft import SftSettings, train

BATCH = 16


def ours(lm, rows: list[Tokens], steps: int) -> float:
    _, result = train(
        lm, lm.fresh_adapter(0), rows, SftSettings(steps, BATCH, lambda _: 1e-4), seed=0
    )
    return result.tokens / result.seconds


def trl(rows: list[Tokens], steps: int, sampling: str) -> float:
    folder = model_folder(common.BASE)
    dtype = pick_dtype("auto", torch.device("cpu"))
    table = datasets.Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "labels": [i if m else -100 for i, m in zip(row.ids, row.mask, strict=True)],
            }
            for row in rows
        ]
    )
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
            args=SFTConfig(
                output_dir=out, max_steps=steps, per_device_train_batch_size=BATCH,
                learning_rate=1e-4, lr_scheduler_type="constant", report_to=[], use_cpu=True,
                bf16=dtype == torch.bfloat16, save_strategy="no", logging_steps=1000,
                gradient_checkpointing=False, disable_tqdm=True, train_sampling_strategy=sampling,
            ),
            train_dataset=table,
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        )  # fmt: skip
        start = time.perf_counter()
        trainer.train()
        return sum(len(row.ids) for row in rows) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    lm = common.load_model()
    rows = common.load_rows(lm, args.steps * BATCH)
    ours(lm, rows, 2)
    found: dict[str, list[float]] = {"ours": [], "random": [], "group_by_length": []}
    for _ in range(args.pairs):
        found["ours"].append(ours(lm, rows, args.steps))
        for sampling in ("random", "group_by_length"):
            found[sampling].append(trl(rows, args.steps, sampling))
    for sampling in ("random", "group_by_length"):
        common.report(
            "local loop", found["ours"], f"TRL SFTTrainer ({sampling})", found[sampling], "tokens/s"
        )


if __name__ == "__main__":
    main()
