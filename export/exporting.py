"""From a checkpoint to a model version that Triton serves: radius 0 until it is calibrated."""

from __future__ import annotations

from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import epochs_in_all
from heatserve.certification.progress import Progress, unseen
from heatserve.export.card import Training
from heatserve.export.lipschitz import is_lipschitz, proven_network
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.exact import exact_graph
from heatserve.export.variants import Backend, ServedNetworks, Variant, check_request, publish_networks, publish_proven
from heatserve.training import Checkpoint, CheckpointError, load_base, load_checkpoint


def export_checkpoint(
    checkpoint: Path,
    *,
    repository: Path,
    name: str,
    base: Path | None = None,
    architecture: str | None = None,
    sigma: float | None = None,
    variant: Variant | None = None,
    backend: Backend = "auto",
    tf32: bool = False,
    progress: Progress = unseen,
) -> ModelVersion:
    """Write the next version of `<repository>/<name>`: certified graph, graph of the base classifier, card, config.

    A network that is 1-Lipschitz by construction gets a deterministic certificate, and no base classifier.

    Args:
        checkpoint: the file of the single-pass model v.
        repository: a Triton model repository; made if absent.
        name: the name of the served model.
        base: checkpoint of the base classifier f, whose Gaussian average is certified. None: v itself, as the paper
            certifies its HeatSmoothing model, or what `train average` wrote beside v.
        architecture: see `load_checkpoint`; code that it names is run.
        sigma: σ of the smoothing noise, pixels in [0,1]. None: the σ that v was smoothed for.
        variant: the form of the served graph; None: in FP32, with the input of `Variant.chosen_for`. The base is FP32,
            on FP32 images, in any case.
        backend: what is to serve it; the TensorRT ones need a GPU to calibrate on, a plan also to be built on.
        tf32: see `tensorrt.build_plan`.
        progress: is told of the layers of a 1-Lipschitz network, whose bounds take seconds each.

    Raises:
        CheckpointError: unreadable, no σ known, or v and f differ in input shape or classes.
        NotExportableError: v or f cannot become a graph, or the graph answers otherwise than torch.
        TensorRTError: a plan is wanted, and cannot be built here.
        HeatserveError: a name that no folder should have, a σ not above 0, TF32 without a plan, or see `Variant.of`.
    """
    variant = variant or Variant()
    check_request(name, variant, backend, tf32=tf32)
    single_pass = load_checkpoint(checkpoint, architecture=architecture)
    variant = variant.chosen_for(single_pass.metadata.dataset, backend)
    if is_lipschitz(single_pass.network):
        _check_proven(single_pass, variant, backend, base=base, sigma=sigma)
        return _export_proven(single_pass, repository, name, variant, backend, progress)
    has_base = base is not None or single_pass.metadata.base_sha256 is not None
    certified = load_base(single_pass, base) if has_base else single_pass
    _check_compatible(single_pass, certified)
    sigma = _sigma(single_pass, sigma)
    logits = exact_graph(single_pass.network, input_shape=single_pass.metadata.input_shape)
    networks = ServedNetworks(
        single_pass=logits,
        base=exact_graph(certified.network, input_shape=certified.metadata.input_shape) if has_base else logits,
        input_shape=single_pass.metadata.input_shape,
        class_names=single_pass.metadata.class_names,
        training=_training(single_pass),
        lineage=tuple(dict.fromkeys((*certified.lineage, *single_pass.lineage))),
        packages=("torch",),
    )
    return publish_networks(
        networks, repository=repository, name=name, sigma=sigma, variant=variant, backend=backend, tf32=tf32
    )


def _check_proven(
    checkpoint: Checkpoint, variant: Variant, backend: Backend, *, base: Path | None, sigma: float | None
) -> None:
    """Refuse what a deterministic certificate cannot be had with."""
    what = f"{checkpoint.path}: a 1-Lipschitz network"
    if base is not None or sigma is not None:
        raise HeatserveError(f"{what}, whose certificate needs no noise: expected no --base and no --sigma")
    if variant.precision != "fp32":
        raise HeatserveError(
            f"{what}, whose graph is in float64: expected no --precision, got {variant.precision}, for which no bound "
            "on what rounding does to a radius is shown"
        )
    if backend not in ("auto", "onnxruntime-cuda"):
        raise HeatserveError(
            f"{what}, whose graph is in float64: expected the backend auto or onnxruntime-cuda, got {backend}, which "
            "has no float64"
        )


def _export_proven(
    checkpoint: Checkpoint, repository: Path, name: str, variant: Variant, backend: Backend, progress: Progress
) -> ModelVersion:
    shape, names = checkpoint.metadata.input_shape, checkpoint.metadata.class_names
    logits, bound = proven_network(
        checkpoint.network,
        input_shape=shape,
        num_classes=len(names),
        temperature=float(
            checkpoint.metadata.hyperparameters.get("temperature") or 1.0
        ),  # the loss, so p, is of logits / T
        progress=progress,
    )
    networks = ServedNetworks(
        single_pass=logits,
        base=logits,
        input_shape=shape,
        class_names=names,
        training=_training(checkpoint),
        lineage=checkpoint.lineage,
        packages=("torch",),
    )
    return publish_proven(networks, bound, repository=repository, name=name, variant=variant, backend=backend)


def _sigma(checkpoint: Checkpoint, given: float | None) -> float:
    sigma = checkpoint.metadata.sigma if given is None else given
    if sigma is None:
        raise CheckpointError(
            f"{checkpoint.path}: trained by {checkpoint.metadata.method}, for no σ; give one with --sigma"
        )
    return sigma


def _check_compatible(single_pass: Checkpoint, base: Checkpoint) -> None:
    for field in ("input_shape", "class_names"):
        expected, found = getattr(single_pass.metadata, field), getattr(base.metadata, field)
        if expected != found:
            raise CheckpointError(f"{base.path}: expected the {field} of {single_pass.path}, {expected}, got {found}")


def _training(checkpoint: Checkpoint) -> Training:
    metadata = checkpoint.metadata
    return {
        "architecture": metadata.architecture,
        "method": metadata.method,
        "dataset": metadata.dataset,
        "epochs": metadata.epochs,
        "epochs_in_all": epochs_in_all(checkpoint.lineage),
        "seed": metadata.seed,
        "checkpoint_sha256": checkpoint.sha256,
        "parent_sha256": metadata.parent_sha256,
        **metadata.hyperparameters,
    }
