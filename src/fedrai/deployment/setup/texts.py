"""The text files of a consortium's folder: its record, `node.toml` and the operators' READMEs."""

from __future__ import annotations

from collections.abc import Sequence

import tomlkit

from fedrai.deployment.setup.settings import Consortium


def record(consortium: Consortium) -> str:
    """`consortium.toml`: the settings that the folder was created from."""
    table = tomlkit.document()
    table.add(tomlkit.comment("Settings of this consortium; add-node and renew read them."))
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
# This node's data and policy. The file never leaves this machine.
name = "{name}"                       # identifies the node to the server
device = "auto"                     # or cpu, cuda, cuda:0

[data]
# Rows never leave this machine. Paths are relative to this folder. Formats are those of a recipe:
# JSONL, JSON, CSV or Parquet with the columns messages, or prompt and response. Other columns:
# {{ path = "train.csv", columns = {{ prompt = "question", response = "answer" }} }}
sources = [{{ path = "train.jsonl" }}]

[policy]                            # a recipe that exceeds it is refused; the server sees why
base_models = {models}   # models that may be fine-tuned here; empty: any
filter = "required"                 # "any" also allows recipes that train on unfiltered rows
guards = []                         # guards that a recipe may use; empty: "embedded" and this
                                    # file's [guards]. Hub models only as "org/name@COMMIT"
threshold_at_most = "loose"         # highest threshold: the guard's own "loose" or "strict", or a
                                    # number; a filter that lets more through is refused
judge = ["pair"]                    # what a filter may judge: prompt, response, pair; empty: any
max_local_steps = 0                 # optimiser steps per round; 0: no limit
max_batch_size = 0                  # rows per step; 0: no limit
max_length = 0                      # tokens per row; 0: no limit
max_rounds = 0                      # rounds per run; 0: no limit
privacy = "any"                     # "required": a recipe must add noise; "client": on this node
max_epsilon = 0                     # privacy that all runs together may cost; 0: no limit
delta = 1e-5                        # at which max_epsilon holds
messages = "any"                    # "float32": adapters only as they are, without loss
# Numbers that are sent to the server with the adapter and the number of rows. Remove those that it
# must not know: training losses, counts of the filter, unusable rows, cost.
send = [
    "losses", "filter-counts", "bad-rows", "steps", "tokens", "label-tokens", "seconds",
    "operations", "peak-bytes",
]
"""


def readme(consortium: Consortium) -> str:
    """The README of the whole folder: who does what, in order."""
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

1. Distribute the folders over a channel that protects private keys (`scp`, an encrypted disk).
   Install the same versions of FedRAI and Flower on all machines.
2. Server: `fedrai deploy check server`, then `fedrai deploy start server`.
3. {_register_line(consortium)}
4. Each node: edit `node.toml`, then `fedrai deploy check` and `fedrai deploy start`.
5. Server: `fedrai run RECIPE --engine flower --deployment server`.

To add a node: run `fedrai deploy add-node . NAME`, copy `server/nodes/NAME.pub` to the server and
register again. To renew the server's certificate: run `fedrai deploy renew .`, copy
`server/server.pem` and `server/server.key` to the server and restart it. The nodes do not change.
"""


def server_readme(consortium: Consortium) -> str:
    """The README for the server's operator."""
    register = (
        ""
        if consortium.insecure
        else "fedrai deploy register .    # when the server runs, and after add-node\n"
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

Port {consortium.server.port} must be open to the nodes. Other machines can reach only what nodes
need (`/v1/fleet/`, `/health`); runs are started on this machine. `state.db` holds the registered
nodes and pending messages, so a restarted SuperLink continues where it stopped. The log is
`superlink.log`.

Services: `fedrai-superlink.service` (systemd), `compose.yaml`. In a container, the SuperLink treats
the host as another machine and answers it with 403. Run the server's own commands inside the
container, where this folder is `/deployment` (set `FEDRAI_IMAGE` and `FEDRAI_UID` as for
`docker compose up`).

```
{inside}\
docker compose exec -w /deployment superlink fedrai run RECIPE --engine flower --deployment .
```
"""


def node_readme(name: str, consortium: Consortium) -> str:
    """The README for a node's operator."""
    key = (
        ""
        if consortium.insecure
        else "`node.key` is this node's identity: keep it private and on this machine.\n"
    )
    return f"""\
# {name}, a node of {consortium.name}
{_warning(consortium)}
```
$EDITOR node.toml           # your data and policy
fedrai deploy check .       # server, certificate, clock, key, data, model, disk, memory
fedrai deploy check . --load    # also loads the guards (slow)
fedrai deploy start .       # the SuperNode; --dry-run shows the command
```

The node opens no port to other machines: it polls `{consortium.server}` for tasks. {key}\
Services: `fedrai-supernode.service` (systemd), `compose.yaml`.
"""


_KEYS = """\
| `ca/` | nobody: `ca.key` signs new server certificates; do not copy it to the server |

Private keys: `ca/ca.key`, `server/server.key`, `nodes/*/node.key`.
"""


def _warning(consortium: Consortium) -> str:
    if not consortium.insecure:
        return ""
    return """
**Unencrypted connections: anyone on the network can read and change messages; any node may join.**
For trials on one machine only; otherwise create the folder without `--insecure`.
"""


def _register_line(consortium: Consortium) -> str:
    if consortium.insecure:
        return "No registration: with unencrypted connections any node may join."
    return "Server: `fedrai deploy register server` registers the nodes' public keys."
