"""The agent core with encrypted payloads: as resumable as any, and a clear word where there is no key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_protocol.documents import PayloadReference
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import AgreementKey, ContentKey, seal
from tests.device.agent_kit import IMAGE, attempt, brought_to, offer_file
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway, sha256_of_slot

CONTENT = ContentKey(bytes(range(100, 116)), b"\xff" * 16)
KEY, OTHER = AgreementKey.generate(), AgreementKey.generate()


@pytest.fixture(scope="module")
def encrypted(fleet: FleetKit) -> MadeRelease:
    return make(fleet, KEY)


@pytest.fixture
def keyed(fleet: FleetKit) -> Gateway:
    made = Gateway(fleet, agreement_key=KEY)
    made.connect()
    return made


def make(fleet: FleetKit, *recipients: AgreementKey, codec: Codec = Codec.LZMA) -> MadeRelease:
    return fleet.make_release(
        IMAGE,
        version="2.0.0",
        sequence=5,
        codec=codec,
        content_key=CONTENT,
        sealed_to=[recipient.public for recipient in recipients],
    )


def assign_payloads(gateway: Gateway, release: MadeRelease, *payloads: PayloadReference) -> None:
    gateway.assign(release, targets=(release.target().model_copy(update={"payloads": payloads}),))


@pytest.mark.parametrize("codec", list(Codec))
def test_an_encrypted_release_is_installed(fleet: FleetKit, keyed: Gateway, codec: Codec) -> None:
    release = make(fleet, OTHER, KEY, codec=codec)
    keyed.assign(release)
    assert keyed.state is State.REBOOTING
    assert sha256_of_slot(keyed, "b", len(IMAGE)) == release.image_sha256


def test_the_hello_names_the_key_that_payloads_are_sealed_to(gateway: Gateway, keyed: Gateway) -> None:
    assert keyed.hellos[-1].agreement_key == KEY.public.to_cbor()
    assert gateway.hellos[-1].agreement_key is None


def test_a_power_cut_costs_no_byte_that_was_synced_and_leaves_no_key_behind(
    keyed: Gateway, encrypted: MadeRelease
) -> None:
    brought_to(keyed, State.DOWNLOADING, encrypted)
    keyed.pass_time(6)
    kept = attempt(keyed).next_chunk
    assert kept >= 2
    synced = encrypted.head.frame_of_chunk(kept).offset
    before = len(keyed.fetched())
    keyed.tamper = lambda _, data: data
    keyed.power_cycle()
    keyed.connect()
    again = keyed.fetched()[before:]
    assert again
    assert all(offset + length <= encrypted.head.leaves_offset or offset >= synced for offset, length in again)
    assert keyed.state is State.REBOOTING
    assert sha256_of_slot(keyed, "b", len(IMAGE)) == encrypted.image_sha256
    durable = b"".join(content or b"" for content in keyed.records.values())
    said = b"".join(action.payload for action in keyed.actions if isinstance(action, ac.Publish))
    shown = repr([action for action in keyed.actions if not isinstance(action, ac.WriteChunks)])
    assert encrypted.encryption is not None
    assert encrypted.encryption in durable
    assert CONTENT.key not in durable + said
    assert repr(CONTENT.key)[2:-1] not in shown
    assert CONTENT.key.hex() not in shown


def test_a_chunk_that_rotted_is_mended_from_an_encrypted_payload(keyed: Gateway, encrypted: MadeRelease) -> None:
    brought_to(keyed, State.VERIFYING, encrypted)
    keyed.slots["b"][9000] ^= 1
    keyed.read_back()
    assert keyed.state is State.REBOOTING
    assert sha256_of_slot(keyed, "b", len(IMAGE)) == encrypted.image_sha256
    leaves = range(encrypted.head.leaves_offset, encrypted.head.frames_offset)
    assert [offset for offset, _ in keyed.fetched() if offset in leaves]


def test_a_block_with_a_flipped_bit_is_asked_for_again(keyed: Gateway, encrypted: MadeRelease) -> None:
    flipped: list[int] = []

    def tamper(offset: int, data: bytes) -> bytes:
        if offset < encrypted.head.frames_offset or flipped:
            return data
        flipped.append(offset)
        return bytes([data[0] ^ 1]) + data[1:]

    keyed.tamper = tamper
    keyed.assign(encrypted)
    assert flipped
    assert keyed.state is State.REBOOTING


NOT_FOR_US = {
    "sealed to another": (seal(CONTENT, [OTHER.public]), Reason.NO_KEY),
    "no encryption info": (b"info", Reason.BAD_DOCUMENT),
}


@pytest.mark.parametrize("info", NOT_FOR_US)
def test_what_cannot_be_opened_ends_the_attempt_before_a_byte_is_asked_for(
    keyed: Gateway, encrypted: MadeRelease, info: str
) -> None:
    encryption, reason = NOT_FOR_US[info]
    assign_payloads(keyed, encrypted, encrypted.reference.model_copy(update={"encryption": encryption}))
    assert (keyed.state, keyed.report.reason) == (State.FAILED, reason)
    assert keyed.report.detail is not None
    assert "encrypted" in keyed.report.detail
    assert not keyed.fetched()


def test_a_gateway_without_a_key_says_so_before_it_asks_for_a_byte(gateway: Gateway, encrypted: MadeRelease) -> None:
    gateway.assign(encrypted)
    assert (gateway.state, gateway.report.reason) == (State.FAILED, Reason.NO_KEY)
    assert "[encryption]" in (gateway.report.detail or "")
    assert not gateway.fetched()


def test_a_key_that_was_lost_in_mid_download_ends_the_attempt(keyed: Gateway, encrypted: MadeRelease) -> None:
    brought_to(keyed, State.DOWNLOADING, encrypted)
    keyed.settings = replace(keyed.settings, agreement_key=OTHER)
    keyed.power_cycle()
    keyed.connect()
    assert (keyed.state, keyed.report.reason) == (State.FAILED, Reason.NO_KEY)


def test_the_next_payload_is_taken_if_the_first_cannot_be_opened(
    fleet: FleetKit, gateway: Gateway, encrypted: MadeRelease, release: MadeRelease
) -> None:
    gateway.payloads[release.payload_digest] = release.payload
    assign_payloads(gateway, encrypted, encrypted.reference, release.reference)
    assert gateway.state is State.REBOOTING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("a head that says encrypted, without a key", Reason.NO_KEY),
        ("a key for a payload that is not encrypted", Reason.BAD_HEAD),
        ("the key of another payload", Reason.BAD_LAYER),
    ],
)
def test_a_key_and_a_head_that_do_not_fit_end_the_attempt(
    keyed: Gateway, encrypted: MadeRelease, release: MadeRelease, change: str, reason: Reason
) -> None:
    match reason:
        case Reason.NO_KEY:
            assign_payloads(keyed, encrypted, encrypted.reference.model_copy(update={"encryption": None}))
        case Reason.BAD_HEAD:
            info = seal(CONTENT, [KEY.public])
            assign_payloads(keyed, release, release.reference.model_copy(update={"encryption": info}))
        case _:
            info = seal(ContentKey(bytes(16), CONTENT.iv), [KEY.public])
            assign_payloads(keyed, encrypted, encrypted.reference.model_copy(update={"encryption": info}))
    assert (keyed.state, keyed.report.reason) == (State.FAILED, reason), change


def test_a_file_is_installed_if_it_brings_the_key_for_this_gateway(fleet: FleetKit, keyed: Gateway) -> None:
    for recipients, shown in (((OTHER,), (State.FAILED, Reason.NO_KEY)), ((OTHER, KEY), (State.REBOOTING, None))):
        offer_file(keyed, make(fleet, *recipients))
        said = next(action for action in reversed(keyed.actions) if isinstance(action, ac.ShowStatus))
        assert (said.state, said.reason) == shown


def test_decryption_is_counted_into_the_memory_that_a_payload_may_take(fleet: FleetKit) -> None:
    stored = make(fleet, KEY, codec=Codec.STORED)
    needed = stored.head.peak_memory_bytes
    for allowed, state in ((needed, State.REBOOTING), (needed - 1, State.FAILED)):
        gateway = Gateway(fleet, agreement_key=KEY, memory_bytes_max=allowed, limits=SMALL)
        gateway.connect()
        gateway.assign(stored)
        assert gateway.state is state
