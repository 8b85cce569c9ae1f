"""The text files of a consortium's folder: its record, `node.toml`, who does what when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tomlkit

if TYPE_CHECKING:
    from fedrai.deployment.setup.consortium import Consortium


def record(consortium: Consortium) -> str:
    """`consortium.toml`: what the folder was made from."""
    table = tomlkit.document()
    table.add(tomlkit.comment("What this folder was made from; add-node and renew read it."))
    table["name"] = consortium.name
    table["server"] = str(consortium.server)
    table["nodes"] = list(consortium.nodes)
    table["days"] = consortium.days
    table["insecure"] = consortium.insecure
    table["base_models"] = list(consortium.base_models)
    return tomlkit.dumps(table)


def node_toml(name: str, base_models: Sequence[str]) -> str:
    """A node's own `node.toml`, with every key of the policy."""
    models = tomlkit.item(list(base_models)).as_string()
    return f"""\
# This node's data and what it lets others ask of it. The file never leaves this machine.
name = "{name}"                       # the server knows the node by it
device = "auto"                     # or cpu, cuda, cuda:0

[data]
# Rows that never leave this machine; paths are relative to this folder. As in a recipe: JSONL,
# JSON, CSV or Parquet with messages, or prompt and response; named otherwise:
# {{ path = "train.csv", columns = {{ prompt = "question", response = "answer" }} }}
sources = [{{ path = "train.jsonl" }}]

[policy]                            # a recipe that asks for more is refused; the server hears why
base_models = {models}   # may be fine-tuned here; empty: any
filter = "required"                 # "any": also recipes that train on unfiltered rows
guards = []                         # guards that may filter; empty: "embedded" and the [guards] of
                                    # this file. A model of the hub only as "org/name@COMMIT"
threshold_at_most = "loose"         # the guard's own "loose" or "strict", or a number; a filter
                                    # that lets more through is refused
judge = ["pair"]                    # what a filter may judge: prompt, response, pair; empty: any
max_local_steps = 0                 # most optimiser steps of a round; 0: no limit
max_batch_size = 0                  # most rows of a step; 0: no limit
max_length = 0                      # most tokens of a row; 0: no limit
max_rounds = 0                      # most rounds of a run; 0: no limit
# Numbers that are sent to the server with the adapter and the number of rows. Remove those that it
# must not know: training losses, counts of the filter, unusable rows, cost.
send = [
    "losses", "filter-counts", "bad-rows", "steps", "tokens", "label-tokens", "seconds",
    "operations", "peak-bytes",
]
"""


def readme(consortium: Consortium) -> str:
    """Who does what, in order."""
    rows = "\n".join(f"| `nodes/{name}/` | the operator of {name} |" for name in consortium.nodes)
    keys = "" if consortium.insecure else _KEYS
    return f"""\
# {consortium.name}

A FedRAI deployment: one server (`{consortium.server}`), {len(consortium.nodes)} nodes.
{_warning(consortium)}
| folder | goes to |
|---|---|
| `server/` | the operator of the server |
{rows}
{keys}
Each folder holds a README.md with its operator's commands. In order:

1. Hand the folders out over a way that keeps private keys private (`scp`, an encrypted disk).
   The same FedRAI and Flower on all machines.
2. Server: `fedrai deploy check server`, then `fedrai deploy start server`.
3. {_register_line(consortium)}
4. Each node: fill in `node.toml`, then `fedrai deploy check` and `fedrai deploy start`.
5. Server: `fedrai run RECIPE --engine flower --deployment server`.

One more node later: `fedrai deploy add-node . NAME`, copy `server/nodes/NAME.pub` to the server and
register again. A new server certificate: `fedrai deploy renew .`, copy `server/server.pem` and
`server/server.key` to the server and start it again; the nodes need nothing new.
"""


def server_readme(consortium: Consortium) -> str:
    """Commands of the server's operator."""
    register = (
        ""
        if consortium.insecure
        else "fedrai deploy register .    # once it runs, and after add-node\n"
    )
    inside = f"docker compose exec -w /deployment superlink {register}" if register else ""
    return f"""\
# The server of {consortium.name}
{_warning(consortium)}
```
fedrai deploy check .       # certificate, keys, port, disk
fedrai deploy start .       # the SuperLink; --dry-run shows the command
{register}\
fedrai run RECIPE --engine flower --deployment .
fedrai run --resume RUN --engine flower --deployment .    # after a stop
```

Port {consortium.server.port} must be open for the nodes. Other machines reach only what nodes need
(`/v1/fleet/`, `/health`); runs are started on this machine. `state.db` holds the registered nodes
and messages under way, so that a SuperLink that is started again goes on; `superlink.log` is the
log.

Services: `fedrai-superlink.service` (systemd), `compose.yaml`. With compose the SuperLink takes
the machine around its container for another one, and answers it with 403: what is for the server
alone runs inside the container, on files of this folder, which is `/deployment` there
(`FEDRAI_IMAGE` and `FEDRAI_UID` set as for `docker compose up`).

```
{inside}\
docker compose exec -w /deployment superlink fedrai run RECIPE --engine flower --deployment .
```
"""


def node_readme(name: str, consortium: Consortium) -> str:
    """Commands of a node's operator."""
    key = (
        ""
        if consortium.insecure
        else "`node.key` is this node's identity: keep it here, and private.\n"
    )
    return f"""\
# {name}, a node of {consortium.name}
{_warning(consortium)}
```
$EDITOR node.toml           # your data, and what you let others ask of it
fedrai deploy check .       # server, certificate, clock, key, data, model, disk, memory
fedrai deploy check . --load    # the guards too (slow)
fedrai deploy start .       # the SuperNode; --dry-run shows the command
```

The node opens no port to others: it asks `{consortium.server}` for work. {key}\
Services: `fedrai-supernode.service` (systemd), `compose.yaml`.
"""


_KEYS = """\
| `ca/` | nobody: `ca.key` signs new server certificates; keep it off the server |

Private keys: `ca/ca.key`, `server/server.key`, `nodes/*/node.key`.
"""


def _warning(consortium: Consortium) -> str:
    if not consortium.insecure:
        return ""
    return """
**Plain connections: anyone on the way can read and change what is sent, and any node may join.**
For trials on one machine only; make the folder without `--insecure` for anything else.
"""


def _register_line(consortium: Consortium) -> str:
    if consortium.insecure:
        return "Nothing to register: with plain connections any node may join."
    return "Server: `fedrai deploy register server` makes the nodes' public keys known."
