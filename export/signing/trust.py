"""Whose signatures are believed, and model versions that have one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.certification.errors import HeatserveError, first_of
from heatserve.certification.files import read_text
from heatserve.certification.provenance import sha256_of
from heatserve.export.repository.layout import SIGNATURE_NAME, ModelVersion
from heatserve.export.signing.contents import SETTINGS_NAME, Contents, copy_contents, find_version
from heatserve.export.signing.envelope import Envelope, UntrustedError, read_envelope

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from model_signing.hashing import Config as HashingConfig
    from model_signing.verifying import Config as VerifyingConfig

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_REPOSITORY = "repository"


@dataclass(frozen=True)
class Trust:
    """Public keys, and what to do with them. Files of keys are read once, here."""

    keys: Mapping[str, VerifyingConfig]
    """By fingerprint: hex SHA-256 of the public key in PEM, as a signature names it."""

    @classmethod
    def of(cls, files: Sequence[Path]) -> Trust:
        """Trust the public keys in these files (PEM, of the curve P-256, P-384 or P-521).

        Raises:
            HeatserveError: one is no such file.
        """
        from model_signing import verifying

        return cls(
            {
                fingerprint_of(read_public_key(file)): verifying.Config().use_elliptic_key_verifier(public_key=file)
                for file in files
            }
        )

    def admit(self, repository: Path, name: str, folder: Path, *, version: int | None = None) -> ModelVersion:
        """A copy of a model version, if a trusted key has signed what the copy holds.

        Nothing of the version is parsed before its signature is verified. What is served is the copy, which is in a
        repository of its own and does not change with the one that it came from.

        Args:
            repository: a model repository.
            name: of the model.
            folder: for the copy; it is made, and must stay while the version is served. Removed where that is refused.
            version: its number; None: the newest.

        Raises:
            UntrustedError: no signature, one of another key, or one about something else. Says what differs.
            HeatserveError: no such version; or it was signed so, and has no valid card or configuration.
        """
        source = find_version(repository, name, version)
        envelope = read_envelope(source / SIGNATURE_NAME)
        if envelope.key not in self.keys:
            raise UntrustedError(
                f"{source / SIGNATURE_NAME}: expected the signature of a trusted key "
                f"({first_of([short(key) for key in self.keys])}), got one of {short(envelope.key)}; sign the "
                "version with a key that is trusted, or trust this one"
            )
        copy = folder / _REPOSITORY
        try:
            contents = copy_contents(repository, name, copy, version=int(source.name))
            self._verify(contents, envelope, folder / SIGNATURE_NAME)
            return contents.open()
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)  # a server that is asked again would fill the disk with them
            if isinstance(error, HeatserveError):
                raise type(error)(str(error).replace(str(copy), str(repository))) from None
            raise

    def _verify(self, contents: Contents, envelope: Envelope, path: Path) -> None:
        from cryptography.exceptions import InvalidSignature

        path.write_bytes(envelope.content)
        verifier = self.keys[envelope.key].set_hashing_config(hashing_config())
        try:
            verifier.verify(contents.folder, path)
        except InvalidSignature:
            raise UntrustedError(
                f"{contents.source / SIGNATURE_NAME}: expected a signature of the key {short(envelope.key)}, which it "
                "names, got one that is not; sign the version again"
            ) from None
        except (ValueError, LookupError, TypeError) as error:
            raise UntrustedError(f"{contents.source}: {_difference(contents, envelope) or error}") from None


def hashing_config() -> HashingConfig:
    """Every file counts: the library leaves out files of git where it is not told otherwise."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """The public key in a file.

    Raises:
        HeatserveError: no file, or none of a public key of these curves.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    wrong = f"{path}: expected a public key in PEM, of the curve P-256, P-384 or P-521"
    text = read_text(path, "a public key in PEM")
    if "PRIVATE KEY" in text:
        raise HeatserveError(
            f"{wrong}, got a private key; keep that where you sign, and make its public key with `openssl pkey -pubout`"
        )
    if (keys := text.count("-----BEGIN ")) > 1:
        raise HeatserveError(f"{wrong}, got {keys} keys in it, of which one would count; use a file for each")
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise HeatserveError(f"{wrong}, got another file") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise HeatserveError(f"{wrong}, got another kind of key")
    return key


def fingerprint_of(key: EllipticCurvePublicKey) -> str:
    """Hex SHA-256 of a public key in PEM, by which a signature names its key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def short(fingerprint: str) -> str:
    """The start of a fingerprint, for messages."""
    return fingerprint[:16]


def _difference(contents: Contents, envelope: Envelope) -> str:
    """In which way a copy is not what was signed; nothing: its files are."""
    if envelope.version != contents.name:
        return f"expected the signature of {contents.name}, got that of {envelope.version}; sign the version itself"
    found = {
        path.relative_to(contents.folder).as_posix(): sha256_of(path)
        for path in contents.folder.rglob("*")
        if path.is_file()
    }
    names = sorted(name for name in {*found, *envelope.digests} if found.get(name) != envelope.digests.get(name))
    settings = f"{contents.source.parent.name}/{SETTINGS_NAME}"
    if names == [settings]:
        return (
            "the settings in config.pbtxt, of the model or a tier, or which tiers there are, were changed since it was "
            "signed; restore them, or sign it again"
        )
    where = first_of([name for name in names if name != settings])
    return where and f"changed, added or removed since it was signed: {where}; restore it, or sign it again"
