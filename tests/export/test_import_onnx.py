"""From scikit-learn's classifiers in ONNX files to served certificates, by the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from typer.testing import CliRunner, Result

from heatserve import FREE_PORTS, Client, Outcome, TritonServer
from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import IMPORTED
from heatserve.certification.provenance import sha256_of
from heatserve.cli import app
from heatserve.export.card import BASE_NAME, GRAPH_NAME, CardError
from heatserve.export.graph.imported.pixels import Preprocessing
from heatserve.export.importing import import_onnx
from heatserve.export.repository.layout import open_model
from heatserve.training.checkpoint import CheckpointError, load_checkpoint
from heatserve.training.data.splits import load_data

SIGMA = 0.25
SHAPE = ("--input-shape", "1,8,8", "--sigma", SIGMA)
FLAT = Preprocessing(input_shape=(1, 8, 8))
CALIBRATION = [
    *("--alpha", "0.4", "--delta", "0.2", "--n0", "20", "--n", "100"),
    *("--images", "200", "--test-images", "40", "--other-images", "0"),
]


def heatserve(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def noisy_digits(copies: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Flattened training digits with noise of the σ that is certified, [copies·n, 64], and their classes."""
    images, labels = load_data("digits", "train").arrays()
    images = np.tile(images.reshape(len(images), -1), (copies, 1))
    noise = np.random.default_rng(0).normal(scale=SIGMA, size=images.shape)
    return (images + noise).astype(np.float32), np.tile(labels, copies)


@pytest.fixture(scope="module")
def classifiers() -> dict[str, Any]:
    """Three of scikit-learn's, trained under noise on flattened digits."""
    found = {
        "linear": LogisticRegression(C=0.1, max_iter=100),
        "perceptron": MLPClassifier((32,), max_iter=25, tol=0.1, random_state=0),
        "forest": RandomForestClassifier(40, max_depth=10, random_state=0),
    }
    images, labels = noisy_digits(4)
    return {name: classifier.fit(images, labels) for name, classifier in found.items()}


@pytest.fixture(scope="module")
def files(classifiers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `linear.onnx`, `perceptron.onnx` and `forest.onnx`, as skl2onnx writes them: labels and maps."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, classifier in classifiers.items():
        onnx.save(to_onnx(classifier, np.zeros((1, 64), np.float32)), folder / f"{name}.onnx")
    return folder


@pytest.fixture(scope="module")
def repository(files: Path) -> Path:
    """The three as calibrated models, of whose tiers only confirm is left, and an INT8 variant of the perceptron."""
    where = ("--repository", files / "models")
    for name in ("linear", "perceptron", "forest"):
        done = heatserve("import-onnx", files / f"{name}.onnx", "--name", name, "--data", "digits", *SHAPE, *where)
        assert done.exit_code == 0, done.output
        done = heatserve(
            *("calibrate", name, *where, "--certificates", files / "kept", *CALIBRATION),
            *("--calibration-data", "digits"),
        )
        assert done.exit_code == 0, done.output
    done = heatserve(
        *("import-onnx", files / "perceptron.onnx", "--name", "small", "--data", "digits", *SHAPE, *where),
        *("--input", "UINT8", "--precision", "int8"),
    )
    assert done.exit_code == 0, done.output
    for folder in (files / "models").glob("*_c*"):
        if not folder.name.endswith("_confirm"):
            shutil.rmtree(folder)
    return files / "models"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_module_beside_the_file_is_not_run(files: Path, tmp_path: Path, precision: str) -> None:
    shutil.copy(files / "perceptron.onnx", tmp_path)
    for module in ("numpy", "onnx", "resource"):
        (tmp_path / f"{module}.py").write_text("open('run', 'w').close()\n")
    command = [Path(sys.executable).parent / "heatserve", "import-onnx", "perceptron.onnx", "--name", "theirs"]
    options = ["--data", "digits", "--precision", precision, *SHAPE]
    done = subprocess.run([*map(str, (*command, *options))], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_numbers_of_classes_must_agree_with_names_that_are_numbers(files: Path, tmp_path: Path) -> None:
    names = tmp_path / "names"
    for lines, is_taken in (("\n".join(map(str, range(1, 11))), False), ("\n".join("abcdefghij") + "\n\n", True)):
        names.write_text(lines)
        done = CliRunner().invoke(
            app,
            [*map(str, ("import-onnx", files / "linear.onnx", "--name", "n", "--classes", names, *SHAPE)),
             "--repository", str(tmp_path / "models")],
        )  # fmt: skip
        assert (done.exit_code == 0) == is_taken, done.output
        if not is_taken:
            assert "class 0 is '0' in" in str(done.exception)
    names.write_text("\n".join(["a\x1bb", *"bcdefghij"]))
    with pytest.raises(HeatserveError, match="class names of n: "):
        heatserve(
            *("import-onnx", files / "linear.onnx", "--name", "n", "--classes", names, *SHAPE),
            *("--repository", tmp_path / "models"),
        )


@pytest.mark.slow
def test_a_card_says_what_was_imported_and_that_a_user_vouches(repository: Path, files: Path) -> None:
    card = open_model(repository, "forest").card
    assert card.calibration is not None
    assert card.calibration.vouched
    assert [(a.method, a.dataset, a.epochs, a.sha256) for a in card.networks] == [
        (IMPORTED, "digits", None, sha256_of(files / "forest.onnx"))
    ]
    assert (card.training["architecture"], card.training["file"]) == ("onnx", "forest.onnx")
    assert card.training["file_input"] == "'X': FLOAT [N, 64], white is 1"
    assert "probabilities, whose logarithm is taken" in str(card.training["file_scores"])
    assert 0 <= float(card.training["file_error"] or 0) < 1e-5
    variant = open_model(repository, "small").card
    assert (variant.input_type, variant.precision, variant.training["int8_ranges"]) == (
        *("UINT8", "int8"),
        "256 images of digits, split train, seed 0",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "perceptron", "forest"])
def test_a_classifier_of_scikit_learn_is_served_with_certificates_and_proofs(
    server: TritonServer, classifiers: dict[str, Any], name: str
) -> None:
    images, _ = load_data("digits", "test").arrays()
    images = images[:40]
    expected = classifiers[name].predict_proba(images.reshape(len(images), -1))
    with Client(server.endpoints.grpc_url, model=name) as client:
        found = client.predict(images)
        proofs = client.confirm(images[:10], radius=0.05, deadline=50)
    np.testing.assert_allclose([answer.probability for answer in found], expected.max(1), atol=1e-5)
    assert [answer.class_name for answer in found] == [str(label) for label in expected.argmax(1)]
    assert sum(answer.certified_radius > 0 for answer in found) > 10
    assert sum(proof.outcome is Outcome.YES for proof in proofs) > 3


@pytest.mark.slow
def test_an_int8_variant_of_an_imported_network_is_calibrated_as_the_network_was(repository: Path) -> None:
    done = heatserve(
        *("calibrate-variant", "small", "perceptron", "--repository", repository, "--max-loss", 1),
        *("--certificates", repository.parent / "kept"),
    )
    assert done.exit_code == 0 or "no map keeps" in done.output, done.output
    graph = onnx.load(open_model(repository, "small").path / GRAPH_NAME)
    assert "DequantizeLinear" in {node.op_type for node in graph.graph.node}


@pytest.mark.slow
def test_an_imported_network_is_audited_on_images_that_nothing_used(repository: Path) -> None:
    done = heatserve(
        *("audit", "linear", "--repository", repository, "--data", "digits", "--images", 60, "--json"),
        *("--certificates", repository.parent / "kept"),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["measured"]["data"]["images"] == 60


@pytest.mark.slow
def test_an_audit_asks_which_data_where_nobody_said_what_trained_it(files: Path, repository: Path) -> None:
    import_onnx(files / "linear.onnx", repository=repository, name="unsaid", sigma=SIGMA, preprocessing=FLAT)
    with pytest.raises(CardError, match=r"unsaid: expected the data set .* name one with --data"):
        heatserve("audit", "unsaid", "--repository", repository)


def test_another_file_is_the_base_and_its_own_classes_are_the_names(files: Path, tmp_path: Path) -> None:
    model = import_onnx(
        files / "linear.onnx",
        base=files / "forest.onnx",
        repository=tmp_path,
        name="mixed",
        sigma=SIGMA,
        preprocessing=FLAT,
    )
    operators = {node.op_type for node in onnx.load(model.path / BASE_NAME).graph.node}
    assert "TreeEnsembleClassifier" in operators
    assert model.card.class_names == tuple("0123456789")
    assert [ancestor.sha256 for ancestor in model.card.networks] == [
        sha256_of(files / "forest.onnx"),
        sha256_of(files / "linear.onnx"),
    ]


def test_a_base_of_classes_in_another_order_is_refused(tmp_path: Path) -> None:
    """Its votes would prove a class by the name of another one."""
    images = np.random.default_rng(0).random((60, 64), np.float32)
    is_bright = images.mean(1) > np.median(images.mean(1))
    for name, classes in (("first", ("bright", "dark")), ("other", ("dark", "light")), ("plain", (0, 1))):
        classifier = LogisticRegression().fit(images, np.array(classes)[is_bright.astype(int)])
        onnx.save(to_onnx(classifier, images[:1]), tmp_path / f"{name}.onnx")
    given: dict[str, Any] = {"repository": tmp_path / "models", "sigma": SIGMA, "preprocessing": FLAT}
    with pytest.raises(HeatserveError, match=r"class 0 is 'dark' in \S+other.onnx, expected the same, got 'bright'"):
        import_onnx(tmp_path / "first.onnx", base=tmp_path / "other.onnx", name="mixed", **given)
    model = import_onnx(tmp_path / "first.onnx", base=tmp_path / "plain.onnx", name="same", **given)
    assert model.card.class_names == ("bright", "dark")


def test_the_command_says_what_it_took_and_that_an_onnx_file_is_not_smoothed(files: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit {number}" for number in range(10)) + "\n")
    where = ("--repository", tmp_path / "models", *SHAPE)
    done = heatserve("import-onnx", files / "perceptron.onnx", "--name", "named", "--classes", names, *where)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "input 'X': FLOAT [N, 64], white is 1" in said
    assert "the logits before its Softmax, which is removed" in said
    assert "calibrate named --calibration-data DATA" in said
    assert "An ONNX file is not trained any further" in said
    assert open_model(tmp_path / "models", "named").card.class_names[3] == "digit 3"
    names.write_text("digit 0\ndigit 1\n")
    with pytest.raises(HeatserveError, match=r"class names: expected 10, one for each class of .*, got 2"):
        heatserve("import-onnx", files / "perceptron.onnx", "--name", "named", "--classes", names, *where)
    with pytest.raises(HeatserveError, match=r"input shape: expected channels, height and width, .* got '8,8'"):
        heatserve("import-onnx", files / "linear.onnx", "--name", "n", "--sigma", 0.25, "--input-shape", "8,8")
    with pytest.raises(HeatserveError, match=r"precision: int8 needs images"):
        heatserve("import-onnx", files / "linear.onnx", "--name", "n", "--precision", "int8", *where)


def test_an_onnx_file_in_place_of_a_checkpoint_is_told_what_it_is_for(files: Path) -> None:
    with pytest.raises(CheckpointError, match="got an ONNX file, which `heatserve import-onnx` takes, but no training"):
        load_checkpoint(files / "linear.onnx")
