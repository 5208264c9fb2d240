"""`heatserve fuzz` as a whole: mutations, cancellations, hostile connections, and what the server holds afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from heatserve.benchmarks.fuzz.asking import ValidCaller
from heatserve.benchmarks.fuzz.cancelling import cancel_requests
from heatserve.benchmarks.fuzz.findings import UNANSWERED, FuzzFindings
from heatserve.benchmarks.fuzz.hostile import HTTP_CASES, SLOW_HTTP_CASES, HostileCall, silent_connections
from heatserve.benchmarks.fuzz.hostile_grpc import GRPC_CASES
from heatserve.benchmarks.fuzz.mutations import Advance, mutate_protocol
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import FuzzTarget, Use, compared, use_of
from heatserve.benchmarks.records.fuzz import CancelCounts, FuzzRecord, HostileCase, MutationCounts, RoleUse
from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.wire import HttpMessage

_WARM_REQUESTS = 400
_SETTLE_SECONDS = 120.0
_KEPT_FILES = 8
_GROWTH, _GROWTH_MEGABYTES = 1.25, 40.0

FuzzProgress = Callable[[str, int], AbstractContextManager[Advance]]
"""Shows work of a name and a number of steps."""


@dataclass(frozen=True)
class Fuzzed:
    """What became of a server."""

    mutations: Mapping[str, MutationCounts]
    cancellations: Mapping[str, CancelCounts]
    cases: tuple[HostileCase, ...]
    processes: tuple[RoleUse, ...]
    findings: FuzzFindings = field(compare=False)

    def record(self, begun: Record, *, model: str, server: str) -> FuzzRecord:
        """It as a result.

        Args:
            begun: how it is made, taken before it was.
            model: that was asked about.
            server: what was asked.
        """
        return FuzzRecord(
            **vars(begun),
            model=model,
            server=server,
            mutations=self.mutations,
            cancellations=self.cancellations,
            cases=self.cases,
            valid=self.findings.valid,
            processes=self.processes,
            faults=dict(self.findings.faults),
            examples=tuple(self.findings.examples),
        )


@contextmanager
def no_fuzz_progress(_name: str, _steps: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda _: None


def fuzz_server(
    target: FuzzTarget,
    subject: Subject,
    *,
    requests: int,
    cancellations: int,
    seed: int,
    progress: FuzzProgress = no_fuzz_progress,
) -> Fuzzed:
    """Attack a server in every way, one after the other.

    Args:
        target: the server.
        subject: what is asked about.
        requests: mutated ones of each protocol.
        cancellations: over all protocols.
        seed: decides all requests.
        progress: shows how far it is.
    """
    findings = FuzzFindings()
    # What a server takes once, for its first requests of a kind, is no leak: other seeds come first.
    _mutations(target, subject, min(requests, _WARM_REQUESTS), seed + 1, findings, no_fuzz_progress)
    _cancellations(target, subject, min(cancellations, _WARM_REQUESTS), seed + 1, findings, no_fuzz_progress)
    before = use_of(target.parent) if target.parent else None
    mutations = _mutations(target, subject, requests, seed, findings, progress)
    cancelled = _cancellations(target, subject, cancellations, seed, findings, progress)
    cases = tuple(_hostile(target, subject, seed, findings, progress))
    processes = _compare(target, before, findings) if before else ()
    return Fuzzed(mutations, cancelled, cases, processes, findings)


def _mutations(
    target: FuzzTarget, subject: Subject, count: int, seed: int, findings: FuzzFindings, progress: FuzzProgress
) -> dict[str, MutationCounts]:
    found = {}
    for protocol in (*(("http-json", "http-binary") if target.http else ()), *(("grpc",) if target.grpc else ())):
        with progress(f"mutations, {protocol}", count) as advance:
            found[protocol] = mutate_protocol(
                protocol, target, subject, count, seed=seed, findings=findings, advance=advance
            )
    return found


def _cancellations(
    target: FuzzTarget, subject: Subject, count: int, seed: int, findings: FuzzFindings, progress: FuzzProgress
) -> dict[str, CancelCounts]:
    protocols = (*(("http",) if target.http else ()), *(("grpc",) if target.grpc else ()))
    found = {}
    for protocol in protocols if count else ():
        part = count // len(protocols)
        with progress(f"cancellations, {protocol}", part) as advance:
            found[protocol] = cancel_requests(
                protocol, target, subject, part, seed=seed, findings=findings, advance=advance
            )
    return found


def _hostile(
    target: FuzzTarget, subject: Subject, seed: int, findings: FuzzFindings, progress: FuzzProgress
) -> Iterator[HostileCase]:
    cases = {**(HTTP_CASES if target.http else {}), **(GRPC_CASES if target.grpc else {})}
    slow = SLOW_HTTP_CASES if target.http else {}
    with (
        ValidCaller(target, subject, seed) as valid,
        progress("hostile connections", len(cases) + len(slow) + 2) as advance,
    ):
        for name, call in cases.items():
            yield _one(name, call, target, subject, valid, findings)
            advance(1)
        yield from _many_silent(target, valid, findings)
        advance(2)
        with ThreadPoolExecutor(max(1, len(slow))) as pool:
            running = [pool.submit(_timed, name, call, target, subject) for name, call in slow.items()]
            for future in running:
                case = future.result()
                _ask_valid(case.name, target, valid, findings)
                yield case
                advance(1)


def _one(
    name: str, call: HostileCall, target: FuzzTarget, subject: Subject, valid: ValidCaller, findings: FuzzFindings
) -> HostileCase:
    case = _timed(name, call, target, subject)
    _ask_valid(name, target, valid, findings)
    return case


def _timed(name: str, call: HostileCall, target: FuzzTarget, subject: Subject) -> HostileCase:
    start = time.perf_counter()
    try:
        outcome = call(target, subject)
    except OSError as error:
        outcome = error.strerror or type(error).__name__
    return HostileCase(name=name, outcome=outcome, seconds=time.perf_counter() - start)


def _many_silent(target: FuzzTarget, valid: ValidCaller, findings: FuzzFindings) -> Iterator[HostileCase]:
    """Many open connections; what is valid is asked while they are."""
    half = HttpMessage("/v2/models/a/infer", b"{", length="100").encoded()
    for protocol, address, first in (
        ("HTTP", target.http, b""),
        ("HTTP", target.http, half),
        ("gRPC", target.grpc, b""),
    ):
        if address is None:
            continue
        said = "stop in a body" if first else "say nothing"
        start = time.perf_counter()
        with silent_connections(address, target.stranger, first) as count:
            name = f"connections that {said}, {protocol}"
            _ask_valid(name, target, valid, findings)
        yield HostileCase(name=name, outcome=f"{count} at once", seconds=time.perf_counter() - start)


def _ask_valid(name: str, target: FuzzTarget, valid: ValidCaller, findings: FuzzFindings) -> None:
    for protocol in ("http", "grpc"):
        if getattr(target, protocol) is None:
            continue
        if problem := valid.problem(protocol):
            findings.fault(UNANSWERED, f"{name}, {protocol}: {problem}")
        else:
            findings.answered_valid()


def _compare(target: FuzzTarget, before: Use, findings: FuzzFindings) -> tuple[RoleUse, ...]:
    """What each role holds, once it has settled or the time for that is over."""
    assert target.parent is not None
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        after = use_of(target.parent)
        rows = compared(before, after)
        grown = [row for row in rows if _has_grown(row)]
        if not grown or time.monotonic() > deadline:
            break
        time.sleep(1)
    for process, role in before.roles.items():
        if process not in after.roles:
            findings.fault("a process ended", role)
    for row in grown:
        findings.fault("a process kept what it took", f"{row.role}: {row}")
    return rows


def _has_grown(row: RoleUse) -> bool:
    memory = row.megabytes_after > max(_GROWTH * row.megabytes_before, row.megabytes_before + _GROWTH_MEGABYTES)
    return memory or row.files_after > row.files_before + _KEPT_FILES
