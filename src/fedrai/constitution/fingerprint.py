"""One hash of all files that an alignment reads: a resumed run needs the same files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from fedrai import assets, data
from fedrai.assets.hashing import sha256_path
from fedrai.constitution.document import Constitution


def fingerprint(
    constitution: Constitution, requests: Sequence[str], names: Sequence[str] = ()
) -> str:
    """SHA-256 of a constitution and of the user's own files of requests, in hex.

    Args:
        constitution: the constitution.
        requests: names of sets, which are pinned, or files and folders, which are hashed.
        names: their names before they were moved; empty: as they are now.

    Raises:
        AssetError, DataError: a file is not found, or is a pipe or a device.
    """
    own = [spec for spec in requests if data.is_local(spec)]
    paths = [assets.fetch(spec) for spec in own]
    for path in paths:
        data.check_regular(path)
    digests = [sha256_path(path) for path in paths]
    body = json.dumps([constitution.hash, list(names or requests), digests])
    return hashlib.sha256(body.encode()).hexdigest()
