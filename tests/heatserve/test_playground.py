"""The playground end to end: the page in Chromium, the real command, a real Triton with the committed digits."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path

import numpy as np
import pytest
from browsers import PHONE, is_too_wide, open_page, violations
from conftest import START_SECONDS
from PIL import Image
from playgrounds import MARKUP, ROOT, RunningPlayground, opened, running_playground
from playwright.sync_api import Browser, Error, Page, Route, expect
from relays import Relay

from heatserve.export.repository.layout import open_model
from heatserve.playground.guards import MOST_PICTURE
from heatserve.playground.server import WatchedServer
from heatserve.serving.client.async_client import AsyncClient
from heatserve.serving.client.connection import AsyncConnection

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]


@pytest.fixture(scope="module")
def playground(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlayground]:  # noqa: ARG001
    """A playground for all tests here; the browser comes first, so that nothing is started where there is none."""
    with running_playground(tmp_path_factory.mktemp("playground"), start_seconds=START_SECONDS) as running:
        yield running
        assert "Traceback" not in running.errors.read_text()


def check_promises(page: Page, *, at_least: int) -> None:
    """Each radius stands beside a promise: a claim has both, and its promise says something."""
    claims = page.locator(".claim").all()
    assert len(claims) >= at_least
    assert page.locator(".radius").count() == page.locator(".claim .radius").count() == len(claims)
    for claim in claims:
        promise = claim.locator(".promise").inner_text()
        assert len(promise) > 40
        if "promised nothing" not in promise:
            assert len(claim.locator("details p").text_content() or "") > 200  # the card's own words


def test_a_picture_is_answered_and_no_radius_is_without_its_promise(page: Page, playground: RunningPlayground) -> None:
    opened(page, playground)
    expect(page.locator("#class")).to_have_text("0")
    expect(page.locator("#answer .bars li")).to_have_count(10)
    card = open_model(ROOT / "model_repository", "digits").card
    assert card.promise is not None
    expect(page.locator("#answer .claim").first).to_contain_text(card.promise)
    expect(page.locator("#answer .claim").nth(2)).to_contain_text("promised nothing")
    expect(page.locator("#answer .latency")).to_contain_text(re.compile(r"Answered in \d+(\.\d)?\sm?s"))
    expect(page.locator("#size-result figure")).to_have_count(5)  # the picture; two changes, and each alone
    expect(page.locator("#size-result")).to_contain_text(re.compile(r"amplified \d"))
    check_promises(page, at_least=5)
    assert violations(page) == []


def test_a_model_whose_radii_are_proven_says_so_and_has_nothing_to_spoof(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground, model="digits_lipschitz", example=3)
    expect(page.locator("#class")).to_have_text("1")
    expect(page.locator("#answer .claim.proof")).to_have_count(2)
    check_promises(page, at_least=5)
    for section in ("spoof", "prove"):
        expect(page.locator(f"#{section}-controls .missing")).to_contain_text("There is nothing")
        expect(page.locator(f"#{section}-controls .primary").last).to_be_disabled()


STOP_SOON = """([section, text]) => {
  const result = document.getElementById(`${section}-result`), seen = new Set();
  new MutationObserver((_, watch) => {
    if (result.textContent.includes(text)) seen.add(result.textContent);
    if (seen.size < 2) return;
    watch.disconnect();
    [...document.querySelectorAll(`#${section}-controls button`)].find((one) => one.textContent === "Stop").click();
  }).observe(result, { childList: true, subtree: true, characterData: true });
}"""
"""Presses Stop once the page has shown two states with a text: from outside, a quick search may have ended by then."""


@pytest.mark.parametrize(
    ("model", "kept", "changed", "radius"),
    [
        ("digits", "One pass kept its class", "One pass changed its class", "radius that votes prove of the smoothed"),
        ("digits_lipschitz", "The class held", "The class broke", "proven radius"),
    ],
)
def test_the_class_holds_inside_a_proven_radius_and_breaks_far_outside(
    page: Page, playground: RunningPlayground, model: str, kept: str, changed: str, radius: str
) -> None:
    opened(page, playground, model=model)
    page.fill("#epsilon", "0.25")
    attack, verdict = page.get_by_role("button", name="Attack"), page.locator("#attack-result .verdict")
    page.evaluate(STOP_SOON, ["attack", "Step "])
    attack.click()
    expect(page.locator("#attack-result")).to_contain_text(re.compile(r"Step \d+ of 80.* Stopped\."))
    attack.click()  # which does not wait for the one that was left
    expect(verdict).to_contain_text(f"{kept}, inside the {radius}")
    expect(verdict).to_contain_text("as it must")
    page.get_by_role("button", name="Far outside").click()
    attack.click()
    expect(verdict).to_contain_text(f"{changed}, outside the {radius}")
    check_promises(page, at_least=6)
    assert violations(page) == []


def test_a_spoofed_radius_is_served_and_confirm_refuses_it(page: Page, playground: RunningPlayground) -> None:
    verdict = page.locator("#spoof-result .verdict").first
    for example in range(10):  # the search begins somewhere else each time, and finds nothing for about half of them
        opened(page, playground, example=example)
        page.get_by_role("button", name="Spoof").click()
        verdict.wait_for()
        if "A spoofed radius" in verdict.inner_text():
            break
    expect(verdict).to_contain_text("A spoofed radius, and a refusal")
    served = float(page.locator("#spoof-result .claim.rate .radius").inner_text())
    assert served > 0
    expect(page.locator("#spoof-result .verdict").nth(1)).to_contain_text(
        re.compile(rf"(Refused|Not conf).* {served:.3f}")
    )
    check_promises(page, at_least=7)


def test_a_class_is_confirmed_and_its_proof_grows_until_it_is_stopped(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    page.fill("#radius", "0.1")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#prove-result .verdict.yes")).to_contain_text("Confirmed — radius 0.100")
    page.select_option("#votes", "100000")
    page.evaluate(STOP_SOON, ["prove", "is proven within"])
    page.get_by_role("button", name="Prove it").click()
    live = page.locator("#prove-result .live")
    expect(live).to_contain_text("Stopped. What was proven holds")
    assert page.locator("#prove-result .claim .radius").inner_text() in live.inner_text()
    expect(page.locator("#prove-result svg path")).to_have_attribute("d", re.compile(r"^M .* L .* L "))
    assert violations(page) == []


def proving(page: Page, playground: RunningPlayground) -> None:
    """A page in the midst of a long proof that has found something."""
    opened(page, playground, example=4)
    page.select_option("#votes", "100000")
    page.get_by_role("button", name="Prove it").click()
    expect(page.locator("#prove-result .claim .radius")).to_have_text(re.compile(r"0\.[1-9]"))


def test_a_proof_is_never_taken_for_that_of_another_picture(page: Page, playground: RunningPlayground) -> None:
    proving(page, playground)
    page.locator("#examples button").nth(6).click()
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    page.locator("#answer .claim").first.wait_for()
    page.get_by_role("button", name="Just inside the radius").click()
    served = float(page.locator("#answer .radius").first.inner_text())
    assert float(page.input_value("#epsilon")) <= max(0.01, served)  # and not that of the proof
    page.get_by_role("button", name="Attack").click()
    expect(page.locator("#attack-result .verdict")).to_contain_text("where votes prove another class")  # 3, and not 2
    expect(page.locator("#attack-result .claim")).to_contain_text("answers “3”")


def test_noise_moves_class_and_radius(page: Page, playground: RunningPlayground) -> None:
    opened(page, playground)
    page.fill("#sigma", "0")
    expect(page.locator("#noise-result .bars li")).to_have_count(1)
    clean = page.locator("#answer .claim .radius").first.inner_text()
    expect(page.locator("#noise-result .radius")).to_have_text(clean)
    page.fill("#sigma", "0.6")
    expect(page.locator("#noise-result .radius")).not_to_have_text(clean)
    expect(page.locator("#noise-result .strip path.lost").first).to_be_attached()


def test_radii_are_rounded_down(page: Page, playground: RunningPlayground) -> None:
    page.goto(playground.address)
    shown = page.evaluate(
        "async () => { const { radiusText } = await import('/static/claims.js');"
        " return [0.98995, Math.fround(0.425), 0.57, 0.25, 0].map(radiusText); }"
    )
    assert shown == ["0.989", "0.425", "0.570", "0.250", "0.000"]


def test_a_digit_is_drawn_with_a_mouse_and_with_keys(page: Page, playground: RunningPlayground) -> None:
    opened(page, playground, example=2)
    page.get_by_role("tab", name="Draw").click()
    pad = page.locator("#pad")
    box = pad.bounding_box()
    assert box is not None
    x, y, scale = box["x"], box["y"], box["width"] / 280
    corners = [(150, 40), (105, 90), (95, 150), (120, 215), (165, 215), (180, 150), (175, 90), (150, 40)]
    page.mouse.move(x + corners[0][0] * scale, y + corners[0][1] * scale)
    page.mouse.down()
    for across, down in corners[1:]:
        page.mouse.move(x + across * scale, y + down * scale, steps=4)
    page.mouse.up()
    expect(page.locator("#answer figcaption")).to_contain_text("your drawing")
    expect(page.locator("#class")).to_have_text("0")
    page.get_by_role("button", name="Clear").click()
    pad.focus()
    for key in [*["ArrowUp"] * 4, " ", *["ArrowDown"] * 9, " "]:
        page.keyboard.press(key)
    expect(page.locator("#pen")).to_contain_text("Pen up, column 7, row 12")
    expect(page.locator("#class")).to_have_text("1")
    assert violations(page) == []


def picture(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def test_before_there_is_a_picture_each_button_says_what_to_do_first(page: Page, playground: RunningPlayground) -> None:
    page.route("**/api/examples*", lambda _: None)  # examples do not come
    page.route("**/api/models", lambda _: None)  # nor do models, at first
    page.goto(playground.address)
    page.get_by_role("tab", name="Your picture").click()
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture((60, 90))})
    expect(page.locator("#picture-problem")).to_contain_text("no model to show it to")
    page.unroute("**/api/models")
    page.goto(playground.address)
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "digits")
    expect(page.locator("#examples-say")).to_have_text("Pictures are read …")
    for name, place in {"Attack": "attack", "Spoof": "spoof", "Confirm": "prove", "Prove it": "prove"}.items():
        for _ in range(2):
            page.get_by_role("button", name=name, exact=True).click()
            expect(page.locator(f"#{place}-result .problem")).to_have_text("Choose a picture first.")


DROP = """bytes => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "huge.png"));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: held, cancelable: true }));
}"""


def test_pictures_are_brought_to_size_and_strange_files_are_refused_with_a_sentence(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    page.get_by_role("tab", name="Your picture").click()
    problem = page.locator("#picture-problem")
    files = {
        "a.html": (b"<script>alert(1)</script>", "expected an image file"),
        "cut.jpg": (picture((90, 60))[:300], "cannot be read"),
    }
    for name, (content, said) in files.items():
        page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        expect(problem).to_contain_text(said)
        expect(problem).to_contain_text("The picture before it is still shown.")
        assert str(ROOT) not in problem.inner_text()
        expect(page.locator("#answer figcaption")).to_contain_text("test picture: 0")
    page.evaluate(DROP, MOST_PICTURE + 1)
    expect(problem).to_contain_text("too large: expected at most 16 MiB")
    polyglot = picture((90, 60)) + b"<script>alert(1)</script>PK\x03\x04"
    page.set_input_files("#file", {"name": "<b>x.jpg", "mimeType": "text/html", "buffer": polyglot})
    expect(page.locator("#answer figcaption")).to_contain_text("your picture")
    expect(page.locator("#answer .claim")).to_have_count(3)
    expect(problem).to_be_hidden()


def test_a_model_without_calibration_for_pictures_of_any_size_with_markup_in_its_names(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    page.select_option("#model", "named")
    expect(page.locator("#examples-say")).to_contain_text("drop a picture of your own")
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture((60, 90))})
    expect(page.locator("#answer figcaption")).to_contain_text("90×60 pixels")
    expect(page.locator("#class")).to_contain_text(MARKUP)
    expect(page.locator("main img")).to_have_count(0)
    expect(page.locator("#answer .claim.none")).to_have_count(2)
    expect(page.locator("#answer .claim").first).to_contain_text("the model is not calibrated")
    expect(page.locator("#size-result .hint")).to_contain_text("takes pictures of 8 bits or of any size")
    expect(page.locator("#prove-controls .missing")).to_contain_text("does not offer")


def test_when_the_server_is_gone_the_page_says_so_and_goes_on_by_itself(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    playground.relay.close()
    try:
        expect(page.locator("#server")).to_contain_text("does not answer")
        expect(page.locator("#server")).to_have_class("gone")
        page.get_by_role("button", name="Confirm").click()
        expect(page.locator("#prove-result .problem")).to_contain_text("does not answer")
        assert violations(page) == []
    finally:
        playground.relay.open()
    expect(page.locator("#server")).to_have_class("there")
    expect(page.locator("#answer .claim")).to_have_count(3)
    expect(page.locator("#prove-result .problem")).to_have_count(0)


def test_a_proof_goes_on_while_a_server_that_stops_takes_nothing_new(playground: RunningPlayground) -> None:
    """Triton finishes what it was asked; who looks at it then finds nobody, and must not break the proof off."""

    async def votes_after_the_loss(looks: Relay) -> list[int]:
        server = WatchedServer(
            f"grpc://{looks.address}",
            ["digits"],
            client=lambda model: AsyncClient(f"grpc://{playground.relay.address}", model=model),
            connection=lambda: AsyncConnection(f"grpc://{looks.address}", timeout=10),
        )
        await server.look()
        image = np.full((1, 1, 8, 8), 0.5, np.float32)
        async with aclosing(server.model("digits").client.certify(image, n=10_000, deadline=20)) as bounds:
            await anext(bounds)
            looks.close()
            await server.look()
            assert not server.state.is_there
            votes = [bound.votes async for bound in bounds]
        await server.close()
        return votes

    # In a thread of its own: Playwright's loop runs in this one.
    with Relay(("127.0.0.1", playground.relay.port)) as looks, ThreadPoolExecutor(1) as apart:
        assert apart.submit(asyncio.run, votes_after_the_loss(looks)).result()[-1] > 1000


def test_files_that_the_server_does_not_serve_are_not_attacked_and_another_version_brings_its_own_promise(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground, model="switched")  # version 1, while the newest files are those of version 2
    expect(page.locator("#answer .claim.rate").first).to_contain_text("with confidence 0.99")
    attack, result = page.get_by_role("button", name="Attack"), page.locator("#attack-result")
    attack.click()
    expect(result.locator(".problem")).to_contain_text("answer otherwise than the server")
    expect(page.locator("#size-result .problem")).to_contain_text("answer otherwise than the server")
    playground.server.versions.replace(playground.server.versions.open("switched", 2))
    expect(page.locator("#answer .claim.none")).to_have_count(2)
    expect(page.locator("#answer .claim").first).to_contain_text("none: the model is not calibrated")
    expect(result.locator(".problem")).to_have_count(0)
    proving(page, playground)  # of another model
    page.select_option("#model", "switched")
    expect(page.locator("#answer .claim.none")).to_have_count(2)
    attack.click()
    expect(result.locator(".verdict")).to_contain_text("where nothing is proven")
    expect(result.locator(".claim")).to_contain_text("What is claimed of your picture")
    assert violations(page) == []


def in_colour(route: Route) -> None:
    """Tell the page that the model `named` takes pictures in colour."""
    told = route.fetch().json()
    for model in told["models"]:
        model["shape"] = [3, -1, -1] if model["name"] == "named" else model["shape"]
    route.fulfill(json=told)


NAMES = {"Attack": "attack", "Spoof": "spoof", "Confirm": "prove", "Prove it": "prove"}


@pytest.mark.parametrize("is_refused", [True, False])
def test_nothing_of_another_picture_or_model_is_shown_or_judged_before_there_is_an_answer(
    page: Page, playground: RunningPlayground, is_refused: bool
) -> None:
    page.route("**/api/models", in_colour)
    opened(page, playground, model="digits_lipschitz", example=2)
    held = list[Route]()
    overloaded = {"status": 429, "json": {"error": "The server is overloaded."}}
    page.route("**/api/predict", lambda asked: asked.fulfill(**overloaded) if is_refused else held.append(asked))
    for choose in (
        lambda: page.select_option("#model", "digits"),
        lambda: page.locator("#examples button").nth(4).click(),
    ):
        choose()
        expect(page.locator("#answer")).to_contain_text("overloaded" if is_refused else "One pass is asked")
        expect(page.locator(".claim, .verdict")).to_have_count(0)
        for slider in ("#size", "#sigma"):
            page.fill(slider, "0.3")
        for name, place in NAMES.items():
            page.get_by_role("button", name=name, exact=True).click()
            expect(page.locator(f"#{place}-result .problem")).to_contain_text("has not answered this picture yet")
    page.select_option("#model", "named")  # which takes no such picture; then the answers of before come, too late
    for route in held:
        with suppress(Error):  # the page has given it up
            route.continue_()
    expect(page.locator("#answer")).to_have_text("Choose a picture first.")
    page.wait_for_timeout(300)
    expect(page.locator("#answer")).to_have_text("Choose a picture first.")
    expect(page.locator("#size-result *, #noise-result *")).to_have_count(0)


def test_what_is_shown_of_a_size_is_of_that_size_and_judged_by_the_distance_itself(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    result = page.locator("#size-result")
    page.fill("#size", "0.1")
    expect(result.locator(".pair")).to_have_count(2)
    expect(result).to_contain_text(re.compile("distance 0.100within the certified radius"))
    page.route("**/api/change", lambda asked: asked.fulfill(status=503, json={"error": "It does not answer."}))
    page.fill("#size", "1.5")
    expect(result).to_have_text("It does not answer.")
    page.unroute("**/api/change")
    page.fill("#size", "1.6")
    expect(result.locator(".pair")).to_have_count(2)
    expect(result).not_to_contain_text("within the certified radius")
    page.route("**/api/change", lambda _: None)
    page.fill("#size", "0.2")
    expect(result).to_have_attribute("aria-busy", "true")  # dim, while it is of another size
    for name, path in {"Attack": "attack", "Prove it": "certify", "Spoof": "spoof"}.items():
        page.route(f"**/api/{path}", lambda asked: asked.fulfill(status=503, json={"error": "It does not answer."}))
        for _ in range(2):
            page.get_by_role("button", name=name, exact=True).click()
            expect(page.locator(f"#{NAMES[name]}-result")).to_have_text("It does not answer.")


def test_proofs_stay_beside_a_confirmed_radius_and_when_the_server_is_back(
    page: Page, playground: RunningPlayground
) -> None:
    opened(page, playground)
    result, confirm = page.locator("#prove-result"), page.get_by_role("button", name="Confirm")
    page.select_option("#votes", "100000")
    page.get_by_role("button", name="Prove it").click()
    result.locator(".live").get_by_text("is proven within").wait_for()
    asked = list[Route]()
    page.route("**/api/confirm", lambda one: asked.append(one))
    page.fill("#radius", "0.1")
    confirm.click()
    expect(confirm).to_be_disabled()  # a second question would only wait for the first
    expect(result).to_contain_text("The server takes its votes")
    asked[0].continue_()
    expect(result.locator(".verdict.yes")).to_contain_text("Confirmed — radius 0.100")
    expect(confirm).to_be_enabled()
    expect(result.locator(".claim.votes, .chart")).to_have_count(2)
    page.locator("#prove-controls").get_by_role("button", name="Stop").click()
    expect(result.locator(".live")).to_contain_text("Stopped. What was proven holds")
    proven = result.locator(".claim .radius").inner_text()
    playground.relay.close()
    try:
        expect(page.locator("#server")).to_have_class("gone")
        page.unroute("**/api/confirm")
        page.fill("#size", "0.3")
        expect(page.locator("#size-result .problem")).to_contain_text("does not answer")
    finally:
        playground.relay.open()
    expect(page.locator("#server")).to_have_class("there")
    expect(page.locator("#size-result .problem")).to_have_count(0)
    expect(result.locator(".claim .radius")).to_have_text(proven)
    expect(result.locator(".verdict.yes")).to_contain_text("Confirmed")
    check_promises(page, at_least=4)


@pytest.mark.parametrize("chosen", ["example", "model"])
def test_a_file_that_is_still_read_does_not_take_the_place_of_what_is_chosen_after_it(
    page: Page, playground: RunningPlayground, chosen: str
) -> None:
    opened(page, playground)
    held = list[Route]()
    page.route("**/api/picture*", lambda one: held.append(one))
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": picture((60, 90))})
    expect(page.locator("#picture-reading")).to_have_text("Your picture is read …")
    if chosen == "example":
        page.locator("#examples button").nth(4).click()
    else:
        page.select_option("#model", "digits_lipschitz")
    expect(page.locator("#picture-reading")).to_be_hidden()
    held[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator("#answer figcaption")).to_contain_text("test picture")


def test_dark_and_on_a_phone_it_is_readable(browser: Browser, playground: RunningPlayground) -> None:
    with open_page(browser, size=PHONE, colours="dark", touch=True) as page:
        opened(page, playground)
        assert not is_too_wide(page)
        assert violations(page) == []
        page.set_viewport_size({"width": 320, "height": 700})
        assert not is_too_wide(page)
        page.get_by_role("tab", name="Examples").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="Your picture")).to_be_focused()
        expect(page.locator("#drop")).to_be_visible()


def answered(playground: RunningPlayground, method: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", playground.port, timeout=60)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def test_other_hosts_other_pages_and_other_paths_are_refused_with_a_sentence(playground: RunningPlayground) -> None:
    json_type, evil = "application/json", "http://evil.example"
    for status, found in {
        421: answered(playground, "GET", "/api/models", Host="evil.example"),
        403: answered(playground, "POST", "/api/predict", Origin=evil, Content_Type=json_type),
        413: answered(
            playground, "POST", "/api/picture", Origin=playground.address[:-1],
            Content_Type="application/octet-stream", Content_Length=str(MOST_PICTURE + 1),
        ),
        400: answered(playground, "POST", "/api/predict", Origin=playground.address[:-1], Content_Type=json_type),
        404: answered(playground, "GET", "/static/..%2f..%2fpyproject.toml"),
    }.items():  # fmt: skip
        assert found[0] == status
        sentence = json.loads(found[1])["error"]
        assert sentence.endswith(".")
        assert not re.search(r"Traceback|\.py|/home|/work|/tmp", sentence)


def test_ctrl_c_ends_it_while_a_page_is_open(page: Page, playground: RunningPlayground) -> None:
    """The last test here."""
    opened(page, playground)
    playground.process.send_signal(signal.SIGINT)
    assert playground.process.wait(60) in (0, 130)
    expect(page.locator("#server")).to_contain_text("The playground itself does not answer")


def test_the_command_says_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from heatserve.certification.errors import HeatserveError
    from heatserve.cli import app

    for options, said in (
        (["--root", str(tmp_path / "none")], "expected the folder of CIFAR-10"),
        (["--repository", str(tmp_path)], "--model NAME"),
        (["--host", "here.example", "--model", "m"], "expected an address in digits"),
        (["--url", "ftp://x", "--model", "m"], "expected"),
    ):
        result = CliRunner().invoke(app, ["playground", "--no-open", "--port", "0", *options])
        assert isinstance(result.exception, HeatserveError)
        assert said in str(result.exception)
