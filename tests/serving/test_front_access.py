"""Who is let in: TLS, certificates of clients, tokens and rates; and what of it changes while the front runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fronts import RunningFront, error_of, front_before, raw_answer, status_of, until
from relays import Certificates, make_certificates
from tiny_model import random_images

from heatserve import Client, OverloadedError, ServingError, Tls, TritonServer
from heatserve.serving.front.options import FrontOptions, options_of
from heatserve.serving.front.state import state_of_triton
from heatserve.serving.front.tokens import Tokens

FIRST, SECOND = "first-token-of-a-client", "second-token-of-a-client"
CONFIG = "/v2/models/tiny/config"


def asked(front: RunningFront, *headers: str, path: str = CONFIG) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: front", "Connection: close", *headers, "", ""]
    return raw_answer(front.port, "\r\n".join(lines).encode())


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{FIRST}\n\n{SECOND}\n")
    return path


@pytest.fixture(scope="module")
def front(triton: TritonServer, token_file: Path) -> Iterator[RunningFront]:
    """A front that wants tokens, and takes three requests a second of each."""
    with front_before(state_of_triton(triton), FrontOptions(token_file=token_file, rate=4)) as running:
        yield running


@pytest.mark.parametrize(
    "header",
    [
        "X: y",
        "Authorization:",
        "Authorization: Bearer",
        f"Authorization: {FIRST}",
        f"Authorization: Basic {FIRST}",
        f"Authorization: Bearer {FIRST}x",
        f"Authorization: Bearer {FIRST[:-1]}",
        f"Authorization: Bearer {FIRST} {SECOND}",
        f"Authorization: Bearer {FIRST}\r\nAuthorization: Bearer {SECOND}",
    ],
)
def test_requests_without_a_token(front: RunningFront, header: str) -> None:
    answer = asked(front, header)
    assert status_of(answer) == 401
    assert b"\r\nwww-authenticate: Bearer\r\n" in answer
    assert error_of(answer) == "Authorization: expected `Bearer` and a token that is let in, got none"


def test_a_body_of_a_stranger_is_not_read(front: RunningFront) -> None:
    head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {2**40}\r\n\r\n".encode()
    assert status_of(raw_answer(front.port, head)) == 401


def test_files_are_those_of_the_folder_in_which_the_server_was_started(
    triton: TritonServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(token_file.parent)
    with front_before(state_of_triton(triton), FrontOptions(token_file=Path(token_file.name))) as front:
        assert status_of(asked(front)) == 401
        assert status_of(asked(front, f"Authorization: Bearer {FIRST}")) == 200


def test_a_front_that_does_not_start_says_why(triton: TritonServer, token_file: Path) -> None:
    with token_file.open() as opened:
        only_here = Path(f"/proc/self/fd/{opened.fileno()}")  # the front has no such descriptor
        message = rf"front: .* found that it ended with exit code \d+: --token-file {only_here}: expected"
        with (
            pytest.raises(ServingError, match=message),
            front_before(state_of_triton(triton), FrontOptions(token_file=only_here)),
        ):
            pass


def test_probes_need_no_token(front: RunningFront) -> None:
    assert status_of(asked(front, path="/v2/health/live")) == 200
    assert status_of(asked(front, path="/v2/health/ready")) == 200


def test_metrics_need_one(front: RunningFront) -> None:
    request = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n"
    assert status_of(raw_answer(front.sockets.metrics_port, request.format("").encode())) == 401
    with_token = request.format(f"Authorization: Bearer {FIRST}\r\n").encode()
    assert status_of(raw_answer(front.sockets.metrics_port, with_token)) == 200


def test_each_token_has_its_rate(front: RunningFront) -> None:
    time.sleep(1)  # what was asked before
    with Client(front.url, model="tiny", token=FIRST) as first, Client(front.url, model="tiny", token=SECOND) as second:
        with pytest.raises(OverloadedError, match="rate: expected fewer requests a second") as caught:
            [first.predict(random_images(1)) for _ in range(100)]
        assert caught.value.retry_after == 1
        assert second.predict(random_images(1))[0].label >= 0


def test_tokens_are_read_again_when_they_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{FIRST}\n")
    tokens = Tokens(path)

    def is_let_in(token: str) -> bool:
        return tokens.client_of(f"Bearer {token}".encode()) is not None

    assert (is_let_in(FIRST), is_let_in(SECOND)) == (True, False)
    for text, expected in ((SECOND, (False, True)), ("short", (False, False)), (f"{FIRST}\n{SECOND}", (True, True))):
        other = tmp_path / "other"
        other.write_text(text)
        other.replace(path)
        tokens._looked -= 2  # as if two seconds had passed
        assert (is_let_in(FIRST), is_let_in(SECOND)) == expected
    path.unlink()
    for _ in range(2):
        tokens._looked -= 2
        assert not is_let_in(FIRST)
    said = capsys.readouterr().err.splitlines()  # once for each file that cannot be used
    assert [line.endswith("; nobody is let in until it can be used") for line in said] == [True, True]
    path.write_text(FIRST)
    tokens._looked -= 2
    assert is_let_in(FIRST)


@pytest.mark.parametrize(
    ("content", "found"),
    [("", "found 0"), ("\n \n", "found 0"), ("short\n", "found another"), (f"{FIRST}ä\n", "found another")],
)
def test_tokens_that_anybody_could_guess(tmp_path: Path, content: str, found: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ServingError, match=f"--token-file .*: expected .*{found}"):
        FrontOptions(token_file=path).check()


def test_options_are_told_as_text() -> None:
    options = FrontOptions(token_file=Path("/a"), tls_cert=Path("/b"), rate=0.5, max_connections=7)
    assert options_of(options.as_json()) == options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (FrontOptions(tls_cert=Path("a")), "--tls-key: expected a file beside --tls-cert, got none"),
        (FrontOptions(tls_key=Path("a")), "--tls-cert: expected a file beside --tls-key, got none"),
        (FrontOptions(client_ca=Path("a")), "--tls-cert: expected a file beside --client-ca, got none"),
        (FrontOptions(tls_cert=Path(os.devnull), tls_key=Path(os.devnull)), "--tls-cert /dev/null: expected a certif"),
        (FrontOptions(rate=0), "--rate: expected requests a second above 0, got 0"),
        (FrontOptions(rate=float("nan")), "--rate: expected requests a second above 0, got nan"),
        (FrontOptions(max_connections=0), "--max-connections: expected at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(options: FrontOptions, expected: str) -> None:
    with pytest.raises(ServingError, match=expected):
        options.check()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def with_tls(certificates: Certificates, *, client_ca: bool = False) -> FrontOptions:
    server, ca = certificates.server, certificates.ca
    return FrontOptions(tls_cert=server, tls_key=server.with_suffix(".key"), client_ca=ca if client_ca else None)


def test_tls(triton: TritonServer, certificates: Certificates) -> None:
    with front_before(state_of_triton(triton), with_tls(certificates)) as front:
        url = f"https://localhost:{front.port}"
        with Client(url, model="tiny", tls=Tls(ca=certificates.ca)) as client:
            assert client.predict(random_images(1))[0].label >= 0
        with pytest.raises(ServingError, match="certificate is not one to trust"):
            Client(url, model="tiny").predict(random_images(1))
        assert status_of(asked(front)) == 0  # plain text is no TLS


def test_a_caller_who_never_says_hello_holds_nobody_up(triton: TritonServer, certificates: Certificates) -> None:
    with front_before(state_of_triton(triton), with_tls(certificates)) as front:
        silent = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(100)]
        with Client(f"https://localhost:{front.port}", model="tiny", tls=Tls(ca=certificates.ca)) as client:
            assert client.predict(random_images(1))[0].label >= 0
        for caller in silent:
            caller.close()


def test_certificates_of_clients(triton: TritonServer, certificates: Certificates) -> None:
    with front_before(state_of_triton(triton), with_tls(certificates, client_ca=True)) as front:
        url = f"https://localhost:{front.port}"
        known = Tls(ca=certificates.ca, certificate=certificates.client)
        with Client(url, model="tiny", tls=known) as client:
            assert client.predict(random_images(1))[0].label >= 0
        with pytest.raises(ServingError):
            Client(url, model="tiny", tls=Tls(ca=certificates.ca), retries=0).predict(random_images(1))


def is_let_in(client: Client) -> bool:
    """Whether it gets an answer."""
    try:
        return bool(client.predict(random_images(1)))
    except ServingError:
        return False


def test_a_certificate_that_is_renewed_is_shown(
    triton: TritonServer, certificates: Certificates, tmp_path: Path
) -> None:
    """New connections get the new one, once it is there with its key; the process goes on."""
    first, second = certificates, make_certificates(tmp_path)
    shown, key = tmp_path / "shown.pem", tmp_path / "shown.key"
    shown.write_bytes(first.server.read_bytes())
    key.write_bytes(first.server.with_suffix(".key").read_bytes())
    with front_before(state_of_triton(triton), FrontOptions(tls_cert=shown, tls_key=key)) as front:
        url = f"https://localhost:{front.port}"
        with Client(url, model="tiny", tls=Tls(ca=first.ca)) as client:
            assert client.predict(random_images(1))
        shown.write_bytes(second.server.read_bytes())
        until(lambda: b"the certificate from before is shown" in front.log.read_bytes())
        with Client(url, model="tiny", tls=Tls(ca=first.ca)) as client:
            assert client.predict(random_images(1))
        key.write_bytes(second.server.with_suffix(".key").read_bytes())
        with Client(url, model="tiny", tls=Tls(ca=second.ca), retries=0) as client:
            until(lambda: is_let_in(client))
