"""What the tests and benchmarks use of Flower beyond what the package itself does.

As `fedrai.federation.flower_internals`: a table of names with their users, imported when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrai.federation import flower_internals
from fedrai.federation.flower_internals import Part

SERDE, RUNTIME_PB = "flwr.common.serde", flower_internals.RUNTIME_PB
MESSAGE_PB, FLEET_PB = "flwr.proto.message_pb2", "flwr.proto.fleet_pb2"
INFLATABLE = "flwr.supercore.inflatable.inflatable_object"
FAULTS, PROTOCOL = "tests/deployment/test_faults.py", "tests/federation/test_protocol.py"
REPLAYING = "tests/helpers/replaying.py"
CERTIFICATES = "tests/deployment/setup/test_certificates.py"
CHECKS = "tests/deployment/setup/test_checks.py"
PARTS: Mapping[str, Part] = {
    # messages as they cross the wire
    "message_to_proto": Part(SERDE, (FAULTS, PROTOCOL)),
    "message_from_proto": Part(SERDE, (PROTOCOL,)),
    "Message": Part(MESSAGE_PB, (PROTOCOL,)),
    "get_all_nested_objects": Part(INFLATABLE, (FAULTS, PROTOCOL)),
    "no_object_id_recompute": Part(INFLATABLE, (FAULTS, PROTOCOL)),
    "get_object_tree": Part(INFLATABLE, (FAULTS,)),
    "PullObjectResponse": Part(MESSAGE_PB, (FAULTS,)),
    "ConfirmMessageReceivedResponse": Part(MESSAGE_PB, (FAULTS,)),
    "PullAppMessagesResponse": Part(RUNTIME_PB, (FAULTS,)),
    "Run": Part("flwr.supercore.run", (FAULTS,)),
    "PushMessagesRequest": Part(FLEET_PB, (REPLAYING,)),
    "PushMessagesResponse": Part(FLEET_PB, (REPLAYING,)),
    # how Flower's programs and its SuperLink are set up
    "_parse_args_run_superlink": Part(
        "flwr.superlink.cli.flower_superlink", ("tests/deployment/setup/test_folder.py",)
    ),
    "_parse_args_run_supernode": Part(
        "flwr.supernode.cli.flower_supernode", ("tests/federation/test_flower_internals.py",)
    ),
    "create_app": Part("flwr.superlink.main", ("tests/deployment/test_superlink.py",)),
    "get_middleware": Part("flwr.superlink.extensions", ("tests/deployment/test_superlink.py",)),
    "ListNodesRequest": Part(flower_internals.CONTROL_PB, ("benchmarks/cable_cut.py",)),
    # what our own code keeps to by a copy
    "SYSTEM_TIME_TOLERANCE": Part("flwr.common.constant", (CHECKS,)),
    "TIMESTAMP_TOLERANCE": Part("flwr.common.constant", (CHECKS,)),
    "try_load_public_key": Part("flwr.cli.supernode.register", (CERTIFICATES,)),
    "public_key_to_bytes": Part("flwr.supercore.primitives.asymmetric", (CERTIFICATES,)),
    "uses_nist_ec_curve": Part("flwr.supercore.primitives.asymmetric", (CERTIFICATES,)),
    "warn_deprecated_feature": Part(
        "flwr.supercore.logger", ("tests/federation/run/test_engines.py",)
    ),
    "FLWR_TELEMETRY_ENABLED": Part("flwr.supercore.telemetry", ("tests/test_project.py",)),
    "HEARTBEAT_DEFAULT_INTERVAL": Part(
        "flwr.common.constant", ("tests/deployment/short_heartbeats/sitecustomize.py",)
    ),
    "HEARTBEAT_MIN_INTERVAL": Part(
        "flwr.common.constant", ("tests/deployment/short_heartbeats/sitecustomize.py",)
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in PARTS:
        return flower_internals.part(name, PARTS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
