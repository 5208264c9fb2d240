"""From a checkpoint to a model version that Triton serves: radius 0 until it is calibrated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import epochs_in_all
from heatserve.certification.provenance import now, versions
from heatserve.export.card import Card, InputType, Plan, Precision, Training
from heatserve.export.graph.build import certified_graph, logits_graph, plain_graph, uint8_input
from heatserve.export.graph.precision import to_fp16, to_int8
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import TENSORRT_BATCHES, TIMING_CACHE_NAME, ModelVersion, check_model_name
from heatserve.export.repository.publishing import publish
from heatserve.export.runtime.exact import compare_with_torch
from heatserve.export.runtime.tensorrt import build_plan, plan_part, require_tensorrt
from heatserve.training import Checkpoint, CheckpointError, load_base, load_checkpoint
from heatserve.training.data.folder_options import resize_of

Backend = Literal["auto", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"]
"""What serves the graph: Triton's `onnxruntime`, NVIDIA's or ours, on the CPU; NVIDIA's with its CUDA or TensorRT
provider; a TensorRT plan."""
_ACCELERATORS: dict[Backend, Literal["cuda", "tensorrt"]] = {
    "onnxruntime-cuda": "cuda",
    "onnxruntime-tensorrt": "tensorrt",
}


@dataclass(frozen=True)
class Variant:
    """What a served graph takes, and the precision of its network; see `Card`.

    Attributes:
        input_type: FP32 or UINT8; None: see `chosen_for`.
        precision: fp32, fp16 or int8.
        resize: with UINT8, take pictures of any size; see `graph.uint8_input`.
        ranges: images of the training split, which set the ranges of INT8 activations; int8 needs them.
    """

    input_type: InputType | None = None
    precision: Precision = "fp32"
    ranges: LabelledImages | None = None
    resize: int | None = None

    def chosen_for(self, dataset: str, backend: Backend) -> Variant:
        """The variant with the input that is asked for, or else with the one that fits what the network was trained on.

        Where its pictures were resized, as the name of the data set says, the graph takes pictures of any size and
        resizes them in the same way, unless TensorRT is to serve it, which resizes otherwise.
        """
        if self.input_type is not None:
            return self
        resize = self.resize or (resize_of(dataset) if backend == "auto" else None)
        return replace(self, input_type="UINT8" if resize else "FP32", resize=resize)

    def of(self, logits: onnx.ModelProto) -> onnx.ModelProto:
        """The logits graph FP32 [N, C, H, W] → FP32 [N, K] as this variant.

        Raises:
            HeatserveError: int8 without images, a graph that cannot be quantised, or pictures that are not UINT8 or
                would be smaller than the network's images.
        """
        self._check(logits)
        if self.precision == "fp16":
            logits = to_fp16(logits)
        if self.precision == "int8":
            if self.ranges is None:
                raise HeatserveError("precision: int8 needs images that set the ranges of the activations, got none")
            logits = to_int8(logits, self.ranges.images)
        return uint8_input(logits, resize=self.resize) if self.input_type == "UINT8" else logits

    def _check(self, logits: onnx.ModelProto) -> None:
        side = max(dim.dim_value for dim in logits.graph.input[0].type.tensor_type.shape.dim[2:])
        if self.resize is not None and (self.input_type != "UINT8" or self.resize < side):
            raise HeatserveError(
                f"resize: expected UINT8 input and at least {side} pixels, the network's image, got {self.resize} and "
                f"{self.input_type}"
            )

    def provenance(self) -> Training:
        """What the card says of how the network was quantised."""
        if self.precision != "int8" or self.ranges is None:
            return {}
        data = self.ranges
        return {"int8_ranges": f"{len(data.images)} images of {data.dataset}, split {data.split}, seed {data.seed}"}


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
) -> ModelVersion:
    """Write the next version of `<repository>/<name>`: certified graph, graph of the base classifier, card, config.

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

    Raises:
        CheckpointError: unreadable, no σ known, or v and f differ in input shape or classes.
        NotExportableError: v or f cannot become a graph, or the graph answers otherwise than torch.
        TensorRTError: a plan is wanted, and cannot be built here.
        HeatserveError: a name that no folder should have, a σ not above 0, TF32 without a plan, or see `Variant.of`.
    """
    single_pass = load_checkpoint(checkpoint, architecture=architecture)
    variant = (variant or Variant()).chosen_for(single_pass.metadata.dataset, backend)
    _check_request(name, variant, backend, tf32)
    has_base = base is not None or single_pass.metadata.base_sha256 is not None
    certified = load_base(single_pass, base) if has_base else single_pass
    _check_compatible(single_pass, certified)
    sigma = _sigma(single_pass, sigma)
    shape = single_pass.metadata.input_shape
    logits = _exact_graph(single_pass)
    graph = certified_graph(variant.of(logits), sigma=sigma).SerializeToString()
    base_bytes = (_exact_graph(certified) if has_base else logits).SerializeToString()
    plan, part = _plan(graph, repository / name, tf32) if backend == "tensorrt" else (None, None)
    card = Card(
        model=name,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        base_sha256=hashlib.sha256(base_bytes).hexdigest(),
        sigma=sigma,
        class_names=single_pass.metadata.class_names,
        input_shape=shape,
        input_type=variant.input_type or "FP32",
        resize=variant.resize,
        precision=variant.precision,
        training=_training(single_pass) | variant.provenance(),
        lineage=tuple(dict.fromkeys((*certified.lineage, *single_pass.lineage))),
        calibration=None,
        evaluation=None,
        plan=part,
        accelerator=_ACCELERATORS.get(backend),
        versions=versions("python", "torch", "onnx", "onnxruntime", "numpy"),
        date=now(),
    )
    return publish(repository, card, graph=graph, base=base_bytes, plan=plan)


def _exact_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The logits graph of a checkpoint's network, which answers as torch does."""
    logits = logits_graph(checkpoint.network, input_shape=checkpoint.metadata.input_shape)
    compare_with_torch(checkpoint.network, plain_graph(logits)).require()
    return logits


def _plan(graph: bytes, model_dir: Path, tf32: bool) -> tuple[bytes, Plan]:
    model_dir.mkdir(parents=True, exist_ok=True)
    plan = build_plan(graph, batches=TENSORRT_BATCHES, tf32=tf32, timing_cache=model_dir / TIMING_CACHE_NAME)
    return plan, plan_part(plan, batches=TENSORRT_BATCHES, tf32=tf32)


def _check_request(name: str, variant: Variant, backend: Backend, tf32: bool) -> None:
    check_model_name(name)
    if tf32 and backend != "tensorrt":
        raise HeatserveError(
            f"tf32: expected the backend tensorrt, whose plans can be built with or without, got {backend}"
        )
    if variant.resize and backend != "auto":
        raise HeatserveError(f"resize: expected the backend auto, got {backend}: TensorRT does not resize as we do")
    if backend == "tensorrt":
        require_tensorrt()


def _sigma(checkpoint: Checkpoint, given: float | None) -> float:
    sigma = checkpoint.metadata.sigma if given is None else given
    if sigma is None:
        raise CheckpointError(
            f"{checkpoint.path}: trained by {checkpoint.metadata.method}, for no σ; give one with --sigma"
        )
    if not 0 < sigma < float("inf"):
        raise HeatserveError(f"sigma: expected a number above 0, got {sigma}")
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
