"""Mutated requests by many callers at once, each followed by a valid one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from heatserve.benchmarks.fuzz.asking import ValidCaller, channel_to, raw_call
from heatserve.benchmarks.fuzz.findings import UNANSWERED, FuzzFindings, http_fault, tells_of_inside
from heatserve.benchmarks.fuzz.grpc_requests import INFER, mutated_message
from heatserve.benchmarks.fuzz.http_requests import MutatedHttp, mutated_binary, mutated_json
from heatserve.benchmarks.fuzz.reading import radii_of_grpc, radii_of_http
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import FuzzTarget
from heatserve.benchmarks.records.fuzz import MutationCounts
from heatserve.benchmarks.wire import CLOSED, SILENT, exchange
from heatserve.certification.radius import Float32Array

FUZZ_CALLERS = 8
_GRPC_SECONDS = 10.0
_POSITIVE = "positive"

Advance = Callable[[int], object]


def mutate_protocol(
    protocol: str,
    target: FuzzTarget,
    subject: Subject,
    count: int,
    *,
    seed: int,
    findings: FuzzFindings,
    advance: Advance,
) -> MutationCounts:
    """Send mutated requests of one protocol, and after each a valid one.

    Args:
        protocol: `http-json`, `http-binary` or `grpc`.
        target: the server.
        subject: what is asked about.
        count: how many.
        seed: with protocol and number it decides a request.
        findings: gets what should not have been.
        advance: told how many were sent since.
    """
    start, outcomes = time.perf_counter(), Counter[str]()

    def caller(first: int) -> Counter[str]:
        counted = Counter[str]()
        with ValidCaller(target, subject, seed + first) as valid, _Mutations(protocol, target, subject, seed) as sender:
            for index in range(first, count, FUZZ_CALLERS):
                if findings.is_hopeless:
                    break
                counted.update(sender.send(index, findings))
                if problem := valid.problem("grpc" if protocol == "grpc" else "http"):
                    findings.fault(UNANSWERED, f"{protocol} {index}: {problem}")
                else:
                    findings.answered_valid()
                advance(1)
        return counted

    for counted in findings.by_callers(caller, min(FUZZ_CALLERS, count)):
        outcomes.update(counted)
    statuses = {name: number for name, number in sorted(outcomes.items()) if name not in (CLOSED, SILENT, _POSITIVE)}
    answered = statuses.get("200", 0) + statuses.get("OK", 0)
    return MutationCounts(
        sent=sum(outcomes.values()) - outcomes[_POSITIVE],
        answered=answered,
        refused=sum(statuses.values()) - answered,
        closed=outcomes[CLOSED],
        silent=outcomes[SILENT],
        statuses=statuses,
        positive=outcomes[_POSITIVE],
        seconds=time.perf_counter() - start,
    )


class _Mutations:
    """One caller of mutated requests."""

    def __init__(self, protocol: str, target: FuzzTarget, subject: Subject, seed: int) -> None:
        self._protocol = protocol
        self._target = target
        self._subject = subject
        self._seed = seed
        self._channel = channel_to(target.grpc) if protocol == "grpc" and target.grpc else None

    def __enter__(self) -> _Mutations:
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel:
            self._channel.close()

    def send(self, index: int, findings: FuzzFindings) -> list[str]:
        """How the request of this number ended, and `positive` where it got a positive radius."""
        random = Random(f"{self._seed}/{self._protocol}/{index}")
        if self._channel:
            return self._grpc(index, random, findings)
        make = mutated_json if self._protocol == "http-json" else mutated_binary
        return self._http(index, make(self._subject, random), findings)

    def _http(self, index: int, request: MutatedHttp, findings: FuzzFindings) -> list[str]:
        assert self._target.http is not None
        answer = exchange(self._target.http, request.content, source=self._target.stranger)
        which = f"{self._protocol} {index}"
        if fault := http_fault(answer):
            findings.fault(fault, f"{which}: {answer.body[:150]!r}", request.content)
        if answer.outcome != "200":
            return [answer.outcome]
        try:
            radii = radii_of_http(answer.body, answer.json_length)
        except ValueError:
            return [answer.outcome]  # metadata, health, …
        return self._answered("200", which, radii, request.images, request.content, findings)

    def _grpc(self, index: int, random: Random, findings: FuzzFindings) -> list[str]:
        assert self._channel is not None
        request = mutated_message(self._subject, random)
        which = f"grpc {index} {request.method.rpartition('/')[2]}"
        try:
            answer = raw_call(self._channel, request.method)(
                request.message, timeout=_GRPC_SECONDS, metadata=request.metadata, wait_for_ready=True
            )
        except grpc.RpcError as error:
            if tells_of_inside((error.details() or "").encode()):
                findings.fault("an error that tells of the inside", f"{which}: {error.details()}", request.message)
            return [error.code().name]
        except (ValueError, UnicodeError):
            return ["not sent"]  # metadata that the library refuses
        try:
            radii = radii_of_grpc(answer) if request.method == INFER else np.zeros(0, np.float32)
        except DecodeError:
            findings.fault("an answer that is none", which, request.message)
            return ["OK"]
        return self._answered("OK", which, radii, request.images, request.message, findings)

    def _answered(
        self,
        status: str,
        which: str,
        radii: Float32Array,
        images: Float32Array | None,
        content: bytes,
        findings: FuzzFindings,
    ) -> list[str]:
        if not np.any(radii > 0):
            return [status]
        if problem := self._subject.problem(radii, images):
            findings.fault(problem, f"{which}: {radii.tolist()}"[:200], content)
        return [status, _POSITIVE]
