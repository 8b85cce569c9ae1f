"""A consortium's deployment: its folder, its certificates and keys, and checks before it starts.

`certificates` makes and reads X.509 certificates and SuperNode keys, `settings` reads and writes
`deployment.toml`, `folder` lays a consortium's folder out (`texts`, `units`: what stands in it),
`starting` says with which command and environment Flower starts, `probing` looks at a server over
the network, `machine` at disk, memory and models, and `checking` puts the checks together.

Nothing here trains, sends a message of a run, or imports Flower: its commands are started as
processes. `fedrai.deployment.superlink` is the server's.
"""

from fedrai.deployment.setup.checking import check
from fedrai.deployment.setup.checks import Check
from fedrai.deployment.setup.consortium import Consortium
from fedrai.deployment.setup.folder import add_node, init, read, relative_models, renew
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
