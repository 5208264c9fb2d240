"""Requests that their caller gives up, at any moment."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

import grpc

from heatserve.benchmarks.fuzz.asking import ValidCaller, channel_to, raw_call
from heatserve.benchmarks.fuzz.findings import UNANSWERED, FuzzFindings
from heatserve.benchmarks.fuzz.grpc_requests import INFER, valid_message
from heatserve.benchmarks.fuzz.http_requests import valid_json
from heatserve.benchmarks.fuzz.mutations import FUZZ_CALLERS, Advance
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import FuzzTarget
from heatserve.benchmarks.records.fuzz import CancelCounts
from heatserve.benchmarks.wire import HttpMessage, connection_to, reset

_LONGEST_SECONDS = 0.006
_VALID_EVERY = 10
_RADIUS, _ASKED_RADIUS = "radius", 0.125
_TIER_SHARE = 0.25


def cancel_requests(
    protocol: str,
    target: FuzzTarget,
    subject: Subject,
    count: int,
    *,
    seed: int,
    findings: FuzzFindings,
    advance: Advance,
) -> CancelCounts:
    """Send valid requests, a quarter of them to tiers, and give each up after 0 to 6 ms; every tenth is followed by one
    that is not given up.

    Args:
        protocol: `http` or `grpc`.
        target: the server.
        subject: what is asked about.
        count: how many.
        seed: decides the moments.
        findings: gets what should not have been.
        advance: told how many were sent since.
    """
    start = time.perf_counter()
    give_up: Callable[[FuzzTarget, Subject, Random, int], int] = _over_grpc if protocol == "grpc" else _over_http

    def caller(first: int) -> int:
        answered, random = 0, Random(f"{seed}/cancel/{protocol}/{first}")
        with ValidCaller(target, subject, seed + first) as valid:
            for index in range(first, count, FUZZ_CALLERS * _VALID_EVERY):
                if findings.is_hopeless:
                    break
                number = len(range(index, min(count, index + FUZZ_CALLERS * _VALID_EVERY), FUZZ_CALLERS))
                answered += give_up(target, subject, random, number)
                if problem := valid.problem(protocol):
                    findings.fault(UNANSWERED, f"cancelled {protocol}: {problem}")
                else:
                    findings.answered_valid()
                advance(number)
        return answered

    answered = sum(findings.by_callers(caller, min(FUZZ_CALLERS, count)))
    return CancelCounts(sent=count, answered=answered, seconds=time.perf_counter() - start)


def _model(subject: Subject, random: Random) -> str:
    return random.choice(subject.tiers) if subject.tiers and random.random() < _TIER_SHARE else subject.name


def _over_grpc(target: FuzzTarget, subject: Subject, random: Random, count: int) -> int:
    assert target.grpc is not None
    answered = 0
    with channel_to(target.grpc) as channel:
        for _ in range(count):
            message = valid_message(subject, subject.images[: random.choice((1, 1, 3))])
            message.model_name = _model(subject, random)
            if message.model_name in subject.radius_tiers:
                message.parameters[_RADIUS].double_param = _ASKED_RADIUS
            del message.outputs[:]
            call = raw_call(channel, INFER).future(message.SerializeToString(), timeout=10)  # type: ignore[attr-defined]
            time.sleep(random.random() * _LONGEST_SECONDS)
            answered += not call.cancel()
            try:
                call.result()
            except (grpc.FutureCancelledError, grpc.RpcError):
                continue
    return answered


def _over_http(target: FuzzTarget, subject: Subject, random: Random, count: int) -> int:
    assert target.http is not None
    answered = 0
    for _ in range(count):
        content = _message(subject, _model(subject, random), random.choice((1, 1, 3))).encoded()
        if random.random() < 0.3:
            content = content[: random.randrange(len(content))]
        with suppress(ConnectionError), connection_to(target.http, source=target.stranger) as connection:
            connection.sendall(content)
            time.sleep(random.random() * _LONGEST_SECONDS)
            answered += _has_answer(connection)
            if random.random() < 0.5:
                reset(connection)
    return answered


def _message(subject: Subject, model: str, count: int) -> HttpMessage:
    """A valid request to the model or a tier, whose pixels are JSON."""
    message = valid_json(subject, subject.images[:count])
    document = json.loads(message.body)
    del document["outputs"]
    if model in subject.radius_tiers:
        document["parameters"] = {_RADIUS: _ASKED_RADIUS}
    return HttpMessage(message.target.replace(subject.name, model), json.dumps(document).encode())


def _has_answer(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except OSError:
        return False
