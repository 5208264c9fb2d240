"""The certificate card: what is promised about one ONNX graph, and on what evidence (docs/served-graph.md).

Export and calibration write it, the server reads it; nothing here needs torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from heatserve.certification.class_names import class_names_problem
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.lineage import UNKNOWN, Ancestor
from heatserve.certification.provenance import now, sha256_of, versions
from heatserve.export.card_parts import Attack, Calibration, Evaluation, LipschitzBound, Part
from heatserve.export.contract import CertificateKind
from heatserve.export.digest import DIGEST, digest_of, read_json, with_digest

CARD_NAME = "certificate.json"
GRAPH_NAME = "model.onnx"
BASE_NAME = "base.onnx"
PLAN_NAME = "model.plan"

CONTRACT_FIELDS = ("certificate_kind", "input_type", "input_shape", "resize", "class_names")
"""What callers of a model rely on: alike in all of its versions."""

InputType = Literal["FP32", "UINT8"]
Precision = Literal["fp64", "fp32", "fp16", "int8"]
Size = Annotated[int, Field(gt=0, lt=2**31)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Training = dict[str, str | int | float | bool | None]
"""How the network was trained: data set, method, its hyperparameters and the files that it came from, by name.

`epochs` are those of its last training, `epochs_in_all` those of all in the line that led to it; None: not known.
"""


class CardError(HeatserveError):
    """A certificate card is missing, malformed, changed after it was written, or belongs to another graph."""


class Plan(Part):
    """A TensorRT plan built from the card's graph. It runs only under the TensorRT and on the GPU that built it."""

    sha256: Sha256
    tensorrt: str
    """Version."""
    gpu: str
    """Name, as NVIDIA's driver has it."""
    tf32: bool
    """Whether convolutions and matrix products may round their inputs to ten bits of mantissa."""
    batches: tuple[int, int, int]
    """Smallest batch, the one that it is fastest for, and largest."""


class Card(Part):
    """What is promised about one graph, and all that the promise rests on.

    A certificate is *statistical*, about a smoothed classifier, and serves 0 without `calibration`; or *deterministic*,
    about the class that is served itself, and stands on `lipschitz`.
    """

    format: Literal[4] = 4
    certificate_kind: CertificateKind = "statistical"
    model: str
    graph_sha256: Sha256
    base_sha256: Sha256
    """Of the graph of the base classifier; of a deterministic certificate, which has none, that of the graph itself."""
    sigma: Annotated[float, Field(ge=0)]
    """σ of the smoothed classifier; 0 where the certificate is deterministic, and nothing is smoothed."""
    class_names: tuple[str, ...]
    input_shape: tuple[Size, Size, Size]
    """C, H, W of one image."""
    input_type: InputType = "FP32"
    """FP32: [N, C, H, W] in [0,1]; UINT8: [N, H, W, C], which the graph divides by 255."""
    resize: Size | None = None
    """UINT8 [N, H, W, C] of any height and width: the graph brings the shorter side to as many pixels and cuts out the
    centre. Radii are about the image that is cut out."""
    precision: Precision = "fp32"
    """Precision of the served network. The base graph is always FP32, and so is a statistical certificate."""
    training: Training
    lineage: tuple[Ancestor, ...] | None = None
    """All networks that the served one and its base came through, and these two, the served one last; None: not
    recorded, as formerly."""
    lipschitz: LipschitzBound | None = None
    calibration: Calibration | None
    evaluation: Evaluation | None
    attack: Attack | None = None
    plan: Plan | None = None
    """What is served, and every figure here measured on; None: the graph itself."""
    accelerator: Literal["cuda", "tensorrt"] | None = None
    """What ONNX Runtime serves the graph with: its CUDA or TensorRT provider; None: the CPU."""
    versions: dict[str, str]
    date: str

    @model_validator(mode="after")
    def _named(self) -> Card:
        """The classes have names that can be told apart, and written into `labels.txt`."""
        if problem := class_names_problem(self.class_names):
            raise ValueError(f"class_names: {problem}")
        return self

    @model_validator(mode="after")
    def _of_one_kind(self) -> Card:
        """Each kind of certificate has what it stands on, and nothing of the other."""
        proven, fields = self.is_deterministic, dict(self)
        if {self.lipschitz is not None, self.sigma == 0, self.precision == "fp64"} != {proven}:
            raise ValueError(
                f"certificate_kind: expected a bound in `lipschitz`, sigma 0 and precision fp64 of a deterministic "
                f"certificate and of no other, got {self.certificate_kind}, sigma {self.sigma:g}, {self.precision} and "
                f"{'a' if self.lipschitz else 'no'} bound"
            )
        others = [name for name in ("calibration", "evaluation", "attack", "plan") if proven and fields[name]]
        if others:
            raise ValueError(f"{others[0]}: expected none of a deterministic certificate, got one")
        if proven and self.base_sha256 != self.graph_sha256:
            raise ValueError("base_sha256: expected that of the graph itself, since nothing is smoothed, got another")
        if proven and self.accelerator == "tensorrt":
            raise ValueError("accelerator: expected none or cuda of a graph in float64, got tensorrt")
        return self

    @model_validator(mode="after")
    def _promised(self) -> Card:
        """The promise says what the numbers say."""
        if self.calibration and self.calibration.promise != self.calibration.promised(self.sigma):
            raise ValueError(
                f"calibration.promise: expected the text that its numbers make, "
                f"{self.calibration.promised(self.sigma)!r}, got {self.calibration.promise!r}"
            )
        return self

    @model_validator(mode="after")
    def _held_out(self) -> Card:
        """Where it is not known which images trained the network, the user vouches for those of the calibration."""
        elsewhere = [ancestor for ancestor in self.networks if not ancestor.recorded]
        if elsewhere and self.calibration and not self.calibration.vouched:
            raise ValueError(
                f"calibration.vouched: expected true for what came from {elsewhere[0].described}, got false"
            )
        return self

    @property
    def is_deterministic(self) -> bool:
        """Whether the radii are proven of the class that is served, for every image."""
        return self.certificate_kind == "deterministic"

    @property
    def promise(self) -> str | None:
        """What is promised of a radius, in words; None: nothing is, and all are 0."""
        if self.lipschitz:
            return self.lipschitz.promise
        return self.calibration.promise if self.calibration else None

    @property
    def networks(self) -> tuple[Ancestor, ...]:
        """`lineage`, or where it was not recorded the served network as one of which nothing is known."""
        if self.lineage is not None:
            return self.lineage
        dataset = self.training.get("dataset")
        return (Ancestor(UNKNOWN, None if dataset is None else str(dataset), None, self.graph_sha256),)

    @property
    def trained_on(self) -> str:
        """Name of the data set that the network was trained on.

        Raises:
            CardError: it is not known, as of a network that was imported without naming one.
        """
        dataset = self.training.get("dataset")
        if dataset is None:
            raise CardError(
                f"{self.model}: expected the data set that the network was trained on, but the card has none: name one "
                "with --data"
            )
        return str(dataset)

    def renamed(self, model: str) -> Card:
        """The card of the same graphs under another name."""
        return self._changed(model=model)

    def attacked(self, attack: Attack) -> Card:
        """The card with what an attack found on what it serves."""
        return self._changed(attack=attack)

    def with_graph(self, graph_sha256: str, plan: Plan | None) -> Card:
        """The card of the same network in another graph, which promises nothing yet, and of its plan, if any."""
        return self._changed(
            graph_sha256=graph_sha256, plan=plan, calibration=None, evaluation=None, attack=None, date=now()
        )

    def calibrated(self, calibration: Calibration, evaluation: Evaluation) -> Card:
        """The card of the same graph, with the promise about it and what was measured of it."""
        return self._changed(
            calibration=calibration,
            evaluation=evaluation,
            attack=None,  # it was on what was served before
            versions=self.versions | versions("python", "onnx", "onnxruntime", "numpy", "scipy"),
            date=now(),
        )

    def _changed(self, **fields: object) -> Card:
        return Card.model_validate({**dict(self), **fields})

    def write(self, version_dir: Path) -> Path:
        """Write `certificate.json` with its digest into `version_dir`, atomically."""
        path = version_dir / CARD_NAME
        write_atomically(path, with_digest(self.model_dump(mode="json")))
        return path


def read_verified(path: Path, sha256: str) -> bytes:
    """The content of a file that a card names.

    Raises:
        CardError: it is another one.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CardError(f"{path}: expected sha256 {sha256}, found another file")
    return content


def read_card(version_dir: Path) -> Card:
    """Read the card of one model version.

    Raises:
        CardError: no card, not a card of this format, or one that was changed after it was written. Says which file
            and what is wrong with it.
    """
    path = version_dir / CARD_NAME
    try:
        content = read_json(path.read_bytes())
    except FileNotFoundError:
        raise CardError(f"{path}: no certificate card; export the model again with `heatserve export`") from None
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested too deeply
        raise CardError(f"{path}: not a valid certificate card: {error}") from None
    _check_digest(path, content)
    if content.get("format") == 3:
        raise CardError(
            f"{path}: format: expected 4, got 3, whose confidence does not count how often the calibration images "
            "were used before; make the model again with `heatserve export` and `heatserve calibrate`"
        )
    try:
        return Card.model_validate({name: value for name, value in content.items() if name != DIGEST})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise CardError(f"{path}: not a valid certificate card: {problems}") from None


def _check_digest(path: Path, content: object) -> None:
    if not isinstance(content, dict):
        raise CardError(f"{path}: not a valid certificate card: expected fields, got {type(content).__name__}")
    if DIGEST not in content:
        raise CardError(
            f"{path}: digest: expected one, got none: the card is of an earlier version, or the field was removed; "
            "make the model again with `heatserve export` and `heatserve calibrate`"
        )
    stated, found = content[DIGEST], digest_of(content)
    if stated != found:
        raise CardError(
            f"{path}: the card was changed after it was written: expected digest {stated}, got {found}; restore it, or "
            "export and calibrate the model again"
        )


def verify_card(version_dir: Path) -> Card:
    """Read the card and check that it belongs to the graphs beside it, and the plan, by hash.

    Raises:
        CardError: no card, a malformed or changed one, a missing graph, or a graph with another hash.
    """
    card = read_card(version_dir)
    files = {GRAPH_NAME: card.graph_sha256}
    if not card.is_deterministic:
        files[BASE_NAME] = card.base_sha256
    if card.plan:
        files[PLAN_NAME] = card.plan.sha256
    for name, expected in files.items():
        path = version_dir / name
        if not path.is_file():
            raise CardError(f"{path}: the graph that the card {version_dir / CARD_NAME} belongs to is missing")
        found = sha256_of(path)
        if found != expected:
            raise CardError(
                f"{path}: the card belongs to another graph: expected sha256 {expected}, found {found}; "
                f"export and calibrate the model again"
            )
    return card
