"""Where a private key is: in a file, or in a token.

Wherever an argument or a setting names the file of a key that signs, it may be a PKCS#11 URI instead, which begins with
`pkcs11:` (see `narrowboat_protocol.token_uri`). And where a fleet folder has a fixed place for a key, such as
pki/device-ca-key.pem, the file may hold the URI in one line instead of the key. Keys of TLS connections are files:
Python's ssl opens nothing else.

What speaks to tokens is imported when a key is in one, and installed by the extra `pkcs11`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.token_uri import SCHEME, TokenUri, is_token_uri, parse_token_uri

KeyPlace: TypeAlias = Path | TokenUri


def key_place(text: str) -> KeyPlace:
    """Raises `UsageError` for a URI that names no key."""
    return parse_token_uri(text) if is_token_uri(text) else Path(text)


def key_setting(value: object) -> KeyPlace:
    """As `key_place`, of a value out of a TOML file. Raises `ValueError`, which pydantic collects."""
    if isinstance(value, Path | TokenUri):
        return value
    if not isinstance(value, str):
        raise ValueError("expected the path of a key, or a pkcs11: URI")  # noqa: TRY004
    try:
        return key_place(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def uri_in(data: bytes) -> TokenUri | None:
    """The URI that a key file holds, if it holds one. Raises `UsageError` as `key_place`."""
    if not data.startswith(SCHEME.encode()):
        return None
    return parse_token_uri(data.decode(errors="replace").strip())


def key_in_token(uri: TokenUri) -> PrivateKey:
    """Log in to the token and open the key. Whoever sits at the terminal is asked for a PIN if no file has it."""
    try:
        from narrowboat_tokens import ask_person, open_token_key, pin_of
    except ImportError:
        raise UsageError(
            Reason.BAD_USE,
            f"{uri}: expected the package python-pkcs11, which opens keys in tokens, got none; install"
            " narrowboat-bridge[pkcs11]",
        ) from None
    return open_token_key(uri, lambda: pin_of(uri, ask_person()))
