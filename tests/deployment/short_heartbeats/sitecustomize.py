"""Flower with heartbeats of seconds: Python reads this first where the folder is on PYTHONPATH.

A node is missed after two intervals without a sign of life, and a task after one, then two.
"""

import sys

import flwr.common.constant  # noqa: F401 (so that it is there to be changed)

SHORT = {"HEARTBEAT_DEFAULT_INTERVAL": 6, "HEARTBEAT_MIN_INTERVAL": 1}

for where, module in list(sys.modules.items()):
    if where.startswith("flwr."):
        vars(module).update({name: SHORT[name] for name in SHORT if name in vars(module)})
