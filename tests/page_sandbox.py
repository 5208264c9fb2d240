"""The folder in which the code blocks of the pages run: what they name is there, and small."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from pathlib import Path

import numpy as np
import onnx.parser
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from heatserve.export.tiers import TierModel
from heatserve.training.data.cifar10 import CIFAR10_CLASSES

ROOT = Path(__file__).parents[1]
TRAIN, TEST = 90, 14
"""Images of each class in DATA. A tenth of TRAIN calibrates: with α = 0.1 enough for several attempts."""


def furnish(folder: Path) -> None:
    """Put everything into `folder` that the pages speak of and do not make themselves."""
    _draw_classes(folder / "DATA", CIFAR10_CLASSES, 32, {"train": TRAIN, "test": TEST})
    _draw_classes(folder / "photos", ("cave", "forest", "lake"), 24, {"train": 20, "test": 5})
    for name in ("digits", *(f"digits_{kind.value}" for kind in TierModel), "digits_lipschitz"):
        shutil.copytree(ROOT / "model_repository" / name, folder / "model_repository" / name)
    versions = folder / "model_repository" / "digits"
    shutil.copytree(versions / "4", versions / "5")
    (versions / "served.json").write_text('{"version": 4, "before": null, "passed_over": []}')
    (folder / "runs" / "quickstart").mkdir(parents=True)
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "benchmarks" / "results")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    digit = Image.fromarray((load_digits().images[0] * 15.9375).astype(np.uint8))
    digit.save(folder / "runs" / "quickstart" / "image_0.png")
    picture = folder / "DATA" / "test" / "cat" / "0.png"
    for name in ("picture.png", "good.png"):
        shutil.copy(picture, folder / name)
    Image.open(picture).save(folder / "photo.jpg", quality=95)
    _write_classifier(folder / "classifier.onnx")
    (folder / "token").write_text("a token of this page")
    _write_certificates(folder)


def _draw_classes(folder: Path, names: tuple[str, ...], side: int, parts: dict[str, int]) -> None:
    """Images of a pattern for each class, which noise of σ = 0.25 does not hide."""
    random = np.random.default_rng(0)
    patterns = random.choice([0.2, 0.8], (len(names), 4, 4, 3))
    for part, count in parts.items():
        for name, pattern in zip(names, patterns, strict=True):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.kron(pattern, np.ones((side // 4, side // 4, 1)))
                pixels = pixels + random.normal(0, 0.05, pixels.shape)
                Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(folder / part / name / f"{i}.png")


def bring_weights(folder: Path) -> None:
    """Put somebody's weights there: those of the base that the first page trained."""
    torch.save(load_file(folder / "runs" / "average.base.safetensors"), folder / "resnet20.pth")


_CLASSIFIER = """
<ir_version: 9, opset_import: ["" : 18]>
nearest (float[N,64] pixels) => (float[N,10] scores) {
    scores = Gemm(pixels, means, offsets)
}
"""


def _write_classifier(path: Path) -> None:
    """Somebody's classifier of digits: that of the nearest mean, by -½‖x - m‖² + ½‖x‖², times 4."""
    images, labels = load_digits(return_X_y=True)
    means = np.stack([images[labels == label].mean(axis=0) / 16 for label in range(10)]).astype(np.float32)
    model = onnx.parser.parse_model(_CLASSIFIER)
    offsets = -2 * np.square(means).sum(axis=1)
    for name, value in (("means", 4 * means.T), ("offsets", offsets)):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    onnx.save(model, path)


def _write_certificates(folder: Path) -> None:
    """`server.pem` and `server.key` for this machine, of the CA `ca.pem`; and `me.pem`, a client's with its key."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("the CA of the pages", ca_key, "the CA of the pages", ca_key, is_ca=True)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for name in ("server", "me"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, "the CA of the pages", ca_key, is_ca=False)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(pem + (secret if name == "me" else b""))
        (folder / f"{name}.key").write_bytes(secret)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, is_ca: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
