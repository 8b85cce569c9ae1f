"""What the tests and benchmarks use of Flower beyond what the package itself does.

As `fedrai.federation.flower_internals`: a table of names with their users, imported when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrai.federation import flower_internals
from fedrai.federation.flower_internals import Internal

SERDE, RUNTIME_PB = "flwr.common.serde", flower_internals.RUNTIME_PB
MESSAGE_PB, FLEET_PB = "flwr.proto.message_pb2", "flwr.proto.fleet_pb2"
INFLATABLE = "flwr.supercore.inflatable.inflatable_object"
FAULTS, PROTOCOL = "tests/deployment/test_faults.py", "tests/federation/test_protocol.py"
REPLAYING = "tests/helpers/replaying.py"
CERTIFICATES = "tests/deployment/setup/test_certificates.py"
CHECKS = "tests/deployment/setup/test_checks.py"
INTERNALS: Mapping[str, Internal] = {
    # messages as they cross the wire
    "message_to_proto": Internal(SERDE, (FAULTS, PROTOCOL)),
    "message_from_proto": Internal(SERDE, (PROTOCOL,)),
    "Message": Internal(MESSAGE_PB, (PROTOCOL,)),
    "get_all_nested_objects": Internal(INFLATABLE, (FAULTS, PROTOCOL)),
    "no_object_id_recompute": Internal(INFLATABLE, (FAULTS, PROTOCOL)),
    "get_object_tree": Internal(INFLATABLE, (FAULTS,)),
    "PullObjectResponse": Internal(MESSAGE_PB, (FAULTS,)),
    "ConfirmMessageReceivedResponse": Internal(MESSAGE_PB, (FAULTS,)),
    "PullAppMessagesResponse": Internal(RUNTIME_PB, (FAULTS,)),
    "Run": Internal("flwr.supercore.run", (FAULTS,)),
    "PushMessagesRequest": Internal(FLEET_PB, (REPLAYING,)),
    "PushMessagesResponse": Internal(FLEET_PB, (REPLAYING,)),
    # how Flower's programs and its SuperLink are set up
    "_parse_args_run_superlink": Internal(
        "flwr.superlink.cli.flower_superlink", ("tests/deployment/setup/test_folder.py",)
    ),
    "_parse_args_run_supernode": Internal(
        "flwr.supernode.cli.flower_supernode", ("tests/federation/test_flower_internals.py",)
    ),
    "create_app": Internal("flwr.superlink.main", ("tests/deployment/test_superlink.py",)),
    "get_middleware": Internal(
        "flwr.superlink.extensions", ("tests/deployment/test_superlink.py",)
    ),
    "ListNodesRequest": Internal(flower_internals.CONTROL_PB, ("benchmarks/cable_cut.py",)),
    # what our own code keeps to by a copy
    "SYSTEM_TIME_TOLERANCE": Internal("flwr.common.constant", (CHECKS,)),
    "TIMESTAMP_TOLERANCE": Internal("flwr.common.constant", (CHECKS,)),
    "try_load_public_key": Internal("flwr.cli.supernode.register", (CERTIFICATES,)),
    "public_key_to_bytes": Internal("flwr.supercore.primitives.asymmetric", (CERTIFICATES,)),
    "uses_nist_ec_curve": Internal("flwr.supercore.primitives.asymmetric", (CERTIFICATES,)),
    "warn_deprecated_feature": Internal(
        "flwr.supercore.logger", ("tests/federation/run/test_engines.py",)
    ),
    "FLWR_TELEMETRY_ENABLED": Internal("flwr.supercore.telemetry", ("tests/test_project.py",)),
    "HEARTBEAT_DEFAULT_INTERVAL": Internal(
        "flwr.common.constant", ("tests/deployment/short_heartbeats/sitecustomize.py",)
    ),
    "HEARTBEAT_MIN_INTERVAL": Internal(
        "flwr.common.constant", ("tests/deployment/short_heartbeats/sitecustomize.py",)
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in INTERNALS:
        return flower_internals.internal(name, INTERNALS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
