"""The tiers of a model in its repository: what is written, what an operator may set, and what is not served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import SIGMA, take_uint8, with_sigma, write_tiny_model
from tritonclient.grpc import model_config_pb2 as pb

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import BASE_NAME, GRAPH_NAME, Card, CardError
from heatserve.export.exporting import export_checkpoint
from heatserve.export.promise import tier_promise
from heatserve.export.repository.layout import (
    CONFIG_NAME,
    LABELS_NAME,
    ModelVersion,
    check_model_name,
    model_names,
    open_model,
    open_models,
    version_dirs,
    write_model_config,
)
from heatserve.export.repository.publishing import publish, republish
from heatserve.export.repository.settings import WARM_UP_PATH, read_config, write_config
from heatserve.export.repository.tiers import OF_TIER, served_tiers, tier_config, tier_limits, write_tier_configs
from heatserve.export.tiers import (
    TIER_TENSORS,
    TierLimits,
    TierModel,
    limit_names,
    tier_of,
    tier_tensors,
)

COMMITTED = Path(__file__).parents[2] / "model_repository"
KINDS = tuple(TierModel)


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    """A tiny model with all tiers."""
    write_tiny_model(tmp_path)
    opened = open_model(tmp_path, "tiny")
    write_tier_configs(tmp_path, opened.card)
    return opened


def tier_path(model: ModelVersion, kind: TierModel) -> Path:
    return model.path.parents[1] / kind.beside(model.name) / CONFIG_NAME


def change(model: ModelVersion, kind: TierModel, edit: Callable[[pb.ModelConfig], object]) -> Path:
    """Edit the configuration of one tier as an operator would; returns its path."""
    path = tier_path(model, kind)
    config = read_config(path)
    edit(config)
    write_config(path, config)
    return path


def setting(name: str, value: str) -> Callable[[pb.ModelConfig], None]:
    def edit(config: pb.ModelConfig) -> None:
        config.parameters[name].string_value = value

    return edit


def publish_again(model: ModelVersion, card: Card | None = None) -> ModelVersion:
    graph, base = ((model.path / name).read_bytes() for name in (GRAPH_NAME, BASE_NAME))
    return publish(model.path.parents[1], card or model.card, graph=graph, base=base)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_the_committed_configurations_are_what_the_exporter_writes(name: str, tmp_path: Path) -> None:
    committed = open_model(COMMITTED, name)
    folders = [name, *(kind.beside(name) for kind in KINDS)]
    if (warm_up := committed.path.parent / WARM_UP_PATH).is_file():
        (tmp_path / name / WARM_UP_PATH).parent.mkdir(parents=True)
        shutil.copy(warm_up, tmp_path / name / WARM_UP_PATH)
    write_model_config(tmp_path, committed.card)
    write_tier_configs(tmp_path, committed.card)
    files = {path.relative_to(tmp_path) for folder in folders for path in (tmp_path / folder).rglob("*.*")}
    assert files == {Path(folder, CONFIG_NAME) for folder in folders} | {Path(name, LABELS_NAME)}
    assert {file: (COMMITTED / file).read_text() for file in files} == {
        file: (tmp_path / file).read_text() for file in files
    }
    assert set(served_tiers(committed)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tier_answers_what_the_contract_says(model: ModelVersion, kind: TierModel) -> None:
    config = served_tiers(model)[kind]
    assert [output.name for output in config.output] == [tensor.name for tensor in tier_tensors(kind)]
    for output, tensor in zip(config.output, tier_tensors(kind), strict=True):
        assert pb.DataType.Name(output.data_type) == f"TYPE_{tensor.datatype}"
        assert list(output.dims) == ([-1] if tensor.is_list else [1])
    assert config.input[0] == read_config(model.path.parent / CONFIG_NAME).input[0]
    assert config.max_batch_size == (1 if kind is TierModel.CERTIFY_STREAM else 64)
    assert config.model_transaction_policy.decoupled == (kind is TierModel.CERTIFY_STREAM)
    assert not config.HasField("dynamic_batching")
    assert not config.HasField("response_cache")
    assert set(config.parameters) == {*OF_TIER, *limit_names(kind)}
    assert tier_limits(config) == TierLimits()


def test_every_tensor_is_one_of_some_tier() -> None:
    assert {tensor.name for kind in KINDS for tensor in tier_tensors(kind)} == {tensor.name for tensor in TIER_TENSORS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_promise_of_a_tier_is_in_these_words(kind: TierModel) -> None:
    promise = tier_promise(kind, model="digits", sigma=0.25)
    assert (
        "Where the clean image is certifiable at r, an adversary within r can make the system abstain, but never "
        "confirm another class (but for alpha)." in promise
    )
    assert "at most `alpha`, for each image of each request by itself" in promise
    assert "the probability of any wrong confirmation is at most their number times alpha" in promise
    assert "the assumption that noise of float32 numbers does as well as exact noise" in promise
    assert "sigma = 0.25," in promise
    assert "{" not in promise
    assert ("Cohen et al. (2019)" in promise) == (kind is TierModel.CERTIFY)
    assert ("hold together with probability at least 1 - alpha" in promise) == (kind is TierModel.CERTIFY_STREAM)
    assert ("An answer whose `tier` is `one pass` proves nothing" in promise) == (kind is TierModel.CASCADE)


def test_a_tier_takes_images_as_its_model_does(tmp_path: Path) -> None:
    version_dir = write_tiny_model(tmp_path, calibrated=False)
    take_uint8(version_dir, resize=8)
    image = tier_config(open_model(tmp_path, "tiny").card, TierModel.CONFIRM).input[0]
    assert (image.data_type, list(image.dims)) == (pb.TYPE_UINT8, [-1, -1, 1])


def test_a_new_model_has_all_tiers_and_later_versions_those_that_are_left(model: ModelVersion, tmp_path: Path) -> None:
    copy = republish(model, tmp_path / "elsewhere", "copy")
    assert set(served_tiers(copy)) == set(KINDS)
    shutil.rmtree(tier_path(copy, TierModel.CERTIFY).parent)
    tier_path(copy, TierModel.CERTIFY_STREAM).unlink()
    again = publish_again(copy)
    assert again.version == 2
    assert set(served_tiers(again)) == {TierModel.CONFIRM, TierModel.CASCADE}
    assert set(served_tiers(republish(again, tmp_path / "elsewhere", "third"))) == {
        TierModel.CONFIRM,
        TierModel.CASCADE,
    }


def test_a_model_from_before_tiers_gets_none_unasked(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    again = publish_again(open_model(tmp_path, "tiny"))
    assert served_tiers(again) == {}
    write_tier_configs(tmp_path, again.card, [TierModel.CONFIRM])
    assert set(served_tiers(again)) == {TierModel.CONFIRM}


def test_what_the_operator_set_stays_and_the_tier_is_that_of_the_new_card(model: ModelVersion) -> None:
    def operators(config: pb.ModelConfig) -> None:
        config.parameters["most_n"].string_value = "5000"
        config.parameters["sampling"].string_value = "grid"
        config.parameters["theirs"].string_value = "gone"
        del config.parameters["queue"]
        config.metric_tags["team"] = "vision"
        config.max_batch_size = 7

    change(model, TierModel.CONFIRM, operators)
    card = Card.model_validate({**dict(model.card), **with_sigma(1.0)})
    write_tier_configs(model.path.parents[1], card)
    config = read_config(tier_path(model, TierModel.CONFIRM))
    expected = tier_config(card, TierModel.CONFIRM)
    operators(expected)
    expected.max_batch_size = 64
    del expected.parameters["theirs"]
    assert config == expected
    assert "sigma = 1," in config.parameters["promise"].string_value
    assert tier_limits(config) == TierLimits(most_n=5000, sampling="grid")


def test_no_tier_is_left_of_a_model_that_could_not_be_written(model: ModelVersion, tmp_path: Path) -> None:
    graph = (model.path / GRAPH_NAME).read_bytes()
    with pytest.raises(CardError, match="belongs to another graph"):
        publish(tmp_path / "new", model.card, graph=graph, base=b"another")
    assert not list((tmp_path / "new").iterdir())


def test_a_disk_that_fills_up_at_a_tier_leaves_no_new_model(model: ModelVersion, tmp_path: Path) -> None:
    graph, base = ((model.path / name).read_bytes() for name in (GRAPH_NAME, BASE_NAME))
    blocked = tmp_path / "new" / "tiny_cascade"
    blocked.parent.mkdir()
    blocked.write_text("a file in the place of a folder")
    with pytest.raises(OSError, match=r"tiny_cascade"):
        publish(tmp_path / "new", model.card, graph=graph, base=base)
    assert list((tmp_path / "new").iterdir()) == [blocked]


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_is_named_as_a_tier(model: ModelVersion, kind: TierModel, tmp_path: Path) -> None:
    name = f"other_{kind.value}"
    message = (
        rf"^name: expected one that does not end in _confirm, .*got '{name}', which names a tier of the model 'other'"
    )
    with pytest.raises(HeatserveError, match=message):
        check_model_name(name)
    with pytest.raises(HeatserveError, match=message):  # before it looks for the checkpoint
        export_checkpoint(tmp_path / "none.safetensors", repository=tmp_path / "new", name=name)
    with pytest.raises(HeatserveError, match=message):
        republish(model, tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a_confirm", ("a", TierModel.CONFIRM)),
        ("a_certify_stream", ("a", TierModel.CERTIFY_STREAM)),
        ("a_confirm_certify", ("a_confirm", TierModel.CERTIFY)),
        ("_cascade", None),
        ("confirm", None),
        ("a_confirmed", None),
    ],
)
def test_the_name_of_a_tier_is_told_from_that_of_a_model(name: str, found: tuple[str, TierModel] | None) -> None:
    assert tier_of(name) == found


def test_models_are_listed_without_their_tiers(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    assert model_names(repository) == ["tiny"]
    assert [opened.name for opened in open_models(repository)] == ["tiny"]


def test_the_name_of_a_tier_leads_to_its_model(model: ModelVersion) -> None:
    with pytest.raises(CardError, match=r"got that of a tier of 'tiny'; name tiny: its tiers are served with it$"):
        open_model(model.path.parents[1], "tiny_confirm")


def test_a_tier_without_its_model_is_explained(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    shutil.rmtree(model.path.parent)
    expected = r"tiny_\w+: expected the model 'tiny' beside it, .* found no version of that; export the "
    with pytest.raises(CardError, match=expected):
        list(open_models(repository))
    with pytest.raises(CardError, match=expected):
        open_model(repository, "tiny_confirm")


def test_a_model_of_before_that_is_named_as_a_tier_is_explained_and_kept(model: ModelVersion) -> None:
    repository = model.path.parents[1]
    former = repository / "tiny_certify"
    shutil.copytree(model.path.parent, former, dirs_exist_ok=True)
    before = (former / CONFIG_NAME).read_bytes()
    expected = r"tiny_certify: expected a tier of the model 'tiny', .*found a model; no model may be named so any more"
    for act in (
        lambda: open_model(repository, "tiny_certify"),
        lambda: list(open_models(repository)),
        lambda: served_tiers(model),
        lambda: publish_again(model),
    ):
        with pytest.raises(CardError, match=expected):
            act()
    assert (former / CONFIG_NAME).read_bytes() == before
    assert version_dirs(model.path.parent) == [model.path]


def of_another_backend(config: pb.ModelConfig) -> None:
    config.backend = "onnxruntime"


def a_larger_batch(config: pb.ModelConfig) -> None:
    config.max_batch_size = 128


def other_dims(config: pb.ModelConfig) -> None:
    config.input[0].dims[0] = 3


def one_output_less(config: pb.ModelConfig) -> None:
    del config.output[-1]


def decoupled(config: pb.ModelConfig) -> None:
    config.model_transaction_policy.decoupled = True


def a_cache(config: pb.ModelConfig) -> None:
    config.response_cache.enable = True


def batching(config: pb.ModelConfig) -> None:
    config.dynamic_batching.SetInParent()


def more_instances(config: pb.ModelConfig) -> None:
    config.instance_group[0].count = 2


def no_tier(config: pb.ModelConfig) -> None:
    del config.parameters["tier"]


def another_file(config: pb.ModelConfig) -> None:
    config.default_model_filename = "../other.py"


def an_agent(config: pb.ModelConfig) -> None:
    config.model_repository_agents.agents.add(name="theirs")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (of_another_backend, 'backend: expected backend: "python", found backend: "onnxruntime"; restore it'),
        (a_larger_batch, "max_batch_size: expected max_batch_size: 64, found max_batch_size: 128; restore it"),
        (other_dims, 'input: expected input { name: "image" .* dims: 1 .*, found input .* dims: 3 '),
        (one_output_less, "output: expected output .*, found output .*; restore it"),
        (decoupled, "model_transaction_policy: expected none, found .*; remove it"),
        (a_cache, "response_cache: expected none, found .*; remove it"),
        (batching, "dynamic_batching: expected none, found dynamic_batching { }; remove it"),
        (more_instances, "instance_group: expected instance_group { count: 1 .*, found .* count: 2 "),
        (another_file, 'default_model_filename: expected none, found default_model_filename: "../other.py"; remove it'),
        (an_agent, "model_repository_agents: expected none, found .*; remove it"),
        (
            setting("EXECUTION_ENV_PATH", "/env"),
            "expected no parameters but tier, .*, found EXECUTION_ENV_PATH; remove",
        ),
        (setting("n0", "100"), "expected no parameters but tier, .*, found n0; remove"),
        (setting("tier", "certify"), "the parameter tier: expected 'confirm', found 'certify'; restore it"),
        (setting("model", "other"), "the parameter model: expected 'tiny', found 'other'; restore it"),
        (setting("promise", "All."), "the parameter promise: expected 'The outcome .*', found 'All.'; restore it"),
        (setting("base_sha256", "0"), "the parameter base_sha256: expected '[0-9a-f]{64}', found '0'; restore it"),
        (
            lambda config: config.parameters.pop("tier"),
            "the parameter tier: expected 'confirm', found none; restore it",
        ),
        (
            setting("n", "many"),
            "the parameter n: expected a whole number from 1 to 1000000000, found 'many'; change it",
        ),
        (
            setting("most_alpha", "0.5"),
            "the parameter most_alpha: expected a number above 0 and below 0.5, found '0.5'",
        ),
        (setting("most_n", "999"), "the parameter n: expected at most most_n, 999, found 1000; change it"),
    ],
)
def test_what_is_not_the_operators_or_no_limit_is_not_served(
    model: ModelVersion, edit: Callable[[pb.ModelConfig], object], message: str
) -> None:
    path = change(model, TierModel.CONFIRM, edit)
    with pytest.raises(CardError, match=rf"^{path}: {message}"):
        served_tiers(model)


def test_a_tier_of_another_sigma_is_not_served(model: ModelVersion) -> None:
    path = tier_path(model, TierModel.CASCADE)
    write_config(path, tier_config(Card.model_validate({**dict(model.card), **with_sigma(1.0)}), TierModel.CASCADE))
    with pytest.raises(CardError, match=rf"the parameter promise: expected .*sigma = {SIGMA},.*found .*sigma = 1,"):
        served_tiers(model)


def test_a_file_that_is_no_configuration_is_named_before_anything_is_written(model: ModelVersion) -> None:
    path = tier_path(model, TierModel.CONFIRM)
    path.write_text("tensors { }\n")
    for act in (lambda: served_tiers(model), lambda: publish_again(model)):
        with pytest.raises(HeatserveError, match=rf"^{path}: expected a model configuration of Triton: "):
            act()
    assert path.read_text() == "tensors { }\n"
    assert version_dirs(model.path.parent) == [model.path]


def test_an_operators_limits_tags_and_metrics_are_served(model: ModelVersion) -> None:
    def edit(config: pb.ModelConfig) -> None:
        config.parameters["alpha"].string_value = "0.0001"
        del config.parameters["queue"]
        config.metric_tags["team"] = "vision"

    path = change(model, TierModel.CERTIFY, edit)
    config = served_tiers(model)[TierModel.CERTIFY]
    assert config == read_config(path)
    assert tier_limits(config) == TierLimits(alpha=0.0001)
