"""The attempts to calibrate: what each spends of δ, which ones count, and that none is lost or overlooked."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.stats import binom
from tiny_model import random_images, take_uint8, write_tiny_card, write_tiny_model

from heatserve.certification.calibration import CalibrationError
from heatserve.certification.guard import fit_guard
from heatserve.export.calibration.attempts import (
    Asked,
    Attempt,
    Attempts,
    AttemptsError,
    ask,
    network_sha256,
    read_attempts,
    record_attempt,
    record_outcome,
    terms_of,
)
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, CardError, read_card
from heatserve.export.card_parts import Calibration, MonteCarlo
from heatserve.export.digest import with_digest
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ATTEMPTS_NAME, ModelVersion, locked, open_model
from heatserve.export.repository.publishing import republish
from heatserve.export.runtime.answers import model_images

pytestmark = pytest.mark.slow

CERTIFY = MonteCarlo(n0=10, n=100, alpha=0.01, seed=0)
ALPHA, DELTA = 0.2, 0.2


def some(
    count: int, *, seed: int = 0, first: int = 0, split: str = "calibration", name: str = "noise"
) -> LabelledImages:
    """Part of a permutation of 400 images of noise, from the index `first`."""
    images = random_images(400, seed=seed)[first : first + count]
    return LabelledImages(images, np.zeros(len(images), np.int64), name, split, seed, first, 400)


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    write_tiny_model(tmp_path, calibrated=False)
    return open_model(tmp_path, "tiny")


def another(repository: Path, name: str) -> ModelVersion:
    """A model whose network is another one."""
    version_dir = write_tiny_model(repository, name, calibrated=False)
    for file in (GRAPH_NAME, BASE_NAME):
        graph = onnx.load(version_dir / file)
        (weights,) = (tensor for tensor in graph.graph.initializer if tensor.name in ("weights", "network.weights"))
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
        onnx.save(graph, version_dir / file)
    write_tiny_card(version_dir, calibration=None)
    return open_model(repository, name)


def calibrated(model: ModelVersion, images: LabelledImages, **options: Any) -> Calibration:
    """The part of the card that a calibration writes, on figures that are measured elsewhere."""
    fields: dict[str, Any] = {"alpha": ALPHA, "delta": DELTA, "certifier": Certifier(CERTIFY), **options}
    part = calibrate_model(model, images, some(30, seed=9, split="test"), **fields).card.calibration
    assert part is not None
    return part


def asked(model: ModelVersion, images: LabelledImages, **options: Any) -> Asked:
    """What `calibrate_model` is going to record."""
    fields = {"alpha": ALPHA, "delta": DELTA, "target": None, "monte_carlo": CERTIFY, "level": None} | options
    taken, test = model_images(model, images), model_images(model, some(30, seed=9, split="test"))
    return ask(model, taken, test, fit_images=len(taken) // 3, **fields)


# What it is for: a true rate just above α, and somebody who tries again.


def retried(levels: NDArray[np.float64], *, nested: bool, alpha: float, rate: float, runs: int) -> int:
    """Runs of which at least one attempt passes: the k-th on 200·k images, or on 200 new ones, at the k-th level."""
    found = np.random.default_rng(0).binomial(200, rate, (runs, len(levels)))
    images = 200 * np.arange(1, len(levels) + 1) if nested else np.full(len(levels), 200)
    counts = found.cumsum(1) if nested else found
    return int((binom.cdf(counts, images, alpha) <= levels).any(1).sum())


def granted(model: ModelVersion, attempts: int, *, nested: bool, delta: float) -> NDArray[np.float64]:
    """The levels that are granted one after the other to attempts that fail, α = 0.9: five images would do."""
    made, levels = list[Attempt](), list[float]()
    for k in range(attempts):
        images = some(150 + k) if nested else some(150, seed=100 + k)
        terms = terms_of(asked(model, images, alpha=0.9, delta=delta), Attempts(tuple(made)))
        fields = vars(asked(model, images, alpha=0.9, delta=delta)) | vars(terms)
        made.append(Attempt(**fields, date="2026-01-01"))
        levels.append(terms.level)
    return np.array(levels)


@pytest.mark.parametrize("nested", [True, False])
def test_fifty_retries_pass_falsely_no_more_often_than_delta(model: ModelVersion, nested: bool) -> None:
    alpha, delta, runs = 0.1, 0.05, 3000
    levels = granted(model, 50, nested=nested, delta=delta)
    np.testing.assert_allclose(levels, delta / 2.0 ** np.arange(1, 51), atol=1e-15)
    assert levels.sum() <= delta

    def broken(levels: NDArray[np.float64]) -> int:
        return retried(levels, nested=nested, alpha=alpha, rate=0.1001, runs=runs)

    assert binom.sf(broken(levels) - 1, runs, delta) > 0.001
    each_at_delta = np.full(50, delta)
    assert binom.sf(broken(each_at_delta[:7]) - 1, runs, delta) < 1e-9
    assert broken(each_at_delta) / runs > (0.2 if nested else 0.8)


# The terms, as calibrations get them.


@pytest.mark.slow
def test_each_attempt_on_the_same_images_gets_half_of_what_is_left(model: ModelVersion) -> None:
    first = calibrated(model, some(200))
    assert (first.looks, first.spent, first.level, first.confidence) == (1, 0, DELTA / 2, 1 - DELTA)
    assert "no earlier attempt of its model repository counts against it" in first.promise
    second = calibrated(model, some(250))
    assert (second.looks, second.spent, second.level) == (2, DELTA / 2, DELTA / 4)
    assert second.confidence == 1 - DELTA
    assert "for whichever model is chosen of the 2 attempts that count" in second.promise
    other = calibrated(another(model.path.parents[1], "other"), some(200))
    assert other.looks == 3
    assert other.level == pytest.approx(DELTA / 8)
    assert {attempt.model for attempt in read_attempts(model.path.parents[1]).made.values()} == {"tiny", "other"}


@pytest.mark.slow
def test_the_same_attempt_again_is_no_new_look(model: ModelVersion) -> None:
    once = calibrate_model(
        model, some(200), some(30, seed=9, split="test"), alpha=ALPHA, delta=DELTA, certifier=Certifier(CERTIFY)
    )
    assert once.card.calibration is not None
    assert network_sha256((once.path / GRAPH_NAME).read_bytes()) == network_sha256(
        (model.path / GRAPH_NAME).read_bytes()
    ), "a network is the same with any map"
    assert calibrated(once, some(200)) == once.card.calibration
    copy = republish(model, model.path.parents[1], "copy")
    assert calibrated(copy, some(200)) == once.card.calibration
    assert len(read_attempts(model.path.parents[1]).made) == 1
    for other in ({"alpha": 0.3}, {"target": 0.1}, {"certifier": Certifier(CERTIFY.model_copy(update={"seed": 5}))}):
        assert calibrated(model, some(200), **other).looks > 1


@pytest.mark.slow
def test_images_are_compared_by_pixels_whatever_they_are_called(model: ModelVersion) -> None:
    calibrated(model, some(200, name="imagefolder:here"))
    other = another(model.path.parents[1], "other")
    renamed = some(200, first=199, name="imagefolder:there")
    assert calibrated(other, renamed).looks == 1, "one image is shared, and only fits the maps"
    both = replace(renamed, images=renamed.images[::-1].copy())
    with pytest.raises(AttemptsError, match=r"\(2, of other, tiny\), got 0\.2"):  # now it is tested on; δ/2 each
        calibrated(other, both)
    assert calibrated(other, some(200, seed=1)).looks == 1


def test_images_in_another_form_count_where_they_are_of_one_split(model: ModelVersion, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    take_uint8(write_tiny_model(pictures, calibrated=False), resize=12)
    resizing = open_model(pictures, "tiny")
    plain = asked(model, some(200))
    made = Attempts((Attempt(**vars(plain) | vars(terms_of(plain, Attempts(()))), date="2026-01-01"),))
    taken = asked(another(tmp_path, "other"), some(200, seed=1))
    assert terms_of(taken, made).looks == 1
    assert resizing.card.resize == 12
    assert terms_of(replace(taken, form="pictures"), made).looks == 2
    elsewhere = taken.check.model_copy(update={"split": "elsewhere"})
    assert terms_of(replace(taken, form="pictures", check=elsewhere), made).looks == 1
    figures = taken.check.model_copy(update={"split": made.recorded[0].test.split})
    assert terms_of(replace(taken, check=figures), made).looks == 1
    assert terms_of(replace(taken, form="pictures", check=figures), made).looks == 2, "others were used for figures"


def test_the_same_files_at_another_size_count_as_the_same_images(model: ModelVersion, tmp_path: Path) -> None:
    plain = asked(model, some(200, name="imagefolder:photos?resize=12"))
    made = Attempts((Attempt(**vars(plain) | vars(terms_of(plain, Attempts(()))), date="2026-01-01"),))
    other = another(tmp_path, "other")
    assert terms_of(asked(other, some(200, seed=1, name="imagefolder:photos?resize=12")), made).looks == 1
    assert terms_of(asked(other, some(200, seed=1, name="imagefolder:photos?resize=10")), made).looks == 2
    assert terms_of(asked(other, some(200, seed=1, name="imagefolder:others?resize=10")), made).looks == 1


def test_an_attempt_that_failed_counts_on_other_images_of_its_network(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    hopeless = {"alpha": 0.03, "certifier": Certifier(MonteCarlo(n0=10, n=40, alpha=0.001, seed=0))}
    with pytest.raises(CalibrationError) as failed:
        calibrated(model, some(300), **hopeless)
    images = some(300).images
    kept = 200 - int(fit_guard(images[:100]).refuses(images[100:]).sum())
    for said in (
        f"tested at level 0.1 on {kept} images",
        "0.1 of δ = 0.2 is spent (attempts that count: 1), so a further one on these images, or ",
        "or of a network of this base, is tested at level",
        "is tested at level 0.05; 100 images",
        "100 images of split 'calibration' of noise are unused (--skip 300)",
        "(--skip 300), and there a network of another base has all of δ",
    ):
        assert said in str(failed.value)
    assert [line.passed for line in read_attempts(repository).lines if not isinstance(line, Attempt)] == [False]
    assert calibrated(model, some(200, seed=1)).level == DELTA / 4
    assert calibrated(another(repository, "other"), some(200, seed=2)).level == DELTA / 2
    assert calibrated(model, some(200, seed=3)).looks == 2, "the one that passed on other images does not count"


def failed(model: ModelVersion, images: LabelledImages, **options: Any) -> Attempts:
    """What is on record after an attempt that was not followed by an outcome, which counts as failed."""
    work = asked(model, images, **options)
    record_attempt(model.path.parents[1], work)
    return read_attempts(model.path.parents[1])


@pytest.mark.parametrize(
    "named", [{"name": "imagefolder:copies"}, {"split": "test"}, {"name": "imagefolder:copies", "split": "test"}]
)
def test_a_failed_attempt_counts_whatever_the_next_data_set_is_called(model: ModelVersion, named: Any) -> None:
    """Else somebody who puts copies that are brighter by a level into a new folder for each try has all of δ again."""
    made = failed(model, some(200))
    brighter = some(200, **named)
    brighter = replace(brighter, images=np.minimum(brighter.images + np.float32(1 / 255), 1))
    assert {*asked(model, brighter).check_pixels}.isdisjoint(asked(model, some(200)).check_pixels)
    assert terms_of(asked(model, brighter), made).looks == 2


def test_a_failed_attempt_counts_for_every_form_of_its_network(model: ModelVersion, tmp_path: Path) -> None:
    """UINT8, FP16 or a σ that is another by a millionth: other graphs beside the same base."""
    made = failed(model, some(200))
    taking_levels = write_tiny_model(tmp_path, "levels", calibrated=False)
    take_uint8(taking_levels, resize=None)
    levels = open_model(tmp_path, "levels")
    assert asked(levels, some(200)).network_sha256 != asked(model, some(200)).network_sha256
    assert levels.card.base_sha256 == model.card.base_sha256
    assert terms_of(asked(levels, some(200, seed=1)), made).looks == 2
    assert terms_of(asked(another(tmp_path, "other"), some(200, seed=1)), made).looks == 1


def test_images_that_figures_were_measured_on_are_used(model: ModelVersion) -> None:
    made = failed(model, some(200))
    figures = replace(some(200, seed=9), split="test")
    assert terms_of(asked(another(model.path.parents[1], "other"), figures), made).looks == 1, "30 of 67 that fit"
    turned = replace(figures, images=figures.images[::-1].copy())
    assert terms_of(asked(another(model.path.parents[1], "third"), turned), made).looks == 2


def test_what_is_unused_is_not_told_where_seeds_differ(model: ModelVersion) -> None:
    hopeless = {"alpha": 0.03, "certifier": Certifier(MonteCarlo(n0=10, n=40, alpha=0.001, seed=0))}
    failed(another(model.path.parents[1], "other"), some(60, seed=1))
    with pytest.raises(CalibrationError, match="drew from this split with another --seed, so --skip cannot") as error:
        calibrated(model, some(300), **hopeless)
    assert "are unused" not in str(error.value)


def test_a_level_that_is_none_is_refused(model: ModelVersion) -> None:
    for level in (-0.5, 0.0, 1.0, float("nan")):
        with pytest.raises(CalibrationError, match="level: expected a number between 0 and 1"):
            terms_of(asked(model, some(200), level=level), Attempts(()))


def test_an_attempt_is_spent_before_its_test(model: ModelVersion) -> None:
    """What a process leaves that is killed in between: a line without an outcome."""
    repository = model.path.parents[1]
    work = asked(model, some(200))
    assert record_attempt(repository, work).level == DELTA / 2
    assert terms_of(asked(model, some(210)), read_attempts(repository)).level == DELTA / 4
    assert terms_of(asked(model, some(200, seed=1)), read_attempts(repository)).level == DELTA / 4
    assert terms_of(work, read_attempts(repository)).level == DELTA / 2, "it may be made again"
    record_outcome(repository, work, passed=True)
    assert terms_of(asked(model, some(200, seed=1)), read_attempts(repository)).level == DELTA / 2


def test_what_is_interrupted_in_certify_is_no_attempt(model: ModelVersion) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(model, some(200), certifier=Certifier(CERTIFY, progress=interrupted))
    assert read_attempts(model.path.parents[1]).lines == ()


def test_what_is_spent_is_refused_before_the_work(model: ModelVersion, tmp_path: Path) -> None:
    assert calibrated(model, some(200), level=DELTA).confidence == pytest.approx(1 - DELTA)
    kept = tmp_path / "kept"
    with pytest.raises(
        AttemptsError,
        match=r"delta: expected more than the 0\.2 that earlier attempts have spent \(1, of tiny\), got 0\.2; .*--skip",
    ):
        calibrated(another(tmp_path, "other"), some(200), certifier=Certifier(CERTIFY, folder=kept))
    assert not kept.exists()
    larger = calibrated(another(tmp_path, "third"), some(200), delta=0.5)
    assert larger.level == pytest.approx(0.15)
    assert larger.confidence == 0.5


def test_too_few_images_at_what_is_left_are_told_before_the_work(model: ModelVersion) -> None:
    calibrated(model, some(200))
    with pytest.raises(CalibrationError, match=r"α = 0\.03 at level 0\.05 needs at least 99 images .* got 67 images"):
        calibrated(model, some(100), alpha=0.03)
    assert len(read_attempts(model.path.parents[1]).made) == 1


def test_a_level_of_its_own_is_counted_and_its_confidence_is_what_is_left(model: ModelVersion) -> None:
    found = [calibrated(model, some(200 + k), level=0.4) for k in range(3)]
    assert [part.looks for part in found] == [1, 2, 3]
    assert [part.confidence for part in found] == [pytest.approx(0.6), pytest.approx(0.2), 0]
    assert found[2].promise == "Nothing is promised about these radii."


# The file.


@pytest.mark.parametrize(
    ("damage", "number"),
    [
        (lambda text: text[:-20], 2),
        (lambda text: text[:-1], 2),
        (lambda _: "", 1),
        (lambda text: text + "\n", 3),
        (lambda text: text.replace('"level"', '"lever"'), 1),
        (lambda text: text.splitlines(keepends=True)[1], 1),
        (lambda text: text + '{"key":"0","date":"","passed":true}\n', 3),
        (lambda text: text.replace('"level":0.1', '"level":-0.1'), 1),
        (lambda text: text.replace('"level":0.1', '"level":1e400'), 1),
        (lambda text: text.replace('"level":0.1', '"level":NaN'), 1),
        (lambda text: text.replace('"spent":0', '"spent":-1'), 1),
        (lambda text: text.replace('"looks":1', '"looks":0'), 1),
        (lambda text: "\ufeff" + text, 1),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_line(model: ModelVersion, damage: Any, number: int) -> None:
    calibrated(model, some(200))
    path = model.path.parent / ATTEMPTS_NAME
    written = damage(path.read_text())
    path.write_text(written)
    with pytest.raises(AttemptsError, match=rf"tiny/attempts\.jsonl, line {number}: expected the record of an attempt"):
        calibrated(another(model.path.parents[1], "other"), some(200))
    assert path.read_text() == written


def test_a_file_that_cannot_be_read_is_an_error_and_not_an_empty_one(model: ModelVersion) -> None:
    path, work = model.path.parent / ATTEMPTS_NAME, asked(model, some(200))
    path.symlink_to(model.path.parent / "moved-away")
    with pytest.raises(AttemptsError, match=r"tiny/attempts\.jsonl: .* cannot be read \(No such file"):
        record_attempt(model.path.parents[1], work)
    path.unlink()
    path.mkdir()
    with pytest.raises(AttemptsError, match=r"cannot be read \(Is a directory\)"):
        record_attempt(model.path.parents[1], work)


@pytest.mark.parametrize("first", [True, False])
def test_a_second_line_of_an_attempt_gives_nothing_back(model: ModelVersion, first: bool) -> None:
    """Copies of a model that were apart may have tested one attempt at two levels: the larger was spent."""
    failed(model, some(200))
    path = model.path.parent / ATTEMPTS_NAME
    line = path.read_text()
    smaller = line.replace('"level":0.1', '"level":0.0001')
    path.write_text(smaller + line if first else line + smaller)
    assert terms_of(asked(model, some(210)), read_attempts(model.path.parents[1])).spent == DELTA / 2


def test_attempts_at_once_share_delta(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    work = [asked(model, some(200 + k)) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        terms = list(pool.map(lambda one: record_attempt(repository, one), work))
    assert sorted(one.level for one in terms) == pytest.approx([DELTA / 2**k for k in range(8, 0, -1)])
    assert sorted(one.looks for one in terms) == list(range(1, 9))


def test_an_attempt_waits_for_the_lock(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    with ThreadPoolExecutor(1) as pool:
        with locked(repository):
            waiting = pool.submit(record_attempt, repository, asked(model, some(200)))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            assert read_attempts(repository).lines == ()
        assert waiting.result(timeout=10).looks == 1


@pytest.mark.slow
def test_attempts_go_with_a_model_that_is_published_elsewhere(model: ModelVersion, tmp_path: Path) -> None:
    calibrated(model, some(200))
    newest = open_model(tmp_path, "tiny")
    copy = republish(newest, tmp_path / "elsewhere", "copy")
    assert (copy.path.parent / ATTEMPTS_NAME).read_text() == (newest.path.parent / ATTEMPTS_NAME).read_text()
    assert calibrated(copy, some(210)).looks == 2
    again = republish(newest, tmp_path / "elsewhere", "copy")
    assert calibrated(again, some(220)).looks == 3, "what was there stays"
    moved = shutil.copytree(model.path.parent, tmp_path / "third" / "tiny")
    assert calibrated(open_model(moved.parent, "tiny"), some(210)).looks == 2


# Cards and ledgers.


def test_a_card_of_format_3_is_refused_with_what_it_did_not_count(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path) / CARD_NAME
    content = json.loads(path.read_bytes()) | {"format": 3}
    path.write_bytes(with_digest(content))
    with pytest.raises(
        CardError, match=r"format: expected 4, got 3, whose confidence does not count .* were used before"
    ):
        read_card(path.parent)


def test_parts_of_one_permutation_share_a_ledger_and_their_noise(model: ModelVersion, tmp_path: Path) -> None:
    kept, left = tmp_path / "kept", list[int]()

    def watched(rows: Any, total: int, _: str) -> Any:
        left.append(total)
        return rows

    certifier = Certifier(CERTIFY, folder=kept, progress=watched)
    later = certifier.entries(model, model_images(model, some(20, first=30)))
    assert [entry.index for entry in later] == list(range(30, 50))
    whole = certifier.entries(model, model_images(model, some(60)))
    assert whole[30:50] == later
    assert certifier.entries(model, model_images(model, some(60))[10:40]) == whole[10:40]
    assert left == [20, 40, 0]
    (ledger,) = kept.iterdir()
    assert whole == Certifier(CERTIFY).entries(model, model_images(model, some(60)))
    ledger.rename(ledger.with_name("calibration-0000000000000000.jsonl"))  # as an earlier first image would name it
    assert certifier.entries(model, model_images(model, some(10, first=55)))[:5] == whole[55:]
    assert left[-1] == 5
    strangers = some(20, first=30)
    strangers = replace(strangers, images=strangers.images[::-1].copy())
    certifier.entries(model, model_images(model, strangers))
    assert (left[-1], len(list(kept.iterdir()))) == (20, 2), "another image at an index: another ledger"
