"""A bill of materials: CycloneDX 1.6 as JSON (ECMA-424), with the model's card and its software."""

from __future__ import annotations

import uuid
from typing import Any

from fedrai import __version__
from fedrai.release.bars import Bar
from fedrai.release.evidence import Facts, versions


def bom(facts: Facts, digests: dict[str, str]) -> dict[str, Any]:
    """The bill of materials of a release.

    Args:
        facts: what it is made from.
        digests: SHA-256 of the model's files, by name.
    """
    name = f"{facts.run.name}-round-{facts.chosen.number}"
    seed = f"{facts.run.recipe_hash} {facts.serial} {sorted(digests.items())}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": facts.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [_library("fedrai", __version__)]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": name,
                "version": str(facts.serial),
                "modelCard": _card(facts),
                "components": [
                    {"type": "file", "bom-ref": f"file:{file}", "name": file,
                     "hashes": [{"alg": "SHA-256", "content": digest}]}
                    for file, digest in sorted(digests.items())
                ],
            },
        },
        "components": [
            _base(facts),
            *(_library(n, v) for n, v in sorted(versions(facts.run).items()) if n != "fedrai"),
        ],
        "dependencies": [{"ref": "model", "dependsOn": ["base-model"]}],
    }  # fmt: skip


def _base(facts: Facts) -> dict[str, Any]:
    fingerprint = facts.run.provenance.get("model fingerprint", "")
    body: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "base-model",
        "name": facts.base or "a private base model",
    }
    note = [{"name": "fedrai:fingerprint", "value": fingerprint}]
    return body | ({"properties": note} if fingerprint else {})


def _library(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    body = {"type": "library", "bom-ref": f"library:{name}", "name": name, "version": version}
    return body if name == "python" else body | {"purl": purl.replace("+", "%2B")}


def _card(facts: Facts) -> dict[str, Any]:
    measured = [bar for bar in facts.chosen.bars if bar.value is not None]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "architectureFamily": "transformer",
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(bar) for bar in measured]},
        "considerations": {"technicalLimitations": [
            f"{bar.name}: {bar.standing.value}" for bar in facts.chosen.bars if bar not in measured
        ]},
    }  # fmt: skip


def _metric(bar: Bar) -> dict[str, Any]:
    ends = {"lowerBound": bar.low, "upperBound": bar.high}
    interval = {key: f"{end:.4f}" for key, end in ends.items() if end is not None}
    return {
        "type": f"{bar.name}: {bar.what}",
        "value": f"{bar.value:.4f}",
        **({"confidenceInterval": interval} if interval else {}),
    }
