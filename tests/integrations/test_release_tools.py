"""Others' tools agree: a release's signature, and its bill of materials."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedrai.recipe.sections import Release
from fedrai.release.bars import Evidence, judge
from fedrai.release.bom import bom
from fedrai.release.deciding import Decision, Judged
from fedrai.release.evidence import Facts
from fedrai.release.outcomes import SetOutcomes
from fedrai.release.signature import read_private, sign
from fedrai.release.signing import write_key_pair
from fedrai.runs import RunFolder
from fedrai.runs.costs import Ledger
from fedrai.runs.files import json_text
from fedrai.runs.record import read
from run_folders import write_run


def test_the_command_of_model_signing_verifies_a_signature(tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="model-signing and pyopenssl are not installed")
    folder = tmp_path / "release"
    (folder / "model").mkdir(parents=True)
    (folder / "model/weights").write_bytes(bytes(1000))
    (folder / "release.json").write_text("{}")
    private, public = write_key_pair(tmp_path / "key")
    file = sign(folder, read_private(private))
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder),
               "--signature", str(file), "--public_key", str(public)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "model/weights").write_bytes(bytes(999))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_validator_of_cyclonedx_accepts_a_bill_of_materials(tmp_path: Path) -> None:
    reason = "cyclonedx-python-lib[json-validation] is not installed"
    validation = pytest.importorskip("cyclonedx.validation.json", reason=reason)
    schema = pytest.importorskip("cyclonedx.schema", reason=reason)
    run = read(RunFolder.open(write_run(tmp_path / "run", filtered=True)))
    run = replace(run, provenance={**run.provenance, "version of torch": "2.13.0+cpu"})
    sets = (SetOutcomes("a", "A", True, (True,) * 30, tuple(range(30))),)
    judged = Judged(2, judge(Evidence(run, 2, sets, 0.05), Release()), sets, 0.05)
    facts = Facts(run, {}, {}, Release(), Decision((judged,)), judged, Ledger(), 7,
                  datetime.now(UTC), False)  # fmt: skip
    text = json_text(bom(facts, {"adapter_model.safetensors": "a" * 64}))
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace("SHA-256", "SHA-257")) is not None
