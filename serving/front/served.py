"""What is behind the front now: the supervisor's word, a channel to Triton, and what its models take."""

from __future__ import annotations

import asyncio
import math
import time

from heatserve.serving.front.models import ModelRules, rules_of
from heatserve.serving.front.refusals import GrpcFailure, Refusal, shown, unavailable
from heatserve.serving.front.state import FrontState
from heatserve.serving.front.triton import TritonCalls, closed_later

_WAIT_SECONDS = 2.0  # for a Triton that is started again, before a caller is told to ask later
_RULES_SECONDS = 1.0  # a version that is switched may take other images
_OLD_RULES_SECONDS = 3.0  # how old rules may be that a request is checked against while Triton is asked again
_READY_SECONDS = 0.1
_Readiness = tuple[bool, GrpcFailure | None, float]


class Served:
    """What is served, for the tasks of one event loop."""

    def __init__(self) -> None:
        """Know of nothing yet."""
        self.state = FrontState()
        self._calls: TritonCalls | None = None
        self._rules = dict[tuple[str, str], tuple[ModelRules, float]]()
        self._asked = dict[tuple[str, str], asyncio.Task[ModelRules]]()
        self._changed = asyncio.Event()
        self._ready: _Readiness = (False, None, 0.0)
        self._tasks = set[asyncio.Task[None]]()

    def tell(self, state: FrontState) -> None:
        """Take the supervisor's word."""
        before, self.state = self.state, state
        self._rules, self._asked = {}, {}
        self._ready = (False, None, 0.0)
        if (state.grpc, state.grpc_tls) != (before.grpc, before.grpc_tls):
            calls, self._calls = self._calls, TritonCalls(state.grpc, state.grpc_tls) if state.grpc else None
            if calls is not None:
                task = asyncio.get_running_loop().create_task(closed_later(calls))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._changed.set()
        self._changed = asyncio.Event()

    async def calls(self) -> TritonCalls:
        """Triton, for which a moment is waited where there is none now.

        Raises:
            Refusal: there is none.
        """
        end = time.monotonic() + _WAIT_SECONDS
        while self._calls is None:
            try:
                await asyncio.wait_for(self._changed.wait(), end - time.monotonic())
            except (TimeoutError, asyncio.TimeoutError):
                raise unavailable(f"server: expected one that is ready, found: {self.state.reason}") from None
        return self._calls

    async def readiness(self) -> tuple[bool, GrpcFailure | None]:
        """Whether the supervisor and Triton both say that all models are ready; and how Triton failed to say it."""
        if not self.state.ready or self._calls is None:
            return False, None
        is_ready, failure, when = self._ready
        if time.monotonic() - when > _READY_SECONDS:
            try:
                is_ready, failure = await self._calls.is_ready(), None
            except Refusal as refusal:
                is_ready, failure = False, refusal.failure
            self._ready = (is_ready, failure, time.monotonic())
        return is_ready and self.state.ready, failure

    async def rules(self, model: str, version: str) -> ModelRules:
        """What a model takes, as Triton said it within the last `_OLD_RULES_SECONDS`.

        Raises:
            Refusal: no such model is served, or not now.
        """
        known, when = self._rules.get((model, version), (None, -math.inf))
        age = time.monotonic() - when
        if known is not None and age < _RULES_SECONDS:
            return known
        asked = self._asked.get((model, version))
        if asked is None:
            calls = await self.calls()
            self.check_name(model)
            asked = self._ask_rules(calls, model, version)
        if known is not None and age < _OLD_RULES_SECONDS:  # Triton, which checks each request as well, is being asked
            return known
        return await asyncio.shield(asked)  # others wait for it, too: it goes on where this request is given up

    def _ask_rules(self, calls: TritonCalls, model: str, version: str) -> asyncio.Task[ModelRules]:
        """Ask Triton, once for all requests that wait; a failure is told to these, and not kept."""
        key, rules, asked = (model, version), self._rules, self._asked
        if key in asked:
            return asked[key]

        async def ask() -> ModelRules:
            found = rules_of(await calls.config(model, version))
            rules[key] = (found, time.monotonic())
            return found

        def end(task: asyncio.Task[ModelRules]) -> None:
            del asked[key]
            if not task.cancelled():
                task.exception()  # asyncio would report one that nobody waits for any more

        task = asked[key] = asyncio.get_running_loop().create_task(ask())
        task.add_done_callback(end)
        return task

    def check_name(self, model: str) -> None:
        """Refuse a name that is not one of those that are served.

        Raises:
            Refusal: as said.
        """
        if model not in self.state.models:
            # as Triton says it, by which clients know
            raise Refusal(404, f"Request for unknown model: {shown(model)} is not served here", reason="unknown")

    async def close(self) -> None:
        """Let go of Triton."""
        if self._calls is not None:
            await self._calls.close()
