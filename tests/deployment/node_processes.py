"""`python node_processes.py MODEL CALLS.json`: imports all once, then forks a `fedrai node` each.

A call is the file that its output goes to and its arguments. Three imports of torch and
transformers would take longer than the run that is tested.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from fedrai import model
from fedrai.cli import main


def start(out: str, arguments: list[str]) -> None:
    """Become `fedrai` with these arguments."""
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["fedrai", *arguments]
    main()


if __name__ == "__main__":
    torch.set_num_threads(1)
    import fedrai.runtimes.worker  # noqa: F401

    model.load(sys.argv[1], rank=4, dtype="float32", device="cpu")
    children = []
    for out, arguments in json.loads(Path(sys.argv[2]).read_text()):
        child = os.fork()
        if child == 0:
            start(out, arguments)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
