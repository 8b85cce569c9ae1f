"""A node's own privacy: noise from its own secret, and an account of what it has sent.

NAME.privacy.key   32 random bytes, for the node's eyes only: who has it can subtract the noise
NAME.privacy.json  the replies that cost something, over all runs; deleting it starts at zero
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from fedrai.deployment.node_site import NodeSite
from fedrai.federation.client import RefusedTaskError
from fedrai.federation.privacy import secret
from fedrai.federation.privacy.ledger import Releases
from fedrai.federation.privacy.on_client import Budget, Protection
from fedrai.federation.protocol import Reason


def protection(site: NodeSite, folder: Path) -> Protection | None:
    """What a node does to its replies of a run; None: the run has no noise.

    Args:
        site: the node.
        folder: of the node's file.

    Raises:
        RunError: the node's account or secret cannot be used.
    """
    settings, policy, name = site.settings.privacy, site.node.policy, site.node.name
    if not settings.active:
        return None
    releases = Releases(folder / f"{name}.privacy.json")
    budget = Budget(releases, site.run, policy.max_epsilon, policy.delta, _refuse)
    key = secret.in_file(folder / f"{name}.privacy.key")
    return Protection(settings, settings.noise_multiplier, key, budget)


def _refuse() -> NoReturn:
    raise RefusedTaskError(Reason.PRIVACY_SPENT)
