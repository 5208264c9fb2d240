"""A file of a model that is damaged, missing, or of another model is refused by its name, and nothing is answered."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_server import log_named_in
from tiny_model import edit_card, with_sigma, write_tiny_model

from heatserve import FREE_PORTS, ServingError, TritonServer
from heatserve.certification.errors import HeatserveError
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, CardError
from heatserve.export.repository.layout import CONFIG_NAME, LABELS_NAME, ModelVersion, open_model
from heatserve.export.repository.settings import read_config, write_config
from heatserve.serving.triton import server
from heatserve.serving.triton.opening import verified_models

Damage = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap_with_the_other_graph(path: Path) -> None:
    other = path.with_name(BASE_NAME if path.name == GRAPH_NAME else GRAPH_NAME)
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def take_that_of_another_model(path: Path) -> None:
    """Another model of as many classes, not calibrated, and with other names for them."""
    repository = path.parents[2] if path.parent.name.isdigit() else path.parents[1]
    model_dir = write_tiny_model(repository.parent / "others", "other", calibrated=False).parent
    (model_dir / LABELS_NAME).write_text("".join(f"class {index}\n" for index in range(10)))
    shutil.copy(model_dir / path.relative_to(repository / "tiny"), path)


def claim_another_sigma(path: Path) -> None:
    path.write_text(path.read_text().replace('"sigma": 0.25', '"sigma": 1.0'))


def mean_another_sigma(path: Path) -> None:
    edit_card(path.parent, lambda card: card.update(with_sigma(1.0)))


def start(repository: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("Triton runs on Linux only")
    with TritonServer(repository, endpoints=FREE_PORTS):
        pass


@pytest.mark.parametrize("opens", [lambda repository: open_model(repository, "tiny"), start], ids=["open", "serve"])
@pytest.mark.parametrize(
    ("name", "damage", "named", "message"),
    [
        *(
            (name, damage, name, "the card belongs to another graph: expected sha256")
            for name in (GRAPH_NAME, BASE_NAME)
            for damage in (truncate, flip_a_bit, empty)
        ),
        (GRAPH_NAME, Path.unlink, GRAPH_NAME, "the graph that the card .* is missing"),
        (BASE_NAME, Path.unlink, BASE_NAME, "the graph that the card .* is missing"),
        (GRAPH_NAME, swap_with_the_other_graph, GRAPH_NAME, "the card belongs to another graph"),
        (GRAPH_NAME, take_that_of_another_model, GRAPH_NAME, "the card belongs to another graph"),
        (CARD_NAME, take_that_of_another_model, GRAPH_NAME, "the card belongs to another graph"),
        (CARD_NAME, truncate, CARD_NAME, "not a valid certificate card"),
        (CARD_NAME, empty, CARD_NAME, "not a valid certificate card"),
        (CARD_NAME, Path.unlink, CARD_NAME, "no certificate card"),
        (CARD_NAME, claim_another_sigma, CARD_NAME, "the card was changed after it was written: expected digest"),
        (CARD_NAME, mean_another_sigma, CARD_NAME, "the card belongs to another graph: sigma: expected 0.25"),
    ],
)
def test_a_graph_or_card_that_is_not_the_models(
    tmp_path: Path, opens: Damage, name: str, damage: Damage, named: str, message: str
) -> None:
    version_dir = write_tiny_model(tmp_path / "models")
    damage(version_dir / name)
    with pytest.raises(CardError, match=rf"{re.escape(str(version_dir / named))}: {message}"):
        opens(tmp_path / "models")


def test_the_card_of_another_version(tmp_path: Path) -> None:
    first = write_tiny_model(tmp_path / "models", calibrated=False)
    second = write_tiny_model(tmp_path / "again").rename(first.with_name("2"))
    shutil.copy(first / CARD_NAME, second)
    with pytest.raises(CardError, match=rf"{re.escape(str(second / GRAPH_NAME))}: the card belongs to another graph"):
        open_model(tmp_path / "models", "tiny")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (CONFIG_NAME, truncate, "expected a model configuration of Triton"),
        (CONFIG_NAME, flip_a_bit, "expected (a model configuration of Triton|the parameters promise)"),
        (CONFIG_NAME, empty, "expected the name of model 'tiny' as on its card"),
        (CONFIG_NAME, take_that_of_another_model, "expected the name of model 'tiny' as on its card"),
        (LABELS_NAME, truncate, "expected the 10 class names of the card, one a line, found"),
        (LABELS_NAME, flip_a_bit, "expected the 10 class names of the card, one a line, found"),
        (LABELS_NAME, empty, "expected the 10 class names of the card, one a line, found 0 lines"),
        (LABELS_NAME, Path.unlink, "expected the 10 class names of the card, one a line, found no such file"),
        (LABELS_NAME, take_that_of_another_model, r"expected the 10 class names .* found 10 lines, \['class 0'"),
    ],
)
def test_a_configuration_or_labels_that_are_not_the_models(
    tmp_path: Path, name: str, damage: Damage, message: str
) -> None:
    model_dir = write_tiny_model(tmp_path / "models").parent
    damage(model_dir / name)
    with pytest.raises(HeatserveError, match=rf"{re.escape(str(model_dir / name))}: {message}"):
        start(tmp_path / "models")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('backend: "onnxruntime"', 'backend: "python"', "backend"),
        ("dims: 8\n", "dims: 9\n", "input"),
        ("TYPE_INT64", "TYPE_INT32", "output"),
    ],
)
def test_a_configuration_of_something_else(tmp_path: Path, old: str, new: str, field: str) -> None:
    config = write_tiny_model(tmp_path / "models").parent / CONFIG_NAME
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(CardError, match=rf"config\.pbtxt: expected the {field} of model 'tiny' as on its card"):
        start(tmp_path / "models")


@pytest.mark.parametrize("name", ["promise", "alpha", "confidence"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_configuration_that_promises_something_else(tmp_path: Path, name: str, calibrated: bool) -> None:
    path = write_tiny_model(tmp_path / "models", calibrated=calibrated).parent / CONFIG_NAME
    config = read_config(path)
    assert {"promise", "alpha", "confidence"} & {*config.parameters} == (
        {"promise", "alpha", "confidence"} if calibrated else {"promise"}
    )
    config.parameters[name].string_value = "1"
    write_config(path, config)
    with pytest.raises(
        CardError, match=r"config\.pbtxt: expected the parameters promise, alpha, confidence, certificate_kind of model"
    ):
        start(tmp_path / "models")


@pytest.mark.slow
@pytest.mark.parametrize("name", [GRAPH_NAME, BASE_NAME])
def test_a_graph_that_changes_before_triton_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Our backend looks once more, in Triton's own process."""
    version_dir = write_tiny_model(tmp_path / "models")
    verified = verified_models

    def then_damaged(*args: Any, **kwargs: Any) -> tuple[ModelVersion, ...]:
        models = verified(*args, **kwargs)
        flip_a_bit(version_dir / name)
        return models

    monkeypatch.setattr(server, "verified_models", then_damaged)
    with pytest.raises(ServingError, match=rf"{re.escape(name)}: the card belongs to another graph") as caught:
        start(tmp_path / "models")
    log_named_in(str(caught.value)).unlink()
