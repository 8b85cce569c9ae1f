"""Hub repositories and their files, downloaded by huggingface_hub into its own cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrai.assets.cache import disk_full, is_disk_full, why_offline
from fedrai.assets.progress import Meter
from fedrai.assets.ref import AssetRef
from fedrai.errors import AssetError


def get(ref: AssetRef, meter: Meter, *, offline: bool) -> tuple[Path, str]:
    """The file or folder in the hub's cache, and its commit.

    Args:
        ref: the repository, or one file of it.
        meter: shows the transfer.
        offline: use the hub's cache only.

    Raises:
        AssetError: not found, not permitted, not reachable, not cached while offline, or disk full.
    """
    description = f"Downloading {ref.title}"
    try:
        with meter.phase(description, None, writes=True):
            path = _call(ref, _bar_class(description, meter), offline=offline)
    except Exception as error:  # the hub's exceptions differ between its versions
        raise _hub_error(ref, error, meter, offline=offline) from error
    return path, _commit(path, ref)


def _call(ref: AssetRef, bar_class: type[Any], *, offline: bool) -> Path:
    import huggingface_hub

    is_dataset = ref.name.startswith("datasets/")
    arguments: dict[str, Any] = {
        "repo_id": ref.name.removeprefix("datasets/"),
        "repo_type": "dataset" if is_dataset else "model",
        "revision": ref.revision or None,
        "local_files_only": offline,
    }
    download: Callable[..., Any] = huggingface_hub.snapshot_download
    if ref.member:
        download = huggingface_hub.hf_hub_download
        arguments["filename"] = ref.member
    if "tqdm_class" in inspect.signature(download).parameters:
        arguments["tqdm_class"] = bar_class
    with _no_requests_when(offline):
        return Path(download(**arguments))


@contextmanager
def _no_requests_when(offline: bool) -> Iterator[None]:
    """Block also the requests that `local_files_only` allows, such as daily update checks."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _bar_class(description: str, meter: Meter) -> type[Any]:
    """A tqdm class that draws nothing and reports the bytes to the meter."""
    from huggingface_hub.utils.tqdm import tqdm

    class SilentBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts = options.get("unit") == "B" and options.get("desc") != "Downloading bytes"
            self._last_total = 0
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if not self._counts:
                return
            if self.total and self.total != self._last_total:
                self._last_total = self.total
                meter.start(description, int(self.total), writes=True)
            meter.advance(int(n or 0))

    return SilentBar


def _commit(path: Path, ref: AssetRef) -> str:
    parts = path.parts
    if "snapshots" in parts:
        return parts[len(parts) - parts[::-1].index("snapshots")]
    return ref.revision


def _hub_error(ref: AssetRef, error: Exception, meter: Meter, *, offline: bool) -> AssetError:
    from huggingface_hub import constants, errors

    if is_disk_full(error):
        return disk_full(ref.label, Path(constants.HF_HUB_CACHE), "HF_HOME", meter.needed)
    if offline:
        why, hint = why_offline(ref.text)
        return AssetError(
            f"{ref.label} is not in the hub's cache ({constants.HF_HUB_CACHE}), and {why}.",
            hint=hint,
        )
    page = f"{constants.ENDPOINT}/{ref.name}"
    bare = "" if ref.text.startswith("hf:") else f" (and there is no local path {ref.text})"
    if isinstance(error, errors.GatedRepoError):
        return AssetError(
            f"{ref.label} is gated: its owner must grant you access.",
            hint=f"Ask for access at {page}, then run `hf auth login` (or set HF_TOKEN).",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return AssetError(
            f"The hub has no repository {ref.name} that you can access{bare}.",
            hint=f"Check the name at {page}; if it is private, run `hf auth login`.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return AssetError(
            f"{ref.name} has no revision {ref.revision!r}.", hint=f"See {page}/commits/main."
        )
    return _transport_error(ref, error, page, bare)


def _transport_error(ref: AssetRef, error: Exception, page: str, bare: str) -> AssetError:
    from huggingface_hub import errors

    missing_here = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, missing_here):
        return AssetError(
            f"{ref.label} does not exist: the repository has no such file.",
            hint=f"See the files at {page}/tree/{ref.revision or 'main'}.",
        )
    if isinstance(error, (*missing_here, ConnectionError, TimeoutError)):
        return AssetError(
            f"The hub could not be reached for {ref.label}{bare}, and its cache does not have it.",
            hint="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        )
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return AssetError(
        f"{ref.label} could not be downloaded from the hub: {reason.rstrip('.')}.",
        hint=f"See {page}.",
    )
