"""`heatserve sign` and `heatserve serve --trust`: a server of what a key signed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from known_tiers import hurry
from tiny_model import random_images, write_tiny_model

from heatserve import FREE_PORTS, Client, TritonServer
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME
from heatserve.export.repository.layout import SIGNATURE_NAME, open_model
from heatserve.export.repository.tiers import write_tier_configs
from heatserve.export.signing.envelope import UntrustedError
from heatserve.export.signing.trust import Trust
from heatserve.export.tiers import TierModel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A repository with the model `tiny`, signed by the command with a key of openssl; `trusted.pem` lies beside it."""
    write_tiny_model(tmp_path / "models")
    write_tier_configs(tmp_path / "models", open_model(tmp_path / "models", "tiny").card, (TierModel.CERTIFY,))
    openssl = [
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "signing.pem"],
        ["pkey", "-in", "signing.pem", "-pubout", "-out", "trusted.pem"],
    ]
    for words in openssl:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "-m", "heatserve", "sign", "tiny", "--key", "signing.pem", "--repository", "models"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "signed  tiny/1/model.onnx" in told
    assert f"wrote   models/tiny/1/{SIGNATURE_NAME}" in told
    return tmp_path / "models"


@pytest.mark.slow
def test_server_of_a_trusted_key_serves_what_was_signed(signed: Path) -> None:
    trust = Trust.of([signed.parent / "trusted.pem"])
    with TritonServer(signed, endpoints=FREE_PORTS, trust=trust) as server:
        for name in (GRAPH_NAME, BASE_NAME, CARD_NAME):
            (signed / "tiny" / "1" / name).write_bytes(b"other")
        hurry(server, "tiny")
        with Client(server.endpoints.grpc_url, model="tiny", timeout=120) as client:
            assert client.predict(random_images(1))[0].certified_radius > 0
            assert client.certify_fixed(random_images(1), deadline=60)[0].votes > 0
    with pytest.raises(UntrustedError, match="changed, added or removed since it was signed"):
        TritonServer(signed, endpoints=FREE_PORTS, trust=trust).__enter__()


def test_command_refuses_what_no_trusted_key_signed(signed: Path) -> None:
    write_tiny_model(signed, "unsigned")
    command = [sys.executable, "-m", "heatserve", "serve", "--repository", str(signed), "--trust", "trusted.pem"]
    command += [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    ended = subprocess.run(command, cwd=signed.parent, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "unsigned/1/signature.sigstore.json: expected the signature of a trusted key, found none" in ended.stderr
