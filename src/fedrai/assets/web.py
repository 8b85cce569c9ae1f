"""One file from a URL, streamed to disk; the caller verifies its checksum."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fedrai.assets.cache import write_file
from fedrai.assets.progress import Meter, format_bytes
from fedrai.assets.ref import AssetRef, is_safe_member
from fedrai.errors import AssetError

if TYPE_CHECKING:
    import httpx

_TIMEOUT = 30.0  # seconds without a byte


def get(ref: AssetRef, content: Path, meter: Meter) -> Path:
    """Download the file into `content`, as the server sends it (no decompression).

    Raises:
        AssetError: the server cannot be reached, refuses, or closes the connection too early.
        OSError: the disk fails.
    """
    import httpx

    target = content / _file_name(ref)
    try:
        with httpx.stream(
            "GET",
            ref.name,
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=_TIMEOUT,
        ) as response:
            _save(response, ref, target, meter)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _web_error(ref, error, target) from error
    return target


def _save(response: httpx.Response, ref: AssetRef, target: Path, meter: Meter) -> None:
    if response.status_code != 200:
        raise AssetError(
            f"{ref.label} answered with status {response.status_code} {response.reason_phrase}.",
            hint="Check the address; a private file needs a URL that carries its own access.",
        )
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    with meter.phase(f"Downloading {ref.title}", total, writes=True):
        write_file(target, response.iter_raw(), meter)


def _web_error(ref: AssetRef, error: Exception, target: Path) -> AssetError:
    if target.exists():
        size = format_bytes(target.stat().st_size)
        return AssetError(f"{ref.label} broke off after {size}: {error}.", hint="Fetch it again.")
    return AssetError(
        f"{ref.label} could not be reached: {str(error) or type(error).__name__}.",
        hint="Check the network, the host name, and HTTPS_PROXY if you need one.",
    )


def _file_name(ref: AssetRef) -> str:
    name = PurePosixPath(unquote(urlsplit(ref.name).path)).name
    return name if is_safe_member(name) else "download"
