"""Keys that live in a token: an HSM, a TPM, a smart card, or SoftHSM where there is none.

It lies beside the protocol, which reads no file and talks to no device, and needs the extra `pkcs11` of the protocol,
the device or the bridge. Both shells import it when a key is configured as a PKCS#11 URI, and never else.
"""

from __future__ import annotations

from .pin import Pin, ask_person, pin_of
from .session import open_token_key

__all__ = ["Pin", "ask_person", "open_token_key", "pin_of"]
