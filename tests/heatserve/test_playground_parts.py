"""The parts of the playground that need no server: pictures, what its guards let in, work in a thread, verdicts."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from heatserve.certification.errors import HeatserveError
from heatserve.certification.outcome import Ending, Outcome
from heatserve.export.tiers import TierReason
from heatserve.playground import pictures, verdicts, wire
from heatserve.playground.examples import Examples
from heatserve.playground.guards import MOST_JSON, Guarded, is_address
from heatserve.playground.proofs import Proofs
from heatserve.playground.refusals import Refused
from heatserve.playground.working import BUSY, Emit, OneAtATime
from heatserve.serving.client.answers import ModelSpec

DIGITS = ModelSpec((1, 8, 8), "FP32", 10, 64)
COLOUR = ModelSpec((3, 32, 32), "UINT8", 10, 64)
ANY = ModelSpec((3, -1, -1), "UINT8", 10, 64)


def file_of(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def of_side(side: int, *, bits: int) -> bytes:
    """A PNG in colour that says in its header that it is so large, and is not."""
    content = bytearray(file_of(np.zeros((8, 8, 3), np.uint8)))
    content[16:25] = 2 * side.to_bytes(4, "big") + bytes([bits])
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def animated() -> bytes:
    content = io.BytesIO()
    first, *others = (Image.new("L", (8, 8), level) for level in (0, 200))
    first.save(content, "GIF", save_all=True, append_images=others)
    return content.getvalue()


@pytest.mark.parametrize("size", [(8, 8), (40, 25), (3, 11), (1, 1)])
@pytest.mark.parametrize("spec", [DIGITS, COLOUR])
def test_a_picture_of_any_size_becomes_one_that_the_model_takes(size: tuple[int, int], spec: ModelSpec) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = pictures.fitted(file_of(pixels), spec)
    assert found.shape == spec.input_shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    if spec.input_type == "UINT8":
        assert np.array_equal(found, wire.sent(found[None], spec)[0].transpose(2, 0, 1) / np.float32(255))


def test_a_picture_of_the_models_size_is_not_changed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(pictures.fitted(file_of(pixels), COLOUR), pixels.transpose(2, 0, 1) / np.float32(255))


def test_where_a_model_takes_any_size_a_large_picture_is_made_smaller() -> None:
    found = pictures.fitted(file_of(np.zeros((30, 1200, 3), np.uint8)), ANY)
    assert found.shape == (3, round(30 * pictures.ANY_SIDE / 1200), pictures.ANY_SIDE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected an image file"),
        (b"%PDF-1.7 a document", "expected an image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "expected an image file"),
        (file_of(np.zeros((4, 4, 4), np.uint8)), "transparent"),
        (file_of(np.zeros((8, 8, 3), np.uint8))[:45], "cannot be read"),
        (animated(), "expected one picture, found an animation"),
    ],
    ids=["nothing", "PDF", "SVG", "transparent", "cut", "animated"],
)
@pytest.mark.parametrize("read", [pictures.fitted, pictures.drawn])
def test_a_strange_file_is_refused_with_a_sentence(
    read: Callable[[bytes, ModelSpec], wire.Image], content: bytes, said: str
) -> None:
    with pytest.raises(HeatserveError, match=said) as refused:
        read(content, DIGITS)
    assert "/" not in str(refused.value).replace("image/", "")


def test_a_picture_of_a_billion_pixels_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Refused, match="more than 50 million pixels"):
        pictures.fitted(of_side(9000, bits=8), DIGITS)


@pytest.mark.parametrize("read", [pictures.fitted, pictures.drawn])
def test_a_picture_of_16_bits_which_takes_more_memory_has_a_lower_limit(
    read: Callable[[bytes, ModelSpec], wire.Image],
) -> None:
    with pytest.raises(Refused, match="more than 8 bits a channel, and more than 12 million pixels"):
        read(of_side(4000, bits=16), DIGITS)
    for side, bits in ((4000, 8), (3000, 16)):  # within the limits: it is decoded, and found to be cut off
        with pytest.raises(HeatserveError, match="cannot be read"):
            read(of_side(side, bits=bits), DIGITS)


def test_a_picture_that_would_be_huge_once_it_covers_the_models_size_is_refused() -> None:
    """A file of 2 KB: 32 pixels high, it would be 64 million wide, and 6 GB."""
    content = file_of(np.zeros((1, 2_000_000), np.uint8))
    with pytest.raises(Refused, match="too long for its width"):
        pictures.fitted(content, COLOUR)


def test_a_drawing_becomes_an_image_as_those_of_the_digits_are() -> None:
    """Ink is counted in 17 levels, and fills the picture, wherever and however small it was drawn."""
    for box in ((20, 30, 60, 110), (100, 100, 220, 260)):
        drawing = Image.new("RGB", (280, 280))
        ImageDraw.Draw(drawing).ellipse(box, outline="white", width=12)
        found = pictures.drawn(file_of(np.asarray(drawing)), DIGITS)
        assert np.array_equal(found * 16, np.rint(found * 16))
        assert found[0, 0].max() > 0
        assert found[0, -1].max() > 0
        assert found[0, 3:5, 3:5].max() < 0.5  # the hole of the ring


def test_an_empty_drawing_is_refused() -> None:
    with pytest.raises(Refused, match="Nothing is drawn"):
        pictures.drawn(file_of(np.zeros((280, 280, 3), np.uint8)), DIGITS)


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 2.5])
def test_a_change_is_exactly_as_large_as_it_says(radius: float) -> None:
    image = np.random.default_rng(1).random((1, 8, 8), dtype=np.float32)
    image[0, :4] = 0  # where noise is cut off
    found = pictures.random_change(image, radius, DIGITS)
    assert radius * (1 - 1e-5) <= pictures.distance(image, found) <= radius
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_change_that_pixels_cannot_make_goes_as_far_as_they_can() -> None:
    image = np.zeros((1, 2, 2), np.float32)
    found = pictures.at_distance(image, np.array([[[1.0, -1.0], [0, 0]]]), 3.0, DIGITS)
    assert found.tolist() == [[[1, 0], [0, 0]]]
    assert np.array_equal(pictures.at_distance(image, np.zeros((1, 2, 2)), 1.0, DIGITS), image)


@pytest.mark.parametrize("radius", [0.01, 0.1, 0.5, 2.0])
def test_a_change_of_a_picture_of_8_bits_is_never_larger_than_it_says_once_it_is_rounded(radius: float) -> None:
    image = wire.seen(np.random.default_rng(1).random((3, 224, 224), dtype=np.float32), ANY)
    found = pictures.random_change(image, radius, ANY)
    assert np.array_equal(found, wire.seen(found, ANY))
    assert radius - 1 / 255 <= pictures.distance(image, found) <= radius


def test_more_of_the_same_noise_comes_with_a_larger_sigma() -> None:
    image = np.full((1, 8, 8), 0.5, np.float32)
    small, large = (pictures.noisy(image, sigma, draws=3, seed=7) - image for sigma in (0.01, 0.02))
    assert np.allclose(2 * small, large, atol=1e-6)
    assert not np.allclose(small[0], small[1])


def asked(**values: Any) -> wire.Question:
    return wire.Question(json.dumps(values).encode())


def test_an_image_comes_back_as_it_was_sent() -> None:
    image = np.random.default_rng(2).random((1, 8, 8), dtype=np.float32)
    assert np.array_equal(asked(image=wire.image_record(image)).image(DIGITS), image)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"shape": [1, 8, 8]},
        {"shape": [1, 8, 8], "pixels": "no base64!"},
        {"shape": [1, 8, 8], "pixels": "AAAA"},
        {"shape": [1, 8, True], "pixels": ""},
        {**wire.image_record(np.zeros((1, 8, 8), np.float32)), "shape": [True, 8, 8]},
        {"shape": [1, 8, 10**9], "pixels": ""},
        wire.image_record(np.zeros((1, 8, 9), np.float32)),
        wire.image_record(np.full((1, 8, 8), np.nan, np.float32)),
        wire.image_record(np.full((1, 8, 8), 1.5, np.float32)),
    ],
)
def test_what_is_no_image_is_refused(record: object) -> None:
    with pytest.raises(Refused, match="image: expected"):
        asked(image=record).image(DIGITS)


@pytest.mark.parametrize("value", [None, "1", True, -0.1, 2, float("nan"), float("inf"), 10**400, [1]])
def test_what_is_no_number_in_its_range_is_refused(value: object) -> None:
    with pytest.raises(Refused, match="radius: expected a number from 0 to 1"):
        asked(radius=value).number("radius", least=0, most=1)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="JSON object"):
        wire.Question(body)


@pytest.mark.parametrize(
    ("host", "is_local", "is_let_in"),
    [
        ("127.0.0.1:7860", True, True),
        ("127.0.0.1", True, True),
        ("localhost:9", True, True),
        ("[::1]:7860", True, True),
        ("[::1]", True, True),
        ("evil.example:7860", True, False),
        ("127.0.0.1.evil.example:7860", True, False),
        ("localhost.evil.example", True, False),
        ("127.0.0.1:7860:80", True, False),
        ("127.0.0.1:", True, False),
        ("", True, False),
        ("192.0.2.7:7860", True, False),
        ("192.0.2.7:7860", False, True),
        ("evil.example:7860", False, False),
    ],
)
def test_only_addresses_in_digits_are_hosts(host: str, is_local: bool, is_let_in: bool) -> None:
    """What a name server may be told to lead here is a name, and is refused (DNS rebinding)."""
    assert is_address(host, is_local=is_local) == is_let_in


async def status_of_request(headers: dict[str, str], *, method: str = "POST", body: int = 0) -> int:
    """What is answered to a request with so many bytes, in two parts, of which the headers need not speak."""
    sent, parts = list[dict[str, Any]](), [body // 2, body - body // 2]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(parts.pop(0)), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(_: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/api/predict", "headers": named}
    await Guarded(application, is_local=True)(scope, receive, send)
    assert b"content-security-policy" in dict(sent[0]["headers"])
    return int(sent[0]["status"])


OURS = {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (OURS, 9, 200),
        ({**OURS, "host": "evil.example"}, 9, 421),
        ({**OURS, "origin": "http://evil.example"}, 9, 403),
        ({**OURS, "origin": "http://127.0.0.1:2"}, 9, 403),
        ({**OURS, "origin": "null"}, 9, 403),
        ({key: value for key, value in OURS.items() if key != "origin"}, 9, 403),
        ({**OURS, "sec-fetch-site": "cross-site"}, 9, 403),
        ({**OURS, "sec-fetch-site": "same-origin"}, 9, 200),
        ({**OURS, "content-type": "text/plain"}, 9, 415),
        ({**OURS, "content-length": str(MOST_JSON + 1)}, 9, 413),
        ({**OURS, "content-length": "-1"}, 9, 413),
        (OURS, MOST_JSON + 2, 413),
    ],
)
def test_only_requests_of_the_page_itself_are_taken(headers: dict[str, str], body: int, status: int) -> None:
    assert asyncio.run(status_of_request(headers, body=body)) == status


def test_other_methods_are_refused() -> None:
    assert asyncio.run(status_of_request(OURS, method="PUT")) == 405


def test_one_search_at_a_time_and_the_next_once_its_thread_has_ended() -> None:
    async def go() -> None:
        searches, is_over = OneAtATime(patience=0.01), threading.Event()

        def work(emit: Emit) -> None:
            try:
                while True:
                    emit({})
            finally:
                is_over.wait(10)

        async with aclosing(searches.run(work)) as events:
            await anext(events)
            with pytest.raises(Refused, match=BUSY[:20]):
                await anext(searches.run(work))
        with pytest.raises(Refused, match=BUSY[:20]):  # the caller left, and the thread goes on
            await anext(searches.run(work))
        is_over.set()
        for _ in range(1000):
            try:
                assert [event async for event in searches.run(lambda emit: emit({"n": 1}))] == [{"n": 1}]
            except Refused:
                await asyncio.sleep(0.01)
            else:
                return
        raise AssertionError("the search that was left has not ended")

    asyncio.run(go())


def test_a_search_that_takes_too_long_is_stopped_and_says_so() -> None:
    def work(emit: Emit) -> None:
        while True:
            emit({})

    async def go() -> None:
        async for _ in OneAtATime(seconds=0.05).run(work):
            pass

    with pytest.raises(Refused, match=r"longer than 0\.05 s"):
        asyncio.run(go())


def held(**values: Any) -> verdicts.Held:
    usual = {"kind": "deterministic", "distance": 0.5, "certified_radius": 0.6, "proven_radius": 0.6}
    usual |= {"is_of_another": False, "is_held": True, "is_smoothed_held": None}
    return verdicts.Held(**{**usual, **values})


def test_verdicts_say_what_was_promised_and_whether_it_was_kept() -> None:
    assert "as it must" in held().sentence
    assert "must not happen" in held(is_held=False).sentence
    assert "outside the proven radius" in held(distance=0.7, is_held=False).sentence
    smoothed = {"kind": "statistical", "is_smoothed_held": True}
    assert "still answers it, as it must" in held(**smoothed).sentence
    assert "the two differ" in held(**smoothed, is_held=False).sentence
    assert "nothing was promised there" in held(**smoothed, distance=2).sentence
    assert "Votes have proven nothing" in held(**smoothed, proven_radius=0).sentence
    of_another = held(**smoothed, proven_radius=0, is_of_another=True).sentence
    assert "answers another class at your picture than one pass does" in of_another
    assert "Votes have proven nothing" not in of_another
    assert "answers another class" in held(kind="statistical", is_smoothed_held=False).sentence


def test_the_best_proof_of_each_picture_is_kept_and_of_no_other_one() -> None:
    known, image, other = Proofs(), *np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    for radius in (0.0, 0.2, 0.3, 0.1):
        known.add(image, {"proven_radius": radius})
    assert known.best(image) == {"proven_radius": 0.3}
    assert known.best(other) is None
    assert known.best(image.reshape(1, 4, 16)) is None
    for level in range(256):
        known.add(np.full((1, 1, 1), level, np.float32), {"proven_radius": 1.0})
    assert known.best(image) is None  # the oldest of too many


@pytest.mark.parametrize(
    ("outcome", "reason", "truth", "is_spoofed", "said"),
    [
        (Outcome.NO, TierReason.DISPROVEN, None, True, "and votes prove that it is too large"),
        (Outcome.UNDECIDED, TierReason.HOPELESS, Ending.DISPROVEN, True, "and 320 further votes prove that it is too"),
        (
            Outcome.UNDECIDED,
            TierReason.HOPELESS,
            Ending.PROVEN,
            False,
            "320 further votes prove the radius: it was right",
        ),
        (Outcome.UNDECIDED, TierReason.VOTES, Ending.VOTES, False, "neither prove nor refute it"),
        (Outcome.UNDECIDED, TierReason.DEADLINE, None, False, "it is busy"),
        (Outcome.YES, TierReason.PROVEN, None, False, "the radius was right"),
        (None, None, None, False, "found no picture"),
    ],
)
def test_a_certificate_is_spoofed_where_votes_refute_it_and_not_where_they_leave_it_open(
    outcome: Outcome | None, reason: TierReason | None, truth: Ending | None, is_spoofed: bool, said: str
) -> None:
    found = verdicts.Spoofed(served=0.5, distance=1, outcome=outcome, reason=reason, truth=truth, votes=320)
    assert found.is_spoofed == is_spoofed
    assert said in found.sentence


def test_the_page_needs_no_torch_and_no_engine() -> None:
    """With `heatserve[playground]` alone it works, and says what attacks and examples need besides."""
    code = "import sys, heatserve.playground.serving; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "onnx", "onnxruntime", "sklearn", "scipy", "pydantic", "orjson"} & {*found} == set()


def test_examples_are_test_images_of_each_class_or_a_sentence() -> None:
    examples = Examples(None)
    found = examples.of((1, 8, 8))
    assert [example.class_name for example in found] == [str(digit) for digit in range(10) for _ in range(2)]
    for shape, said in (((3, 32, 32), "--root"), ((3, 9, 9), "drop a picture")):
        assert said in (examples.missing(shape) or "")
        with pytest.raises(Refused, match=said):
            examples.of(shape)
