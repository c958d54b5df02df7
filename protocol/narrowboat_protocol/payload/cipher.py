"""Decrypting any part of a payload, and encrypting one: AES-128 in counter mode (RFC 9459 section 4).

Everything behind the head is encrypted in place, hashes and frames alike: the hashes of a chunk that is known but for
a password would tell the password. The counter starts with the IV at the first byte behind the head and goes up by one
every 16 bytes, so a byte's place in the payload is all that it takes to decrypt it, from wherever a download goes on,
and nothing becomes longer.

Nothing is authenticated by this. Whoever flips a bit of the ciphertext flips that bit of the plaintext, and of frames
that is found before they are decrypted: the index hashes what is on the wire. What a frame holds is believed by the
tree, as ever. One key encrypts one payload: two under the same key would give away what differs between them.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from ..suit.encryption import ContentKey

CIPHER_BLOCK_BYTES = 16
_COUNTER_END = 1 << 128


class PayloadCipher:
    """Encrypts and decrypts, which is the same. Its repr shows no key."""

    __slots__ = ("_content", "_first")

    def __init__(self, content: ContentKey, first: int) -> None:
        """`first` is where the counter starts, an offset in the payload: the size of its head."""
        self._content = content
        self._first = first

    def __repr__(self) -> str:
        return f"PayloadCipher(first={self._first})"

    def apply(self, offset: int, data: bytes | memoryview) -> bytes:
        """What `data`, which stands at `offset` in the payload, is on the other side of the cipher."""
        blocks, within = divmod(offset - self._first, CIPHER_BLOCK_BYTES)
        counter = counter_after(self._content.iv, blocks)
        stream = Cipher(AES(self._content.key), CTR(counter)).encryptor()
        stream.update(bytes(within))
        return stream.update(data)


def counter_after(iv: bytes, blocks: int) -> bytes:
    """The counter so many blocks after this one, or before it if the number is negative."""
    return ((int.from_bytes(iv, "big") + blocks) % _COUNTER_END).to_bytes(CIPHER_BLOCK_BYTES, "big")
