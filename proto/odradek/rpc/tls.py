"""Credentials for both ends of a connection; without them it is plain text."""

from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """PEM bytes for one end of a (mutually) authenticated connection.

    Attributes:
        authorities: Certificates that must have signed the peer's. None at a client: the system's;
            at a server: clients need no certificate.
        certificate: This end's chain, its own first. None at a client that shows none.
        private_key: The key of `certificate`.
    """

    authorities: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key come together: one of them is missing")

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a client dials with."""
        return grpc.ssl_channel_credentials(self.authorities, self.private_key, self.certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return what a server listens with.

        Raises:
            ValueError: There is no certificate to show.
        """
        if self.certificate is None or self.private_key is None:
            raise ValueError("a server needs a certificate and its private key")
        return grpc.ssl_server_credentials(
            [(self.private_key, self.certificate)],
            root_certificates=self.authorities,
            require_client_auth=self.authorities is not None,
        )
