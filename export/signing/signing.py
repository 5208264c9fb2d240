"""Signing a model version."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import read_text, write_atomically
from heatserve.export.repository.layout import SIGNATURE_NAME, ModelVersion, served_config
from heatserve.export.repository.tiers import served_tiers
from heatserve.export.signing.contents import copy_contents
from heatserve.export.signing.envelope import read_envelope
from heatserve.export.signing.trust import hashing_config


@dataclass(frozen=True)
class Signed:
    """What was signed, and where."""

    model: str
    version: int
    signature: Path
    key: str
    """Fingerprint of the key: hex SHA-256 of its public key in PEM."""
    files: tuple[str, ...]
    """Paths of what it is about."""


def is_encrypted(key: Path) -> bool:
    """Whether a passphrase is needed to read a private key.

    Raises:
        HeatserveError: there is no such file.
    """
    return "ENCRYPTED" in read_text(key, "a private key in PEM")


def sign_version(
    repository: Path, name: str, key: Path, *, version: int | None = None, passphrase: bytes | None = None
) -> Signed:
    """Sign what counts of a model version for what is served, and write `signature.sigstore.json` into its folder.

    It is verified as `heatserve serve` does first: a version that would not be served is not signed.

    Args:
        repository: a model repository.
        name: of the model.
        key: private key in PEM, of the curve P-256, P-384 or P-521. Nothing else is asked, and no network.
        version: its number; None: the newest.
        passphrase: of the key.

    Raises:
        HeatserveError: the key cannot be used, no such version, or one that would not be served.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        signer = _signer(key, passphrase)
        contents = copy_contents(repository, name, folder / name, version=version)
        draft = folder / SIGNATURE_NAME
        signer.sign(contents.folder, draft)
        try:
            _check(contents.open())
        except HeatserveError as error:
            raise type(error)(str(error).replace(str(contents.folder), str(repository))) from None
        envelope = read_envelope(draft)
        write_atomically(contents.source / SIGNATURE_NAME, envelope.content)
    return Signed(
        name, int(contents.source.name), contents.source / SIGNATURE_NAME, envelope.key, tuple(envelope.digests)
    )


def _check(model: ModelVersion) -> None:
    served_config(model)
    served_tiers(model)


def _signer(key: Path, passphrase: bytes | None) -> Any:
    from model_signing import signing

    read_text(key, "a private key in PEM")
    config = signing.Config().set_hashing_config(hashing_config())
    try:
        # The library hands the passphrase on as it is, to a function that takes bytes.
        return config.use_elliptic_key_signer(private_key=key, password=passphrase)  # type: ignore[arg-type]
    except Exception as error:  # of the library and of `cryptography`: ValueError, TypeError, UnsupportedAlgorithm, …
        raise HeatserveError(
            f"{key}: expected a private key in PEM, of the curve P-256, P-384 or P-521, and its passphrase, if it has "
            f"one, got: {error}; make one with `openssl ecparam -name prime256v1 -genkey -noout`"
        ) from None
