"""What the front takes of a caller at most, before anything that he sends is kept."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from heatserve.serving.front.refusals import Refusal

HEADER_BYTES = 2**15
"""The most bytes of a request line and all headers."""
HEADER_SECONDS = 10.0
"""The time in which they must have come."""
BODY_SECONDS = 10.0
"""The time for which a body may come more slowly than at `BODY_RATE`, or not at all; earlier bytes pay for no more."""
BODY_RATE = 4096
"""The least bytes a second of a body."""
OVERHEAD_BYTES = 2**16
"""The most bytes around the pieces of a body in chunks, beside a quarter of the body itself."""
IDLE_SECONDS = 75.0
"""The time for which a connection may wait for its next request."""
WRITE_SECONDS = 30.0
"""The time for which a caller may leave an answer unread."""
PIPELINED = 16
"""The most requests of one connection that wait for answers."""
BODIES_BYTES = 2**30
"""The most bytes of all bodies together that are held at one time; of one client half as many."""

_CLIENTS = 10_000


@dataclass
class Gate:
    """The connections that are let in, in all and from each address; those that are refused take nobody's place."""

    most: int
    """In all; from one address half as many, so that none can take all of them."""

    def __post_init__(self) -> None:
        """Begin with none."""
        self._of_address = dict[str, int]()
        self.open = self.refused = 0

    def enter(self, address: str) -> str:
        """Count a connection; why it is refused, or an empty text."""
        if self.open >= self.most:
            problem = f"connections: expected at most {self.most} in all"
        elif self._of_address.get(address, 0) >= self.most_of_address:
            problem = f"connections: expected at most {self.most_of_address} from one address"
        else:
            self.open += 1
            self._of_address[address] = self._of_address.get(address, 0) + 1
            return ""
        self.refused += 1
        return problem

    @property
    def most_of_address(self) -> int:
        """The most connections from one address."""
        return max(1, self.most // 2)

    @property
    def is_flooded(self) -> bool:
        """Whether so many are refused at this moment that there is no time for an answer to another one."""
        return self.refused > self.most

    def leave(self, address: str, *, is_refused: bool) -> None:
        """Count one less, of those that were let in or refused."""
        if is_refused:
            self.refused -= 1
            return
        self.open -= 1
        left = self._of_address[address] - 1
        if left:
            self._of_address[address] = left
        else:
            del self._of_address[address]


class Rates:
    """Requests a second of each client: a token bucket for each, of the clients that asked last."""

    def __init__(self, rate: float) -> None:
        """Begin with full buckets.

        Args:
            rate: requests a second of one client; he may ask as many at once, and one at least.
        """
        self._rate = rate
        self._most = max(1.0, rate)
        self._buckets = OrderedDict[str, tuple[float, float]]()

    def wait_of(self, client: str) -> float:
        """Count one request of a client; 0, or, where he has asked too often, the seconds after which he may."""
        now = time.monotonic()
        left, then = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - then) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class BodyBytes:
    """The bytes of all bodies that are held now, and of those of each client."""

    def __init__(self, most: int = BODIES_BYTES) -> None:
        """Begin with none.

        Args:
            most: in all; of one client half as many, so that none can take all of them.
        """
        self._left = most
        self._most_of_client = most // 2
        self._of_client = dict[str, int]()

    def take(self, client: str, size: int) -> bool:
        """Whether there is room for so many more of a client's, which are held then."""
        held = self._of_client.get(client, 0) + size
        if size > self._left or held > self._most_of_client:
            return False
        self._left -= size
        self._of_client[client] = held
        return True

    def give(self, client: str, size: int) -> None:
        """Hold so many less of his."""
        self._left += size
        left = self._of_client.pop(client, 0) - size
        if left:
            self._of_client[client] = left


class WaitingImages:
    """The images of each client that wait for the votes of a model, so that none takes the whole of its queue."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of = Counter[tuple[str, str]]()

    @contextmanager
    def held(self, client: str, model: str, images: int, most: int | None) -> Iterator[None]:
        """Count so many more of a client's while they wait.

        Args:
            client: who asks.
            model: whose votes they wait for.
            images: of one request, which is let in where none of his wait.
            most: of one client; None: any number.

        Raises:
            Refusal: too many of his wait.
        """
        found = self._of[client, model]
        if most is not None and found and found + images > most:
            raise Refusal(
                503,
                f"queue is full: expected at most {most} images of one client that wait for votes, found {found} and "
                f"{images} more; ask again in about 1 s",
                reason="overloaded",
                headers={b"retry-after": b"1"},
            )
        self._of[client, model] += images
        try:
            yield
        finally:
            self._of[client, model] -= images
            if not self._of[client, model]:
                del self._of[client, model]


def whole_seconds(seconds: float) -> int:
    """Seconds as a header `Retry-After` has them: whole, and 1 at least."""
    return max(1, math.ceil(seconds))
