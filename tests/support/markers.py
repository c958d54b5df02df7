"""Secrets as they would look where they must not be: every form in which a key, a passphrase or a claim secret could
slip into a log, a message or a file.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_SCALAR_BYTES = 32
_SECRET_LINES = 2
"""Of a key's PEM body. What follows of a P-256 key is its public half, which certificates show as the same line."""


def forms_of(secret: bytes) -> dict[str, bytes]:
    """The secret as bytes, and as the text that code makes of bytes. base64 is looked for at each of its three
    alignments, by what does not depend on the neighbours.
    """
    forms = {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "repr": repr(secret)[2:-1].encode(),
        "spaced hex": secret.hex(" ").encode(),
        "colon hex": secret.hex(":").encode(),
        "list": str(list(secret))[1:-1].encode(),
    }
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        inner = text[4 if shift else 0 : -4]
        forms[f"base64 at {shift}"] = inner
        forms[f"base64url at {shift}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


def forms_of_key(pem: bytes, passphrase: bytes | None = None) -> dict[str, bytes]:
    """The private number of a key, and the lines of its PEM that hold it."""
    key = load_pem_private_key(pem, passphrase)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        number = key.private_numbers().private_value
        scalar = number.to_bytes(_SCALAR_BYTES, "big")
        forms = forms_of(scalar) | {"decimal": str(number).encode()}
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        forms = forms_of(key.private_bytes_raw())
    lines = [line for line in pem.splitlines() if not line.startswith(b"-")]
    return forms | {f"PEM line {number}": line for number, line in enumerate(lines[:_SECRET_LINES])}


def key_files(folder: Path) -> list[Path]:
    """Every file below that holds a private key."""
    return [path for path in sorted(folder.rglob("*.pem")) if b"PRIVATE KEY-----" in path.read_bytes()]


def leaks(markers: Mapping[str, Mapping[str, bytes]], texts: Mapping[str, bytes]) -> Iterator[str]:
    """Which secret stands where, and in which form; never the secret itself."""
    for where, text in texts.items():
        for secret, forms in markers.items():
            yield from (f"{secret} in {where}, {form}" for form, marker in forms.items() if marker in text)
