"""Uploads: a release comes into the store whole and believed, or not at all, however often the way there breaks."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from narrowboat_bridge.core.actions import Refusal
from narrowboat_bridge.core.campaigns import Settings
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.store import Store
from narrowboat_bridge.server.upload_worker import AddBlock, Begin, Forget, UploadOutcome, UploadWorker
from narrowboat_bridge.server.uploads import UploadLimits, Uploads
from narrowboat_protocol.documents import OperatorRole, UploadBegin, UploadFinish, UploadState
from narrowboat_protocol.errors import NarrowboatError, PeerError, Reason
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.release_file import encode_header, encode_trailer
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block
from tests.bridge.kit import running_bridge
from tests.bridge.world import release as known_release
from tests.device.kit import file_size_limit
from tests.support.fleet import NOW, FleetKit, MadeRelease

FLEET = FleetKit.create(release_threshold=2, release_keys=3, minimum_sequence=2)
RELEASE = FLEET.make_release(os.urandom(5000), version="2.0", sequence=3)
BLOCK_BYTES = 1024


class Desk:
    """Uploads in a folder, with a clock."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.folder = folder / "uploads"
        self.payloads = folder / "payloads"
        self.now_s = NOW
        bounds = UploadLimits(**({"uploads_max": 2, "upload_bytes_max": 1_000_000} | limits))
        self.uploads = Uploads(self.folder, self.payloads, FLEET.trust(), bounds, lambda: self.now_s)

    def begin(self, file: MadeRelease, operator: str = "anna") -> int:
        return self.uploads.begin(operator, file.file_digest, len(file.file)).offset

    def send(self, file: MadeRelease, *, start: int = 0, end: int | None = None, operator: str = "anna") -> None:
        for offset in range(start, len(file.file) if end is None else end, BLOCK_BYTES):
            self.send_block(file, offset, operator)

    def send_block(self, file: MadeRelease, offset: int, operator: str = "anna") -> None:
        data = file.file[offset : offset + BLOCK_BYTES]
        self.uploads.add_block(operator, Block(file.file_digest[:DIGEST_PREFIX_BYTES], offset, data).encode())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_release_file_becomes_a_release_and_a_payload_under_its_digest(desk: Desk) -> None:
    desk.begin(RELEASE)
    desk.send(RELEASE)
    release = desk.uploads.finish("anna", RELEASE.file_digest)
    assert (release.digest, release.version, release.sequence) == (RELEASE.digest, "2.0", 3)
    assert release.payload == RELEASE.reference
    assert set(release.codecs) == RELEASE.head.codecs != set()
    assert release.file_size_bytes == len(RELEASE.file)
    assert (desk.payloads / RELEASE.payload_digest.hex()).read_bytes() == RELEASE.payload
    assert [path.name for path in desk.payloads.iterdir()] == [RELEASE.payload_digest.hex()]


def test_an_upload_goes_on_where_it_stopped_even_in_another_process(tmp_path: Path) -> None:
    first = Desk(tmp_path)
    first.begin(RELEASE)
    first.send(RELEASE, end=2 * BLOCK_BYTES)
    second = Desk(tmp_path)
    assert second.begin(RELEASE) == 2 * BLOCK_BYTES
    second.send(RELEASE, start=2 * BLOCK_BYTES)
    assert second.uploads.finish("anna", RELEASE.file_digest).digest == RELEASE.digest


def test_a_block_that_does_not_continue_the_file_is_dropped(desk: Desk) -> None:
    desk.begin(RELEASE)
    desk.send_block(RELEASE, 0)
    for offset in (0, 2 * BLOCK_BYTES):
        with pytest.raises(PeerError):
            desk.send_block(RELEASE, offset)
    assert desk.begin(RELEASE) == BLOCK_BYTES


def test_a_file_never_grows_beyond_what_was_announced(desk: Desk) -> None:
    desk.uploads.begin("anna", RELEASE.file_digest, 1500)
    desk.send_block(RELEASE, 0)
    with pytest.raises(PeerError):
        desk.send_block(RELEASE, BLOCK_BYTES)


def test_nobody_writes_into_another_operator_s_upload(desk: Desk) -> None:
    desk.begin(RELEASE, "anna")
    with pytest.raises(PeerError) as caught:
        desk.send_block(RELEASE, 0, "bert")
    assert caught.value.reason is Reason.CONFLICT


def test_a_file_that_is_not_whole_is_not_finished_and_not_lost(desk: Desk) -> None:
    desk.begin(RELEASE)
    desk.send(RELEASE, end=BLOCK_BYTES)
    with pytest.raises(PeerError) as caught:
        desk.uploads.finish("anna", RELEASE.file_digest)
    assert caught.value.reason is Reason.CONFLICT
    assert desk.begin(RELEASE) == BLOCK_BYTES


def with_file(file: bytes, release: MadeRelease = RELEASE) -> MadeRelease:
    return replace(release, file=file)


def packed(payload: bytes, envelope: bytes) -> MadeRelease:
    limits = FLEET.limits
    return with_file(encode_header(len(payload), limits) + payload + encode_trailer(envelope, limits))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


OTHER = FLEET.make_release(b"another image" * 100, sequence=3)
REFUSED: dict[str, tuple[Callable[[], MadeRelease], Reason]] = {
    "a file of another kind": (lambda: with_file(b"x" * 2000), Reason.UNKNOWN_FORMAT),
    "a payload cut short": (lambda: packed(RELEASE.payload[:-1], RELEASE.envelope), Reason.BAD_HEAD),
    "a frame that rotted after it was signed": (
        lambda: packed(RELEASE.payload[:-9] + bytes(9), RELEASE.envelope), Reason.BAD_BLOCK,
    ),
    "a leaf that rotted after it was signed": (
        lambda: packed(flipped(RELEASE.payload, RELEASE.head.leaves_offset), RELEASE.envelope), Reason.BAD_LEAVES,
    ),
    "a payload of another image": (lambda: packed(OTHER.payload, RELEASE.envelope), Reason.BAD_HEAD),
    "a payload that is none": (lambda: packed(b"x" * 2000, RELEASE.envelope), Reason.BAD_HEAD),
    "an envelope that is none": (lambda: packed(RELEASE.payload, b"x" * 100), Reason.NOT_DETERMINISTIC),
    "too few signatures": (
        lambda: FLEET.make_release(b"i" * 99, sequence=3, signers=FLEET.release_signers[:1]), Reason.BAD_SIGNATURE,
    ),
    "another fleet's signatures": (
        lambda: FleetKit.create().make_release(b"i" * 99, sequence=3), Reason.UNKNOWN_KEY,
    ),
    "a sequence below the root's minimum": (
        lambda: FLEET.make_release(b"i" * 99, sequence=1), Reason.BELOW_FLOOR,
    ),
    "another epoch": (lambda: FLEET.make_release(b"i" * 99, sequence=3, epoch=1), Reason.WRONG_EPOCH),
    "a component that the root does not know": (
        lambda: FLEET.make_release(b"i" * 99, sequence=3, component="bootloader"), Reason.NOT_PERMITTED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_no_gateway_would_install_leaves_nothing_behind(desk: Desk, case: str) -> None:
    make, reason = REFUSED[case]
    file = make()
    desk.begin(file)
    desk.send(file)
    with pytest.raises(NarrowboatError) as caught:
        desk.uploads.finish("anna", file.file_digest)
    assert caught.value.reason is reason
    assert list(desk.payloads.iterdir()) == []
    assert list(desk.folder.iterdir()) == []


def test_a_file_whose_bytes_changed_on_the_way_is_not_the_one_announced(desk: Desk) -> None:
    digest = RELEASE.file_digest
    desk.begin(RELEASE)
    offset = len(RELEASE.file) // 2
    changed = bytearray(RELEASE.file)
    changed[offset] ^= 1
    desk.uploads.add_block("anna", Block(digest[:DIGEST_PREFIX_BYTES], 0, bytes(changed)).encode())
    with pytest.raises(PeerError) as caught:
        desk.uploads.finish("anna", digest)
    assert caught.value.reason is Reason.BAD_BLOCK
    assert list(desk.payloads.iterdir()) == []
    assert desk.begin(RELEASE) == 0, "it starts anew"


@pytest.mark.parametrize(("operator", "patience_s"), [("anna", 600), ("bert", 86_400)])
def test_unfinished_uploads_are_bounded_and_abandoned_ones_give_way(desk: Desk, operator: str, patience_s: int) -> None:
    """Soon to the operator who gave them up, after a day to another. The oldest goes first."""
    for number in range(2):
        desk.uploads.begin("anna", bytes([number]) * 32, 1000)
        os.utime(desk.folder / f"{bytes([number]).hex() * 32}.part", (NOW + number, NOW + number))
    desk.now_s += patience_s - 1
    with pytest.raises(PeerError, match="finish one") as caught:
        desk.begin(RELEASE, operator)
    assert caught.value.reason is Reason.BUSY
    desk.now_s += 2
    assert desk.begin(RELEASE, operator) == 0
    assert not (desk.folder / f"{bytes(32).hex()}.part").exists()
    assert (desk.folder / f"{bytes([1]).hex() * 32}.part").exists()


@pytest.mark.parametrize("size_bytes", [0, 1_000_001])
def test_a_file_of_a_size_out_of_bounds_is_refused_before_anything_is_stored(desk: Desk, size_bytes: int) -> None:
    with pytest.raises(PeerError) as caught:
        desk.uploads.begin("anna", RELEASE.file_digest, size_bytes)
    assert caught.value.reason is Reason.TOO_LARGE
    assert list(desk.folder.iterdir()) == []


def test_a_copy_that_a_dead_process_left_is_cleared_away(tmp_path: Path) -> None:
    Desk(tmp_path)
    leftover = tmp_path / "payloads" / "abc.part"
    leftover.write_bytes(b"x")
    Desk(tmp_path)
    assert not leftover.exists()


# Through a whole bridge.


def test_pushing_what_is_there_does_nothing_and_says_so(tmp_path: Path) -> None:
    anna = FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        first = bridge.push(anna, RELEASE)
        assert first.release is not None
        bridge.workshop.loop.turn()
        for request in (
            UploadBegin(digest=RELEASE.file_digest, size=len(RELEASE.file)),
            UploadFinish(digest=RELEASE.file_digest),
        ):
            assert UploadState.from_cbor(bridge.ask(anna, request).result) == first
        assert len([event for event in bridge.events() if event.kind == "release_added"]) == 1


def test_a_payload_that_was_lost_is_named_at_the_start_and_comes_back_with_a_push(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store was restored from a backup without the folder of payloads, or the disk was cleaned."""
    anna = FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.push(anna, RELEASE)
        payload = bridge.config.payloads_folder / RELEASE.payload_digest.hex()
    payload.unlink()
    with caplog.at_level(logging.WARNING), running_bridge(tmp_path, FLEET, anna) as bridge:
        assert [RELEASE.digest.hex() in message for message in caplog.messages] == [True]
        bridge.requests = 100
        assert bridge.push(anna, RELEASE).release is not None
    assert payload.read_bytes() == RELEASE.payload


def test_another_file_of_a_release_does_not_replace_its_payload(tmp_path: Path) -> None:
    """It says the same and is encoded otherwise; gateways may be in the middle of the first."""
    anna = FLEET.operator("anna")
    image = b"image" * 1000
    first, second = (FLEET.make_release(image, sequence=3, codec=codec) for codec in (Codec.LZMA, Codec.STORED))
    assert first.digest == second.digest
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.push(anna, first)
        state = bridge.push(anna, second)
        payloads = bridge.config.payloads_folder
    assert state.release is not None
    assert state.release.payload_size == len(first.payload)
    assert [path.name for path in payloads.iterdir()] == [first.payload_digest.hex()]


def test_a_release_that_the_bridge_has_no_room_for_leaves_no_payload(tmp_path: Path) -> None:
    anna = FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        config = bridge.config
    with closing(Store(config.store_path, FLEET.fleet_id, history_rows_per_device=1)) as store:
        for number in range(Settings(root_version=1).releases_max):
            store.put_release(known_release(digest=number.to_bytes(32), file_digest=bytes(32)))
        store.commit(NOW)
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.ask(anna, UploadBegin(digest=RELEASE.file_digest, size=len(RELEASE.file)))
        bridge.put("nb/o/anna/upload", Block(RELEASE.file_digest[:DIGEST_PREFIX_BYTES], 0, RELEASE.file).encode())
        assert bridge.ask(anna, UploadFinish(digest=RELEASE.file_digest)).reason is Reason.BUSY
    assert list(config.payloads_folder.iterdir()) == []


def test_a_payload_that_another_release_is_served_from_stays(tmp_path: Path) -> None:
    """The file that came brings a release whose payload is known in another encoding, and the payload of another."""
    anna = FLEET.operator("anna")
    image = b"image" * 1000
    lzma, stored = (FLEET.make_release(image, sequence=3, codec=codec) for codec in (Codec.LZMA, Codec.STORED))
    other = FLEET.make_release(image, sequence=4, codec=Codec.STORED)
    assert other.payload_digest == stored.payload_digest
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        for pushed in (lzma, other, stored):
            bridge.push(anna, pushed)
        names = {path.name for path in bridge.config.payloads_folder.iterdir()}
    assert names == {lzma.payload_digest.hex(), stored.payload_digest.hex()}


def test_a_release_whose_payload_was_cleared_away_meanwhile_is_not_taken_in(tmp_path: Path) -> None:
    """Two files with one payload came at once, and the release of the first was refused."""
    anna = FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.workshop.inbox.put(UploadOutcome("anna", bytes(16), known_release()))
        bridge.workshop.loop.turn()
        assert [reply.reason for reply in bridge.replies("anna")] == [Reason.CONFLICT]
        assert not bridge.events()


def test_a_push_leaves_no_partial_file(tmp_path: Path) -> None:
    anna = FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.push(anna, RELEASE)
        folder = bridge.config.uploads_folder
    assert list(folder.iterdir()) == []


def test_a_viewer_s_blocks_go_nowhere(tmp_path: Path) -> None:
    eve = FLEET.operator("eve", OperatorRole.VIEWER)
    with running_bridge(tmp_path, FLEET, eve) as bridge:
        reply = bridge.ask(eve, UploadBegin(digest=RELEASE.file_digest, size=len(RELEASE.file)))
        assert reply.reason is Reason.NOT_PERMITTED
        block = Block(RELEASE.file_digest[:DIGEST_PREFIX_BYTES], 0, RELEASE.file[:1000])
        bridge.put("nb/o/eve/upload", block.encode())
        folder = bridge.config.uploads_folder
    assert list(folder.iterdir()) == []
    assert bridge.metrics.value("refused.upload.conflict") == 1


def test_a_refused_file_is_named_in_the_reply(tmp_path: Path) -> None:
    anna = FLEET.operator("anna")
    foreign = FleetKit.create().make_release(b"i" * 99, sequence=3)
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.ask(anna, UploadBegin(digest=foreign.file_digest, size=len(foreign.file)))
        block = Block(foreign.file_digest[:DIGEST_PREFIX_BYTES], 0, foreign.file)
        bridge.put("nb/o/anna/upload", block.encode())
        reply = bridge.ask(anna, UploadFinish(digest=foreign.file_digest))
        assert reply.reason is Reason.UNKNOWN_KEY


def test_a_partial_file_that_cannot_be_removed_ends_no_thread(desk: Desk) -> None:
    """A folder in its place fails as a read-only file system does: when it is unlinked."""
    (desk.folder / f"{RELEASE.file_digest.hex()}.part").mkdir()
    metrics = Metrics()
    UploadWorker(desk.uploads, lambda _: None, metrics).do(Forget(RELEASE.file_digest))
    assert metrics.value("refused.upload.medium_failed") == 1


def test_an_operator_hears_that_the_disk_of_the_bridge_is_full_and_may_go_on_when_it_is_not(desk: Desk) -> None:
    """Nobody waits for a block: what became of it is told by the next question of how far the file has come."""
    outcomes: list[UploadOutcome] = []
    worker = UploadWorker(desk.uploads, outcomes.append, Metrics())
    begin = Begin("anna", bytes(16), RELEASE.file_digest, len(RELEASE.file))
    first, rest = (
        AddBlock("anna", Block(RELEASE.file_digest[:DIGEST_PREFIX_BYTES], offset, data).encode())
        for offset, data in ((0, RELEASE.file[:1000]), (1000, RELEASE.file[1000:]))
    )
    worker.do(begin)
    worker.do(first)
    with file_size_limit(1500):
        worker.do(rest)
    worker.do(begin)
    worker.do(begin)
    announced, told, again = (outcome.result for outcome in outcomes)
    assert announced == UploadState(offset=0)
    assert isinstance(told, Refusal)
    assert told.reason is Reason.STORAGE_FULL
    assert isinstance(again, UploadState)
    assert 1000 <= again.offset <= 1500
    desk.send(RELEASE, start=again.offset)
    assert desk.uploads.finish("anna", RELEASE.file_digest).digest == RELEASE.digest


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_disk_that_failed_is_not_called_full(code: int, tmp_path: Path) -> None:
    class FailingUploads(Uploads):
        """The disk under the folder does not answer."""

        def begin(self, operator: str, digest: bytes, size_bytes: int) -> UploadState:
            raise OSError(code, os.strerror(code))

    outcomes: list[UploadOutcome] = []
    bounds = UploadLimits(uploads_max=2, upload_bytes_max=1_000_000)
    uploads = FailingUploads(tmp_path / "uploads", tmp_path / "payloads", FLEET.trust(), bounds, lambda: NOW)
    UploadWorker(uploads, outcomes.append, Metrics()).do(Begin("anna", bytes(16), RELEASE.file_digest, 1000))
    refused = outcomes[0].result
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.MEDIUM_FAILED
