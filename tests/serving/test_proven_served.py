"""A deterministic certificate, served whole: front, Triton, clients, metrics, shadow audit and switching."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from heatserve import FREE_PORTS, Client, Reason, Server
from heatserve.cli import app
from heatserve.commands.serve import not_audited
from heatserve.export.contract import Outputs
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.repository.publishing import republish
from heatserve.export.runtime.served import open_served
from heatserve.serving.client.answers import Prediction
from heatserve.serving.errors import ServingError
from heatserve.serving.observed.page import page
from heatserve.serving.shadow.folder import AuditSettings
from heatserve.serving.supervised.server import Supervision
from heatserve.serving.switching.switcher import Switcher, SwitchOutcome
from heatserve.training.data.splits import load_data

ONE_FLOAT32 = 2.0**-22  # relative: two engines may round to neighbours


@pytest.fixture(scope="module")
def proven(proven_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    copy = tmp_path_factory.mktemp("served") / "models"
    shutil.copytree(proven_repository, copy)
    return open_model(copy, "proven")


@pytest.fixture(scope="module")
def server(proven: ModelVersion) -> Iterator[Server]:
    with Server(
        proven.path.parents[1], endpoints=FREE_PORTS, audit=AuditSettings(share=1.0), supervision=Supervision()
    ) as server:
        yield server


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """Of the test split, as pictures [64, 8, 8, 1]."""
    images = load_data("digits", "test").arrays()[0][:64]
    levels: NDArray[np.uint8] = np.rint(255 * images).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def as_floats(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pictures.transpose(0, 3, 1, 2) / np.float32(255)


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return server.endpoints.grpc_url if request.param == "grpc" else server.endpoints.http_url


def check_same(found: list[Prediction], expected: Outputs) -> None:
    assert [answer.label for answer in found] == expected["label"].tolist()
    for name in ("certified_radius", "l_bound", "nominal_radius"):
        np.testing.assert_allclose([getattr(answer, name) for answer in found], expected[name], rtol=ONE_FLOAT32)
    assert {answer.reason for answer in found} == {Reason.PROVEN}
    assert min(answer.certified_radius for answer in found) > 0


def test_both_protocols_answer_the_radii_of_the_graph_and_say_their_kind(
    proven: ModelVersion, url: str, digits: NDArray[np.uint8]
) -> None:
    """The largest batch in one request, of floats and of pictures."""
    expected = open_served(proven)(as_floats(digits))
    for model, images in (("proven", as_floats(digits)), ("proven8", digits)):
        with Client(url, model=model) as client:
            spec = client.spec()
            assert (spec.certificate_kind, spec.promise) == ("deterministic", proven.card.promise)
            assert spec.max_batch_size == len(digits)
            check_same(client.predict(images), expected)


def test_an_invalid_image_is_named_and_the_good_ones_are_answered_without_it(
    proven: ModelVersion, url: str, digits: NDArray[np.uint8]
) -> None:
    images = as_floats(digits)[:4].copy()
    images[2, 0, 3, 3] = np.nan
    with Client(url, model="proven") as client:
        with pytest.raises(ServingError, match="image 2 of 4"):
            client.predict(images)
        check_same(client.predict(images[[0, 1, 3]]), open_served(proven)(images[[0, 1, 3]]))


def test_votes_are_refused_with_what_to_ask_instead(url: str, digits: NDArray[np.uint8]) -> None:
    with Client(url, model="proven") as client:
        image = as_floats(digits)[0]
        for ask in (lambda: client.confirm(image, radius=0.1), lambda: client.certify(image)):
            with pytest.raises(ServingError, match=r"deterministic: its certified radius is proven .*; ask `predict`"):
                ask()


def test_the_commands_tell_the_kind(server: Server, digits: NDArray[np.uint8], tmp_path: Path) -> None:
    file = tmp_path / "digit.npy"
    np.save(file, as_floats(digits)[:1])
    asked = ["predict", str(file), "--model", "proven", "--url", server.endpoints.grpc_url]
    shown = CliRunner().invoke(app, asked, catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    assert "Certificate: deterministic. No change of smaller L2 norm" in " ".join(shown.split())
    assert "smoothed" not in shown
    (record,) = json.loads(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)
    assert (record["certificate_kind"], record["reason"]) == ("deterministic", Reason.PROVEN)
    for command in ([*asked, "--confirm", "0.1"], ["certify", *asked[1:]]):
        failed = CliRunner().invoke(app, command)
        assert isinstance(failed.exception, ServingError)
        assert "its certified radius is proven" in str(failed.exception)


def test_metrics_tell_the_kind_and_nothing_is_audited(
    server: Server, proven: ModelVersion, digits: NDArray[np.uint8]
) -> None:
    with Client(server.endpoints.grpc_url, model="proven") as client:
        client.predict(as_floats(digits))
    text = page(server.metrics)
    assert f'heatserve_model_info{{model="proven",version="1",graph="{proven.card.graph_sha256[:12]}"' in text
    assert 'certificate_kind="deterministic",sigma="",alpha="0",confidence="1"' in text
    assert 'heatserve_answers_total{model="proven",reason="not_calibrated"} 0' in text
    assert 'heatserve_answers_total{model="proven",reason="proven"}' in text
    assert 'heatserve_shadow_alarm{model="proven"' not in text
    (said,) = not_audited(server.models, is_asked=server.audits)
    assert said.startswith("No answer of proven, proven8 is audited: the certificate is deterministic")
    with urllib.request.urlopen(f"{server.endpoints.http_url}/v2/models/proven/config") as answer:
        assert json.load(answer)["parameters"]["certificate_kind"]["string_value"] == "deterministic"


@pytest.mark.slow
def test_another_version_is_tried_and_switched_to(server: Server, proven: ModelVersion) -> None:
    """Its radii are compared with its graph's, since no calibration says how large they may be."""
    repository = proven.path.parents[1]
    republish(proven, repository, "proven")
    switch = Switcher(repository, lambda: server.triton.versions).switch("proven")
    assert switch.outcome is SwitchOutcome.SWITCHED, switch.reason
    assert open_model(repository, "proven").version == switch.version == 2
    with Client(server.endpoints.grpc_url, model="proven") as client:
        assert client.predict(np.zeros((1, 1, 8, 8), np.float32))[0].reason is Reason.PROVEN
