"""Which base model an adapter belongs to, and where that one lies on this machine.

PEFT's `adapter_config.json` names the base model. That is enough for a model of the hub; of a local
folder it says only the last part, so that no path of a machine is published with an adapter. Two
things help then: an exported adapter may bring its base along, in `base/`, or it names the base by
the fingerprint of its files, in `base.json`, and a list in the cache of this machine tells where a
base of that fingerprint was last seen.
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
BASE_HINT = "--base MODEL says which model that is: a folder, a .gguf file or a hub id"


def base_of(folder: Path, config: Mapping[str, Any], name: str) -> str:
    """The spec of an adapter's base model.

    Args:
        folder: the adapter's.
        config: its `adapter_config.json`.
        name: of the adapter, for errors.

    Raises:
        ModelError: it cannot be told, or does not lie here; the hint names `--base`.
    """
    if (folder / COPY / "config.json").is_file():
        return str(folder / COPY)
    digest = read_base_record(folder)
    if digest and (place := _seen(digest)):
        return place
    base = str(config.get("base_model_name_or_path") or "")
    if not base:
        raise ModelError(f"{name} does not say which model it was made for", hint=BASE_HINT)
    if base in UPSTREAM.values():
        return next(short for short, upstream in UPSTREAM.items() if upstream == base)
    spec = _at_revision(base, config.get("revision"))
    if assets.parse(spec).scheme == "path" and not _is_it(Path(spec).expanduser(), digest):
        raise ModelError(
            f"{name} was made for the model {base}, which is not here under that name",
            hint=BASE_HINT,
        )
    return spec


def _at_revision(base: str, revision: object) -> str:
    """A hub id with the revision that the adapter names; every other spec as it is."""
    ref = assets.parse(base)
    if ref.scheme != "hf" or ref.revision or not isinstance(revision, str) or not revision:
        return base
    return f"hf:{ref.name}@{quote(revision, safe='')}"


def _is_it(path: Path, digest: str) -> bool:
    """Whether there is a model at a path, and the right one where a fingerprint is known."""
    if not path.exists() or (path.is_dir() and not (path / "config.json").is_file()):
        return False
    return not digest or fingerprint(model_folder(str(path))) == digest


def read_base_record(folder: Path) -> str:
    """The fingerprint of the base that an exported adapter was trained on; empty: not known."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return str(found["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_base_record(folder: Path, digest: str) -> None:
    """Write beside an adapter which base it was trained on."""
    body = json.dumps({"fingerprint": digest}, indent=2)
    (folder / RECORD).write_text(body + "\n", encoding="utf-8")


def remember_base(spec: str, digest: str) -> None:
    """Keep in the cache where a local base lies; no more than a convenience, so it may fail."""
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
        found = json.loads((assets.cache_root() / PLACES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seen(digest: str) -> str:
    """Where a base of this fingerprint lies; empty where it is not there any more."""
    place = _places().get(digest)
    if not isinstance(place, str):
        return ""
    try:
        return place if _is_it(Path(place), digest) else ""
    except (AssetError, ModelError, OSError):
        return ""


def copy_base(spec: str, folder: Path) -> None:
    """Copy a base model beside an adapter: weights, configuration, tokenizer and licence.

    Args:
        spec: of the base.
        folder: of the adapter.

    Raises:
        AssetError, ModelError: it cannot be had.
    """
    source, target = model_folder(spec, assets.RichProgress()), folder / COPY
    target.mkdir()
    texts = {file for pattern in TEXTS for file in source.glob(pattern)}
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in KINDS or file in texts):
            shutil.copyfile(file, target / file.name)
