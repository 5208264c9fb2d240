"""The graphs of a network and of its base as a model version that Triton serves, in whatever form and precision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from heatserve.certification.class_names import class_names_problem
from heatserve.certification.errors import HeatserveError
from heatserve.certification.lineage import Ancestor
from heatserve.certification.provenance import now, versions
from heatserve.certification.sigma import sigma_problem
from heatserve.export.card import Card, InputType, Plan, Precision, Training
from heatserve.export.card_parts import LipschitzBound
from heatserve.export.graph.build import certified_graph, proven_graph, uint8_input
from heatserve.export.graph.precision import to_fp16, to_int8
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import TENSORRT_BATCHES, TIMING_CACHE_NAME, ModelVersion, check_model_name
from heatserve.export.repository.publishing import publish
from heatserve.export.runtime.tensorrt import build_plan, plan_part, require_tensorrt
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

    def chosen_for(self, dataset: str | None, backend: Backend) -> Variant:
        """The variant with the input that is asked for, or else with the one that fits what the network was trained on.

        Where its pictures were resized, as the name of the data set says, the graph takes pictures of any size and
        resizes them in the same way, unless TensorRT is to serve it, which resizes otherwise.
        """
        if self.input_type is not None:
            return self
        resize = self.resize or (resize_of(dataset) if dataset and backend == "auto" else None)
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
        shape = tuple(dim.dim_value for dim in logits.graph.input[0].type.tensor_type.shape.dim[1:])
        side = max(shape[1:])
        if self.resize is not None and (self.input_type != "UINT8" or self.resize < side):
            raise HeatserveError(
                f"resize: expected UINT8 input and at least {side} pixels, the network's image, got {self.resize} and "
                f"{self.input_type}"
            )
        if self.ranges is not None and self.ranges.images.shape[1:] != shape:
            raise HeatserveError(
                f"{self.ranges.dataset}: expected images of shape {list(shape)}, which the network takes, to set the "
                f"ranges of INT8, got {list(self.ranges.images.shape[1:])}"
            )

    def provenance(self) -> Training:
        """What the card says of how the network was quantised."""
        if self.precision != "int8" or self.ranges is None:
            return {}
        data = self.ranges
        return {"int8_ranges": f"{len(data.images)} images of {data.dataset}, split {data.split}, seed {data.seed}"}


@dataclass(frozen=True)
class ServedNetworks:
    """The single-pass model v and the base classifier f as graphs, and what a card says of them."""

    single_pass: onnx.ModelProto
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K]."""
    base: onnx.ModelProto
    """The same of f, whose Gaussian average is certified."""
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    training: Training
    lineage: tuple[Ancestor, ...]
    packages: Sequence[str]
    """Those whose versions made the graphs."""


def check_request(name: str, variant: Variant, backend: Backend, *, tf32: bool) -> None:
    """Refuse what cannot be published, before anything is computed.

    Raises:
        HeatserveError: a name that no folder should have, or options that do not go together.
        TensorRTError: a plan is wanted, and cannot be built here.
    """
    check_model_name(name)
    if tf32 and backend != "tensorrt":
        raise HeatserveError(
            f"tf32: expected the backend tensorrt, whose plans can be built with or without, got {backend}"
        )
    if variant.resize and backend != "auto":
        raise HeatserveError(f"resize: expected the backend auto, got {backend}: TensorRT does not resize as we do")
    if backend == "tensorrt":
        require_tensorrt()


def publish_networks(
    networks: ServedNetworks,
    *,
    repository: Path,
    name: str,
    sigma: float,
    variant: Variant,
    backend: Backend = "auto",
    tf32: bool = False,
) -> ModelVersion:
    """Write the next version of `<repository>/<name>`: certified graph, graph of the base classifier, card, config.

    Raises:
        HeatserveError: a σ that is none, see `sigma_problem`, or see `Variant.of`.
        TensorRTError: a plan is wanted, and cannot be built here.
    """
    if problem := sigma_problem(sigma):
        raise HeatserveError(f"sigma: {problem}")
    if problem := class_names_problem(networks.class_names):
        raise HeatserveError(f"class names of {name}: {problem}")
    graph = certified_graph(variant.of(networks.single_pass), sigma=sigma).SerializeToString()
    base = networks.base.SerializeToString()
    plan, part = _plan(graph, repository / name, tf32) if backend == "tensorrt" else (None, None)
    card = Card(
        model=name,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        base_sha256=hashlib.sha256(base).hexdigest(),
        sigma=sigma,
        class_names=networks.class_names,
        input_shape=networks.input_shape,
        input_type=variant.input_type or "FP32",
        resize=variant.resize,
        precision=variant.precision,
        training=networks.training | variant.provenance(),
        lineage=networks.lineage,
        calibration=None,
        evaluation=None,
        plan=part,
        accelerator=_ACCELERATORS.get(backend),
        versions=versions("python", *networks.packages, "onnx", "onnxruntime", "numpy"),
        date=now(),
    )
    return publish(repository, card, graph=graph, base=base, plan=plan)


def publish_proven(
    networks: ServedNetworks,
    bound: LipschitzBound,
    *,
    repository: Path,
    name: str,
    variant: Variant,
    backend: Backend = "auto",
) -> ModelVersion:
    """Write the next version of `<repository>/<name>` with a deterministic certificate: graph, card, config.

    Args:
        networks: `single_pass` is the graph of a 1-Lipschitz network, in float64; nothing is smoothed, so it is its own
            base.
        bound: what proves that it is 1-Lipschitz.
        repository: as for `publish_networks`.
        name: as for `publish_networks`.
        variant: FP32 or UINT8, and how pictures are resized.
        backend: ONNX Runtime on the CPU, or with its CUDA provider.
    """
    logits = networks.single_pass
    served = uint8_input(logits, resize=variant.resize) if variant.input_type == "UINT8" else logits
    graph = proven_graph(served, slack=bound.slack, temperature=bound.temperature).SerializeToString()
    sha256 = hashlib.sha256(graph).hexdigest()
    card = Card(
        certificate_kind="deterministic",
        model=name,
        graph_sha256=sha256,
        base_sha256=sha256,
        sigma=0.0,
        class_names=networks.class_names,
        input_shape=networks.input_shape,
        input_type=variant.input_type or "FP32",
        resize=variant.resize,
        precision="fp64",
        training=networks.training,
        lineage=networks.lineage,
        lipschitz=bound,
        calibration=None,
        evaluation=None,
        accelerator=_ACCELERATORS.get(backend),
        versions=versions("python", *networks.packages, "onnx", "onnxruntime", "numpy", "scipy"),
        date=now(),
    )
    return publish(repository, card, graph=graph, base=None)


def _plan(graph: bytes, model_dir: Path, tf32: bool) -> tuple[bytes, Plan]:
    model_dir.mkdir(parents=True, exist_ok=True)
    plan = build_plan(graph, batches=TENSORRT_BATCHES, tf32=tf32, timing_cache=model_dir / TIMING_CACHE_NAME)
    return plan, plan_part(plan, batches=TENSORRT_BATCHES, tf32=tf32)
