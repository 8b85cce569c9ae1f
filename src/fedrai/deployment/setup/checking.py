"""The checks of a node's or a server's folder before it joins: what is in order, what to do else.

Each check is one line. Nothing of a row is shown: rows are counted.
"""

from __future__ import annotations

from pathlib import Path

from fedrai.deployment.setup import settings
from fedrai.deployment.setup.checks import Check
from fedrai.deployment.setup.settings import Address


def check(folder: Path, *, server: Address | None = None, load: bool = False) -> tuple[Check, ...]:
    """Check a node's folder, or a server's.

    Args:
        folder: with a `deployment.toml`.
        server: for a node: reach the SuperLink here, instead of where the folder says.
        load: load the guards too.

    Raises:
        DeploymentError: the folder is neither.
    """
    from fedrai.deployment.setup.node_checks import checks_of_node
    from fedrai.deployment.setup.server_checks import checks_of_server

    here = settings.read(folder)
    if here.role == "server":
        return tuple(checks_of_server(here))
    return tuple(checks_of_node(here, server or here.address, load=load))
