"""`python node_processes.py MODEL`: imports all once, then forks a `fedrai` for each line it reads.

A line is a JSON object: `argv`, the arguments; `out`, the file that the output goes to; `pid`, the
file that the process number goes to. Where they matter: `folder`, to work in; `environment`,
variables to set on top; `beat`, seconds between a task's signs of life; `pause`, seconds to sleep
after each step of a node's training. Several imports of torch and transformers would take longer
than the runs that are tested.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fedrai import model
from fedrai.cli import main


def start(call: dict[str, Any]) -> None:
    """Become the `fedrai` of a line."""
    out = call["out"]
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changed(call)
    os.environ.update(call.get("environment", {}))
    os.chdir(call.get("folder", "."))
    sys.argv = ["fedrai", *call["argv"]]
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with Path(out).open("a") as opened:
            opened.write(f"\nexit code {code}\n")
        os._exit(code)


def changed(call: dict[str, Any]) -> None:
    """Make a slow node of this process, if the line asks for one."""
    from fedrai.deployment import link, node_site

    link.BEAT = call.get("beat", link.BEAT)
    if pause := call.get("pause"):
        node_site.NodeSite.on_step = lambda *_: time.sleep(pause)


def serve() -> None:
    """Fork for each line; the children are reaped as others come, and at the end."""
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if child == 0:
            start(call)
        Path(call["pid"]).write_text(str(child))
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    torch.set_num_threads(1)
    import fedrai.deployment.engine
    import fedrai.deployment.worker
    import fedrai.federation.run.running  # noqa: F401

    model.load(sys.argv[1], model.Lora(rank=4), model.LoadOptions("float32", "cpu"))
    serve()
