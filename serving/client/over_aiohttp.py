"""HTTP to one server for asyncio, with aiohttp, whose timeout is that of a whole request."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from heatserve.serving.client.access import Access
from heatserve.serving.client.events import EventLines, event_body
from heatserve.serving.client.http_answers import config_of, config_path, infer_path, refuse, stream_path
from heatserve.serving.client.messages import JSON_LENGTH, InferRequest, InferResult, http_message, read_http_result


class AsyncHttpTransport:
    """For the tasks of one event loop."""

    def __init__(self, access: Access) -> None:
        """Describe the way; the first request connects."""
        self._access = access
        self._session: aiohttp.ClientSession | None = None
        self._asked = Counter[aiohttp.ClientSession]()
        """Requests on their way; a session that has none is not in it."""
        self._options: dict[str, Any] = {"proxy": access.address.proxy, "allow_redirects": False}
        if access.address.is_encrypted:
            self._options["ssl"] = access.tls.context()

    async def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]:
        """A model's configuration, or that of one of its versions, as JSON."""
        async with self._answered("GET", config_path(model, version), None, {}, seconds) as answer:
            return config_of(await answer.read())

    async def infer(self, request: InferRequest, *, seconds: float) -> InferResult:
        """The answer to a request."""
        body, json_bytes = http_message(request)
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(json_bytes)}
        async with self._answered("POST", infer_path(request.model), body, headers, seconds) as answer:
            return read_http_result(await answer.read(), answer.headers.get(JSON_LENGTH))

    async def stream(self, request: InferRequest, *, seconds: float) -> AsyncGenerator[InferResult, None]:
        """The answers to a request, as they come."""
        headers = {"Content-Type": "application/json"}
        async with self._answered("POST", stream_path(request.model), event_body(request), headers, seconds) as answer:
            lines = EventLines(answer.headers.get("Content-Type", ""))
            async for chunk in answer.content.iter_any():
                for result in lines.results(chunk):
                    yield result
            for result in lines.results(b"\n"):
                yield result

    async def close(self) -> None:
        """Close the connections once no request is on its way; a request after that makes others."""
        session, self._session = self._session, None
        if session is not None and session not in self._asked:
            await session.close()

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200; what is not read of it is given up."""
        session = self._session = self._session or aiohttp.ClientSession()
        self._asked[session] += 1
        try:
            async with session.request(
                method,
                self._access.address.url + path,
                data=body,
                headers={**self._access.request_headers(), **headers},
                timeout=aiohttp.ClientTimeout(total=seconds),
                **self._options,
            ) as answer:
                if answer.status != http.client.OK:
                    refuse(answer.status, answer.headers, await answer.read())
                yield answer
        finally:
            self._asked[session] -= 1
            if not self._asked[session]:
                del self._asked[session]
                if session is not self._session:
                    await session.close()
