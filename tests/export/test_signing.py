"""Signed model versions: what a trusted key signed is served, byte for byte, and nothing else."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tiny_model import edit_card, random_images, write_tiny_model

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME
from heatserve.export.repository.layout import (
    CONFIG_NAME,
    LABELS_NAME,
    SIGNATURE_NAME,
    open_model,
    served_config,
    write_model_config,
)
from heatserve.export.repository.publishing import republish
from heatserve.export.repository.settings import read_config, write_config
from heatserve.export.repository.tiers import served_tiers, write_tier_configs
from heatserve.export.signing.envelope import UntrustedError
from heatserve.export.signing.signing import sign_version
from heatserve.export.signing.trust import Trust
from heatserve.export.tiers import TierModel

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def write_key(path: Path, key: PrivateKey, *, passphrase: bytes | None = None) -> Path:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "ours.pem", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "other.pem", ec.generate_private_key(ec.SECP256R1()))


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


@pytest.fixture
def repository(tmp_path: Path, key: Path) -> Path:
    """A repository of the model `tiny`, with tiers and a warm-up image, signed."""
    repository = tmp_path / "repository"
    version = write_tiny_model(repository)
    card = open_model(repository, "tiny").card
    (version.parent / "warmup").mkdir()
    (version.parent / "warmup" / "image").write_bytes(random_images(1).tobytes())
    write_model_config(repository, card)
    write_tier_configs(repository, card, (TierModel.CONFIRM, TierModel.CASCADE))
    sign_version(repository, "tiny", key)
    return repository


def admit(repository: Path, folder: Path, *keys: Path, name: str = "tiny", version: int | None = None) -> Path:
    trust = Trust.of([public(key) for key in keys])
    return trust.admit(repository, name, folder / "copy", version=version).path


def set_parameter(config: Path, name: str, value: str) -> None:
    content = read_config(config)
    content.parameters[name].string_value = value
    write_config(config, content)


def test_what_was_signed_is_served_as_it_is_in_the_repository(
    repository: Path, key: Path, other_key: Path, tmp_path: Path
) -> None:
    trust = Trust.of([public(other_key), public(key)])
    admitted = trust.admit(repository, "tiny", tmp_path / "copy")
    original = open_model(repository, "tiny")
    assert (admitted.name, admitted.version, admitted.card) == ("tiny", 1, original.card)
    assert served_config(admitted) == served_config(original)
    assert served_tiers(admitted) == served_tiers(original)
    for file in (GRAPH_NAME, BASE_NAME, "../warmup/image"):
        assert (admitted.path / file).read_bytes() == (original.path / file).read_bytes()


def test_what_is_served_does_not_change_with_the_repository(repository: Path, key: Path, tmp_path: Path) -> None:
    copy = admit(repository, tmp_path, key)
    for name in (GRAPH_NAME, BASE_NAME, CARD_NAME):
        (repository / "tiny" / "1" / name).write_bytes(b"other")
        assert (copy / name).read_bytes() != b"other"


def test_unsigned_version_is_refused(repository: Path, key: Path, tmp_path: Path) -> None:
    (repository / "tiny" / "1" / SIGNATURE_NAME).unlink()
    with pytest.raises(UntrustedError, match=r"sigstore\.json: expected the signature of a trusted key, found none"):
        admit(repository, tmp_path, key)


def test_signature_of_another_key_is_refused(repository: Path, other_key: Path, tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match=r"expected the signature of a trusted key .*, got one of"):
        admit(repository, tmp_path, other_key)


ALTERATIONS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "another graph": (r"tiny/1/model\.onnx", lambda v: (v / GRAPH_NAME).write_bytes(b"\x08\x09")),
    "another base": (r"tiny/1/base\.onnx", lambda v: shutil.copyfile(v / GRAPH_NAME, v / BASE_NAME)),
    "a card that matches": (
        r"tiny/1/certificate\.json",
        lambda v: edit_card(v, lambda card: card.update(date="2026-02-02")),
    ),
    "an extra file": (r"tiny/1/model\.plan", lambda v: (v / "model.plan").write_bytes(b"plan")),
    "a hidden file": (r"tiny/1/\.gitignore", lambda v: (v / ".gitignore").write_bytes(b"*")),
    "an extra folder of git": (r"tiny/1/\.git/x", lambda v: write_atomically(v / ".git" / "x", b"")),
    "a missing file": (r"tiny/1/base\.onnx", lambda v: (v / BASE_NAME).unlink()),
    "limits of a tier": (
        "the settings",
        lambda v: set_parameter(v.parents[1] / "tiny_confirm" / CONFIG_NAME, "most_alpha", "0.4"),
    ),
    "a tier that is off": ("the settings", lambda v: shutil.rmtree(v.parents[1] / "tiny_confirm")),
    "a tier that is on": (
        "the settings",
        lambda v: write_tier_configs(v.parents[1], open_model(v.parents[1], "tiny").card, (TierModel.CERTIFY,)),
    ),
    "settings of the model": (
        "the settings",
        lambda v: set_parameter(v.parent / CONFIG_NAME, "intra_op_thread_count", "900"),
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_what_was_changed_after_it_was_signed_is_refused(
    alteration: str, repository: Path, key: Path, tmp_path: Path
) -> None:
    named, alter = ALTERATIONS[alteration]
    alter(repository / "tiny" / "1")
    with pytest.raises(UntrustedError, match=f"{named}.*sign it again"):
        admit(repository, tmp_path, key)


def test_labels_and_promise_are_those_of_the_card_whatever_the_files_say(
    repository: Path, key: Path, tmp_path: Path
) -> None:
    original = served_config(open_model(repository, "tiny"))
    (repository / "tiny" / LABELS_NAME).write_text("one\nzero\n")
    set_parameter(repository / "tiny" / CONFIG_NAME, "promise", "no answer is ever wrong")
    set_parameter(repository / "tiny_confirm" / CONFIG_NAME, "promise", "no answer is ever wrong")
    copy = admit(repository, tmp_path, key)
    assert served_config(open_model(copy.parents[1], "tiny")) == original
    assert "ever wrong" not in (copy.parents[1] / "tiny_confirm" / CONFIG_NAME).read_text()


def test_signature_stays_valid_when_the_next_version_is_published(repository: Path, key: Path, tmp_path: Path) -> None:
    republish(open_model(repository, "tiny"), repository, "tiny")
    with pytest.raises(UntrustedError, match="found none"):
        admit(repository, tmp_path / "newest", key)
    assert admit(repository, tmp_path, key, version=1).name == "1"


@pytest.mark.parametrize("newer", ["2", "10"])
def test_older_version_is_no_newer_one(newer: str, repository: Path, key: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tiny" / "1", repository / "tiny" / newer)
    with pytest.raises(UntrustedError, match=f"expected the signature of tiny/{newer}, got that of tiny/1"):
        admit(repository, tmp_path, key)


def test_signed_model_is_no_other_model(repository: Path, key: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tiny", repository / "other")
    with pytest.raises(UntrustedError, match="expected the signature of other/1, got that of tiny/1"):
        admit(repository, tmp_path, key, name="other")


def test_files_of_another_signed_version_are_refused(repository: Path, key: Path, tmp_path: Path) -> None:
    second = republish(open_model(repository, "tiny"), repository, "tiny").path
    edit_card(second, lambda card: card.update(date="2026-03-03"))
    sign_version(repository, "tiny", key)
    shutil.copyfile(repository / "tiny" / "1" / CARD_NAME, second / CARD_NAME)
    with pytest.raises(UntrustedError, match=r"tiny/2/certificate\.json"):
        admit(repository, tmp_path, key)
    shutil.copyfile(repository / "tiny" / "1" / SIGNATURE_NAME, second / SIGNATURE_NAME)
    with pytest.raises(UntrustedError, match="expected the signature of tiny/2, got that of tiny/1"):
        admit(repository, tmp_path / "again", key)


def test_link_counts_as_what_it_leads_to(repository: Path, key: Path, tmp_path: Path) -> None:
    graph = repository / "tiny" / "1" / GRAPH_NAME
    shutil.move(graph, tmp_path / "blob")
    graph.symlink_to(tmp_path / "blob")
    copy = admit(repository, tmp_path, key) / GRAPH_NAME
    assert not copy.is_symlink()
    (tmp_path / "blob").write_bytes(b"other")
    assert copy.read_bytes() != b"other"
    with pytest.raises(UntrustedError, match=r"tiny/1/model\.onnx"):
        admit(repository, tmp_path / "again", key)


@pytest.mark.parametrize("special", ["pipe", "device", "linked folder", "dangling link"])
def test_what_is_no_file_is_refused(special: str, repository: Path, key: Path, tmp_path: Path) -> None:
    path = repository / "tiny" / "1" / "special"
    if special == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "linked folder": "/etc"}.get(special, "nowhere"))
    with pytest.raises(HeatserveError, match="special: expected a file, got a link, a pipe or a device"):
        admit(repository, tmp_path, key)


def test_signature_that_is_no_file(repository: Path, key: Path, tmp_path: Path) -> None:
    path = repository / "tiny" / "1" / SIGNATURE_NAME
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UntrustedError, match="expected a regular file of 1 to"):
        admit(repository, tmp_path, key)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UntrustedError, match="expected a regular file of 1 to"):
        admit(repository, tmp_path, key)


@pytest.mark.parametrize(
    "content", [b"", b" " * (2**20 + 1), b"\xff\xfe", b"null", b"[]", b"[" * 100_000, b'{"a":1,"a":2}']
)
def test_file_that_is_no_signature(content: bytes, repository: Path, key: Path, tmp_path: Path) -> None:
    (repository / "tiny" / "1" / SIGNATURE_NAME).write_bytes(content)
    with pytest.raises(UntrustedError, match=r"sigstore\.json: expected a"):
        admit(repository, tmp_path, key)


def in_statement(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    def changed(bundle: dict[str, Any]) -> None:
        envelope = bundle["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return changed


def hint(bundle: dict[str, Any]) -> dict[str, Any]:
    public_key: dict[str, Any] = bundle["verificationMaterial"]["publicKey"]
    return public_key


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no hint of the key": lambda b: hint(b).clear(),
    "a hint that is a number": lambda b: hint(b).update(hint=1),
    "no signature": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "two signatures": lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
    "an empty signature": lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
    "another payload type": lambda b: b["dsseEnvelope"].update(payloadType="application/json"),
    "another media type": lambda b: b.update(mediaType="application/json"),
    "a payload that is no base64": lambda b: b["dsseEnvelope"].update(payload="{}"),
    "a certificate in place of the key": lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": ""}}),
    "a field that nobody knows": lambda b: b.update(other=1),
    "digests of other files": in_statement(lambda s: s["predicate"]["resources"][0].update(digest="00" * 32)),
    "fewer files": in_statement(lambda s: s["predicate"]["resources"].pop()),
    "files that are left out": in_statement(lambda s: s["predicate"]["serialization"].update(ignore_paths=["tiny/1"])),
    "the predicate of an earlier library": in_statement(
        lambda s: s.update(predicateType="https://model_signing/Digests/v0.1")
    ),
    "two subjects": in_statement(lambda s: s["subject"].append(s["subject"][0])),
    "no resources": in_statement(lambda s: s["predicate"].update(resources=None)),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_signature_is_refused(forgery: str, repository: Path, key: Path, tmp_path: Path) -> None:
    path = repository / "tiny" / "1" / SIGNATURE_NAME
    bundle = json.loads(path.read_bytes())
    FORGERIES[forgery](bundle)
    path.write_text(json.dumps(bundle))
    with pytest.raises(UntrustedError):
        admit(repository, tmp_path, key)


def test_signature_that_names_a_trusted_key_and_is_of_another(
    repository: Path, key: Path, other_key: Path, tmp_path: Path
) -> None:
    path = repository / "tiny" / "1" / SIGNATURE_NAME
    ours = hint(json.loads(path.read_bytes()))["hint"]
    sign_version(repository, "tiny", other_key)
    bundle = json.loads(path.read_bytes())
    hint(bundle)["hint"] = ours
    path.write_text(json.dumps(bundle))
    with pytest.raises(UntrustedError, match="which it names, got one that is not"):
        admit(repository, tmp_path, key)


def test_signed_version_with_a_card_of_other_graphs_is_refused(repository: Path, key: Path, tmp_path: Path) -> None:
    version = repository / "tiny" / "1"
    (version / GRAPH_NAME).write_bytes((version / BASE_NAME).read_bytes())
    with pytest.raises(HeatserveError, match="belongs to another graph") as caught:
        sign_version(repository, "tiny", key)
    assert str(version) in str(caught.value)
    with pytest.raises(UntrustedError, match=r"tiny/1/model\.onnx"):  # the signature is the one of before
        admit(repository, tmp_path, key)


def test_key_with_a_passphrase(repository: Path, tmp_path: Path) -> None:
    encrypted = write_key(tmp_path / "k.pem", ec.generate_private_key(ec.SECP521R1()), passphrase=b"secret")
    for wrong in (None, b"other"):
        with pytest.raises(HeatserveError, match=r"k\.pem: expected a private key in PEM"):
            sign_version(repository, "tiny", encrypted, passphrase=wrong)
    sign_version(repository, "tiny", encrypted, passphrase=b"secret")
    assert admit(repository, tmp_path, encrypted).is_dir()


def test_keys_that_cannot_be_used(repository: Path, key: Path, tmp_path: Path) -> None:
    wrong: dict[str, PrivateKey] = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "koblitz": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, private in wrong.items():
        path = write_key(tmp_path / f"{name}.pem", private)
        with pytest.raises(HeatserveError, match=f"{name}.pem: expected a private key in PEM, of the curve"):
            sign_version(repository, "tiny", path)
        with pytest.raises(HeatserveError, match=r"public key in PEM, of the curve .* got another kind of key"):
            Trust.of([public(path)])
    with pytest.raises(HeatserveError, match="got a private key; keep that where you sign"):
        Trust.of([key])
    with pytest.raises(HeatserveError, match="got another file"):
        Trust.of([repository / "tiny" / LABELS_NAME])
    with pytest.raises(HeatserveError, match="public key in PEM, but it cannot be read"):
        Trust.of([tmp_path / "nowhere"])


def test_version_that_is_not_there(repository: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(HeatserveError, match="expected a version 7, found 1"):
        sign_version(repository, "tiny", key, version=7)
    with pytest.raises(HeatserveError, match="expected a version, found none"):
        admit(repository, tmp_path, key, name="absent")
    with pytest.raises(HeatserveError, match="name: expected"):
        admit(repository, tmp_path, key, name="../tiny")


def test_copy_of_what_is_refused_is_removed(repository: Path, key: Path, tmp_path: Path) -> None:
    (repository / "tiny" / "1" / "extra").write_bytes(b"")
    with pytest.raises(UntrustedError, match="extra"):
        admit(repository, tmp_path, key)
    assert not (tmp_path / "copy").exists()


def test_version_that_would_fill_the_disk_is_not_copied(repository: Path, key: Path, tmp_path: Path) -> None:
    huge = repository / "tiny" / "1" / GRAPH_NAME
    os.truncate(huge, shutil.disk_usage(tmp_path).free)  # sparse: it takes no space itself
    with pytest.raises(HeatserveError, match=r"tiny/1: expected at most half of the [0-9,]+ bytes that are free where"):
        admit(repository, tmp_path, key)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", [b"\xff", b"two\nlines", b"\x1b[31m"])
def test_name_that_cannot_be_printed_is_refused(name: bytes, repository: Path, key: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(repository / "tiny" / "1"), name))).write_bytes(b"")
    for use in (lambda: sign_version(repository, "tiny", key), lambda: admit(repository, tmp_path, key)):
        with pytest.raises(HeatserveError, match="expected names of printable characters") as caught:
            use()
        assert str(caught.value).isprintable()


def test_misspelt_limit_of_a_tier_is_refused_with_a_signature_as_without(repository: Path, key: Path) -> None:
    set_parameter(repository / "tiny_confirm" / CONFIG_NAME, "most_alfa", "0.4")
    with pytest.raises(HeatserveError, match=r"tiny_confirm.*found most_alfa"):
        sign_version(repository, "tiny", key)


def test_two_keys_in_one_file_are_refused(key: Path, other_key: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes(public(key).read_bytes() + public(other_key).read_bytes())
    with pytest.raises(HeatserveError, match=r"both\.pub: .* got 2 keys in it"):
        Trust.of([both])


def test_folder_that_cannot_be_read_is_not_left_out(
    repository: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = repository / "tiny" / "1" / "closed"
    write_atomically(closed / "file", b"")
    scandir = os.scandir

    def denied(path: Path | str | int) -> Any:
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # for root, no folder is closed
    for use in (lambda: sign_version(repository, "tiny", key), lambda: admit(repository, tmp_path, key)):
        with pytest.raises(PermissionError, match="closed"):
            use()
