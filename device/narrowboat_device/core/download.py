"""Bringing one image into one slot, from whatever of it is there already to a proved whole.

    head -> frames (-> leaves -> patches, for each subtree that differs) -> sync -> read back -> proved

The head and the layer are fetched first and checked: the head against the assignment, the layer against the signed
tree. Then frames in order: decode, hash each chunk, write, and compare the subtree with the layer when its last chunk
is there. Writes are synced in batches (`Syncs`), and only what is synced is told to the journal. After a restart the
chunks of the open subtree are hashed from the slot, since what the storage holds is what counts, not what memory held.

At the end the whole slot is read back, past the cache, and both the tree and the image's SHA-256 are compared. A
subtree that differs, then or on the way, goes to repair. A chunk that is found bad again and again after a sync is the
medium's fault; a tree that is right under a SHA-256 that is wrong is a release that contradicts itself.

Nothing a source says is trusted: bytes that fail a check are asked for again, and after a few failures the payload is
given up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from narrowboat_protocol.documents import PayloadReference
from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import Frame, FrameStream, Head, PayloadCipher
from narrowboat_protocol.suit import Image
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block
from narrowboat_protocol.tree import HASH_BYTES, leaf_hash, merkle_root

from .acceptance import Capabilities, WrongPayloadError, accept_start, prepare
from .actions import Action, Fetch, HashSlot, ReadBackSlot, SyncSlot, WriteChunks
from .events import earliest
from .progress import Blame, Fault, Phase, Progress
from .repair import Repair
from .stream import ByteStream
from .syncs import Syncs
from .window import Window


class Download:
    """One image, one slot, one payload. Ask `fault` and `phase` after each call."""

    def __init__(
        self,
        image: Image,
        payload: PayloadReference,
        source: str,
        capabilities: Capabilities,
        syncs: Syncs,
        suspects: Iterable[int],
        window: Window,
        limits: Limits,
    ) -> None:
        """`syncs` names the slot and how much of the image is in it for good; `suspects` differ below that."""
        self._image = image
        self._tree = image.tree
        self._slot = syncs.slot
        self._payload = payload
        self._source = source
        self._capabilities = capabilities
        self._limits = limits
        self._stream = ByteStream(window, limits)
        self._buffer = bytearray()
        self._cipher: PayloadCipher | None = None
        self._head: Head | None = None
        self._frames: FrameStream | None = None
        self._layer_size = self._tree.subtree_count(limits) * HASH_BYTES
        self._layer: bytes | None = None
        self._slot_layer: bytes | None = None
        self._open_leaves = bytearray()
        self._open_known = syncs.synced % limits.subtree_chunks == 0
        self._syncs = syncs
        self._suspects = set(suspects)
        self._repair: Repair | None = None
        self._frame_at: dict[int, int] = {}
        self._found_bad: Counter[int] = Counter()
        self._forgeries = 0
        self._decoded_bytes = 0
        self._pieces: deque[tuple[int, bytes | memoryview]] = deque()
        self._decoding: Iterator[tuple[Frame, bytes]] | None = None
        self._frames_wanted = False
        self.phase = Phase.HEAD
        self.fault: Fault | None = None

    @property
    def progress(self) -> Progress:
        """What the journal may say: suspects only for subtrees that are synced in full."""
        subtree = self._limits.subtree_chunks
        synced = self._syncs.synced
        whole = self._tree.subtree_count(self._limits) if self._syncs.complete else synced // subtree
        return Progress(synced, tuple(sorted(number for number in self._suspects if number < whole)))

    @property
    def done_bytes(self) -> int:
        return min(self._syncs.synced << self._tree.log2_chunk_size, self._tree.length)

    def deadline_s(self, *, fetching: bool) -> float | None:
        """When `work` or `pump` has something to do though nothing happens."""
        if self._pieces or self._decoding is not None:
            return 0.0
        return earliest(self._stream.late_at_s if fetching else None, self._syncs.deadline_s)

    @property
    def _open_chunks(self) -> tuple[int, int]:
        """The synced chunks of the subtree that is not whole, as first and number."""
        count = self._syncs.synced % self._limits.subtree_chunks
        return self._syncs.synced - count, count

    def is_from(self, payload: bytes, source: str) -> bool:
        return (self._payload.digest, self._source) == (payload, source)

    def asked(self, action: Fetch | SyncSlot | HashSlot | ReadBackSlot) -> bool:
        """Whether this download, and not one that was given up before, is behind the work of a worker."""
        match action:
            case Fetch():
                return self.is_from(action.payload, action.source)
            case SyncSlot():
                return self._syncs.is_awaited(action.token)
            case HashSlot() | ReadBackSlot():
                return (action.slot, action.tree) == (self._slot, self._tree)

    def start(self) -> list[Action]:
        if self._syncs.complete and not self._suspects:
            return self._begin_read_back()
        self._want_head()
        if self._open_known or self.fault is not None:
            if self._syncs.written == 0:
                frames_offset = self._payload.head_size + self._layer_size + self._tree.chunk_count * HASH_BYTES
                self._want_frames(frames_offset)
            return []
        return [HashSlot(self._slot, self._tree, *self._open_chunks)]

    def link_lost(self) -> None:
        self._stream.link_lost()

    def pump(self, now_s: float, *, fetching: bool) -> list[Action]:
        """Start syncs that are due and, if it may and worked off what came, ask for more. Call after every event."""
        if self.fault is not None or self.phase is Phase.PROVED:
            return []
        fetches = [
            Fetch(self._source, request.channel, self._payload.digest, request.ranges, request.block_bytes)
            for request in (self._stream.requests(now_s) if fetching and not self._pieces else ())
        ]
        return [*fetches, *self._syncs.due(now_s)]

    def block_arrived(self, block: Block, now_s: float, waited_s: float) -> list[Action]:
        if block.digest_prefix == self._payload.digest[:DIGEST_PREFIX_BYTES]:
            self._pieces.extend(self._stream.arrived(block.offset, block.data, now_s, waited_s))
        return self.work(now_s)

    def work(self, now_s: float) -> list[Action]:
        """Take what has come, as much of it as one turn may decode; `deadline_s` asks for another turn for the rest."""
        actions: list[Action] = []
        self._decoded_bytes = 0
        while self._pieces or self._decoding is not None:
            try:
                self._take(now_s, actions)
            except PayloadError as error:
                actions += self._forged_or_wrong(error)
            if self._decoded_bytes >= self._limits.decoded_bytes_per_turn:
                break
        return actions

    def slot_hashed(self, first_chunk: int, leaves: bytes) -> list[Action]:
        chunks = (first_chunk, len(leaves) // HASH_BYTES)
        if self._repair is not None and self._repair.chunks == chunks and self._repair.bad_chunks is None:
            self._repair.take_slot(leaves)
            return self._patch_when_known()
        if not self._open_known and self._open_chunks == chunks:
            self._open_leaves += leaves
            self._open_known = True
            if self.phase is Phase.REHASH:
                self._begin_frames()
        return []

    def slot_synced(self, token: int) -> list[Action]:
        if not self._syncs.is_awaited(token):
            return []
        if self._syncs.ended(token) and self.phase is Phase.PATCHES:
            return self._end_repair()
        if self._syncs.complete and self.phase is Phase.FRAMES and not self._suspects:
            return self._begin_read_back()
        return []

    def read_back(self, layer: bytes, image_sha256: bytes) -> list[Action]:
        if self.phase is not Phase.READ_BACK:
            return []
        if len(layer) == self._layer_size and merkle_root(layer) == self._tree.root:
            if image_sha256 == self._image.image_sha256:
                self.phase = Phase.PROVED
            else:
                self._give_up(
                    Blame.RELEASE,
                    Reason.IMAGE_CONTRADICTS_RELEASE,
                    "every chunk equals the signed tree, but the image does not have the signed SHA-256",
                )
            return []
        self._slot_layer = layer
        if self._layer is None:
            self._want_head()
            return []
        return self._compare_layers()

    # Bytes of the payload, in order.

    def _take(self, now_s: float, actions: list[Action]) -> None:
        """Add to `actions` what follows from the next piece. Those of its good part stay, though its rest raises."""
        if self._decoding is None:
            offset, data = self._pieces.popleft()
            if self.phase is Phase.HEAD or self._frames is None:
                actions += self._take_head(data)
                return
            if self.phase is Phase.LEAVES and self._repair is not None:
                actions += self._take_leaves(self._repair, data)
                return
            if self.phase is Phase.PATCHES and offset in self._frame_at:
                self._frames.start(self._frame_at[offset])
            self._decoding = self._frames.feed(offset, data)
        self._take_frames(self._decoding, now_s, actions)

    def _take_head(self, data: bytes | memoryview) -> list[Action]:
        self._buffer += data
        if len(self._buffer) < self._payload.head_size + self._layer_size:
            return []
        start, self._buffer = self._buffer, bytearray()
        self._head, self._layer = accept_start(
            start, self._payload, self._image, self._capabilities, self._cipher, self._limits
        )
        self._frames = FrameStream(self._head, self._limits, cipher=self._cipher)
        if self._slot_layer is not None:
            return self._compare_layers()
        if self._suspects:
            return self._begin_repair()
        self.phase = Phase.REHASH
        if self._open_known:
            self._begin_frames()
        return []

    def _take_leaves(self, repair: Repair, data: bytes | memoryview) -> list[Action]:
        self._buffer += data
        offset, end = repair.leaves_range
        if len(self._buffer) < end - offset:
            return []
        leaves, self._buffer = bytes(self._buffer), bytearray()
        repair.take_leaves(leaves)
        return self._patch_when_known()

    def _take_frames(self, decoding: Iterator[tuple[Frame, bytes]], now_s: float, actions: list[Action]) -> None:
        for frame, image in decoding:
            self._decoded_bytes += len(image)
            self._syncs.wrote(now_s)
            if self._repair is not None:
                actions += [WriteChunks(self._slot, *patch) for patch in self._repair.patches(frame, image)]
            else:
                actions.append(self._place(frame, image))
            if self._suspects and self._repair is None:
                actions += self._begin_repair()
                return
            if self._decoded_bytes >= self._limits.decoded_bytes_per_turn:
                return
        self._decoding = None
        if self._repair is not None and self._stream.finished and not self._pieces:
            self._syncs.patched = True

    def _place(self, frame: Frame, image: bytes) -> Action:
        """Hash and write the chunks of a frame, from the first that is not there yet."""
        tree, syncs = self._tree, self._syncs
        first = max(frame.first_chunk, syncs.written)
        first_offset, _ = tree.chunk_span(first)
        view = memoryview(image)
        for chunk in range(first, frame.first_chunk + frame.chunk_count):
            offset, length = tree.chunk_span(chunk)
            start = offset - frame.image_offset
            self._open_leaves += leaf_hash(view[start : start + length])
            syncs.written = chunk + 1
            if syncs.written % self._limits.subtree_chunks == 0 or syncs.written == tree.chunk_count:
                self._close_subtree(chunk // self._limits.subtree_chunks)
        return WriteChunks(self._slot, first_offset, view[first_offset - frame.image_offset :])

    def _close_subtree(self, subtree: int) -> None:
        root = merkle_root(bytes(self._open_leaves))
        self._open_leaves = bytearray()
        if self._layer is None or root != self._layer[subtree * HASH_BYTES : (subtree + 1) * HASH_BYTES]:
            self._suspects.add(subtree)

    # From one phase to the next.

    def _want_head(self) -> None:
        self.phase = Phase.HEAD
        self._cipher, self.fault = prepare(self._payload, self._layer_size, self._capabilities)
        self._restart_stream()
        self._stream.want(0, self._payload.head_size + self._layer_size)

    def _want_frames(self, offset: int) -> None:
        self._frames_wanted = True
        self._stream.want(offset, self._payload.size)

    def _begin_frames(self) -> None:
        """Go on with the main run of frames. A fresh download has asked for them already, behind the head."""
        assert self._head is not None
        assert self._frames is not None
        self.phase = Phase.FRAMES
        if self._syncs.written == self._tree.chunk_count:
            return
        frame = self._head.frame_of_chunk(self._syncs.written)
        self._frames.start(frame.number)
        if not self._frames_wanted:
            self._want_frames(frame.offset)

    def _begin_read_back(self) -> list[Action]:
        self.phase = Phase.READ_BACK
        return [ReadBackSlot(self._slot, self._tree)]

    def _compare_layers(self) -> list[Action]:
        """The slot was read back and differs: the subtrees that do are to be repaired."""
        assert self._layer is not None
        assert self._slot_layer is not None
        slot_layer, self._slot_layer = self._slot_layer, None
        count = self._tree.subtree_count(self._limits)
        spans = [slice(number * HASH_BYTES, (number + 1) * HASH_BYTES) for number in range(count)]
        self._suspects = {number for number, span in enumerate(spans) if slot_layer[span] != self._layer[span]}
        return self._begin_repair() if self._suspects else self._begin_read_back()

    def _begin_repair(self) -> list[Action]:
        assert self._head is not None
        assert self._layer is not None
        self._repair = Repair(min(self._suspects), self._head, self._layer, self._cipher, self._limits)
        self.phase = Phase.LEAVES
        self._restart_stream()
        self._stream.want(*self._repair.leaves_range)
        return [HashSlot(self._slot, self._tree, *self._repair.chunks)]

    def _patch_when_known(self) -> list[Action]:
        """Once the bad chunks are known: fetch their frames, or give up on a chunk that is bad too often."""
        if self._repair is None or (bad := self._repair.bad_chunks) is None:
            return []
        self._found_bad.update(bad)
        worst, times = max(self._found_bad.items(), key=lambda item: item[1], default=(0, 0))
        if times > self._limits.chunk_repairs_max:
            detail = f"chunk {worst} was wrong {times} times after it was synced"
            self._give_up(Blame.MEDIUM, Reason.MEDIUM_FAILED, detail)
            return []
        self._fetch_patches(self._repair)
        self._syncs.patched = not bad
        return []

    def _fetch_patches(self, repair: Repair) -> None:
        self.phase = Phase.PATCHES
        self._restart_stream()
        frames = repair.frames()
        self._frame_at = {frame.offset: frame.number for frame in frames}
        for frame in frames:
            self._stream.want(frame.offset, frame.offset + frame.encoded_length)

    def _end_repair(self) -> list[Action]:
        assert self._repair is not None
        self._suspects.discard(self._repair.subtree)
        self._repair, self._syncs.patched, self._frame_at = None, False, {}
        if self._suspects:
            return self._begin_repair()
        if self._syncs.complete:
            return self._begin_read_back()
        self.phase = Phase.REHASH
        if self._open_known:
            self._restart_stream()
            self._begin_frames()
        return []

    def _restart_stream(self) -> None:
        self._stream.drop()
        self._pieces.clear()
        self._decoding = None
        self._frames_wanted = False
        self._buffer = bytearray()

    # Failures.

    def _forged_or_wrong(self, error: PayloadError) -> list[Action]:
        """Bytes that fail a digest may be forged: ask again. A payload that is whole and wrong is given up at once."""
        self._forgeries += 1
        useless = (Reason.BAD_FRAME, Reason.UNSUPPORTED_CODEC)
        wrong = isinstance(error, WrongPayloadError) or error.reason in useless
        if wrong or self._forgeries > self._limits.bad_blocks_per_source_max:
            self._give_up(Blame.PAYLOAD, error.reason, str(error))
            return []
        self._restart_stream()
        if self.phase is Phase.HEAD:
            self._want_head()
        elif self.phase is Phase.LEAVES:
            return self._begin_repair()
        elif self.phase is Phase.PATCHES and self._repair is not None:
            self._fetch_patches(self._repair)
        else:
            self._begin_frames()
        return []

    def _give_up(self, blame: Blame, reason: Reason, detail: str) -> None:
        self._restart_stream()
        self.fault = Fault(blame, reason, detail)
