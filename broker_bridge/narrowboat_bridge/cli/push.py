"""`narrowboat release push`: a release file to the bridge, over the operator's own connection.

The bridge is asked how much of the file it has stored, is sent the next few MiB, and is asked again; what it
says is where the next batch starts. So an upload goes on where it stopped, whatever stopped it, and repeating
one that is done does nothing. The broker's acknowledgement bounds what is under way but proves nothing: only
the bridge's offset does, for it is told after a sync.

The file is verified here first, as a gateway would, since the bridge decodes nothing: what was built wrong
must not get as far as the gateways. Of an encrypted payload, whose key an operator does not have, that is what can be
checked without it: the release, and that each frame is the one that was built.

A batch ends after some MiB or some seconds, whichever comes first, so that a slow line is asked about as
often as a fast one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from io import BufferedReader

from narrowboat_protocol.documents import UploadBegin, UploadFinish, UploadState
from narrowboat_protocol.errors import PeerError, Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block

from .client import OperatorClient, connect
from .exits import ExitCode, NoAnswerError
from .output import JsonValue, Progress, print_result
from .release_io import open_release_file
from .release_verify import verify_release_file
from .results import as_json

BATCH_BYTES = 4 * MIB
BATCH_S = 5.0


class Upload:
    """One release file on its way to one bridge."""

    def __init__(
        self, client: OperatorClient, file: BufferedReader, timeout_s: float, on_progress: Callable[[int, int], None]
    ) -> None:
        self._client = client
        self._file = file
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._size_bytes = os.fstat(file.fileno()).st_size
        self._digest = hashlib.file_digest(file, "sha256").digest()

    def run(self, *, wait: bool) -> UploadState:
        """Upload what is missing. With `wait`, the result names the release; the bridge has verified it then."""
        state = self._send_missing()
        if state.release is not None:
            return state
        if not wait:
            self._client.tell(UploadFinish(digest=self._digest))
            return state
        try:
            return self._finish()
        except PeerError as error:
            if error.reason is not Reason.CONFLICT:
                raise
        # A bridge that was started since we asked it knows of no announcement.
        state = self._send_missing()
        return state if state.release is not None else self._finish()

    def _send_missing(self) -> UploadState:
        """Send until the bridge has every byte, or the release already."""
        state = self._ask()
        moved_s = time.monotonic()
        while state.release is None and state.offset < self._size_bytes:
            self._on_progress(state.offset, self._size_bytes)
            self._send_batch(state.offset)
            before, state = state.offset, self._ask()
            if state.offset > before:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > self._timeout_s:
                raise NoAnswerError(
                    f"expected the bridge to store more than {before} bytes, got no progress in time; see its log"
                )
        self._on_progress(self._size_bytes, self._size_bytes)
        return state

    def _finish(self) -> UploadState:
        return self._client.call(UploadFinish(digest=self._digest), UploadState)

    def _ask(self) -> UploadState:
        return self._client.call(UploadBegin(digest=self._digest, size=self._size_bytes), UploadState)

    def _send_batch(self, offset: int) -> None:
        """Send blocks from `offset` on; less if the connection is lost, which the bridge's next answer shows."""
        end = min(self._size_bytes, offset + BATCH_BYTES)
        deadline_s = time.monotonic() + BATCH_S
        while offset < end and time.monotonic() < deadline_s:
            data = os.pread(self._file.fileno(), min(DEFAULT_LIMITS.block_bytes_max, end - offset), offset)
            if not self._client.upload(Block(self._digest[:DIGEST_PREFIX_BYTES], offset, data)):
                return
            offset += len(data)
        self._client.flush()


def run(arguments: argparse.Namespace) -> int:
    """Carry out `narrowboat release push`."""
    with connect(arguments) as client:
        with open_release_file(arguments.file) as release_file, Progress("verifying") as progress:
            digest = verify_release_file(release_file, client.trust, progress.update).digest
        with arguments.file.open("rb") as file, Progress("pushing") as progress:
            state = Upload(client, file, arguments.timeout, progress.update).run(wait=arguments.wait)
    result: dict[str, JsonValue] = {
        "file": str(arguments.file),
        "release": digest.hex(),
        "accepted": state.release is not None,
        "details": None if state.release is None else as_json(state.release),
    }
    print_result(result, as_json=arguments.json)
    return ExitCode.OK
