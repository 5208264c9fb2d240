"""TLS of Triton's own gRPC port, and how this server's own processes get in there."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from heatserve.serving.client.access import Access, Tls
from heatserve.serving.client.address import parse_address
from heatserve.serving.errors import ServingError

_OWN_NAME = "own.pem"
_CLIENTS_NAME = "clients.pem"
_DAYS = 3650  # as long as one life of a Triton may be; each life has a key of its own


def tls_problem(error: OSError | ValueError) -> str:
    """What is wrong with a file of certificates or keys, in words without numbers of errors or lines of C."""
    if isinstance(error, ssl.SSLError):  # its reason is KEY_VALUES_MISMATCH, or none
        return (error.reason or "no certificate, no key, or a key with a password").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class ServerTls:
    """Files in PEM with which a server encrypts, and knows its clients.

    Attributes:
        certificate: of the server, with those between it and its CA.
        key: its key, without a password.
        client_ca: the CA whose clients are let in, and nobody else (mutual TLS); None: anybody.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Refuse files that Triton could not use.

        Raises:
            ServingError: a file cannot be read, or does not fit the others. Names its option.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")  # it never asks at a terminal
        except (OSError, ValueError) as error:
            raise ServingError(
                f"--tls-cert {self.certificate}: expected a certificate in PEM and, in --tls-key {self.key}, its key "
                f"without a password, found: {tls_problem(error)}"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise ServingError(
                    f"--client-ca {self.client_ca}: expected certificates in PEM, found: {tls_problem(error)}"
                ) from None


@dataclass(frozen=True)
class OwnTls(Tls):
    """TLS to a server of our own: `ca` is its very certificate, whoever signed it."""

    def grpc_files(self) -> dict[str, bytes | None]:
        """What gRPC takes: the contents of the files."""
        own = None if self.certificate is None else Path(self.certificate).read_bytes()
        assert self.ca is not None
        return {
            "root_certificates": Path(self.ca).read_bytes(),
            "private_key": own,
            "certificate_chain": own,
        }


@dataclass(frozen=True)
class GrpcTls:
    """TLS of one life of a Triton, with the files that belong to it."""

    server: ServerTls
    own: Path | None
    """A certificate and its key, for which this Triton lets us in; None: it lets anybody in."""
    clients: Path | None
    """Whom it lets in: the operator's CA, and us."""

    @classmethod
    def prepared(cls, server: ServerTls, folder: Path) -> GrpcTls:
        """Check the operator's files, and write ours into the folder of the server, which is for its user only.

        Raises:
            ServingError: a file of the operator's is not what it should be.
        """
        server.check()
        if server.client_ca is None:
            return cls(server, None, None)
        certificate, key = _new_identity()
        own, clients = folder / _OWN_NAME, folder / _CLIENTS_NAME
        _write_private(own, certificate + key)
        _write_private(clients, server.client_ca.read_bytes().rstrip() + b"\n" + certificate)
        return cls(server, own, clients)

    def files(self) -> tuple[str, str, str]:
        """The same for the front: the file of Triton's certificate, that of ours or "", and a name on Triton's."""
        certificate = self.server.certificate.absolute()
        return str(certificate), str(self.own or ""), _name_on(certificate)

    def options(self) -> Iterator[str]:
        """What Triton is started with."""
        yield "--grpc-use-ssl=true"
        yield f"--grpc-server-cert={self.server.certificate.absolute()}"
        yield f"--grpc-server-key={self.server.key.absolute()}"
        if self.clients is not None:
            yield "--grpc-use-ssl-mutual=true"
            yield f"--grpc-root-cert={self.clients}"

    def access(self, url: str) -> Access:
        """How this server's own processes reach its gRPC, by whatever address: they trust this certificate alone."""
        tls = OwnTls(ca=self.server.certificate.absolute(), certificate=self.own)
        return Access(parse_address(url), tls, {}, None, server_name=_name_on(self.server.certificate))


def _name_on(path: Path) -> str:
    """A name that the first certificate of a file is for.

    Raises:
        ServingError: it has none.
    """
    from cryptography import x509

    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    found = [*map(str, names.get_values_for_type(x509.DNSName)), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not found:
        raise ServingError(
            f"--tls-cert {path}: expected a certificate for names or addresses (subjectAltName), which clients "
            "compare with the host that they ask, found one without"
        )
    return found[0].replace("*", "any", 1)


def _new_identity() -> tuple[bytes, bytes]:
    """A certificate that signs nothing but itself, and its key, both in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "heatserve")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + _DAYS * day)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
