"""The gateway's key, if it is in a token.

Whoever needs the key asks here, several times in the life of a process; the token is logged in to once. Its PIN comes
from a file, as nobody sits at a gateway. What speaks to tokens is imported here and not before: it takes memory.
"""

from __future__ import annotations

from functools import cache

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.token_uri import TokenUri


@cache
def key_in_token(uri: TokenUri) -> PrivateKey:
    """Raises `UsageError` if there is no such key, or no way to it."""
    try:
        from narrowboat_tokens import open_token_key, pin_of
    except ImportError:
        raise UsageError(
            Reason.BAD_CONFIG,
            "[identity] key: expected the package python-pkcs11, which opens keys in tokens, got none; install"
            " narrowboat-device[pkcs11]",
        ) from None
    return open_token_key(uri, lambda: pin_of(uri, None))
