"""Somebody's ONNX classifier in our form: what it may look like, and that it answers as the file does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from heatserve.certification.errors import HeatserveError
from heatserve.export.graph.build import IR_VERSION, OPSET, certified_graph
from heatserve.export.graph.imported.errors import OnnxFileError
from heatserve.export.graph.imported.normal_form import NormalForm, normal_form
from heatserve.export.graph.imported.pixels import Preprocessing
from heatserve.export.runtime.session import classifier, open_session
from heatserve.training.architectures import build_network

GREY = (1, 8, 8)
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(64, 3)).astype(np.float32)
IMAGES = RANDOM.random((5, *GREY), dtype=np.float32)


def saved(folder: Path, text: str, *, opset: int = OPSET, ir: int = 8, **constants: NDArray[Any]) -> Path:
    """A model in ONNX's text format, with constants, as a file."""
    imports = f'"" : {opset}, "ai.onnx.ml" : 3'
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\n{text}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    path = folder / "theirs.onnx"
    onnx.save(model, path)
    return path


def answers(form: NormalForm, images: NDArray[np.float32]) -> NDArray[Any]:
    """Probabilities of the logits graph, [N, K]."""
    logits = classifier(open_session(form.logits.SerializeToString()))(images)
    powers = np.exp(np.asarray(logits, np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def linear(images: NDArray[np.float32]) -> NDArray[Any]:
    """Probabilities of the linear classifier with `WEIGHTS`, [N, 3]."""
    powers = np.exp(images.reshape(len(images), -1).astype(np.float64) @ WEIGHTS)
    return np.asarray(powers / powers.sum(1, keepdims=True))


def test_an_old_file_of_another_layout_and_one_batch_with_names_of_ours_and_softmax(tmp_path: Path) -> None:
    """As tf2onnx and old exporters write: NHWC, constants among the inputs, opset 11, a Reshape to a fixed batch."""
    path = saved(
        tmp_path,
        """theirs (float[1,8,8,1] logits, float[64,3] image, int64[2] pixels) => (float[1,3] label) {
            levels = Transpose<perm = [0, 3, 1, 2]>(logits)
            rows = Reshape(levels, pixels)
            softmax = MatMul(rows, image)
            label = Softmax<axis = 1>(softmax)
        }""",
        opset=11,
        ir=3,
        image=WEIGHTS,
        pixels=np.array([1, -1]),
    )
    form = normal_form(path, Preprocessing())
    assert (form.input_shape, form.classes, form.labels) == (GREY, 3, None)
    assert form.taken == "'logits': FLOAT [1, 8, 8, 1], white is 1"
    assert form.scores == "'label': the logits before its Softmax, which is removed"
    assert form.error < 1e-6
    np.testing.assert_allclose(answers(form, IMAGES), linear(IMAGES), atol=1e-6)
    assert "Softmax" not in {node.op_type for node in form.logits.graph.node}
    versions = [(opset.domain, opset.version) for opset in form.logits.opset_import]
    assert (form.logits.ir_version, versions) == (IR_VERSION, [("", OPSET)])
    certified_graph(form.logits, sigma=0.25)


def test_8_bit_pixels_with_blue_first_and_statistics_of_caffe(tmp_path: Path) -> None:
    weights = RANDOM.normal(size=(3 * 16, 4), scale=0.01).astype(np.float32)
    path = saved(
        tmp_path,
        """theirs (float[N,4,4,3] data) => (float[N,4] prob) {
            flat = Flatten(data)
            scores = MatMul(flat, weights)
            prob = LogSoftmax(scores)
        }""",
        weights=weights,
    )
    mean, std = (103.939, 116.779, 123.68), (57.375, 57.12, 58.395)
    form = normal_form(path, Preprocessing(white=255, mean=mean, std=std, bgr=True))
    images = RANDOM.integers(0, 256, (5, 3, 4, 4)).astype(np.float32) / np.float32(255)
    bgr = (images[:, ::-1] * 255.0).transpose(0, 2, 3, 1)
    scores = ((bgr - mean) / std).reshape(5, -1) @ weights
    np.testing.assert_allclose(answers(form, images), np.exp(scores) / np.exp(scores).sum(1, keepdims=True), atol=1e-6)


def test_levels_of_8_bits_of_any_image_and_its_noise(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """theirs (uint8[1,8,8,1] pic) => (float[1,3] scores) {
            pixels = Cast<to = 1>(pic)
            scaled = Div(pixels, white)
            flat = Reshape(scaled, shape)
            scores = MatMul(flat, weights)
        }""",
        weights=WEIGHTS,
        white=np.float32(255).reshape(()),
        shape=np.array([1, 64]),
    )
    form = normal_form(path, Preprocessing())
    assert form.taken == "'pic': UINT8 [1, 8, 8, 1], white is 255"
    noisy = (IMAGES + RANDOM.normal(size=IMAGES.shape)).astype(np.float32)
    rounded = np.rint(noisy * 255).clip(0, 255) / 255
    np.testing.assert_allclose(answers(form, noisy), linear(rounded.astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64])
def test_other_types_of_grey_images_without_an_axis_for_channels(tmp_path: Path, element: int) -> None:
    """As Keras' first example takes them: [N, 8, 8]."""
    kind = {TensorProto.DOUBLE: "double", TensorProto.FLOAT16: "float16", TensorProto.INT64: "int64"}[element]  # type: ignore[index]
    within = "float16" if element == TensorProto.FLOAT16 else "double"
    path = saved(
        tmp_path,
        f"""theirs ({kind}[N,8,8] x) => ({within}[N,3] y) {{
            flat = Flatten(x)
            given = Cast<to = {TensorProto.FLOAT16 if within == "float16" else TensorProto.DOUBLE}>(flat)
            scores = MatMul(given, weights)
            y = Softmax(scores)
        }}""",
        weights=(WEIGHTS / 16).astype(
            helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT16 if within == "float16" else TensorProto.DOUBLE)
        ),
    )
    form = normal_form(path, Preprocessing(white=16))
    sixteen = np.rint(IMAGES * 16).astype(np.float32) / 16
    np.testing.assert_allclose(answers(form, sixteen), linear(sixteen), atol=1e-2 if within == "float16" else 1e-6)


def test_two_classes_told_apart_by_one_number(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """theirs (float[N,64] x) => (float[N,1] y) {
            score = MatMul(x, weights)
            y = Sigmoid(score)
        }""",
        weights=WEIGHTS[:, :1],
    )
    form = normal_form(path, Preprocessing(input_shape=GREY))
    assert form.classes == 2
    second = 1 / (1 + np.exp(-IMAGES.reshape(5, 64).astype(np.float64) @ WEIGHTS[:, 0]))
    np.testing.assert_allclose(answers(form, IMAGES)[:, 1], second, atol=1e-6)


def test_probabilities_of_which_some_are_0_have_a_logarithm(tmp_path: Path) -> None:
    """Such as the shares of a forest's trees."""
    path = saved(
        tmp_path,
        """theirs (float[N,64] x) => (float[N,3,1,1] y) {
            brightness = ReduceMean<keepdims = 1>(x, axis)
            share = Clip(brightness, zero, one)
            rest = Sub(one, share)
            nothing = Mul(share, zero)
            shares = Concat<axis = 1>(share, nothing, rest)
            y = Unsqueeze(shares, axes)
        }""",
        axis=np.array([1]),
        axes=np.array([2, 3]),
        zero=np.float32(0).reshape(()),
        one=np.float32(1).reshape(()),
    )
    form = normal_form(path, Preprocessing(input_shape=GREY))
    assert form.scores.startswith("'y': probabilities, whose logarithm is taken, below 1.18e-38")
    share = IMAGES.reshape(5, 64).mean(1)
    np.testing.assert_allclose(answers(form, IMAGES), np.stack([share, 0 * share, 1 - share], 1), atol=1e-6)


def test_functions_and_newer_operators_are_written_out_and_external_data_is_taken_in(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """theirs (float[N,1,8,8] x) => (float[N,3] y) {
            flat = Flatten(x)
            size = Shape(flat)
            zeros = ConstantOfShape(size)
            same = Add(flat, zeros)
            y = theirs.layer(same, weights)
        }
        <domain: "theirs", opset_import: ["" : 20]>
        layer (x, w) => (y) {
            raised = Gelu(x)
            y = MatMul(raised, w)
        }""",
        opset=20,
        weights=WEIGHTS,
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    (tmp_path / "data").mkdir()
    onnx.save(model, path, save_as_external_data=True, location="data/weights.bin", size_threshold=0)
    form = normal_form(path, Preprocessing())
    raised = torch.nn.functional.gelu(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(answers(form, IMAGES), linear(raised), atol=1e-6)
    assert not form.logits.functions


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's exporters, about themselves
@pytest.mark.parametrize(("dynamo", "opset", "batch"), [(False, 11, 1), (True, 20, 2)])
def test_a_residual_network_of_either_exporter_of_torch_for_one_size_of_batch(
    tmp_path: Path, dynamo: bool, opset: int, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build_network("cifar_resnet20", num_classes=4, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)
    path, example = tmp_path / "theirs.onnx", torch.zeros(batch, 3, 32, 32)
    torch.onnx.export(network.eval(), (example,), path, dynamo=dynamo, opset_version=opset, verbose=False)
    capsys.readouterr()
    form = normal_form(path, Preprocessing())
    images = np.random.default_rng(1).random((5, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).softmax(1).numpy()
    np.testing.assert_allclose(answers(form, images), expected, atol=1e-5)
    assert all(not node.doc_string and not node.metadata_props for node in form.logits.graph.node)


Change = Callable[[onnx.ModelProto], object]
PLAIN = """theirs (float[N,1,8,8] x) => (float[N,3] y) {
    flat = Flatten(x)
    y = MatMul(flat, weights)
}"""


def with_node(kind: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> Change:
    """A node `odd` before the others, whose output nothing needs."""
    node = helper.make_node(kind, inputs, ["z"], "odd", domain=domain, **attributes)
    return lambda model: model.graph.node.insert(0, node)


def external(location: str, **fields: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


def weights_of(value: NDArray[Any]) -> Change:
    return lambda model: model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "weights"))


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


BODY = helper.make_graph([], "body", [], [])
NAN = np.full((64, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_node("FusedMatMul", ["x", "x"], domain="com.microsoft"),
            r"node 'odd' \(com.microsoft.FusedMatMul\)",
        ),
        (with_node("If", ["x"], then_branch=BODY), r"node 'odd' \(If\): expected a network without branches"),
        (
            with_node("RandomNormal", [], shape=[1]),
            r"\(RandomNormal\): expected the same answer to the same image",
        ),
        (with_node("BatchNormalization", ["x"] * 5, training_mode=1), "found one in training mode"),
        (with_node("Relu", ["nowhere"]), "not a valid model: .*nowhere"),
        (
            with_node("Constant", [], value_floats=[np.nan]),
            r"node 'odd' \(Constant\): expected numbers, found NaN",
        ),
        (weights_of(NAN), "tensor 'weights': expected numbers, found NaN"),
        (
            weights_of(np.zeros((60, 3), np.float32)),
            "cannot run it: .*node 'y' .MatMul.|types or shapes do not fit|cannot run",
        ),
        (lambda m: m.graph.initializer[0].dims.insert(0, 2**40), "tensor 'weights': not a tensor as its shape says"),
        (
            lambda m: setattr(m.graph.initializer[0], "data_type", 75),
            "tensor 'weights': not a tensor as its shape says",
        ),
        (external("../weights.bin"), "expected a path within the model's folder, got '../weights.bin'"),
        (external("/etc/passwd"), "expected a path within the model's folder, got '/etc/passwd'"),
        (external("link.bin"), "expected no symbolic link, got 'link.bin'"),
        (external("link/weights.bin"), "expected no symbolic link"),
        (external("short.bin", length=768), "expected external data within short.bin, .* got 768 from 0"),
        (external("short.bin", offset=-8), "expected external data within short.bin"),
        (external("absent.bin"), "expected the file 'absent.bin' beside the model, found none"),
        (
            lambda m: m.graph.input.add(name="more", type=m.graph.input[0].type),
            "expected one input, the image, and all else in the file, got 'x', 'more'",
        ),
        (lambda m: m.graph.ClearField("output"), "expected an output of logits or probabilities"),
        (renamed_output, "a file that answers with classes alone has none"),
        (lambda m: m.opset_import[0].MergeFrom(helper.make_opsetid("", 999)), "expected an opset from 1 to .* got 999"),
        (lambda m: m.graph.sparse_initializer.add(), "expected dense weights, found sparse"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change: Change, message: str) -> None:
    path = saved(tmp_path, PLAIN, weights=WEIGHTS)
    (tmp_path / "short.bin").write_bytes(b"short")
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    (tmp_path / "link").symlink_to(tmp_path)
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=message):
        normal_form(path, Preprocessing())


def test_functions_that_call_themselves_or_that_double_at_each_call_are_refused(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path, PLAIN, weights=WEIGHTS))
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("theirs", 1)]
    model.graph.node.append(helper.make_node("f0", ["y"], ["z"], domain="theirs"))
    calls = [(f"f{depth}", f"f{depth + 1}") for depth in range(30)]
    for more, message in [
        ([("f30", "f0")], "calls without an end"),
        ([("f30", "Relu")], "expected at most 100000 nodes"),
    ]:
        del model.functions[:]
        for name, called in [*calls, *more]:
            domain = "theirs" if called.startswith("f") else ""
            nodes = [
                helper.make_node(called, ["a"], ["b"], domain=domain),
                helper.make_node(called, ["b"], ["c"], domain=domain),
            ]
            model.functions.append(helper.make_function("theirs", name, ["a"], ["c"], nodes, imports))
        (tmp_path / "calls.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(OnnxFileError, match=message):
            normal_form(tmp_path / "calls.onnx", Preprocessing())


def test_functions_whose_constants_fill_the_memory_when_they_are_written_out_are_refused(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path, PLAIN, weights=WEIGHTS))
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("theirs", 1)]
    model.opset_import.append(imports[1])
    table = numpy_helper.from_array(np.zeros(20_000, np.float32))
    nodes = [helper.make_node("Constant", [], ["t"], value=table), helper.make_node("Identity", ["a"], ["b"])]
    model.functions.append(helper.make_function("theirs", "once", ["a"], ["b"], nodes, imports))
    often = [helper.make_node("once", ["a"], ["b"], domain="theirs")] * 1000
    model.functions.append(helper.make_function("theirs", "often", ["a"], ["b"], often, imports))
    model.graph.node.extend(helper.make_node("often", ["y"], [f"z{i}"], domain="theirs") for i in range(49))
    (tmp_path / "calls.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        OnnxFileError, match=r"nodes of at most 2147483647 bytes, with those of functions .* got 3\d{9}"
    ):
        normal_form(tmp_path / "calls.onnx", Preprocessing())


@pytest.mark.parametrize("as_zip", [True, False])
def test_who_gives_what_torch_saved_learns_which_command_takes_it(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(OnnxFileError, match=r"not an ONNX file, torch.save wrote it: .*`heatserve import-weights`"):
        normal_form(path, Preprocessing())


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x08" * 9, b"\x0a\xff\xff\xff\x7f"])
def test_what_is_no_onnx_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"x.onnx: (truncated or not an ONNX file|expected an ONNX model)"):
        normal_form(path, Preprocessing())
    with pytest.raises(OnnxFileError, match="expected an ONNX file, found"):
        normal_form(tmp_path, Preprocessing())


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ("float[N,64] x", {}, "expected the shape C,H,W of an image"),
        ("float[N,64] x", {"input_shape": (1, 8, 9)}, r"expected images of a shape that fits \[64\], got \(1, 8, 9\)"),
        ("float[N,3,8,3] x", {}, "expected the layout .* of .3, 8, 3."),
        ("float[N,C,H,W] x", {}, "expected the layout|expected images of a shape"),
        ("float[N,1,8,8] x", {"input_shape": (3, 8, 8)}, "expected images of a shape that fits"),
        ("float[N,1,8,8] x", {"mean": (120.0,)}, "mean: expected at most 1, which is white, got 120; .* --white 255"),
        ("float[N,1,8,8] x", {"mean": (0.1, 0.2)}, "mean: expected one number or 1, one a channel, got 2"),
        ("float[N,1,8,8] x", {"bgr": True}, "expected three channels"),
        ("int64[N,1,8,8] x", {}, "expected the number that stands for white"),
        ("string[N,1,8,8] x", {}, "expected a tensor of FLOAT.* got STRING"),
        ("float[8] x", {}, "expected a tensor of .* with 2, 3 or 4 axes, got FLOAT"),
    ],
)
def test_what_the_file_does_not_say_is_asked_for(
    tmp_path: Path, shape: str, given: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path, f"theirs ({shape}) => (float[N,3] y) {{ y = Cast<to = 1>(x) }}")
    with pytest.raises(OnnxFileError, match=message):
        normal_form(path, Preprocessing(**given))


@pytest.mark.parametrize(
    "given", [{"white": 0}, {"std": (0.0,)}, {"mean": (float("nan"),)}, {"input_shape": (1, 0, 8)}]
)
def test_numbers_that_no_preprocessing_has_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(HeatserveError, match="expected"):
        Preprocessing(**given)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("s = MatMul(f, weights) y = Sigmoid(s)", "expected exclusive classes, whose probabilities sum to 1"),
        ("s = MatMul(f, weights) y = Slice(s, a, b, b)", "expected scores of at least two classes, got one"),
        ("s = MatMul(f, weights) y = Div(s, zero)", "expected numbers for any image, got NaN or infinity"),
        ("s = MatMul(f, weights) y = Softmax<axis = 0>(s)", "expected a softmax over the classes"),
        (
            "s = MatMul(f, weights) m = ReduceMean<keepdims = 1>(s, a) y = Sub(s, m)",
            "must not depend on the other images",
        ),
        (
            "big = Expand(s0, huge) s = MatMul(f, weights) t = ReduceMean<keepdims = 0>(big) y = Add(s, t)",
            "cannot run it",
        ),
    ],
)
def test_networks_that_no_certificate_can_be_about_are_refused(tmp_path: Path, body: str, message: str) -> None:
    constants: dict[str, Any] = {
        "weights": WEIGHTS,
        "a": np.array([0]),
        "b": np.array([1]),
        "zero": np.float32(0).reshape(()),
        "s0": np.float32(1).reshape(()),
        "huge": np.array([2**20, 2**20]),
    }
    path = saved(tmp_path, f"theirs (float[N,1,8,8] x) => (float[N,K] y) {{ f = Flatten(x) {body} }}", **constants)
    with pytest.raises(OnnxFileError, match=message):
        normal_form(path, Preprocessing())


def test_a_network_that_is_made_for_one_image_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """theirs (float[1,1,8,8] x) => (float[1,3] y) {
            f = Flatten(x)
            s = MatMul(f, weights)
            token = Concat<axis = 1>(first, s)
            y = Slice(token, a, b, c)
        }""",
        weights=WEIGHTS,
        first=np.zeros((1, 1), np.float32),
        a=np.array([1]),
        b=np.array([9]),
        c=np.array([1]),
    )
    with pytest.raises(OnnxFileError, match=r"node 'token' \(Concat\).* fixed batch of 1, .*dynamic_axes=\{'x'"):
        normal_form(path, Preprocessing())


def test_one_of_several_outputs_of_scores_is_named(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        """theirs (float[N,1,8,8] x) => (float[N,3] main, float[N,3] aux) {
            f = Flatten(x)
            main = MatMul(f, weights)
            aux = Neg(main)
        }""",
        weights=WEIGHTS,
    )
    with pytest.raises(OnnxFileError, match="expected one output of scores, got 'main', 'aux'; name one with --output"):
        normal_form(path, Preprocessing())
    with pytest.raises(OnnxFileError, match="expected the output 'other', got 'main', 'aux'"):
        normal_form(path, Preprocessing(), output="other")
    np.testing.assert_allclose(
        answers(normal_form(path, Preprocessing(), output="main"), IMAGES), linear(IMAGES), atol=1e-6
    )
