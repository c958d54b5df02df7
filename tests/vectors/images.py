"""Vectors of trees, payloads and frames.

What depends on the release of a compressor (encoded frames) is a constant here: vectors say what must be readable, not
how to compress. Hostile Zstandard frames are put together by hand (RFC 8878 section 3.1.1).
"""

from __future__ import annotations

import hashlib

from narrowboat_protocol.cbor import encode
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import Codec, encode_head
from narrowboat_protocol.payload.head import hash8, pack_entry
from narrowboat_protocol.tree import BuiltTree, Tree, TreeBuilder

from .seeds import Vectors, patterned, seeded


def built(image: bytes) -> BuiltTree:
    builder = TreeBuilder(DEFAULT_LIMITS)
    builder.update(image)
    return builder.finish()


def trees_file() -> Vectors:
    lengths = (1, 65_535, 65_536, 65_537, 3 * 65_536, 64 * 65_536, 64 * 65_536 + 1, 150 * 65_536 - 9)
    trees = {length: built(patterned(length)) for length in lengths}
    refused = {
        "length 0": [-16, 16, 0, bytes(32)],
        "another hash": [-43, 16, 1, bytes(32)],
        "another chunk size": [-16, 12, 1, bytes(32)],
        "a short root": [-16, 16, 1, bytes(31)],
    }
    return {
        "about": "Chunk trees (RFC 9162 section 2.1.1) over images whose byte i is (7 i + i // 251) mod 256; chunks of"
        " 64 KiB. `layers` and `leaves` are refused under the tree of that length.",
        "accepted": [
            {
                "length": length,
                "root": tree.tree.root.hex(),
                "layer": tree.layer.hex(),
                "leaves": tree.leaves.hex(),
                "image_sha256": tree.image_sha256.hex(),
            }
            for length, tree in trees.items()
        ],
        "refused": [{"name": name, "tree": encode(value).hex()} for name, value in refused.items()],
        "layers": _refused_layers(trees[150 * 65_536 - 9]),
        "leaves": _refused_leaves(trees[64 * 65_536 + 1]),
    }


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _refused_layers(tree: BuiltTree) -> list[Vectors]:
    layer = tree.layer
    cases = {
        "a flipped bit": _flipped(layer),
        "two nodes changed about": layer[32:64] + layer[:32] + layer[64:],
        "a node too few": layer[:-32],
        "a node too many": layer + layer[-32:],
        "the root itself": tree.tree.root,
        "a node cut short": layer[:-1],
        "nothing": b"",
    }
    return [
        {"name": name, "length": tree.tree.length, "layer": data.hex(), "refused": Reason.BAD_LAYER}
        for name, data in cases.items()
    ]


def _refused_leaves(tree: BuiltTree) -> list[Vectors]:
    first, second = tree.leaves[: 64 * 32], tree.leaves[64 * 32 :]
    cases = {
        "a flipped bit": (1, _flipped(second)),
        "a leaf too many": (1, second * 2),
        "nothing": (1, b""),
        "the node of the layer for 64 leaves": (0, tree.layer[:32]),
        "two leaves changed about": (0, first[32:64] + first[:32] + first[64:]),
        "the leaves of another subtree": (0, second),
    }
    return [
        {
            "name": name,
            "length": tree.tree.length,
            "subtree": subtree,
            "leaves": data.hex(),
            "refused": Reason.BAD_LEAVES,
        }
        for name, (subtree, data) in cases.items()
    ]


ENCODED_ZEROS: dict[Codec, bytes] = {
    Codec.STORED: bytes(300),
    Codec.ZSTD: bytes.fromhex("28b52ffd602c0045000008000100282a1002"),
    Codec.LZMA: bytes.fromhex("00006ffdf7c54cf6fffffdf09000"),
}
"""300 zero bytes, as each codec once encoded them."""


def payloads_file() -> Vectors:
    image = bytes(300)
    cases = []
    for codec, encoded in ENCODED_ZEROS.items():
        tree = built(image)
        head = encode_head(tree.image_sha256, tree.tree, pack_entry(codec, 1, encoded))
        payload = head + tree.layer + tree.leaves + encoded
        cases.append(
            {
                "name": codec.name.lower(),
                "image": image.hex(),
                "head_size": len(head),
                "head_sha256": hashlib.sha256(head).hexdigest(),
                "payload": payload.hex(),
            }
        )
    foreign = Tree(16, 300, seeded("root"))
    entry = pack_entry(Codec.STORED, 1, image)
    refused: dict[str, tuple[bytes, Reason]] = {
        "no frame": (encode_head(bytes(32), foreign, b""), Reason.BAD_HEAD),
        "a frame too many": (encode_head(bytes(32), foreign, entry * 2), Reason.BAD_HEAD),
        "a stored frame of another length": (
            encode_head(bytes(32), foreign, pack_entry(Codec.STORED, 1, image[1:])),
            Reason.BAD_HEAD,
        ),
        "an unknown codec": (encode_head(bytes(32), foreign, b"\x09" + entry[1:]), Reason.UNSUPPORTED_CODEC),
        "a delta": (
            encode_head(bytes(32), foreign, entry).replace(b"\x02\x00", b"\x02\x01", 1),
            Reason.UNSUPPORTED_CODEC,
        ),
        "another format": (
            encode_head(bytes(32), foreign, entry).replace(b"\x01\x01", b"\x01\x02", 1),
            Reason.UNKNOWN_FORMAT,
        ),
    }
    return {
        "about": "Whole payloads, one for each codec; heads that are refused; frames of 300 bytes of image, by codec"
        " and the hash that the index gives, that are refused.",
        "accepted": cases,
        "refused": [{"name": name, "head": data.hex(), "refused": reason} for name, (data, reason) in refused.items()],
        "frames": _refused_frames(),
    }


def _zstd(*, header: int = 0x40, window: int = 0x40, rest: bytes = b"\x2c\x00", size: int = 300) -> bytes:
    """A frame of one block that repeats a zero: descriptor 0x40 says that two bytes give the content size, less 256."""
    return b"\x28\xb5\x2f\xfd" + bytes([header, window]) + rest + (size << 3 | 3).to_bytes(3, "little") + b"\x00"


HAND_MADE = _zstd()
"""Read by every decoder; each hostile frame below differs from it in one thing."""


def _refused_frames() -> list[Vectors]:
    lzma = ENCODED_ZEROS[Codec.LZMA]
    cases: dict[str, tuple[Codec, bytes]] = {
        "stored, a byte short": (Codec.STORED, bytes(299)),
        "stored, a byte long": (Codec.STORED, bytes(301)),
        "zstd, no content size": (Codec.ZSTD, _zstd(header=0, rest=b"")),
        "zstd, a content size of 301": (Codec.ZSTD, _zstd(rest=b"\x2d\x00")),
        "zstd, 301 bytes under a content size of 300": (Codec.ZSTD, _zstd(size=301)),
        "zstd, a window of 2^18 and an eighth": (Codec.ZSTD, _zstd(window=0x41)),
        "zstd, a dictionary": (Codec.ZSTD, _zstd(header=0x41, rest=b"\x07\x2c\x00")),
        "zstd, cut short": (Codec.ZSTD, HAND_MADE[:-1]),
        "zstd, a byte after the frame": (Codec.ZSTD, HAND_MADE + b"\x00"),
        "zstd, a second frame": (Codec.ZSTD, HAND_MADE * 2),
        "zstd, a skippable frame before": (Codec.ZSTD, b"\x50\x2a\x4d\x18\x01\x00\x00\x00x" + HAND_MADE),
        "LZMA, without its end marker": (Codec.LZMA, lzma[:-5]),
        "LZMA, a byte after the end": (Codec.LZMA, lzma + b"\x00"),
        "LZMA, a second stream": (Codec.LZMA, lzma * 2),
        "LZMA, but zstd": (Codec.LZMA, HAND_MADE),
        "nothing": (Codec.ZSTD, b""),
    }
    frames = [(name, codec, data, hash8(data), Reason.BAD_FRAME) for name, (codec, data) in cases.items()]
    frames.append(("the hash of another frame", Codec.STORED, bytes(300), hash8(bytes(299)), Reason.BAD_BLOCK))
    return [
        {"name": name, "codec": codec, "encoded": data.hex(), "hash8": start.hex(), "refused": reason}
        for name, codec, data, start, reason in frames
    ]
