r"""What the constitution does to a model: safety, over-refusal and usefulness, by arm and seed.

    python benchmarks/constitution.py evaluate runs/s0/fedavg runs/s0/both fedrai:aligned \
        --xstest xstest_prompts.csv --out results.json
    python benchmarks/constitution.py table results.json --against fedavg
    python benchmarks/constitution.py frontier tries.jsonl --out docs/frontier.svg

`evaluate` asks all of AdvBench (520), XSTest (250 safe and 200 unsafe prompts; Röttger et al. 2024,
arXiv 2308.01263) and all held-out ordinary instructions, greedily. Answers are kept beside the
results and taken again, so that judging can be redone; they are never printed. A model may be given
as ARM@SEED=PATH; else the arm is the folder's name and the seed that of its recipe.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import evidence
import frontier
from fedrai.errors import EvaluationError, FedRAIError

NAMED = re.compile(r"(?P<arm>[^=@/]+)(?:@(?P<seed>\d+))?=(?P<path>.+)")


def evaluate(args: argparse.Namespace) -> None:
    import asking

    guard = asking.load_guard(args.guard)
    threshold = asking.threshold_of(guard, args.threshold)
    suites = asking.load_suites(args.xstest, args.limit, args.unsafe)
    models = asking.Models()
    beside = args.out.with_name(f"{args.out.stem}-answers")
    settings = asking.Settings(args.max_new_tokens, args.batch_size, args.max_length, threshold)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for spec in args.models:
        arm, seed, path = parse(spec)
        chosen = models.target(path, args.round)
        named = asking.name_of(path, chosen, arm, seed)
        print(f"{named[0]}, seed {named[1]}: {chosen.label}", file=sys.stderr, flush=True)
        results.append(asking.measure(chosen, named, suites, guard, settings, beside, progress))
        body = {"models": [result.to_json() for result in results]}
        args.out.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(evidence.rates_table(results))
    print(evidence.kinds_table(results))


def parse(spec: str) -> tuple[str | None, int | None, str]:
    """Arm, seed and path of `ARM@SEED=PATH`, `ARM=PATH` or `PATH`."""
    match = None if Path(spec).exists() else NAMED.fullmatch(spec)
    if match is None:
        return None, None, spec
    return match["arm"], None if match["seed"] is None else int(match["seed"]), match["path"]


def progress(suite: str, done: int, of: int) -> None:
    print(f"  {suite}: {done} of {of}", file=sys.stderr, flush=True)


def table(args: argparse.Namespace) -> None:
    results = evidence.load_results(args.results)
    if not results:
        raise EvaluationError("there are no results")
    against = args.against or results[0].arm
    print("Mean over seeds in % (each seed); held-out loss in nats per token.\n")
    print(evidence.arms_table(results))
    print("Differences in points with 95 % bootstrap intervals over prompts and seeds, paired by"
          f" prompt ({args.resamples} resamples); held-out loss in % (each seed).\n")  # fmt: skip
    print(evidence.differences_table(results, against, args.resamples, args.seed))
    if args.kinds:
        print(evidence.kinds_table(results))


def plot(args: argparse.Namespace) -> None:
    tries = frontier.load_tries(args.tries)
    args.out.write_text(frontier.draw(tries), encoding="utf-8")
    print(frontier.tries_table(tries))
    print(f"* on the frontier; picture: {args.out}")


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(required=True)
    asked = _command(commands, "evaluate", evaluate, "ask models and judge their answers")
    asked.add_argument("models", nargs="+", metavar="RUN", help="run, adapter, model; ARM@SEED=RUN")
    asked.add_argument("--xstest", type=Path, required=True, help="its CSV of prompts, or a folder")
    asked.add_argument("--out", type=Path, required=True, help="JSON with the results")
    asked.add_argument("--round", type=int, help="round of the runs (default: the last)")
    asked.add_argument("--guard", default="embedded")
    asked.add_argument("--threshold", default="strict", help="of the guard: a name or a number")
    asked.add_argument("--max-new-tokens", type=int, default=48)
    asked.add_argument("--max-length", type=int, default=512, help="tokens of a held-out row")
    asked.add_argument("--batch-size", type=int, default=32)
    asked.add_argument("--limit", type=int, help="prompts of each suite, for trying it out")
    shown = _command(commands, "table", table, "compare arms over seeds")
    asked.add_argument("--unsafe", type=int, help="most of XSTest's unsafe prompts (default: all)")
    shown.add_argument("results", nargs="+", type=Path)
    shown.add_argument("--against", metavar="ARM", help="default: the first arm")
    shown.add_argument("--resamples", type=int, default=evidence.DEFAULT.resamples)
    shown.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    shown.add_argument("--kinds", action="store_true", help="XSTest by kind, too")
    drawn = _command(commands, "frontier", plot, "draw safety against over-refusal")
    drawn.add_argument("tries", nargs="+", type=Path, metavar="FILE")
    drawn.add_argument("--out", type=Path, default=Path("docs/frontier.svg"))
    return whole


def _command(
    commands: argparse._SubParsersAction, name: str, call: Callable, what: str
) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=what)
    added.set_defaults(call=call)
    return added


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        args.call(args)
    except FedRAIError as error:
        print(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""),
              file=sys.stderr)  # fmt: skip
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
