"""`heatserve certify-dataset`: killed and resumed, refused where it would mix, and the same on a cluster."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_model import SHAPE, edit_card, name_digits, write_tiny_model
from typer.testing import CliRunner

import heatserve.export.calibration.dataset as certifying
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import certify
from heatserve.certification.noise import GRID, NoiseError
from heatserve.certification.provenance import sha256_of
from heatserve.certification.radius import Float32Array
from heatserve.certification.sequential import decide
from heatserve.certification.voting import DependentVotesError
from heatserve.cli import app
from heatserve.export.audit.proven.crafted import AttackedImage
from heatserve.export.audit.proven.kept import KeptAttacks
from heatserve.export.calibration.certifier import Certifier, certify_chunk
from heatserve.export.calibration.dataset import CHUNK, certify_dataset, on_ray
from heatserve.export.calibration.ledger import CertifyRecipe, LedgerEntry, LedgerError, ledger_in
from heatserve.export.card import BASE_NAME, GRAPH_NAME, CardError
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.session import classifier, open_session

MONTE_CARLO = MonteCarlo(n0=20, n=200, alpha=0.01, seed=3)


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    write_tiny_model(tmp_path / "models")
    return open_model(tmp_path / "models", "tiny")


def some_images(count: int) -> LabelledImages:
    """The first images of a fixed sequence, of grey levels, with the labels 0 to 9 in turn."""
    images = np.random.default_rng(0).integers(0, 256, (40, *SHAPE))[:count]
    return LabelledImages((images / 255).astype(np.float32), np.arange(count) % 10, "greys", "test", 0)


def written(results: Path) -> list[dict[str, object]]:
    """The lines below the header, by image."""
    rows = [json.loads(line) for line in results.read_text().splitlines()[1:]]
    return sorted(rows, key=lambda row: row["index"])


def test_each_line_is_the_certificate_of_one_image_and_the_summary_counts_them(
    model: ModelVersion, tmp_path: Path
) -> None:
    data, results = some_images(12), tmp_path / "deep" / "results.jsonl"
    summary = certify_dataset(model, data, Certifier(MONTE_CARLO, file=results))
    base = classifier(open_session(model.path / BASE_NAME))
    expected = list(certify(base, data.images, sigma=model.card.sigma, n0=20, n=200, alpha=0.01, seed=3))
    rows = written(results)
    assert [row["index"] for row in rows] == list(range(12))
    assert [row["predicted"] for row in rows] == [certificate.label for certificate in expected]
    assert [row["radius"] for row in rows] == [certificate.radius for certificate in expected]
    assert summary["images"] == 12
    assert summary["abstained"] == sum(certificate.label == -1 for certificate in expected)
    right = [c.label == label for c, label in zip(expected, data.labels, strict=True)]
    for radius, share in zip(summary["radii"], summary["certified_accuracy"], strict=True):
        assert share == np.mean([r and c.radius >= radius for r, c in zip(right, expected, strict=True)])


def test_votes_are_those_of_the_base_that_the_card_names(model: ModelVersion, tmp_path: Path) -> None:
    (model.path / BASE_NAME).write_bytes((model.path / GRAPH_NAME).read_bytes())
    with pytest.raises(CardError, match="found another file"):
        certify_dataset(model, some_images(1), Certifier(MONTE_CARLO, file=tmp_path / "results.jsonl"))


def test_a_base_that_answers_a_batch_together_is_not_certified(model: ModelVersion, tmp_path: Path) -> None:
    base = onnx.load(model.path / BASE_NAME)
    base.graph.node[-1].output[0] = "own"
    base.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    base.graph.node.extend(
        [
            helper.make_node("Mul", ["own", "nothing"], ["none"]),
            helper.make_node("ReduceMean", ["own", "batch"], ["mean"]),
            helper.make_node("Add", ["none", "mean"], ["logits"]),
        ]
    )
    base.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch"))
    onnx.save(base, model.path / BASE_NAME)
    sha256 = sha256_of(model.path / BASE_NAME)
    edit_card(model.path, lambda card: card.update(base_sha256=sha256))
    mixing = open_model(model.path.parents[1], model.name)
    many = MONTE_CARLO.model_copy(update={"n": 2000})
    results = tmp_path / "results.jsonl"
    with pytest.raises(DependentVotesError, match=r"answers the copies of a batch together.*results\.jsonl\.refused"):
        certify_dataset(mixing, some_images(20), Certifier(many, file=results))
    assert not results.exists(), "no later run goes on from what such votes seemed to prove"
    assert (tmp_path / "results.jsonl.refused").is_file()


def test_a_decision_is_a_line_that_is_all_or_nothing(model: ModelVersion, tmp_path: Path) -> None:
    data, results = some_images(12), tmp_path / "results.jsonl"
    radius = 0.05
    deciding = MONTE_CARLO.model_copy(update={"decides": radius, "n": 2000})
    base = classifier(open_session(model.path / BASE_NAME))
    how: dict[str, Any] = {"sigma": model.card.sigma, "n0": 20, "n": 2000, "alpha": 0.01, "seed": 3}
    expected = [
        next(decide(base, image[None], radius=radius, indices=[i], **how)) for i, image in enumerate(data.images)
    ]
    Certifier(deciding, file=results).entries(model, model_images(model, data))
    rows = written(results)
    assert [row["radius"] for row in rows] == [radius if found.outcome else 0 for found in expected]
    assert [row["predicted"] for row in rows] == [found.classes[0] if found.outcome else -1 for found in expected]
    assert [row["guess"] for row in rows] == [found.guess for found in expected]
    assert 0 < sum(row["predicted"] == -1 for row in rows) < 12
    with pytest.raises(LedgerError, match=r"decides 0\.05, not None"):
        certify_dataset(model, data, Certifier(MONTE_CARLO.model_copy(update={"n": 2000}), file=results))


def test_a_killed_run_goes_on_at_the_image_and_counts_nothing_twice(model: ModelVersion, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    summary = certify_dataset(model, some_images(8), Certifier(MONTE_CARLO, file=whole))
    lines = whole.read_text().splitlines(keepends=True)
    killed.write_text("".join(lines[:4]) + lines[3] + lines[4][:25])  # one line twice, and a torn one
    done = list[int]()

    def seen(rows: Iterable[Any], total: int, _: str) -> Iterable[Any]:
        assert total == 5
        for row in rows:
            done.append(row.index)
            yield row

    assert certify_dataset(model, some_images(8), Certifier(MONTE_CARLO, file=killed, progress=seen)) == summary
    assert done == [3, 4, 5, 6, 7]
    assert written(killed)[4:] == written(whole)[3:]

    for torn in (b"", lines[0].encode()[:30]):
        killed.write_bytes(torn)
        assert certify_dataset(model, some_images(8), Certifier(MONTE_CARLO, file=killed)) == summary


def test_a_full_disk_is_said_with_the_name_of_the_file(model: ModelVersion, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    certify_dataset(model, some_images(2), Certifier(MONTE_CARLO, file=results))
    whole = results.read_text()
    for room in (0, len(whole) - 5):
        results.unlink(missing_ok=True)
        with no_more_than(room), pytest.raises(OSError, match="results") as caught:
            certify_dataset(model, some_images(2), Certifier(MONTE_CARLO, file=results))
        assert caught.value.filename == str(results)
    certify_dataset(model, some_images(2), Certifier(MONTE_CARLO, file=results))
    assert results.read_text() == whole, "it goes on where there is room again"


def test_attacks_that_cannot_be_kept_are_said_with_the_name_of_the_file(tmp_path: Path) -> None:
    with no_more_than(0), pytest.raises(OSError, match="attacked-"):
        KeptAttacks(tmp_path, graph_sha256="1" * 64, attack="a", seed=0)
    kept = KeptAttacks(tmp_path, graph_sha256="1" * 64, attack="a", seed=0)
    with no_more_than(200), pytest.raises(OSError, match="attacked-"):
        kept.add([AttackedImage("2" * 200, "test", 0, 0.0)])


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """No file grows above so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_more_images_continue_a_file_and_fewer_summarise_a_part_of_it(model: ModelVersion, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    few = certify_dataset(model, some_images(3), Certifier(MONTE_CARLO, file=results))
    assert certify_dataset(model, some_images(6), Certifier(MONTE_CARLO, file=results))["images"] == 6
    assert certify_dataset(model, some_images(3), Certifier(MONTE_CARLO, file=results)) == few


def test_another_recipe_and_a_damaged_file_are_refused(model: ModelVersion, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    certify_dataset(model, some_images(2), Certifier(MONTE_CARLO, file=results))
    content = results.read_text()
    other = MONTE_CARLO.model_copy(update={"n": 300})
    with pytest.raises(LedgerError, match=r"results\.jsonl: holds results of another recipe: n 200, not 300"):
        certify_dataset(model, some_images(2), Certifier(other, file=results))
    header, first, _ = content.splitlines()
    contradiction = json.dumps({**json.loads(first), "radius": 9.0})
    other_image = json.dumps({**json.loads(first), "image": "0" * 16})
    for text, message in (
        (f"{header}\n{first}\nnot a row\n", r"line 3: expected the result of an image, got 'not a row'"),
        (f"{header}\n{first}\n{contradiction}\n", r"line 3: expected one result for image 0, got another one"),
        (f"{header}\n{other_image}\n", r"line 2: holds the result of another image 0; name another file"),
        ("something else\n", r"expected the results of certify-dataset, got another file"),
        ("one line", r"expected the results of certify-dataset, got another file"),
    ):
        results.write_text(text)
        with pytest.raises(LedgerError, match=message):
            certify_dataset(model, some_images(2), Certifier(MONTE_CARLO, file=results))
        assert results.read_text() == text


@pytest.mark.parametrize(
    "change",
    [
        {"radius": 0.55},
        {"radius": 99.0},
        {"radius": float("inf")},
        {"radius": float("nan")},
        {"radius": -1.0},
        {"radius": True},
        {"radius": "0.1"},
        {"p_lower": 0.9999, "radius": 0.25 * 3.719016485455709},
        {"p_lower": float("nan")},
        {"predicted": -1},
        {"predicted": 77},
        {"predicted": "<script>"},
        {"classes": []},
        {"classes": [10**400]},
    ],
    ids=str,
)
def test_what_votes_cannot_prove_is_no_result_whatever_a_file_says(
    model: ModelVersion, tmp_path: Path, change: dict[str, Any]
) -> None:
    results = tmp_path / "results.jsonl"
    certify_dataset(model, some_images(4), Certifier(MONTE_CARLO, file=results))
    header, *lines = results.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if json.loads(line)["radius"] > 0)
    lines[number] = json.dumps({**json.loads(lines[number]), **change})
    results.write_text("\n".join([header, *lines]) + "\n")
    with pytest.raises(LedgerError, match=rf"line {number + 2}: expected what these votes can prove, got"):
        certify_dataset(model, some_images(4), Certifier(MONTE_CARLO, file=results))


@pytest.mark.parametrize("line", ["[" * 100_000, "{}", "[]", "null", "1e999"])
def test_a_line_that_is_no_result_is_named(model: ModelVersion, tmp_path: Path, line: str) -> None:
    results = tmp_path / "results.jsonl"
    certify_dataset(model, some_images(1), Certifier(MONTE_CARLO, file=results))
    with results.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LedgerError, match="line 3: expected the result of an image"):
        certify_dataset(model, some_images(1), Certifier(MONTE_CARLO, file=results))


FORMER_SENTENCE = "float32 Gaussian noise; the attack of Voráček and Hein (2023) is not excluded"


def test_a_file_that_names_its_noise_by_a_sentence_is_read_and_continued(model: ModelVersion, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    whole = certify_dataset(model, some_images(5), Certifier(MONTE_CARLO, file=results))
    header, *lines = results.read_text().splitlines(keepends=True)
    former = json.dumps({"recipe": json.loads(header)["recipe"] | {"sampling": FORMER_SENTENCE}}) + "\n"
    assert former != header

    left = list[int]()

    def count(rows: Iterable[Any], total: int, _: str) -> Iterable[Any]:
        left.append(total)
        return rows

    for kept in (5, 3, 0):
        results.write_text(former + "".join(lines[:kept]))
        assert certify_dataset(model, some_images(5), Certifier(MONTE_CARLO, file=results, progress=count)) == whole
        assert left.pop() == 5 - kept
        assert results.read_text().splitlines(keepends=True)[1:] == lines
    results.write_text(former + "".join(lines))
    other = MONTE_CARLO.model_copy(update={"sampling": GRID.key})
    with pytest.raises(LedgerError, match="another recipe: sampling float32, not grid"):
        certify_dataset(model, some_images(5), Certifier(other, file=results))


def test_a_file_of_a_folder_is_found_by_its_former_name(model: ModelVersion, tmp_path: Path) -> None:
    data = model_images(model, some_images(3))
    recipe = Certifier(MONTE_CARLO).recipe(model, data)
    path = ledger_in(tmp_path, recipe, data)
    header = json.dumps({"recipe": {k: v for k, v in asdict(recipe).items() if v is not None}}) + "\n"
    first = hashlib.sha256(data.images[0].tobytes()).hexdigest()[:16]

    def name(header: str) -> str:
        return f"test-{hashlib.sha256((header + first).encode()).hexdigest()[:16]}.jsonl"

    assert path == tmp_path / name(header)
    former = tmp_path / name(header.replace('"sampling": "float32"', f'"sampling": {json.dumps(FORMER_SENTENCE)}'))
    assert former != path
    former.touch()
    assert ledger_in(tmp_path, recipe, data) == former


def test_images_that_cannot_be_certified_are_refused(model: ModelVersion, tmp_path: Path) -> None:
    wrong = LabelledImages(np.zeros((2, 1, 9, 9), np.float32), np.zeros(2, np.int64), "other", "test", 0)
    with pytest.raises(HeatserveError, match=r"other: expected images of shape \[1, 8, 8\]"):
        certify_dataset(model, wrong, Certifier(MONTE_CARLO, file=tmp_path / "results.jsonl"))
    off = some_images(2)
    off.images[1, 0, 0, 0] = 0.3001
    with pytest.raises(NoiseError, match="image 1: expected an 8-bit image"):
        certify_dataset(
            model,
            off,
            Certifier(MONTE_CARLO.model_copy(update={"sampling": GRID.key}), file=tmp_path / "grid.jsonl"),
        )


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_results(
    model: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    data, here, cluster = some_images(6 * CHUNK), tmp_path / "here.jsonl", tmp_path / "cluster.jsonl"
    summary = certify_dataset(model, data, Certifier(MONTE_CARLO, file=here))
    died = tmp_path / "died"

    def dies_once(
        base: bytes, images: Float32Array, labels: list[int], indices: list[int], recipe: CertifyRecipe
    ) -> list[LedgerEntry]:
        if 3 * CHUNK in indices and not died.exists():
            died.touch()
            os._exit(1)
        return certify_chunk(base, images, labels, indices, recipe)

    monkeypatch.setattr(certifying, "certify_chunk", dies_once)
    certify_dataset(model, some_images(CHUNK + 1), Certifier(MONTE_CARLO, file=cluster))  # where an earlier run stopped
    found = certify_dataset(model, data, Certifier(MONTE_CARLO, file=cluster, executor=on_ray("local")))
    assert died.exists()
    assert written(cluster) == written(here)
    assert found == summary


def test_the_command_shows_certified_accuracy(tmp_path: Path) -> None:
    name_digits(write_tiny_model(tmp_path / "models"))
    arguments = ["certify-dataset", "tiny", "--data", "digits", "--repository", str(tmp_path / "models")]
    arguments += ["--results", str(tmp_path / "results.jsonl"), "--images", "5", "--n", "100", "--top-k", "3"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "150"}, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "Certify, top 3, σ = 0.25, n = 100: certified accuracy" in shown.stdout
    assert f"wrote   {tmp_path / 'results.jsonl'}" in shown.stdout
    assert "5 images, digits" in shown.stdout
    assert "63.8" in shown.stdout  # 0.25 in grey levels
    printed = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    summary = json.loads(printed.stdout)
    assert summary["images"] == 5
    assert summary["recipe"]["top_k"] == 3
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--alpha 1", r"^alpha: expected a number between 0 and 1, got 1\.0$"),
        ("--alpha 0", r"^alpha: expected a number between 0 and 1, got 0\.0$"),
        ("--top-k 10", r"^top_k: expected 1 to 9 for 10 classes, got 10$"),
    ],
)
@pytest.mark.usefixtures("model")
def test_an_option_that_means_nothing_leaves_no_file(option: str, message: str, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    arguments = ["certify-dataset", "tiny", "--repository", str(tmp_path / "models"), "--results", str(results)]
    with pytest.raises(HeatserveError, match=message):
        CliRunner().invoke(app, [*arguments, *option.split()], catch_exceptions=False)
    assert not results.exists()
