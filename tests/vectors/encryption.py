"""Vectors of encrypted payloads: who opens the key, and what the key makes of the bytes."""

from __future__ import annotations

from itertools import count

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import Codec, PayloadWriter
from narrowboat_protocol.suit import AgreementKey, ContentKey, seal

from .seeds import DEVICE, Vectors, patterned, seeded


def _secret(label: str) -> int:
    return int.from_bytes(seeded(label), "big") >> 1


def agreement_key(label: str) -> AgreementKey:
    return AgreementKey(ec.derive_private_key(_secret(label), ec.SECP256R1()))


RECIPIENT, OTHER = agreement_key("agreement gw-1"), agreement_key("agreement gw-2")
SEALED = ContentKey(seeded("content key", 16), bytes(15) + b"\x02")


def _sealed(content: ContentKey, *recipients: AgreementKey) -> bytes:
    numbers = count(1)
    return seal(
        content,
        [recipient.public for recipient in recipients],
        lambda: agreement_key(f"ephemeral {next(numbers)}"),
    )


INFO = _sealed(SEALED, RECIPIENT)


def encryption_file() -> Vectors:
    image = patterned(700)
    writer = PayloadWriter(DEFAULT_LIMITS, Codec.STORED, content_key=SEALED)
    frames = b"".join(writer.encode([image]))
    prologue = writer.prologue()
    assert prologue.content_key is not None
    info = _sealed(prologue.content_key, OTHER, RECIPIENT)
    return {
        "about": "An encrypted payload and the encryption info that lets two devices have its key. The IV is so near"
        " its end that the counter passes 2^128. `refused` infos are not opened with this private key.",
        "private_key": f"{_secret('agreement gw-1'):064x}",
        "cose_key": RECIPIENT.public.cose_key.hex(),
        "kid": RECIPIENT.public.kid.hex(),
        "encryption_info": info.hex(),
        "content_key": prologue.content_key.key.hex(),
        "iv": prologue.content_key.iv.hex(),
        "head_size": len(prologue.head),
        "payload": (prologue.head + prologue.layer + prologue.leaves + frames).hex(),
        "image": image.hex(),
        "refused": [
            {"name": name, "encryption_info": data.hex(), "refused": reason}
            for name, (data, reason) in _refused(info).items()
        ],
    }


def _refused(info: bytes) -> dict[str, tuple[bytes, Reason]]:
    value = decode(info, max_bytes=len(info), tags=frozenset({96}))
    assert isinstance(value, cbor2.CBORTag)
    _, headers, _, (_, (protected, named, wrapped)) = value.value
    ephemeral = named[-1]
    whole = [protected, named, wrapped]

    def formed(
        recipients: object, headers: object = headers, protected: bytes = b"", payload: object = None, tag: int = 96
    ) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(tag, [protected, headers, payload, recipients]), canonical=True)

    flipped = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    shapes = {
        "another content algorithm": formed([whole], {1: 1, 5: headers[5]}),
        "a protected algorithm": formed([whole], {5: headers[5]}, encode({1: -65534})),
        "an IV of 12 bytes": formed([whole], {1: -65534, 5: headers[5][:12]}),
        "a ciphertext inside": formed([whole], payload=b"ciphertext"),
        "no recipient": formed([]),
        "seventeen recipients": formed([whole] * 17),
        "a recipient by A128KW alone": formed([[encode({1: -3}), named, wrapped]]),
        "a recipient without a thumbprint": formed([[protected, {-1: ephemeral}, wrapped]]),
        "an ephemeral key that only signs": formed([[protected, named | {-1: DEVICE.public.to_cbor()}, wrapped]]),
        "an ephemeral key off the curve": formed([[protected, named | {-1: ephemeral | {-3: bytes(32)}}, wrapped]]),
        "a wrapped key of another length": formed([[protected, named, wrapped + bytes(8)]]),
        "a COSE_Encrypt0": formed([whole], tag=16),
    }
    return {name: (data, Reason.BAD_DOCUMENT) for name, data in shapes.items()} | {
        "a wrapped key with a flipped bit": (formed([[protected, named, flipped]]), Reason.NO_KEY),
        "another's key under this thumbprint": (
            formed([[protected, named | {-1: OTHER.public.to_cbor()}, wrapped]]),
            Reason.NO_KEY,
        ),
        "a key for others": (_sealed(SEALED, OTHER), Reason.NO_KEY),
    }
