"""`config.pbtxt`: what an exported model starts with, and what of it is whose when the next version is published."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import SHAPE, random_images, write_tiny_model
from tritonclient.grpc import model_config_pb2 as pb

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import GRAPH_NAME, Card, read_card
from heatserve.export.repository.layout import CONFIG_NAME, open_model, served_config, write_model_config
from heatserve.export.repository.publishing import publish, republish
from heatserve.export.repository.settings import THREADS, WARM_UP_PATH, read_config, write_config


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path)


def config_path(version_dir: Path) -> Path:
    return version_dir.parent / CONFIG_NAME


def test_a_disk_without_room_for_a_version_leaves_the_repository_as_it_was(tmp_path: Path) -> None:
    model = open_model(tmp_path, write_tiny_model(tmp_path).parent.name)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    uncalibrated = model.card.model_copy(update={"calibration": None})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        for repository, card in ((tmp_path, uncalibrated), (tmp_path / "new", uncalibrated)):
            with pytest.raises(OSError, match=r"File too large: '.*model\.onnx'"):
                publish(repository, card, graph=(model.path / GRAPH_NAME).read_bytes(), base=b"")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before
    assert not list((tmp_path / "new").iterdir())


def publish_again(version_dir: Path, card: Card | None = None) -> pb.ModelConfig:
    write_model_config(version_dir.parents[1], card or read_card(version_dir))
    return read_config(config_path(version_dir))


def black(config: pb.ModelConfig) -> bool:
    (sample,) = config.model_warmup
    return bool(sample.inputs["image"].zero_data)


def test_an_exported_model_says_how_it_is_run(version_dir: Path) -> None:
    config = read_config(config_path(version_dir))
    assert not config.dynamic_batching.HasField("default_queue_policy"), "with any, Triton loses wake-ups"
    assert list(config.dynamic_batching.preferred_batch_size) == [config.max_batch_size]
    assert config.version_policy.latest.num_versions == 1
    assert config.HasField("response_cache")
    assert not config.response_cache.enable
    assert [group.count for group in config.instance_group] == [1]
    assert config.parameters[THREADS].string_value == "0"
    assert black(config)


def test_the_operators_settings_stay_and_the_models_are_replaced(version_dir: Path) -> None:
    exported = read_config(config_path(version_dir))
    edited = pb.ModelConfig()
    edited.CopyFrom(exported)
    edited.instance_group[0].count = 3
    edited.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
    edited.dynamic_batching.max_queue_delay_microseconds = 700
    edited.dynamic_batching.default_queue_policy.max_queue_size = 5
    edited.parameters[THREADS].string_value = "2"
    edited.parameters["theirs"].string_value = "kept"
    edited.optimization.graph.level = 1
    settings = pb.ModelConfig()
    settings.CopyFrom(edited)
    edited.name = "another"
    edited.max_batch_size = 8
    edited.parameters["max_batch_size"].string_value = "8"
    edited.input[0].dims[0] = 3
    edited.output.add(name="more", data_type=pb.TYPE_FP32, dims=[1])
    write_config(config_path(version_dir), edited)
    assert publish_again(version_dir) == settings


def test_settings_of_another_backend_are_not_kept(version_dir: Path) -> None:
    exported = read_config(config_path(version_dir))
    edited = pb.ModelConfig()
    edited.CopyFrom(exported)
    edited.backend = "tensorrt"
    edited.instance_group[0].count = 3
    write_config(config_path(version_dir), edited)
    assert publish_again(version_dir) == exported


def test_a_configuration_that_is_none_is_named_and_left_alone(version_dir: Path) -> None:
    path = config_path(version_dir)
    path.write_text(path.read_text() + "instance_grup { count: 2 }\n")
    before = path.read_bytes()
    with pytest.raises(
        HeatserveError, match=r"tiny/config\.pbtxt: expected a model configuration .*\d+:1 .*instance_grup"
    ):
        publish_again(version_dir)
    assert path.read_bytes() == before


def test_the_warm_up_image_is_used_where_it_fits(version_dir: Path) -> None:
    image = version_dir.parent / WARM_UP_PATH
    image.parent.mkdir()
    image.write_bytes(random_images(1).tobytes())
    config = publish_again(version_dir)
    (sample,) = config.model_warmup
    assert sample.inputs["image"].input_data_file == image.name
    assert list(sample.inputs["image"].dims) == list(SHAPE)
    image.write_bytes(random_images(1).tobytes()[:-4])
    assert black(publish_again(version_dir))


def test_the_operators_warm_up_stays_while_it_fits(version_dir: Path) -> None:
    config = read_config(config_path(version_dir))
    theirs = config.model_warmup.add(name="theirs", batch_size=8)
    theirs.inputs["image"].CopyFrom(config.model_warmup[0].inputs["image"])
    write_config(config_path(version_dir), config)
    assert {sample.name for sample in publish_again(version_dir).model_warmup} == {"one image", "theirs"}
    wider = read_card(version_dir).model_copy(update={"input_shape": (1, 8, 9)})
    (sample,) = publish_again(version_dir, wider).model_warmup
    assert (sample.name, list(sample.inputs["image"].dims)) == ("one image", [1, 8, 9])


def test_a_model_under_another_name_takes_its_warm_up_image_along(version_dir: Path, tmp_path: Path) -> None:
    image = version_dir.parent / WARM_UP_PATH
    image.parent.mkdir()
    image.write_bytes(random_images(1).tobytes())
    copy = republish(open_model(tmp_path, "tiny"), tmp_path / "elsewhere", "copy")
    assert (copy.path.parent / WARM_UP_PATH).read_bytes() == image.read_bytes()
    assert not black(read_config(copy.path.parent / CONFIG_NAME))


def run_env(config: pb.ModelConfig) -> None:
    config.parameters["EXECUTION_ENV_PATH"].string_value = "$$TRITON_MODEL_DIRECTORY/environment"


def another_graph(config: pb.ModelConfig) -> None:
    config.default_model_filename = "base.onnx"


def a_library(config: pb.ModelConfig) -> None:
    config.model_operations.op_library_filename.append("operations.so")


def an_agent(config: pb.ModelConfig) -> None:
    config.model_repository_agents.agents.add(name="theirs")


def a_runtime(config: pb.ModelConfig) -> None:
    config.runtime = "libtriton_theirs.so"


def an_image_outside(config: pb.ModelConfig) -> None:
    config.model_warmup[0].inputs["image"].input_data_file = "../1/model.onnx"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (run_env, "the parameter EXECUTION_ENV_PATH"),
        (another_graph, "default_model_filename"),
        (a_library, "model_operations"),
        (an_agent, "model_repository_agents"),
        (a_runtime, "runtime"),
        (an_image_outside, "the image ../1/model.onnx outside warmup/"),
    ],
)
def test_settings_that_load_or_run_something_else_are_not_served(
    version_dir: Path, change: Callable[[pb.ModelConfig], None], named: str
) -> None:
    path = config_path(version_dir)
    config = read_config(path)
    change(config)
    write_config(path, config)
    with pytest.raises(HeatserveError) as caught:
        served_config(open_model(path.parents[1], "tiny"))
    assert str(caught.value) == f"{path}: expected settings of how the model is run, found {named}; remove it"


def test_a_warm_up_image_that_is_a_link_to_elsewhere_is_not_served(version_dir: Path) -> None:
    image = version_dir.parent / WARM_UP_PATH
    image.parent.mkdir()
    image.write_bytes(random_images(1).tobytes())
    publish_again(version_dir)
    assert served_config(open_model(version_dir.parents[1], "tiny")).model_warmup
    image.rename(version_dir.parents[1] / "elsewhere")
    image.symlink_to(version_dir.parents[1] / "elsewhere")
    with pytest.raises(HeatserveError, match="found the image image outside warmup/"):
        served_config(open_model(version_dir.parents[1], "tiny"))


def test_settings_of_how_the_model_is_run_are_served(version_dir: Path) -> None:
    path = config_path(version_dir)
    config = read_config(path)
    config.version_policy.all.SetInParent()
    config.instance_group[0].count = 2
    config.optimization.graph.level = 1
    config.parameters["theirs"].string_value = "kept"
    config.metric_tags["team"] = "vision"
    config.dynamic_batching.max_queue_delay_microseconds = 700
    write_config(path, config)
    assert served_config(open_model(path.parents[1], "tiny")) == config


@pytest.mark.parametrize(
    ("field", "parameters", "message"),
    [
        (1000, {"max_batch_size": "1000"}, "the same max_batch_size from 1 to 64 .*, found 1000 and '1000'"),
        (64, {"max_batch_size": "1000"}, "the same max_batch_size from 1 to 64 .*, found 64 and '1000'"),
        (0, {"max_batch_size": "0"}, "the same max_batch_size from 1 to 64 .*, found 0 and '0'"),
        (64, {THREADS: "many"}, f"a number of threads as the parameter {THREADS}, found 'many'"),
        (64, {THREADS: "-3"}, f"a number of threads as the parameter {THREADS}, found '-3'"),
        (8, {"max_batch_size": "8", THREADS: "2"}, None),
    ],
)
def test_numbers_that_are_none_or_too_large_are_refused(
    version_dir: Path, field: int, parameters: dict[str, str], message: str | None
) -> None:
    """Shared memory is sized for the largest batch, so a larger one would fail in Triton's words."""
    path = config_path(version_dir)
    config = read_config(path)
    config.max_batch_size = field
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    write_config(path, config)
    model = open_model(version_dir.parents[1], "tiny")
    if message is None:
        assert served_config(model) == config
    else:
        with pytest.raises(HeatserveError, match=rf"^{re.escape(str(path))}: expected {message}$"):
            served_config(model)
