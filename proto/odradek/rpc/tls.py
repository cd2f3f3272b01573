"""Credentials for both ends of a connection; without them it is plain text."""

import os
import ssl
from dataclasses import dataclass


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

    def channel_context(self) -> ssl.SSLContext:
        """Return what a client dials with."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        if self.authorities is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=self.authorities.decode("ascii", "ignore"))
        self._complete(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return what a server listens with.

        Raises:
            ValueError: There is no certificate to show.
        """
        if self.certificate is None:
            raise ValueError("a server needs a certificate and its private key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.authorities is not None:
            context.load_verify_locations(cadata=self.authorities.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED
        self._complete(context)
        return context

    def _complete(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if self.certificate is not None and self.private_key is not None:
            # Python's ssl takes certificates from files alone: one that no disk ever sees.
            with os.fdopen(os.memfd_create("certificate"), "wb") as both:
                both.write(self.private_key + b"\n" + self.certificate)
                both.flush()
                # An empty password: nobody is asked for that of a key which needs one.
                context.load_cert_chain(f"/proc/self/fd/{both.fileno()}", password="")
