"""The base model of an adapter, and its place on this machine.

PEFT's `adapter_config.json` names the base model. That is enough for a model of the hub. Of a local
folder it has only the last part, so that no path is published with an adapter. For these, an
exported adapter either contains its base, in `base/`, or the fingerprint of its files, in
`base.json`; a list in the cache of this machine maps fingerprints to paths.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedrai import assets
from fedrai.errors import AssetError, ModelError
from fedrai.model.loading import UPSTREAM, fingerprint, model_folder
from fedrai.runs.files import write_bytes

COPY = "base"
RECORD = "base.json"
PLACES = "bases.json"  # in the cache
KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model")
TEXTS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md")
BASE_HINT = "name the model with --base MODEL: a folder, a .gguf file or a hub id"


def base_of(folder: Path, config: Mapping[str, Any], name: str) -> str:
    """The spec of an adapter's base model.

    Args:
        folder: the adapter's.
        config: its `adapter_config.json`.
        name: the adapter's name, for errors.

    Raises:
        ModelError: it is unknown or not on this machine; the hint names `--base`.
    """
    if (folder / COPY / "config.json").is_file():
        return str(folder / COPY)
    digest = read_base_record(folder)
    if digest and (place := _remembered_place(digest)):
        return place
    base = str(config.get("base_model_name_or_path") or "")
    if not base:
        raise ModelError(f"{name} does not name its base model", hint=BASE_HINT)
    if base in UPSTREAM.values():
        return next(short for short, upstream in UPSTREAM.items() if upstream == base)
    spec = _at_revision(base, config.get("revision"))
    if assets.parse(spec).scheme == "path" and not _is_base(Path(spec).expanduser(), digest):
        raise ModelError(f"{name} was trained on the model {base}, which is not found",
                         hint=BASE_HINT)  # fmt: skip
    return spec


def _at_revision(base: str, revision: object) -> str:
    """A hub id with the revision that the adapter names; any other spec unchanged."""
    ref = assets.parse(base)
    if ref.scheme != "hf" or ref.revision or not isinstance(revision, str) or not revision:
        return base
    return f"hf:{ref.name}@{quote(revision, safe='')}"


def _is_base(path: Path, digest: str) -> bool:
    """Whether a path has a model, with this fingerprint unless that is empty."""
    if not path.exists() or (path.is_dir() and not (path / "config.json").is_file()):
        return False
    return not digest or fingerprint(model_folder(str(path))) == digest


def read_base_record(folder: Path) -> str:
    """The fingerprint of the base that an exported adapter was trained on; empty if unknown."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_base_record(folder: Path, digest: str) -> None:
    """Write the fingerprint of the base into an adapter's folder."""
    body = json.dumps({"fingerprint": digest}, indent=2)
    (folder / RECORD).write_text(body + "\n", encoding="utf-8")


def remember_base(spec: str, digest: str) -> None:
    """Store the path of a local base in the cache; a convenience, so it may fail silently."""
    path = Path(spec).expanduser().absolute()
    places = _places() | {digest: str(path)}
    root = assets.cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_bytes(root / PLACES, f"{json.dumps(places, indent=2)}\n".encode(), shared=True)
    except OSError:
        return


def _places() -> dict[str, str]:
    try:
        places = json.loads((assets.cache_root() / PLACES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return places if isinstance(places, dict) else {}


def _remembered_place(digest: str) -> str:
    """The path of the base with this fingerprint; empty if it is unknown or gone."""
    place = _places().get(digest)
    if not isinstance(place, str):
        return ""
    try:
        return place if _is_base(Path(place), digest) else ""
    except (AssetError, ModelError, OSError):
        return ""


def copy_base(spec: str, folder: Path) -> None:
    """Copy a base model into an adapter's folder: weights, config, tokenizer and licence.

    Args:
        spec: the base model: asset, hub id or folder.
        folder: the adapter's folder.

    Raises:
        AssetError, ModelError: it cannot be fetched or used.
    """
    source, target = model_folder(spec, assets.RichProgress()), folder / COPY
    target.mkdir()
    texts = {file for pattern in TEXTS for file in source.glob(pattern)}
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in KINDS or file in texts):
            shutil.copyfile(file, target / file.name)
