"""From somebody's ONNX classifier to a model version that Triton serves: radius 0 until it is calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import IMPORTED, Ancestor
from heatserve.certification.provenance import sha256_of
from heatserve.export.card import Training
from heatserve.export.graph.imported.errors import OnnxFileError
from heatserve.export.graph.imported.normal_form import NormalForm, normal_form
from heatserve.export.graph.imported.pixels import Preprocessing
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.variants import Backend, ServedNetworks, Variant, check_request, publish_networks


def import_onnx(
    file: Path,
    *,
    repository: Path,
    name: str,
    sigma: float,
    base: Path | None = None,
    preprocessing: Preprocessing | None = None,
    output: str | None = None,
    class_names: Sequence[str] | None = None,
    dataset: str | None = None,
    variant: Variant | None = None,
    backend: Backend = "auto",
    tf32: bool = False,
) -> ModelVersion:
    """Write the next version of `<repository>/<name>` from an ONNX classifier, by whatever library. Needs no torch.

    Args:
        file: the single-pass model v, from images to logits or probabilities.
        repository: a Triton model repository; made if absent.
        name: the name of the served model.
        sigma: σ of the smoothing noise that f was trained for, pixels in [0,1].
        base: an ONNX file of the base classifier f, whose Gaussian average is certified. None: v itself.
        preprocessing: how images become what both take; None: as their files say, pixels in [0,1].
        output: the output with the scores of the classes, where v has several.
        class_names: in the order of the scores; None: what v or else f calls its classes, or their numbers.
        dataset: what v and f were trained on, as far as is known; it is taken that they saw all images of the official
            training set, those of `calibration` among them.
        variant: the form of the served graph; None: FP32 throughout. The base is FP32 in any case.
        backend: what is to serve it; see `export_checkpoint`.
        tf32: see `tensorrt.build_plan`.

    Raises:
        OnnxFileError: a file that cannot be used; names the node or tensor, and the reason.
        TensorRTError: a plan is wanted, and cannot be built here.
        HeatserveError: a name that no folder should have, a σ not above 0, TF32 without a plan, other class names than
            those of the files or another order of them, or see `Variant.of`.
    """
    variant, preprocessing = variant or Variant(), preprocessing or Preprocessing()
    check_request(name, variant, backend, tf32=tf32)
    variant = variant.chosen_for(dataset, backend)
    single_pass = normal_form(file, preprocessing, output=output)
    certified = single_pass if base is None else normal_form(base, preprocessing)
    _check_same_images(single_pass, certified, base)
    line = [Ancestor(IMPORTED, dataset, None, sha256_of(path)) for path in (base, file) if path]
    networks = ServedNetworks(
        single_pass=single_pass.logits,
        base=certified.logits,
        input_shape=single_pass.input_shape,
        class_names=_class_names({file: single_pass, base or file: certified}, class_names),
        training=_training(file, single_pass, dataset),
        lineage=tuple(dict.fromkeys(line)),
        packages=(),
    )
    return publish_networks(
        networks, repository=repository, name=name, sigma=sigma, variant=variant, backend=backend, tf32=tf32
    )


def _check_same_images(single_pass: NormalForm, base: NormalForm, file: Path | None) -> None:
    for what in ("input_shape", "classes"):
        expected, found = getattr(single_pass, what), getattr(base, what)
        if expected != found:
            raise OnnxFileError(f"{file}: expected the {what} of the single pass, {expected}, got {found}")


def _class_names(files: Mapping[Path, NormalForm], given: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes: those given, or else of a file, with which words for them in all files must agree.

    Votes are of the base, and are reported by these names: another order there would prove classes of wrong names.
    """
    classes = next(iter(files.values())).classes
    known = given or next(filter(None, (found.labels for found in files.values())), tuple(map(str, range(classes))))
    if len(known) != classes:
        file = next(iter(files))
        raise HeatserveError(f"class names: expected {classes}, one for each class of {file}, got {len(known)}")
    for file, found in files.items():
        for index, (word, name) in enumerate(zip(found.labels or known, known, strict=True)):
            is_number = word.lstrip("-").isdecimal() and not name.lstrip("-").isdecimal()  # a number may have a name
            if word != name and not is_number:
                raise HeatserveError(
                    f"class names: class {index} is {word!r} in {file}, expected the same, got {name!r}"
                )
    return tuple(known)


def _training(file: Path, found: NormalForm, dataset: str | None) -> Training:
    return {
        "architecture": "onnx",
        "method": IMPORTED,
        "dataset": dataset,
        "file": file.name,
        "file_sha256": sha256_of(file),
        "file_input": found.taken,
        "file_scores": found.scores,
        "file_error": found.error,
    }
