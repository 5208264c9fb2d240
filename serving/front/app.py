"""The application behind each connection: let in, routed, answered, counted and logged."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import AbstractContextManager, aclosing
from typing import Any, TypeVar

from tritonclient.grpc import service_pb2 as pb

from heatserve.serving.client.http_answers import NO_PATH
from heatserve.serving.front.counted import PassedCounts
from heatserve.serving.front.events import EVENTS, event, stream_message
from heatserve.serving.front.exchange import CallerLeft, Exchange, Receive, Send
from heatserve.serving.front.inference import JSON_LENGTH_HEADER, InferenceQuestion
from heatserve.serving.front.limits import BodyBytes, Rates, WaitingImages, whole_seconds
from heatserve.serving.front.models import ModelRules
from heatserve.serving.front.refusals import FrontAnswer, Refusal, error_body, invalid
from heatserve.serving.front.routes import OPEN, Descriptions, Route, check_method, route_of
from heatserve.serving.front.served import Served
from heatserve.serving.front.tokens import Tokens
from heatserve.serving.observed.families import FRONT_REJECTED, FRONT_REQUESTS, FRONT_SECONDS
from heatserve.serving.observed.logs import EventLog
from heatserve.serving.observed.recorder import Recorder

T = TypeVar("T")

_LEFT = 499  # a status that is never sent: the caller had left
_LARGE_BYTES = 2**16  # of a body; the largest in JSON takes most of a second to read


class FrontApp:
    """An ASGI application for one kind of paths: the protocol here, the page of metrics in `metrics_page`."""

    def __init__(
        self,
        served: Served,
        *,
        tokens: Tokens | None,
        rates: Rates | None,
        recorder: Recorder,
        log: EventLog | None,
        passed: PassedCounts | None = None,
    ) -> None:
        """Describe it.

        Args:
            served: what is behind it.
            tokens: which a request must bring one of; None: none.
            rates: of each client; None: any.
            recorder: counts requests.
            log: gets a line for each; None: none is written.
            passed: counts what models answer whose backend does not; None: nobody does.
        """
        self._served = served
        self._descriptions = Descriptions(served)
        self._tokens = tokens
        self._rates = rates
        self._recorder = recorder
        self._log = log
        self._passed = passed
        self._bodies = BodyBytes()
        self._waiting = WaitingImages()
        self._reading = asyncio.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, self._bodies)
        task = asyncio.current_task()
        assert task is not None
        # Where Triton must not be cancelled, a caller who leaves counts until what he asked for has ended.
        exchange.connection.begin(task.cancel if self._served.state.cancels else None)
        route = self.route(exchange.path)
        name = route.name if route else "other"
        try:
            await self._answer(exchange, route)
        except (CallerLeft, asyncio.CancelledError):
            exchange.status = _LEFT
        finally:
            exchange.connection.settle()
            self._note(exchange, route, name)

    def route(self, path: bytes) -> Route | None:
        """The route of a path; None: there is none."""
        return route_of(path)

    def refused(self, reason: str, status: int) -> None:
        """Count what a connection refused before there was a request."""
        self._recorder.add(FRONT_REJECTED, reason)
        if self._log is not None:
            self._log.event("refused", level="warning", reason=reason, status=status)

    async def _answer(self, exchange: Exchange, route: Route | None) -> None:
        try:
            if route is None:
                raise Refusal(404, _NO_PATH, reason="path")
            self._let_in(exchange, route)
            check_method(route, exchange.method)
            if route.name == "generate_stream":
                await self._stream(exchange, route)
                return
            answer = await (self._infer(exchange, route) if route.name == "infer" else self.describe(route))
        except Refusal as refusal:
            exchange.reason = refusal.reason
            answer = refusal.answer
        except (CallerLeft, asyncio.CancelledError):
            raise
        except Exception:
            traceback.print_exc()  # into the log of the server, and to nobody else
            exchange.reason = "internal"
            if exchange.status:  # a part of the answer was sent
                exchange.connection.transport.abort()
                return
            answer = FrontAnswer(500, error_body("the server failed on this request; its log says more"))
        exchange.failure = answer.failure if answer.status >= 500 else None
        await exchange.send(answer, is_last=self._is_ending)

    async def describe(self, route: Route) -> FrontAnswer:
        """The answer of a route that computes nothing."""
        return await self._descriptions.answer(route)

    @property
    def _is_ending(self) -> bool:
        return self._served.state.is_draining

    def _let_in(self, exchange: Exchange, route: Route) -> None:
        if route.name in OPEN:
            return
        if self._tokens is not None:
            known = self._tokens.client_of(exchange.headers.get(b"authorization", b""))
            if known is None:
                raise Refusal(
                    401,
                    "Authorization: expected `Bearer` and a token that is let in, got none",
                    reason="token",
                    headers={b"www-authenticate": b"Bearer"},
                )
            exchange.client = known
        if self._rates is not None and (wait := self._rates.wait_of(exchange.client)):
            seconds = whole_seconds(wait)
            raise Refusal(
                429,
                f"rate: expected fewer requests a second from one client; ask again in {seconds} s",
                reason="rate",
                headers={b"retry-after": b"%d" % seconds},
            )

    async def _infer(self, exchange: Exchange, route: Route) -> FrontAnswer:
        rules = await self._served.rules(route.model, route.version)
        if rules.is_stream:
            raise invalid(f"model: expected a request to /v2/models/{rules.name}/generate_stream, which it answers")
        length = exchange.headers.get(JSON_LENGTH_HEADER)
        body = await exchange.body(rules.json_bytes if length is None else rules.binary_bytes)
        question = await self._read(body, lambda content: InferenceQuestion(rules, route.version, content, length))
        del body
        calls = await self._served.calls()
        with self._held(exchange, rules, question.message):
            response = await calls.infer(question.message, exchange.metadata)
        if exchange.connection.is_lost:
            raise CallerLeft
        if self._passed is not None:
            self._passed.answered(route.model, response)
        return question.answer(response)

    async def _stream(self, exchange: Exchange, route: Route) -> None:
        rules = await self._served.rules(route.model, route.version)
        if not rules.is_stream:
            raise invalid(f"model: expected a request to /v2/models/{rules.name}/infer, which answers once")
        body = await exchange.body(rules.json_bytes)
        message = await self._read(body, lambda content: stream_message(rules, route.version, content))
        calls = await self._served.calls()
        with self._held(exchange, rules, message):
            await self._send_stream(exchange, calls.stream(message, exchange.metadata))
        await exchange.send_event(b"", is_end=True)
        if exchange.connection.is_lost:
            raise CallerLeft

    def _held(
        self, exchange: Exchange, rules: ModelRules, message: pb.ModelInferRequest
    ) -> AbstractContextManager[None]:
        return self._waiting.held(exchange.client, rules.name, rules.images_in(message), rules.most_waiting)

    async def _send_stream(self, exchange: Exchange, stream: AsyncGenerator[pb.ModelInferResponse, None]) -> None:
        async with aclosing(stream) as answers:
            first = await anext(answers, None)  # before anything is sent, so that a refusal has a status of its own
            if first is None:
                raise Refusal(500, "the model ended without an answer", reason="failed")
            await exchange.start_events(EVENTS, is_last=self._is_ending)
            await exchange.send_event(event(first))
            try:
                async for answer in answers:
                    await exchange.send_event(event(answer))
            except Refusal as refusal:
                exchange.reason = refusal.reason
                exchange.failure = refusal.failure if refusal.status >= 500 else None
                await exchange.send_event(b"data: %b\n\n" % error_body(refusal.message))

    async def _read(self, body: bytes, read: Callable[[bytes], T]) -> T:
        """What a body says; of large ones one in a turn of the loop.

        Meanwhile nobody else is answered, and the supervisor hears nothing of this process. To look for garbage in JSON
        while it grows would take several times as long, and it has no cycles.
        """
        if len(body) <= _LARGE_BYTES:
            return read(body)
        async with self._reading:
            await asyncio.sleep(0)
            gc.disable()
            try:
                return read(body)
            finally:
                gc.enable()

    def _note(self, exchange: Exchange, route: Route | None, name: str) -> None:
        seconds = exchange.end()
        self._recorder.add(FRONT_REQUESTS, name, str(exchange.status))
        self._recorder.observe(FRONT_SECONDS, seconds, name)
        if exchange.reason:
            self._recorder.add(FRONT_REJECTED, exchange.reason)
        if self._passed is not None and route is not None and name == "infer":
            self._passed.ended(route.model, status=exchange.status, reason=exchange.reason, seconds=seconds)
        if self._log is None or (name in OPEN and exchange.status < 400):
            return
        self._log.event(
            "request",
            request_id=exchange.request_id.decode(),
            traceparent=exchange.traceparent or None,
            route=name,
            model=route.model[:200] if route and exchange.status != 404 else None,
            status=exchange.status,
            reason=exchange.reason or None,
            client=exchange.address,
            ms=round(seconds * 1000, 3),
            **(exchange.failure.fields() if exchange.failure else {}),
        )


_NO_PATH = f"{NO_PATH} (/v2, /v2/health/ready, /v2/models/NAME/infer, …), got another"
