"""What a model takes, as the front knows it: asked of a real Triton once for many requests, and not kept for long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from fronts import PATIENCE_SECONDS
from relays import Relay, host_and_port

from heatserve import TritonServer
from heatserve.serving.front import served as served_module
from heatserve.serving.front.refusals import Refusal
from heatserve.serving.front.served import Served
from heatserve.serving.front.state import FrontState, state_of_triton

NEW, OLD = 1_000.0, 3_000.0
"""Seconds, in place of one and three: on a busy machine rules are as old as a test makes them."""


@pytest.fixture(autouse=True)
def long_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_module, "_RULES_SECONDS", NEW)
    monkeypatch.setattr(served_module, "_OLD_RULES_SECONDS", OLD)


class Asked:
    """What is served in a state, and the versions that Triton was asked for."""

    def __init__(self, state: FrontState) -> None:
        self.served = Served()
        self.versions = list[str]()
        self.tell(state)

    def tell(self, state: FrontState) -> None:
        self.served.tell(state)
        calls = self.served._calls
        assert calls is not None
        ask = type(calls).config

        async def config(model: str, version: str) -> Any:
            self.versions.append(version)
            return await ask(calls, model, version)

        calls.config = config  # type: ignore[method-assign]

    def make_older(self, seconds: float) -> None:
        for key, (rules, when) in self.served._rules.items():
            self.served._rules[key] = (rules, when - seconds)

    async def ask(self, version: str = "", *, times: int = 50) -> list[Any]:
        """The answers, or the errors, of as many requests at once."""
        asking = (self.served.rules("tiny", version) for _ in range(times))
        return await asyncio.gather(*asking, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until Triton has answered."""
        while self.served._asked:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def asked_in(state: FrontState) -> AsyncIterator[Asked]:
    errors = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
    asked = Asked(state)
    try:
        yield asked
    finally:
        await asked.served.close()
    gc.collect()  # then asyncio reports errors that nobody has seen
    assert not errors


def test_many_requests_ask_once(triton: TritonServer) -> None:
    async def ask() -> None:
        async with asked_in(state_of_triton(triton)) as asked:
            first = await asked.ask()
            assert first == [first[0]] * 50
            assert first[0].inputs["image"].dims == (1, 8, 8)
            assert await asked.ask() == first
            assert asked.versions == [""]
            asked.make_older(NEW)
            again = await asked.ask()  # which do not wait
            assert [rules is first[0] for rules in again] == [True] * 50
            await asked.settle()
            assert asked.versions == ["", ""]
            assert (await asked.ask())[0] is not first[0]
            assert asked.versions == ["", ""]

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_rules_that_are_too_old_are_not_used(triton: TritonServer) -> None:
    """After an hour without a request, the model may be another one."""

    async def ask() -> None:
        async with asked_in(state_of_triton(triton)) as asked:
            (first,) = await asked.ask(times=1)
            asked.make_older(OLD)
            again = await asked.ask()
            assert again == [first] * 50
            assert all(rules is again[0] is not first for rules in again)
            assert asked.versions == ["", ""]

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_a_first_request_that_is_given_up_takes_no_other_with_it(triton: TritonServer) -> None:
    async def ask() -> None:
        async with asked_in(state_of_triton(triton)) as asked:
            first = asyncio.create_task(asked.served.rules("tiny", ""))
            others = [asyncio.create_task(asked.served.rules("tiny", "")) for _ in range(9)]
            await asyncio.sleep(0)
            first.cancel()
            assert [rules.name for rules in await asyncio.gather(*others)] == ["tiny"] * 9
            assert first.cancelled()
            assert asked.versions == [""]

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_errors_are_told_to_all_who_wait_and_not_kept(triton: TritonServer) -> None:
    async def ask() -> None:
        async with asked_in(state_of_triton(triton)) as asked:
            for number in (1, 2):
                errors = await asked.ask("7")
                assert [(type(error), error.reason) for error in errors] == [(Refusal, "unknown")] * 50
                assert asked.versions == ["7"] * number
            given_up = asyncio.create_task(asked.served.rules("tiny", "7"))
            await asyncio.sleep(0)
            given_up.cancel()
            await asked.settle()
            assert not asked.served._rules

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_a_triton_that_does_not_answer_for_a_moment(triton: TritonServer) -> None:
    """Rules that are not too old go on, since what fails is the request itself; then the error is told."""

    async def ask() -> None:
        with Relay(host_and_port(triton.endpoints.grpc_url)) as relay:
            async with asked_in(replace(state_of_triton(triton), grpc=relay.address)) as asked:
                (first,) = await asked.ask(times=1)
                relay.close()
                asked.make_older(NEW)
                for _ in range(2):
                    assert await asked.ask(times=1) == [first]
                    await asked.settle()
                assert asked.versions == [""] * 3
                asked.make_older(OLD)
                assert [error.reason for error in await asked.ask()] == ["unavailable"] * 50
                assert asked.versions == [""] * 4
                relay.open()
                while await asked.ask(times=1) != [first]:
                    await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


def test_what_was_asked_of_a_former_server_is_not_known_of_the_next(triton: TritonServer) -> None:
    async def ask() -> None:
        state = state_of_triton(triton)
        async with asked_in(state) as asked:
            waiting = asyncio.create_task(asked.served.rules("tiny", ""))
            await asyncio.sleep(0)
            asked.tell(replace(state, models=("tiny", "another")))
            assert (await waiting).name == "tiny"
            assert not asked.served._rules
            await asked.ask()
            assert asked.versions == ["", ""]

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))
