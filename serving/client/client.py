"""The client of a served model: images in, classes and certificates out, over gRPC or HTTP.

Example:
    with Client("grpc://127.0.0.1:8001", model="digits") as client:
        for prediction in client.predict(images):  # float32 [N, C, H, W] in [0,1]
            print(prediction.label, prediction.certified_radius)
        for answer in client.confirm(images, radius=0.125):
            print(answer.label, answer.outcome.value, answer.explanation)
        for answer in client.certify(images[0]):
            print(answer.label, answer.proven_radius)  # larger and larger
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import closing
from types import TracebackType

from numpy.typing import ArrayLike

from heatserve.export.tiers import Mode, TierModel
from heatserve.serving.client.access import Tls, Token, access_to, check_type
from heatserve.serving.client.answers import ModelSpec, Prediction, asked_outputs
from heatserve.serving.client.connection import Connection
from heatserve.serving.client.described import DESCRIBED_TIMES, Described, KnownVersions, not_described, not_offered
from heatserve.serving.client.messages import InferResult
from heatserve.serving.client.tier_answers import TierAnswer, TighteningBounds
from heatserve.serving.client.tier_questions import TierQuestion, TierSpec, read_mode
from heatserve.serving.errors import UnknownModelError


class Client:
    """One model of a server, asked by any number of threads, and by the processes that are forked."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        timeout: float = 60.0,
        retries: int = 3,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
    ) -> None:
        """Describe the connection; it is made by the first call.

        Args:
            url: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC; `grpcs://host` and `https://host` are
                encrypted. A path at its end comes before those of Triton's protocol.
            model: the model's name on the server.
            timeout: seconds that one request may take, with all of its attempts; more than the deadlines that are asked
                for.
            retries: how many times a request is sent again where no server was there, or the connection was lost. A
                server that answers, be it with an error, is not asked again.
            tls: certificates of an encrypted connection, if not those that this machine trusts.
            headers: go with every request; over gRPC as its metadata.
            token: goes with every request as `Authorization: Bearer TOKEN`, over TLS or to this machine only; or a
                function that returns the one that is valid now.

        Raises:
            ServingError: one of these is not what it should be, or a package is not installed.
        """
        self._connection = Connection(
            access_to(url, tls=tls, headers=headers, token=token), timeout=timeout, retries=retries
        )
        check_type("model", model, str, "the name of a model")
        self._model = model
        self._timeout = timeout
        self._known = KnownVersions()

    def __enter__(self) -> Client:
        """Nothing to do: see `close`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def spec(self) -> ModelSpec:
        """What the server tells about the model, asked once a minute, and where another version of it has answered.

        Raises:
            ServingError: no server, no such model, or not a certified model.
        """
        return self._described().spec

    def promise(self) -> str | None:
        """What the model's card promises about certified radii, as a sentence; None: the server does not say.

        Raises:
            ServingError: see `spec`.
        """
        return self.spec().promise

    def predict(
        self, images: ArrayLike, *, outputs: Collection[str] | None = None, request_id: str | None = None
    ) -> list[Prediction]:
        """One prediction per image, in order; batches above the model's largest go as several requests.

        Args:
            images: float32 [N, C, H, W] or one [C, H, W] in [0,1]; or uint8 [N, H, W, C] or one [H, W, C], which are
                all that a model takes whose input is UINT8.
            outputs: the names of those that are wanted, such as `certified_radius`, besides `label`; fewer cost less.
                None: all.
            request_id: goes with the request, for the logs on its way; an error has it. None makes one.

        Raises:
            OverloadedError: the server has more requests than it can answer; ask again later.
            ServingError: the images are not what the model takes, the server's own message, or its answer is not that
                of a certified model.
        """
        names, described, found = asked_outputs(outputs), self._described(), list[Prediction]()
        for batch in described.requests(images):
            answer = self._connection.answer(self._model, batch, names, request_id=request_id)
            found += self._described_as(answer).predictions(answer, names, images=len(batch))
        return found

    def tier(self, kind: TierModel) -> TierSpec:
        """What the server tells about a tier of the model, as `spec`: its promise, and the operator's limits.

        Raises:
            ServingError: the server does not offer it, and which ones it offers; or see `spec`.
        """
        return self._tier(self._described(), kind)  # where there is no such model, say that

    def confirm(
        self,
        images: ArrayLike,
        *,
        radius: float,
        alpha: float | None = None,
        n: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """For each image, is the class of the single pass proven within the radius? Takes tens to hundreds of passes.

        An answer holds for whatever image was sent, also one that an adversary made: it is wrong with probability at
        most alpha, for each image by itself. Where the clean image is certifiable at r, an adversary within r can make
        the system abstain, but never confirm another class (but for alpha).

        Args:
            images: as for `predict`; batches above the tier's largest go as several requests.
            radius: r, in L2 on pixels in [0,1].
            alpha: None takes the operator's default, as for the others.
            n: most votes for one image, before it is answered undecided.
            deadline: seconds of one request on the server, after which images are answered undecided; less than the
                client's timeout.
            request_id: as for `predict`.

        Raises:
            OverloadedError: the tier's queue is full; `retry_after` is the server's hint.
            ServingError: the tier is not offered, a value is beyond the operator's limits, the images are not what the
                model takes, or the answer is not of the contract.
        """
        asked = TierQuestion(TierModel.CONFIRM, radius=radius, alpha=alpha, n=n, deadline=deadline)
        return self._ask(images, asked, request_id)

    def cascade(
        self,
        images: ArrayLike,
        *,
        radius: float,
        mode: Mode | str = Mode.CLAIMED,
        alpha: float | None = None,
        n: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """The single pass for each image, and `confirm` where its certified radius is at least the radius.

        Args:
            mode: `claimed`, or `any`: confirm every image. `tier` of an answer says which way it took.
            images: as for `confirm`, and so are the others, and the errors.
        """
        asked = TierQuestion(
            TierModel.CASCADE, radius=radius, mode=read_mode(mode), alpha=alpha, n=n, deadline=deadline
        )
        return self._ask(images, asked, request_id)

    def certify_fixed(
        self,
        images: ArrayLike,
        *,
        alpha: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        top_k: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> list[TierAnswer]:
        """For each image, class and largest radius by Certify of Cohen et al. (2019), with n₀ + n votes in any case.

        `certify` finds nearly the same radius, shows how it grows, and can be stopped at any time.

        Args:
            images: as for `confirm`, and so are alpha, deadline and the errors.
            n0: votes that guess the class.
            n: votes that bound its probability.
            top_k: votes for any of the k most frequent classes count.
        """
        asked = TierQuestion(TierModel.CERTIFY, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
        return self._ask(images, asked, request_id)

    def certify(
        self,
        image: ArrayLike,
        *,
        alpha: float | None = None,
        n0: int | None = None,
        n: int | None = None,
        top_k: int | None = None,
        deadline: float | None = None,
        request_id: str | None = None,
    ) -> Generator[TierAnswer, None, None]:
        """Class and proven radius of one image, as a stream of answers whose radius grows while votes are taken.

        All answers hold together with probability 1 − alpha, so that a caller may stop at any of them. `reason` is
        `TierReason.TIGHTENING` for all but the last. Closing the generator (a `for` loop that is left does that) gives
        the request up on the server.

        Args:
            image: one image, as for `predict`.
            n: most votes after the n₀; the others are as for `certify_fixed`.

        Raises:
            ServingError: as for `confirm`, and before the first answer.
        """
        asked = TierQuestion(TierModel.CERTIFY_STREAM, alpha=alpha, n0=n0, n=n, top_k=top_k, deadline=deadline)
        described, tier = self._described(), self.tier(asked.kind)
        parameters, pixels = (
            asked.parameters(tier, timeout=self._timeout),
            described.one(image, over_http=self._connection.is_http),
        )
        stream = self._connection.stream(tier, pixels, parameters, request_id=request_id)
        return self._tighten(stream, asked)

    def _described(self) -> Described:
        return self._known.newest or self._known.add(self._connection.describe(self._model))

    def _described_as(self, answer: InferResult) -> Described:
        """What is known of the version that answered, or else what the server says of it now."""
        for _ in range(DESCRIBED_TIMES):
            if known := self._known.of(answer):
                return known
            described = self._known.add(self._connection.describe(self._model))
            if described.version in ("", answer.model_version):
                return described
        raise not_described(answer)

    def _tier(self, described: Described, kind: TierModel) -> TierSpec:
        if kind not in described.tiers:
            try:
                described.tiers[kind] = self._connection.tier(kind.beside(self._model), kind)
            except UnknownModelError:
                offered = [other for other in TierModel if other is not kind and self._offers(other)]
                raise not_offered(self._model, described.spec, kind, offered) from None
        return described.tiers[kind]

    def _offers(self, kind: TierModel) -> bool:
        try:
            self._connection.tier(kind.beside(self._model), kind)
        except UnknownModelError:
            return False
        return True

    def _ask(self, images: ArrayLike, asked: TierQuestion, request_id: str | None) -> list[TierAnswer]:
        described, tier, found = self._described(), self.tier(asked.kind), list[TierAnswer]()
        parameters = asked.parameters(tier, timeout=self._timeout)
        for batch in described.requests(images):
            answer = self._connection.ask(tier, batch, parameters, request_id=request_id)
            described = self._described_as(answer)
            found += described.read(answer, asked, self._tier(described, asked.kind), images=len(batch))
        return found

    def _tighten(
        self, stream: Generator[InferResult, None, None], asked: TierQuestion
    ) -> Generator[TierAnswer, None, None]:
        bounds = TighteningBounds()
        with closing(stream):
            for answer in stream:
                described = self._described_as(answer)
                found = bounds.checked(*described.read(answer, asked, self._tier(described, asked.kind), images=1))
                if not bounds.has_ended:
                    yield found
        yield bounds.last()  # once the stream has ended: of one that is left as it ends, Triton keeps the request
