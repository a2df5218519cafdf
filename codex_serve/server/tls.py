"""HTTPS: the certificate and key that the settings name."""

import ssl

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError


def load_tls(config: Config) -> ssl.SSLContext | None:
    """Return the context for HTTPS, ``None`` where it is not set up.

    TLS 1.2 and up; HTTP/1.1 is the only protocol that is offered.

    Raises:
      ConfigError: a file is missing, unreadable or no match for the other.
    """
    cert, key = config.tls_cert_file, config.tls_key_file
    if not cert and not key:
        return None
    if not cert or not key:
        raise ConfigError("TLS_CERT_FILE and TLS_KEY_FILE must be set together, or not at all")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With an empty password an encrypted key is an error; without one, OpenSSL
        # would ask for it on the terminal.
        context.load_cert_chain(cert, key, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"TLS_CERT_FILE and TLS_KEY_FILE must be a readable PEM certificate and its key "
            f"without a password, not {cert} and {key}: {reason or error}"
        ) from error
    return context
