"""A client of an OpenAI-style endpoint: requests over HTTP with retries.

Plain http to another machine needs `allow_plain_http`, redirects are not followed, the key comes
from an environment variable, and the size of replies is limited. Errors and logs never contain the
body of a request, or of a reply, which may quote it. Proxies of the environment are used as httpx
does, except for this machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from fedrai.errors import FedRAIError, GuardError

T = TypeVar("T")

LARGEST_REPLY = 2**20  # bytes
LONGEST_WAIT = 60.0  # seconds before a request is tried again
PATIENCE = 8  # requests in a row without an answer before the endpoint is checked
_BUSY = {408, 425, 429}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an endpoint.

    Attributes:
        url: base address, such as `http://localhost:8000/v1`; without a path, `/v1` is added.
        api_key_env: environment variable with the key; empty: no key.
        concurrency: requests in progress at once.
        retries: how many times a request is sent again if the endpoint is busy, fails or does
            not answer.
        timeout: seconds for one try, from the connection to the last byte.
        backoff: seconds before the first retry, doubled with each and varied by half; the
            endpoint's Retry-After is used instead if it is longer, up to a minute.
        allow_plain_http: whether http without TLS is allowed to another machine.
    """

    url: str
    api_key_env: str = ""
    concurrency: int = 8
    retries: int = 4
    timeout: float = 60.0
    backoff: float = 0.5
    allow_plain_http: bool = False

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Access:
        """Remove the keys of this record from a section's settings, and build it from them."""
        names = [field.name for field in fields(cls) if field.name in settings]
        return cls(**{name: settings.pop(name) for name in names})


class EndpointClient:
    """Sends requests to an endpoint.

    Args:
        access: how to reach it.
        path: path of the requests, below its address.
        raises: the class of errors.

    Attributes:
        place: the base address, safe to print.
        problem: why the last unanswered request has no answer.

    Raises:
        FedRAIError: `raises`: the address or a setting is not valid.
    """

    def __init__(
        self, access: Access, path: str, *, raises: type[FedRAIError] = GuardError
    ) -> None:
        if access.concurrency < 1 or access.retries < 0 or access.timeout <= 0:
            raise raises("concurrency and timeout of an endpoint must be above 0")
        self._raises, self._access = raises, access
        self.place = _check_url(access.url, access.allow_plain_http, raises)
        self.problem = ""
        self._url, self._key_variable = self.place + path, access.api_key_env

    def client(self) -> httpx.AsyncClient:
        """An HTTP client for the endpoint; close it after use.

        Raises:
            FedRAIError: `raises`: the environment variable has no key.
        """
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", **self._authorization()},
            limits=httpx.Limits(max_connections=self._access.concurrency),
            timeout=None,  # `post` limits the whole try, so slow replies end too
            verify=self.place.startswith("https:"),  # loading certificates takes time
            trust_env=not _is_here(httpx.URL(self._url).host),
            follow_redirects=False,
        )

    async def post(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Any:
        """The decoded reply to a request; None if all tries failed.

        Raises:
            FedRAIError: `raises`: the key, model or address is wrong, so every request would fail.
        """
        content = json.dumps(body).encode()
        for number in range(self._access.retries + 1):
            wait = 0.0
            try:
                async with asyncio.timeout(self._access.timeout):
                    status, wait, reply = await self._try(client, content)
            except TimeoutError:
                self.problem = f"no answer within {self._access.timeout:g} s"
            except httpx.ConnectError as error:
                self.problem = f"no connection ({str(error)[:200]})"
            except (httpx.HTTPError, httpx.StreamError) as error:
                self.problem = type(error).__name__
            else:
                if status == 200 and reply is not None:
                    return reply
                self.problem = f"status {status}" + " and no usable reply" * (status == 200)
                if 400 <= status < 500 and status not in _BUSY:
                    return None
            if number < self._access.retries:
                await asyncio.sleep(self._pause(number, wait))
        return None

    async def replies(
        self,
        jobs: Iterable[Coroutine[Any, Any, T]],
        count: int,
        *,
        is_lost: Callable[[T], bool | None],
        check: Callable[[], Awaitable[None]],
        on_reply: Callable[[int, int], None],
    ) -> list[T]:
        """Results of jobs that send requests, in the order of the jobs.

        Args:
            jobs: run `Access.concurrency` at a time.
            count: number of jobs.
            is_lost: whether a result is a request without an answer; None: no request was sent.
            check: called after `PATIENCE` requests in a row without an answer; raises if the
                endpoint is not usable.
            on_reply: called after each job with (completed jobs, all jobs); may raise to stop.
        """
        results: dict[int, T] = {}
        lost = 0
        numbered = (_numbered(number, job) for number, job in enumerate(jobs))
        async with aclosing(as_completed(numbered, self._access.concurrency)) as ended:
            async for number, result in ended:
                results[number] = result
                if (missing := is_lost(result)) is not None:
                    lost = lost + 1 if missing else 0
                if lost == PATIENCE:
                    await check()
                    lost = 0
                on_reply(len(results), count)
        return [results[number] for number in range(count)]

    async def _try(self, client: httpx.AsyncClient, content: bytes) -> tuple[int, float, Any]:
        """Status, the endpoint's Retry-After in seconds, and the decoded reply if there is one."""
        headers = {"Content-Type": "application/json"}
        async with client.stream("POST", self._url, content=content, headers=headers) as response:
            self._refuse(response.status_code)
            wait = _seconds(response.headers.get("Retry-After", ""))
            if response.status_code != 200:
                return response.status_code, wait, None
            data = bytearray()
            async for block in response.aiter_raw():
                data += block
                if len(data) > LARGEST_REPLY:
                    return 200, wait, None
        try:
            return 200, wait, json.loads(data)
        except (ValueError, RecursionError):
            return 200, wait, None

    def _refuse(self, status: int) -> None:
        """Raise on a status that every request would get."""
        if status in (401, 403):
            hint = "set api_key_env to the environment variable with its key"
            if self._key_variable:
                hint = f"check the key in the environment variable {self._key_variable}"
            raise self._raises(f"the endpoint {self.place} refuses access ({status})", hint=hint)
        if status in (404, 405):
            raise self._raises(
                f"the endpoint {self.place} has no such model or address ({status})",
                hint=f"check the model's name; requests go to {self._url}",
            )
        if 300 <= status < 400:
            raise self._raises(
                f"the endpoint {self.place} redirects requests ({status})",
                hint="redirects are not followed; use the final address",
            )

    def _pause(self, number: int, wait: float) -> float:
        own = self._access.backoff * 2.0**number * random.uniform(0.5, 1.5)
        return min(max(own, wait), LONGEST_WAIT)

    def _authorization(self) -> dict[str, str]:
        if not self._key_variable:
            return {}
        key = os.environ.get(self._key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise self._raises(
                f"the environment variable {self._key_variable} has no key for the endpoint",
                hint=f"export {self._key_variable}=...",
            )
        return {"Authorization": f"Bearer {key}"}


async def _numbered(number: int, job: Coroutine[Any, Any, T]) -> tuple[int, T]:
    return number, await job


async def as_completed(
    jobs: Iterable[Coroutine[Any, Any, T]], at_once: int
) -> AsyncGenerator[T, None]:
    """Results in the order in which jobs complete, with at most `at_once` of them running.

    The first job that raises stops all others.
    """
    waiting = iter(jobs)
    running: set[asyncio.Task[T]] = set()
    try:
        while True:
            while len(running) < at_once and (job := next(waiting, None)):
                running.add(asyncio.create_task(job))
            if not running:
                return
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for error in [task.exception() for task in ended]:
                if error is not None:
                    raise error
            for task in ended:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def run_job(job: Coroutine[Any, Any, T]) -> T:
    """The result of a job, also inside a running event loop (a notebook's)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, job).result()


def _check_url(url: str, allow_plain_http: bool, raises: type[FedRAIError]) -> str:
    """The base address without a slash at its end."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise raises("the address of the endpoint is not a URL") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise raises(
            "the address of the endpoint contains a key, a query or a fragment",
            hint="remove it; a key belongs in an environment variable",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise raises("the address of the endpoint must start with http:// or https:// and a host")
    if parts.scheme == "http" and not allow_plain_http and not _is_here(host):
        raise raises(
            f"conversations would be sent to {host} unencrypted",
            hint="use https, or set allow_plain_http if you trust the network",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _is_here(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _seconds(header: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 without one."""
    try:
        seconds = float(header) if header.strip()[:1].isdigit() else _until(header)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
