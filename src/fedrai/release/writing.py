"""A release folder, written whole or not at all.

model/               a PEFT folder (or the merged model) with its card, as an export
release.json         name, round, serial number, dates, bars
evidence.json        every figure behind the decision
safety_case.html     claims, arguments, evidence, threats, residual risks
bom.cdx.json         CycloneDX bill of materials
recipe.toml          the resolved recipe, without paths
provenance.json      hashes, versions, what each node's filter did
signatures/KEY.sig   one for each signer, named after the key
"""

from __future__ import annotations

from pathlib import Path

import tomlkit
from cryptography.hazmat.primitives.asymmetric import ec

from fedrai.assets.hashing import files_below, sha256_file
from fedrai.release import evidence
from fedrai.release.bom import bom
from fedrai.release.evidence import Facts
from fedrai.release.export import ExportOptions, export
from fedrai.release.safety_case import safety_case
from fedrai.release.signature import sign
from fedrai.release.verifying import RECORD
from fedrai.runs import RunFolder, check_free
from fedrai.runs.files import json_text, write_text


def write_release(
    run: Path, out: Path, facts: Facts, base: str, signers: list[ec.EllipticCurvePrivateKey]
) -> Path:
    """Write a release; a kill leaves all of it or nothing.

    Args:
        run: the run folder.
        out: the new folder.
        facts: what it is made from.
        base: spec of the base model, if it has moved.
        signers: private keys that sign it.

    Raises:
        RunError: the folder exists, or cannot be written.
    """
    check_free(out)

    def write(folder: Path) -> None:
        options = ExportOptions(facts.merged, facts.chosen.number, base=base, standing="released")
        export(run, folder / "model", options)
        digests = {name: sha256_file(file) for name, file in files_below(folder / "model")}
        for name, body in {
            RECORD: evidence.release_json(facts),
            "evidence.json": evidence.evidence_json(facts),
            "provenance.json": evidence.provenance_json(facts),
            "bom.cdx.json": bom(facts, digests),
        }.items():
            write_text(folder / name, json_text(body))
        write_text(folder / "recipe.toml", tomlkit.dumps(evidence.public_recipe(facts.settings)))
        write_text(folder / "safety_case.html", safety_case(facts))
        for signer in signers:
            sign(folder, signer)

    RunFolder(out.parent).write_folder(out, write, listed=False)
    return out
