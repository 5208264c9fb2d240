"""A deterministic certificate in a model repository: what is written, and what is refused that cannot be meant."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_model import CALIBRATION, edit_card, random_images, write_tiny_model
from typer.testing import CliRunner

from heatserve.benchmarks.load.setting import repository_models
from heatserve.certification.provenance import sha256_of
from heatserve.cli import app
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, CardError
from heatserve.export.repository.layout import CONFIG_NAME, ModelVersion, open_model, served_config
from heatserve.export.repository.publishing import publish, republish
from heatserve.export.repository.settings import read_config, write_config
from heatserve.export.repository.tiers import served_tiers, tier_config, write_tier_configs
from heatserve.export.runtime.served import open_served
from heatserve.export.tiers import TierModel
from heatserve.tables import models_table


@pytest.fixture
def repository(proven_repository: Path, tmp_path: Path) -> Path:
    """A copy, with the statistical model `tiny` beside the others."""
    shutil.copytree(proven_repository, tmp_path / "models")
    write_tiny_model(tmp_path / "models")
    return tmp_path / "models"


def test_nothing_of_a_smoothed_classifier_is_written(repository: Path) -> None:
    model = open_model(repository, "proven")
    assert {path.name for path in model.path.iterdir()} == {GRAPH_NAME, CARD_NAME}
    assert served_tiers(model) == {}
    parameters = {name: value.string_value for name, value in served_config(model).parameters.items()}
    assert parameters["certificate_kind"] == "deterministic"
    assert (parameters["promise"], parameters["alpha"], parameters["confidence"]) == (model.card.promise, "0", "1")


def test_a_former_configuration_names_no_kind_and_is_statistical(repository: Path) -> None:
    path = repository / "tiny" / CONFIG_NAME
    config = read_config(path)
    assert config.parameters.pop("certificate_kind").string_value == "statistical"
    write_config(path, config)
    served_config(open_model(repository, "tiny"))
    path = repository / "proven" / CONFIG_NAME
    config = read_config(path)
    del config.parameters["certificate_kind"]
    write_config(path, config)
    with pytest.raises(
        CardError, match="the parameters promise, alpha, confidence, certificate_kind of model 'proven'"
    ):
        served_config(open_model(repository, "proven"))


def make_statistical(card: dict[str, Any]) -> None:
    card.update(certificate_kind="statistical", sigma=0.25, precision="fp32", lipschitz=None)


def calibrate(card: dict[str, Any]) -> None:
    card["calibration"] = CALIBRATION.model_dump(mode="json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(certificate_kind="statistical"), "expected a bound in `lipschitz`, sigma 0 and"),
        (lambda card: card.update(certificate_kind="proven"), "certificate_kind: Input should be 'statistical' or"),
        (lambda card: card.update(sigma=0.25), "expected a bound in `lipschitz`, sigma 0 and precision fp64"),
        (lambda card: card.update(precision="fp32"), "expected a bound in `lipschitz`, sigma 0 and precision fp64"),
        (lambda card: card.update(accelerator="tensorrt"), "accelerator: expected none or cuda of a graph in float64"),
        (lambda card: card.update(base_sha256="0" * 64), "base_sha256: expected that of the graph itself"),
        (calibrate, "calibration: expected none of a deterministic certificate"),
        (make_statistical, "base.onnx: the graph that the card"),
        (lambda card: card["lipschitz"].update(slack=1e-5), "slack: expected"),
        (lambda card: card["lipschitz"].update(slack=0.0), "slack"),
        (lambda card: card["lipschitz"].update(constant=2), "constant"),
        (lambda card: card["lipschitz"]["layers"].pop(), "steps of the graph, got others"),
        (lambda card: card["lipschitz"]["layers"][0].update(step=2.0), "step: expected at most"),
    ],
)
def test_a_card_that_was_edited_is_refused(
    repository: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    model = open_model(repository, "proven")
    edit_card(model.path, change)
    with pytest.raises(CardError, match=re.escape(message)):
        open_model(repository, "proven")


def test_a_statistical_graph_cannot_be_called_proven(repository: Path) -> None:
    proven, tiny = open_model(repository, "proven"), open_model(repository, "tiny")
    shutil.copy(tiny.path / GRAPH_NAME, proven.path / GRAPH_NAME)
    sha256 = sha256_of(proven.path / GRAPH_NAME)
    edit_card(proven.path, lambda card: card.update(graph_sha256=sha256, base_sha256=sha256))
    with pytest.raises(CardError, match="slack"):
        open_model(repository, "proven")


def published_as(model: ModelVersion, repository: Path, name: str) -> None:
    """Another kind under a name that is taken, whichever way somebody tries."""
    base = None if model.card.is_deterministic else (model.path / BASE_NAME).read_bytes()
    publish(repository, model.card.renamed(name), graph=(model.path / GRAPH_NAME).read_bytes(), base=base)


@pytest.mark.parametrize(("name", "other"), [("tiny", "proven"), ("proven", "tiny")])
@pytest.mark.parametrize("way", [published_as, republish])
def test_a_version_of_another_kind_is_not_published_under_a_name(
    repository: Path, name: str, other: str, way: Callable[[ModelVersion, Path, str], object]
) -> None:
    with pytest.raises(CardError, match=rf"{name}: expected a \w+ certificate, as the model has, got a \w+ one"):
        way(open_model(repository, other), repository, name)
    assert open_model(repository, name).version == 1


@pytest.mark.parametrize(("name", "other"), [("tiny", "proven"), ("proven", "tiny")])
def test_a_version_of_another_kind_that_was_copied_there_is_not_served(repository: Path, name: str, other: str) -> None:
    copy = repository / name / "2"
    shutil.copytree(repository / other / "1", copy)
    edit_card(copy, lambda card: card.update(model=name))
    with pytest.raises(CardError, match="expected the parameters promise, alpha"):
        served_config(open_model(repository, name))


def test_a_tier_beside_it_is_refused_however_it_came_there(repository: Path) -> None:
    model = open_model(repository, "proven")
    folder = repository / TierModel.CONFIRM.beside("proven")
    folder.mkdir()
    write_config(folder / CONFIG_NAME, tier_config(model.card, TierModel.CONFIRM))
    with pytest.raises(CardError, match="expected no tier beside a deterministic certificate"):
        served_tiers(model)
    write_tier_configs(repository, open_model(repository, "tiny").card)
    assert set(served_tiers(open_model(repository, "tiny"))) == set(TierModel)


def test_the_table_of_models_says_the_kind(repository: Path) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(models_table([open_model(repository, name) for name in ("proven", "tiny")]))
    proven, tiny = console.export_text().splitlines()[2:4]
    assert re.search(r"proven +1 +deterministic +– +FP32 1×8×8 +proven: no change within it changes the class", proven)
    assert re.search(r"tiny +1 +statistical +0\.25 ", tiny)


def test_export_says_that_no_calibration_is_needed(proven_repository: Path, tmp_path: Path) -> None:
    checkpoint = proven_repository.with_name("proven.safetensors")
    command = ["export", str(checkpoint), "--name", "again", "--repository", str(tmp_path)]
    said = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "200"}).stdout
    bound = open_model(proven_repository, "proven").card.lipschitz
    assert bound is not None
    layers = len(bound.layers)
    assert f"proven  the norms of {layers} layers;" in said
    assert "no calibration is needed, and no tier" in said
    assert "next    heatserve serve again" in said
    assert "calibrate again" not in said
    refused = CliRunner().invoke(app, [*command, "--precision", "int8"])
    assert "expected no --precision, got int8" in str(refused.exception)
    assert json.loads((tmp_path / "again/1" / CARD_NAME).read_bytes())["certificate_kind"] == "deterministic"


def test_a_model_that_computes_nothing_stands_beside_it_for_load_tests(repository: Path) -> None:
    model = open_model(repository, "proven")
    with repository_models(model, random_images(2), "random") as served:
        identity = open_model(served.repository, "proven-identity")
        assert identity.card.is_deterministic
        assert open_served(identity)(random_images(2))["certified_radius"].tolist() == [0, 0]
        assert [request.model for request in served.mix(0.1)] == ["proven", "proven"], "there is no confirm to ask"
