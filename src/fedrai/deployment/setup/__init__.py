"""A consortium's deployment: its folder, its certificates and keys, and checks before it starts.

`certificates` creates and reads X.509 certificates and SuperNode keys, `settings` reads and writes
`deployment.toml`, `folder` creates a consortium's folder (`texts` and `units` are its files),
`starting` has the command and environment that start Flower, `probing` tests a server over the
network, `machine` looks at disk, memory and models, and `checking` combines the checks.

Nothing here trains, sends messages of a run or imports Flower, whose commands are started as
processes. The server's process is `fedrai.deployment.superlink`.
"""

from fedrai.deployment.setup.checking import check
from fedrai.deployment.setup.checks import Check
from fedrai.deployment.setup.folder import add_node, init, read, relative_models, renew
from fedrai.deployment.setup.settings import Consortium
from fedrai.deployment.setup.starting import Start, command_of, register

__all__ = [
    "Check",
    "Consortium",
    "Start",
    "add_node",
    "check",
    "command_of",
    "init",
    "read",
    "register",
    "relative_models",
    "renew",
]
