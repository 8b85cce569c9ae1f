"""The forms in which a text could be found again in bytes that left a client."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def traces(text: str, ids: Sequence[int]) -> dict[str, bytes]:
    """What a text would look like on the wire, by the name of the form.

    Args:
        text: a planted string.
        ids: its tokens.
    """
    plain = text.encode()
    found = {
        "text": plain,
        "reversed": plain[::-1],
        "json": json.dumps(text)[1:-1].encode(),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "escaped": "".join(f"%{byte:02X}" for byte in plain).encode(),
        **{f"base64, offset {n}": _base64(plain, n) for n in range(3)},
        "tokens, JSON": ", ".join(map(str, ids)).encode(),
        "tokens, tight JSON": ",".join(map(str, ids)).encode(),
    }
    for kind in ("<i8", "<i4", "<i2", "<f4", ">i8", ">i4"):
        found[f"tokens, {kind}"] = np.array(ids).astype(kind).tobytes()
    return found | hashes(text)


def hashes(text: str) -> dict[str, bytes]:
    """Plain hashes of a text: who guesses the text could look for them."""
    found = {}
    for kind in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(kind, text.encode())
        found[kind] = digest.digest()
        found[f"{kind}, hex"] = digest.hexdigest().encode()
        found[f"{kind}, base64"] = base64.b64encode(digest.digest()).rstrip(b"=")
    return found


def _base64(plain: bytes, offset: int) -> bytes:
    """What base64 makes of a text that begins somewhere in the middle; only its certain letters."""
    skipped = 3 - offset if offset else 0
    body = plain[skipped:]
    return base64.b64encode(body[: len(body) // 3 * 3])


def found_in(places: Mapping[str, bytes], forms: Iterable[tuple[str, bytes]]) -> list[str]:
    """Where which form is, as `place: form`."""
    asked = list(forms)
    return [
        f"{place}: {form}" for place, data in places.items() for form, sign in asked if sign in data
    ]
