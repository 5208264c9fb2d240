"""TensorRT without a GPU: what its parser takes, what the builder is told, what is written, and what is refused."""

from __future__ import annotations

import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import numpy_helper, parser
from onnx.shape_inference import infer_shapes
from tensorrt_operators import RULES, TABLE, unsupported_operators
from tiny_model import SHAPE, SIGMA, random_images, write_tiny_model
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

from heatserve import FREE_PORTS, ServingError, TritonServer
from heatserve.certification.provenance import sha256_of
from heatserve.cli import app
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import GRAPH_NAME, PLAN_NAME, CardError, Plan, read_card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.graph.build import certified_graph, logits_graph
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import TENSORRT_BATCHES, ModelVersion, open_model, write_model_config
from heatserve.export.repository.publishing import republish
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import GraphError
from heatserve.export.runtime.tensorrt import (
    TensorRTError,
    build_plan,
    builder_config,
    nan_flag,
    open_plan,
    parsed_network,
    tensorrt_errors_explained,
)
from heatserve.export.variants import Variant
from heatserve.serving.triton.installation import find_triton
from heatserve.training.architectures import build_network

COMMITTED = Path(__file__).parents[2] / "model_repository"
without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")


def certified(architecture: str, shape: tuple[int, int, int], classes: int) -> onnx.ModelProto:
    torch.manual_seed(0)
    normalisation = (0.5,) * shape[0]
    network = build_network(architecture, num_classes=classes, input_shape=shape, mean=normalisation, std=normalisation)
    return certified_graph(logits_graph(network, input_shape=shape), sigma=SIGMA)


@pytest.mark.parametrize(
    ("architecture", "shape", "classes"),
    [
        ("digits_cnn", (1, 8, 8), 10),
        pytest.param("cifar_resnet20", (3, 32, 32), 10, marks=pytest.mark.slow),  # the deeper ones repeat its operators
        pytest.param("cifar_resnet34", (3, 32, 32), 10, marks=pytest.mark.slow),
        pytest.param("resnet50", (3, 224, 224), 1000, marks=pytest.mark.slow),
    ],
)
def test_tensorrt_takes_every_operator_and_only_the_batch_is_dynamic(
    architecture: str, shape: tuple[int, int, int], classes: int
) -> None:
    model = certified(architecture, shape, classes)
    assert unsupported_operators(model) == []
    graph = infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    inferred = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output)}
    computed = [inferred[name] for node in graph.node for name in node.output if name]
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {dimension.dim_param for shape in computed for dimension in shape if not dimension.dim_value} == {batch}


@pytest.mark.parametrize(
    ("variant", "refused"),
    [
        (Variant(precision="fp16"), set()),
        (Variant(input_type="UINT8"), set()),
        (
            Variant(precision="int8", ranges=LabelledImages(random_images(8), np.zeros(8, int), "noise", "train", 0)),
            {"QuantizeLinear", "DequantizeLinear"},  # for CPUs only
        ),
    ],
    ids=["fp16", "UINT8", "int8"],
)
def test_what_tensorrt_takes_of_the_variants(variant: Variant, refused: set[str]) -> None:
    network = build_network("digits_cnn", num_classes=10, input_shape=SHAPE, mean=(0.5,), std=(0.5,))
    model = certified_graph(variant.of(logits_graph(network, input_shape=SHAPE)), sigma=SIGMA)
    assert {problem.split()[0] for problem in unsupported_operators(model)} == refused


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/*/*.onnx")), ids=lambda path: "/".join(path.parts[-3:]))
def test_tensorrt_takes_every_operator_of_the_committed_models_but_float64(path: Path) -> None:
    problems = unsupported_operators(onnx.load(path))
    if read_card(path.parent).is_deterministic:
        assert any("DOUBLE" in problem for problem in problems)
    else:
        assert problems == []


def graph_of(signature: str, body: str, *, opset: int = 18, **constants: Any) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in constants.items())
    return model


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (graph_of("(float[N,3] x) => (float[N,3] y)", "y = Hardmax(x)"), "Hardmax 'y': not in the table"),
        (graph_of("(double[N,3] x) => (double[N,3] y)", "y = Log(x)"), "Log 'y': input is DOUBLE, supported are FP32"),
        (
            graph_of("(uint8[N,8,8,3] x) => (uint8[N,3,8,8] y)", "y = Transpose<perm=[0,3,1,2]>(x)"),
            "Transpose 'y': data is UINT8",
        ),
        (
            graph_of("(float[N,3] x, int64[1] a) => (float[N,1] y)", "y = ReduceSum(x, a)"),
            "ReduceSum 'y': axes must be an initializer",
        ),
        (
            graph_of("(float[N,9] x) => (float[N,3] y, int64[N,3] i)", "y, i = TopK<sorted=0>(x, k)", k=[3]),
            "TopK 'y': sorted must be of 1",
        ),
        (
            graph_of("(float[N,9999] x) => (float[N,3840] y, int64[N,3840] i)", "y, i = TopK(x, k)", k=[3840]),
            "TopK 'y': K must be below 3840",
        ),
        (
            graph_of(
                "(float[N,3,8,8] x) => (float[N,3,7,7] y, int64[N,3,7,7] i)", "y, i = MaxPool<kernel_shape=[2,2]>(x)"
            ),
            "MaxPool 'y': output Indices is not supported",
        ),
        (
            graph_of("(float[N,3] x) => (float[N,3] y)", "y = Relu(x)", opset=21),
            "opset 21: supported are 9 to 20",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_the_table_names_what_it_does_not_have(model: onnx.ModelProto, problem: str) -> None:
    found = unsupported_operators(model)
    assert found
    assert found[0].startswith(problem)


def test_the_table_speaks_onnxs_language() -> None:
    for name, rule in RULES.items():
        schema = onnx.defs.get_schema(name, TABLE["opsets"][1])
        inputs, outputs = ({formal.name for formal in part} for part in (schema.inputs, schema.outputs))
        assert {*rule.constant, *rule.below} <= inputs
        assert {*rule.unused} <= outputs
        assert rule.attributes.keys() <= schema.attributes.keys()
        assert {*rule.types} <= {"FP32", "FP16", "BF16", "INT32", "INT64", "UINT8", "BOOL"}


@pytest.mark.parametrize("tf32", [False, True])
def test_polygraphy_takes_what_the_builder_is_told(tmp_path: Path, tf32: bool) -> None:
    trt = pytest.importorskip("polygraphy.backend.trt", reason="polygraphy is not installed")
    graph = (write_tiny_model(tmp_path) / GRAPH_NAME).read_bytes()
    cache = str(tmp_path / "timing.cache")
    network = parsed_network(graph)
    assert network.strongly_typed
    config = builder_config(graph, batches=(1, 4, 64), tf32=tf32, timing_cache=cache)
    (profile,) = config.profiles
    assert [*profile["image"]] == [(batch, *SHAPE) for batch in (1, 4, 64)]
    assert (config.tf32, config.fp16, config.bf16, config.int8, config.fp8) == (tf32, False, False, False, False)
    assert config.timing_cache_path == cache
    inspect.signature(trt.EngineBytesFromNetwork).bind(network, config, save_timing_cache=cache)
    inspect.signature(trt.PostprocessConfig).bind(config, print)
    inspect.signature(trt.engine_from_bytes).bind(b"plan")
    inspect.signature(trt.TrtRunner).bind("engine")
    inspect.signature(trt.TrtRunner.infer).bind("runner", {"image": random_images(1)})


def test_what_tensorrt_refuses_is_told_in_its_own_words() -> None:
    """polygraphy's exception says only that the parser failed; why, TensorRT says to polygraphy's log."""
    logger = pytest.importorskip("polygraphy.logger", reason="polygraphy is not installed").G_LOGGER
    logger.error("In node 9 with name: y and operator: Hardmax: an error of an earlier graph")

    def parse() -> None:
        logger.error("In node 3 with name: y and operator: Einsum (UNSUPPORTED_NODE)")
        logger.critical("Could not parse ONNX correctly")

    with pytest.raises(TensorRTError) as refused, tensorrt_errors_explained("graph"):
        parse()
    assert str(refused.value) == (
        "graph: TensorRT refuses it: In node 3 with name: y and operator: Einsum (UNSUPPORTED_NODE); "
        "Could not parse ONNX correctly"
    )


def test_a_tensorrt_that_cannot_keep_nan_is_refused() -> None:
    """The flags of 10.3 and of 11.4, as their bindings have them."""
    old = SimpleNamespace(__version__="10.3.0", BuilderFlag=SimpleNamespace(TF32="TF32"))
    with pytest.raises(TensorRTError, match=r"expected 10\.6 or later, .* STRICT_NANS, found 10\.3\.0"):
        nan_flag(old)
    new = SimpleNamespace(__version__="11.4.0", BuilderFlag=SimpleNamespace(TF32="TF32", STRICT_NANS="STRICT_NANS"))
    assert nan_flag(new) == "STRICT_NANS"


@without_tensorrt
def test_without_tensorrt_it_is_said_what_to_install(tmp_path: Path) -> None:
    graph = (write_tiny_model(tmp_path) / GRAPH_NAME).read_bytes()
    message = (
        r"found no tensorrt\. .* NVIDIA GPU .*pip install 'heatserve\[tensorrt\]' tensorrt==VERSION.*tritonserver:"
    )
    with pytest.raises(TensorRTError, match=message):
        build_plan(graph, batches=TENSORRT_BATCHES, tf32=False, timing_cache=None)
    with pytest.raises(TensorRTError, match=message):
        open_plan(b"plan", PLAN)


@without_tensorrt
def test_a_plan_that_cannot_be_built_is_refused_before_the_work(tmp_path: Path) -> None:
    options = ["--name", "x", "--repository", str(tmp_path / "models")]
    for wanted, message in (
        (["--backend", "tensorrt"], "found no tensorrt"),
        (["--tf32"], "tf32: expected the backend tensorrt"),
    ):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "absent.safetensors"), *options, *wanted])
        assert message in str(result.exception)
    assert not (tmp_path / "models").exists()


PLAN = Plan(sha256="0" * 64, tensorrt="10.8.0", gpu="NVIDIA Some GPU", tf32=False, batches=TENSORRT_BATCHES)


def with_plan(repository: Path) -> ModelVersion:
    """A model whose card names a plan: some bytes, since no GPU is here to build one."""
    version_dir = write_tiny_model(repository)
    (version_dir / PLAN_NAME).write_bytes(b"what TensorRT made of the graph")
    plan = PLAN.model_copy(update={"sha256": sha256_of(version_dir / PLAN_NAME)})
    card = read_card(version_dir).model_copy(update={"plan": plan})
    card.write(version_dir)
    write_model_config(repository, card)
    return open_model(repository, "tiny")


def with_accelerator(repository: Path, accelerator: str = "tensorrt") -> ModelVersion:
    version_dir = write_tiny_model(repository)
    card = read_card(version_dir).model_copy(update={"accelerator": accelerator})
    card.write(version_dir)
    write_model_config(repository, card)
    return open_model(repository, "tiny")


def config_of(model: ModelVersion) -> Any:
    return text_format.Parse((model.path.parent / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_plan_is_configured_for_tritons_tensorrt_backend(tmp_path: Path) -> None:
    config = config_of(with_plan(tmp_path))
    assert (config.backend, config.max_batch_size) == ("tensorrt", TENSORRT_BATCHES[-1])
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    outputs = {output.name: output for output in config.output}
    for name in ("label", "top_k"):
        assert outputs[name].data_type == pb.TYPE_INT64
    for name in ("label", "certified_radius", "l_bound", "nominal_radius"):  # as the backend itself states [N]
        assert (list(outputs[name].dims), outputs[name].HasField("reshape")) == ([1], True)
        assert list(outputs[name].reshape.shape) == []


def test_the_tensorrt_provider_is_a_setting_of_the_onnxruntime_backend(tmp_path: Path) -> None:
    config = config_of(with_accelerator(tmp_path))
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (config.backend, accelerator.name) == ("onnxruntime", "tensorrt")
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert dict(accelerator.parameters) == {
        "trt_profile_min_shapes": "image:1x1x8x8",
        "trt_profile_opt_shapes": "image:8x1x8x8",
        "trt_profile_max_shapes": "image:64x1x8x8",
        "trt_timing_cache_enable": "true",
    }


def test_a_plan_that_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    model = with_plan(tmp_path)
    again = republish(model, tmp_path / "other", "again")
    assert (again.path / PLAN_NAME).read_bytes() == (model.path / PLAN_NAME).read_bytes()
    (model.path / PLAN_NAME).write_bytes(b"another plan")
    with pytest.raises(CardError, match=r"model\.plan: expected sha256 .* found another file"):
        open_served(model)
    with pytest.raises(CardError, match=r"model\.plan: the card belongs to another graph: expected sha256"):
        open_model(tmp_path, "tiny")
    (model.path / PLAN_NAME).unlink()
    with pytest.raises(CardError, match=r"model\.plan: .* is missing"):
        open_model(tmp_path, "tiny")


@without_tensorrt
def test_a_plan_is_never_calibrated_by_its_graph(tmp_path: Path) -> None:
    images = LabelledImages(random_images(60), np.zeros(60, np.int64), "noise", "test", 0)
    settings = MonteCarlo(n0=1, n=10, alpha=0.1, seed=0)
    with pytest.raises(TensorRTError, match="found no tensorrt"):
        calibrate_model(with_plan(tmp_path), images, images, alpha=0.1, delta=0.1, certifier=Certifier(settings))


@pytest.mark.skipif(
    "TensorrtExecutionProvider" in onnxruntime.get_available_providers(), reason="ONNX Runtime has TensorRT here"
)
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(
    ("accelerator", "provider"), [("tensorrt", "TensorrtExecutionProvider"), ("cuda", "CUDAExecutionProvider")]
)
def test_a_provider_is_never_stood_in_for(tmp_path: Path, accelerator: str, provider: str) -> None:
    with pytest.raises(GraphError, match=rf"{provider}: expected .* found one of .*CPUExecutionProvider"):
        open_served(with_accelerator(tmp_path, accelerator))


def test_what_was_calibrated_on_a_cpu_is_served_on_a_cpu(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    config = config_of(open_model(tmp_path, "tiny"))
    assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
    on_gpu = config_of(with_accelerator(tmp_path / "gpu", "cuda"))
    assert [group.kind for group in on_gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    assert not on_gpu.optimization.HasField("execution_accelerators")


@pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
@pytest.mark.parametrize(
    ("write", "needs"),
    [
        (with_plan, r"`tensorrt` \(TensorRT 10\.8\.0, for a plan built on NVIDIA Some GPU\)"),
        (with_accelerator, "provider"),
    ],
)
def test_a_triton_that_cannot_run_what_was_calibrated_does_not_serve_it(tmp_path: Path, write: Any, needs: str) -> None:
    if find_triton().has_native_onnxruntime:
        pytest.skip("this is NVIDIA's Triton")
    write(tmp_path)
    server = TritonServer(tmp_path, endpoints=FREE_PORTS)
    with pytest.raises(ServingError, match=rf"tiny: expected a Triton with .*{needs}.* found .*--backend auto"):
        server.__enter__()
