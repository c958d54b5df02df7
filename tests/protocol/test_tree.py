"""The hash tree of an image, against RFC 9162's definition and the vectors of Certificate Transparency."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.errors import DocumentError, PayloadError, Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.tree import (
    HASH_BYTES,
    BuiltTree,
    Tree,
    TreeBuilder,
    check_layer,
    check_leaves,
    leaf_hash,
    merkle_root,
    node_hash,
)

LIMITS = Limits(log2_chunk_size=4, subtree_chunks=4, image_bytes_max=4096)
ROOT = bytes(range(32))

# The eight leaves, and the roots over the first one to eight, of Certificate Transparency's reference code.
CT_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def rfc_9162_root(chunks: list[bytes]) -> bytes:
    """MTH as section 2.1.1 writes it: split at the largest power of two below the count."""
    if len(chunks) == 1:
        return hashlib.sha256(b"\x00" + chunks[0]).digest()
    split = 1 << (len(chunks) - 1).bit_length() - 1
    left, right = rfc_9162_root(chunks[:split]), rfc_9162_root(chunks[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def build(image: bytes, limits: Limits = LIMITS) -> BuiltTree:
    builder = TreeBuilder(limits)
    builder.update(image)
    return builder.finish()


def flipped(data: bytes, bit: int) -> bytes:
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    leaves = b"".join(leaf_hash(bytes.fromhex(leaf)) for leaf in CT_LEAVES[:count])
    assert merkle_root(leaves).hex() == CT_ROOTS[count - 1]


def test_a_leaf_can_never_pass_for_a_node() -> None:
    left, right = leaf_hash(b"left"), leaf_hash(b"right")
    assert leaf_hash(left + right) != node_hash(left, right)


@given(st.binary(min_size=1, max_size=1200))
def test_any_image_has_the_tree_of_the_rfc(image: bytes) -> None:
    built = build(image)
    chunks = [image[start : start + 16] for start in range(0, len(image), 16)]
    assert built.tree == Tree(4, len(image), rfc_9162_root(chunks))
    assert built.image_sha256 == hashlib.sha256(image).digest()
    assert built.leaves == b"".join(map(leaf_hash, chunks))
    check_layer(built.tree, built.layer, LIMITS)
    for subtree in range(built.tree.subtree_count(LIMITS)):
        first_chunk, count = built.tree.subtree_span(subtree, LIMITS)
        leaves = built.leaves[first_chunk * HASH_BYTES : (first_chunk + count) * HASH_BYTES]
        check_leaves(built.tree, built.layer, subtree, leaves, LIMITS)


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=12).filter(any))
def test_how_an_image_is_cut_into_blocks_does_not_change_its_tree(blocks: list[bytes]) -> None:
    builder = TreeBuilder(LIMITS)
    for block in blocks:
        builder.update(block)
    assert builder.finish() == build(b"".join(blocks))


@given(st.integers(1, 4096))
def test_the_spans_of_chunks_and_subtrees_cover_an_image_once(length: int) -> None:
    tree = Tree(4, length, ROOT)
    end = 0
    for chunk in range(tree.chunk_count):
        offset, chunk_bytes = tree.chunk_span(chunk)
        assert offset == end
        assert 1 <= chunk_bytes <= 16
        end += chunk_bytes
    assert end == length
    next_chunk = 0
    for subtree in range(tree.subtree_count(LIMITS)):
        first_chunk, count = tree.subtree_span(subtree, LIMITS)
        assert first_chunk == next_chunk
        assert 1 <= count <= 4
        next_chunk += count
    assert next_chunk == tree.chunk_count


@given(st.binary(min_size=1, max_size=1200), st.data())
def test_a_flipped_bit_in_layer_or_leaves_is_refused(image: bytes, data: st.DataObject) -> None:
    built = build(image)
    layer_bit = data.draw(st.integers(0, len(built.layer) * 8 - 1))
    with pytest.raises(PayloadError) as caught:
        check_layer(built.tree, flipped(built.layer, layer_bit), LIMITS)
    assert caught.value.reason is Reason.BAD_LAYER
    leaves = built.leaves[: 4 * HASH_BYTES]
    leaf_bit = data.draw(st.integers(0, len(leaves) * 8 - 1))
    with pytest.raises(PayloadError) as caught:
        check_leaves(built.tree, built.layer, 0, flipped(leaves, leaf_bit), LIMITS)
    assert caught.value.reason is Reason.BAD_LEAVES


def test_a_layer_or_leaves_of_another_level_are_refused() -> None:
    """The parents of a layer hash to the same root: only the count tells them apart."""
    built = build(bytes(16 * 16))
    parents = node_hash(built.layer[:32], built.layer[32:64]) + node_hash(built.layer[64:96], built.layer[96:])
    assert merkle_root(parents) == built.tree.root
    for layer in (parents, built.leaves, built.layer[:-1], built.layer + bytes(32), b""):
        with pytest.raises(PayloadError) as caught:
            check_layer(built.tree, layer, LIMITS)
        assert caught.value.reason is Reason.BAD_LAYER
    for leaves in (built.layer[:32], built.leaves[:96], built.leaves[:160], b""):
        with pytest.raises(PayloadError) as caught:
            check_leaves(built.tree, built.layer, 0, leaves, LIMITS)
        assert caught.value.reason is Reason.BAD_LEAVES


def test_leaves_of_another_subtree_are_refused() -> None:
    built = build(bytes(range(256)))
    with pytest.raises(PayloadError):
        check_leaves(built.tree, built.layer, 1, built.leaves[: 4 * HASH_BYTES], LIMITS)


def test_the_signed_tuple_survives_the_wire() -> None:
    tree = build(b"image").tree
    assert tree.to_cbor() == [-16, 4, 5, tree.root]
    assert Tree.from_cbor(tree.to_cbor(), LIMITS) == tree


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        {},
        [],
        [-16, 4, 5],
        [-16, 4, 5, ROOT, 0],
        [-16, 4, 5, "0" * 32],
        [-16, 4, "5", ROOT],
        [-16, 4, True, ROOT],
        [-44, 4, 5, ROOT],
        [16, 4, 5, ROOT],
        [-16, 16, 5, ROOT],
        [-16, 4, 5, ROOT[:-1]],
        [-16, 4, 5, ROOT + b"\x00"],
        [-16, 4, 0, ROOT],
        [-16, 4, -1, ROOT],
    ],
    ids=repr,
)
def test_a_malformed_tuple_is_refused(value: object) -> None:
    with pytest.raises(DocumentError) as caught:
        Tree.from_cbor(value, LIMITS)
    assert caught.value.reason is Reason.BAD_DOCUMENT


def test_an_image_beyond_the_limit_is_refused_on_both_sides() -> None:
    assert Tree.from_cbor([-16, 4, 4096, ROOT], LIMITS).chunk_count == 256
    with pytest.raises(DocumentError) as caught:
        Tree.from_cbor([-16, 4, 4097, ROOT], LIMITS)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    builder = TreeBuilder(LIMITS)
    builder.update(bytes(4096))
    with pytest.raises(UsageError):
        builder.update(b"\x00")


def test_a_builder_gives_one_tree_and_no_other_one_later() -> None:
    builder = TreeBuilder(LIMITS)
    builder.update(bytes(20))
    builder.finish()
    with pytest.raises(UsageError):
        builder.finish()


def test_an_empty_image_has_no_tree() -> None:
    with pytest.raises(UsageError):
        TreeBuilder(LIMITS).finish()
    for nodes in (b"", bytes(31), bytes(33)):
        with pytest.raises(UsageError):
            merkle_root(nodes)


def test_a_chunk_or_subtree_outside_the_image_is_a_bug_of_the_caller() -> None:
    tree = Tree(4, 65, ROOT)
    for number in (-1, 5):
        with pytest.raises(UsageError):
            tree.chunk_span(number)
    for number in (-1, 2):
        with pytest.raises(UsageError):
            tree.subtree_span(number, LIMITS)


def test_default_sizes_give_one_layer_node_per_four_mib() -> None:
    tree = Tree(16, 512 * 1024 * 1024, ROOT)
    assert (tree.chunk_count, tree.subtree_count(DEFAULT_LIMITS)) == (8192, 128)
