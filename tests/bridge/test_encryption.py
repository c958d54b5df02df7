"""The bridge and encrypted payloads: it keeps keys sealed, and seals each anew to the gateway that may have it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from narrowboat_bridge.cli.release_io import open_release_file
from narrowboat_bridge.core.actions import StoreAssignment
from narrowboat_bridge.core.events import ReleaseAdded
from narrowboat_bridge.server.config import load_agreement_key
from narrowboat_bridge.server.director import Director
from narrowboat_bridge.server.rows import release_from, release_row
from narrowboat_bridge.server.uploads import UploadLimits, Uploads
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment, CampaignStart, CampaignSummary
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.release_file import encode_header, encode_trailer
from narrowboat_protocol.suit import AgreementKey, ContentKey, recipients_of, seal, unseal
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block
from tests.bridge.cli_kit import Outcome, run
from tests.bridge.world import World, answer, only, release
from tests.support.fleet import NOW, FleetKit, MadeRelease

FLEET = FleetKit.create()
IMAGE = bytes(range(256)) * 400
CONTENT = ContentKey(b"a secret key....", bytes(16))
BRIDGE, DEVICE, OTHER = (AgreementKey.generate() for _ in range(3))


def sealed_to(*recipients: AgreementKey) -> MadeRelease:
    return FLEET.make_release(IMAGE, content_key=CONTENT, sealed_to=[recipient.public for recipient in recipients])


ENCRYPTED = sealed_to(OTHER, BRIDGE)

# Uploads


def taken_in(folder: Path, made: MadeRelease, key: AgreementKey | None = BRIDGE) -> Uploads:
    limits = UploadLimits(uploads_max=2, upload_bytes_max=1 << 20)
    uploads = Uploads(folder / "uploads", folder / "payloads", FLEET.trust(), limits, lambda: NOW, agreement_key=key)
    uploads.begin("anna", made.file_digest, len(made.file))
    for offset in range(0, len(made.file), 1 << 16):
        data = made.file[offset : offset + (1 << 16)]
        uploads.add_block("anna", Block(made.file_digest[:DIGEST_PREFIX_BYTES], offset, data).encode())
    return uploads


def test_an_encrypted_release_is_taken_in_with_its_key_sealed_as_it_came(tmp_path: Path) -> None:
    uploads = taken_in(tmp_path, ENCRYPTED)
    known = uploads.finish("anna", ENCRYPTED.file_digest)
    assert known.payload == ENCRYPTED.reference
    assert known.file_size_bytes == len(ENCRYPTED.file)
    row = release_row(known)
    assert release_from(row) == known
    kept = [*(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()), repr(row).encode()]
    assert not [data for data in kept if CONTENT.key in data or IMAGE[:64] in data]


def packed(made: MadeRelease, info: bytes) -> MadeRelease:
    """The same payload and envelope in a file with another encryption info."""
    header = encode_header(len(made.payload), FLEET.limits)
    return replace(made, file=header + made.payload + encode_trailer(made.envelope, FLEET.limits, info))


REFUSED = {
    "sealed to others": (sealed_to(OTHER), BRIDGE, Reason.NO_KEY),
    "a bridge without a key": (ENCRYPTED, None, Reason.NO_KEY),
    "no encryption info": (packed(ENCRYPTED, b""), BRIDGE, Reason.BAD_HEAD),
    "a key of nothing": (packed(FLEET.make_release(IMAGE), seal(CONTENT, [BRIDGE.public])), BRIDGE, Reason.BAD_HEAD),
    "the key of another payload": (packed(ENCRYPTED, seal(CONTENT, [BRIDGE.public])), BRIDGE, Reason.BAD_LAYER),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_payload_whose_key_the_bridge_could_not_pass_on_is_refused(tmp_path: Path, case: str) -> None:
    made, key, reason = REFUSED[case]
    uploads = taken_in(tmp_path, made, key)
    with pytest.raises(PeerError) as caught:
        uploads.finish("anna", made.file_digest)
    assert caught.value.reason is reason
    assert not list((tmp_path / "payloads").iterdir())


def test_the_hashes_of_an_encrypted_payload_are_compared_with_the_release(tmp_path: Path) -> None:
    at = 16 + ENCRYPTED.head.leaves_offset
    file = ENCRYPTED.file[:at] + bytes([ENCRYPTED.file[at] ^ 1]) + ENCRYPTED.file[at + 1 :]
    damaged = replace(ENCRYPTED, file=file)
    uploads = taken_in(tmp_path, damaged)
    with pytest.raises(PeerError) as caught:
        uploads.finish("anna", damaged.file_digest)
    assert caught.value.reason is Reason.BAD_LEAVES


# Assignments


def signed_for(recipient: AgreementKey | None, key: AgreementKey | None = BRIDGE) -> bytes:
    director = Director(FLEET.director, FLEET.trust(), {}, key)
    content = SignedDocument.decode(FLEET.assignment("gw-1", ENCRYPTED)).content
    signed = director.sign(Assignment.decode(content), None if recipient is None else recipient.public)
    info = Assignment.decode(SignedDocument.decode(signed).content).targets[0].payloads[0].encryption
    assert info is not None
    return info


def test_an_assignment_has_the_key_sealed_to_its_device_and_to_nobody_else() -> None:
    info = signed_for(DEVICE)
    assert recipients_of(info) == (DEVICE.public.kid,)
    assert ENCRYPTED.encryption is not None
    assert unseal(info, DEVICE) == unseal(ENCRYPTED.encryption, BRIDGE)
    for other in (BRIDGE, OTHER):
        with pytest.raises(TrustError):
            unseal(info, other)


@pytest.mark.parametrize(
    ("recipient", "key"), [(None, BRIDGE), (DEVICE, None), (DEVICE, DEVICE)], ids=["device", "bridge", "another bridge"]
)
def test_without_a_key_on_either_side_the_assignment_is_signed_and_opens_nothing_for_the_device(
    recipient: AgreementKey | None, key: AgreementKey | None
) -> None:
    info = signed_for(recipient, key)
    assert info == ENCRYPTED.encryption
    with pytest.raises(TrustError):
        unseal(info, DEVICE)


def world() -> World:
    made = World()
    known = release(9)
    payload = known.payload.model_copy(update={"encryption": ENCRYPTED.encryption})
    made.feed(ReleaseAdded(replace(known, payload=payload), "anna", b"request"))
    return made


def test_the_key_of_a_device_is_the_one_in_its_newest_hello() -> None:
    there = world()
    there.hello("gw-1", agreement_key=OTHER.public.to_cbor())
    there.hello("gw-1", pair=(2, 1), agreement_key=DEVICE.public.to_cbor())
    there.hello("gw-2")
    there.command(CampaignStart(campaign="c1", release=release(9).digest))
    given = {action.assignment.device: action.recipient for action in only(StoreAssignment, there.tick())}
    assert given == {"gw-1": DEVICE.public, "gw-2": None}


def test_a_start_names_the_devices_that_have_no_key() -> None:
    there = world()
    there.hello("gw-1", agreement_key=DEVICE.public.to_cbor())
    there.hello("gw-2")
    told = "1 of its devices have no key for encrypted payloads and will fail (no_key): gw-2;"
    for number, expected in ((9, told), (1, None)):
        outcome = answer(there.command(CampaignStart(campaign=f"c{number}", release=release(number).digest)))
        assert isinstance(outcome, CampaignSummary)
        assert (outcome.warning or "").startswith(expected or "")
        assert (outcome.warning is None) == (expected is None)


def test_a_key_that_others_may_read_or_that_only_signs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agreement.pem"
    for pem, mode in ((BRIDGE.to_pem(), 0o640), (PrivateKey.generate(Algorithm.ED25519).to_pem(), 0o600)):
        path.write_bytes(pem)
        path.chmod(mode)
        with pytest.raises(UsageError, match=r"\[keys\] agreement"):
            load_agreement_key(path)
    path.write_bytes(BRIDGE.to_pem())
    loaded = load_agreement_key(path)
    assert loaded is not None
    assert loaded.public == BRIDGE.public


# The command line


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with an image, its description, keys and the root."""
    (tmp_path / "image.img").write_bytes(IMAGE)
    (tmp_path / "release.toml").write_text(
        'component = "rootfs"\nvendor = "example.com"\nclasses = ["gateway-a"]\nversion = "1"\nsequence = 1\n'
        'image = "image.img"\n'
    )
    (tmp_path / "root").write_bytes(FLEET.root_data)
    (tmp_path / "release.pem").write_bytes(FLEET.release_signers[0].to_pem())
    for name, key in (("bridge", BRIDGE), ("device", DEVICE), ("other", OTHER)):
        (tmp_path / f"{name}.pem").write_bytes(key.to_pem())
        (tmp_path / f"{name}.pub.pem").write_bytes(key.public.to_pem())
    return tmp_path


def build(bench: Path, *recipients: str, out: str = "out.nbr") -> Outcome:
    arguments = [part for name in recipients for part in ("--encrypt-to", bench / f"{name}.pub.pem")]
    return run("release", "build", bench / "release.toml", "-o", bench / out, *arguments)


def verify(bench: Path, *arguments: object, file: str = "out.nbr") -> Outcome:
    return run("release", "verify", bench / file, "--root", bench / "root", *arguments)


def test_a_release_is_built_encrypted_signed_and_verified_by_who_has_a_key(bench: Path) -> None:
    assert build(bench, "bridge", "device").status == 0
    assert run("release", "sign", bench / "out.nbr", "--key", bench / "release.pem").status == 0
    with open_release_file(bench / "out.nbr") as file:
        assert file.read_head().encrypted
        assert recipients_of(file.encryption) == (BRIDGE.public.kid, DEVICE.public.kid)
    for arguments, status, decoded in (
        ((), 0, '"decoded": false'),
        (("--key", bench / "device.pem"), 0, '"decoded": true'),
        (("--key", bench / "other.pem"), 1, "got one for 2 others"),
    ):
        outcome = verify(bench, *arguments, "--json")
        assert outcome.status == status
        assert decoded in outcome.out + outcome.err


def test_no_two_builds_have_a_key_in_common_and_a_plain_one_has_none(bench: Path) -> None:
    keys = set()
    for number in range(2):
        assert build(bench, "bridge", out=f"{number}.nbr").status == 0
        with open_release_file(bench / f"{number}.nbr") as file:
            keys.add(unseal(file.encryption, BRIDGE).key)
    assert len(keys) == 2
    assert build(bench).status == 0
    with open_release_file(bench / "out.nbr") as file:
        assert not file.encryption
        assert not file.read_head().encrypted


def test_an_encrypted_file_tells_nothing_of_the_image(bench: Path) -> None:
    marker = b"the password is 1234567890"
    (bench / "image.img").write_bytes(IMAGE + marker + IMAGE)
    with (bench / "release.toml").open("a") as file:
        file.write('codec = "stored"\n')
    assert build(bench).status == 0
    assert marker in (bench / "out.nbr").read_bytes()
    assert build(bench, "bridge").status == 0
    assert marker not in (bench / "out.nbr").read_bytes()


def test_a_damaged_frame_is_found_without_a_key(bench: Path) -> None:
    assert build(bench, "bridge").status == 0
    assert run("release", "sign", bench / "out.nbr", "--key", bench / "release.pem").status == 0
    data = bytearray((bench / "out.nbr").read_bytes())
    with open_release_file(bench / "out.nbr") as file:
        data[file.layout.payload_offset + file.read_head().frames_offset] ^= 1
    (bench / "out.nbr").write_bytes(data)
    outcome = verify(bench)
    assert outcome.status == 1
    assert "frame 0 does not have the hash" in outcome.err


def test_a_key_that_only_signs_is_no_recipient(bench: Path) -> None:
    (bench / "signs.pub.pem").write_bytes(PrivateKey.generate(Algorithm.ED25519).public.to_pem())
    outcome = build(bench, "signs")
    assert outcome.status == 2
    assert "signs.pub.pem: expected a P-256 public key" in outcome.err
    assert not (bench / "out.nbr").exists()


def test_inspect_names_the_recipients(bench: Path) -> None:
    build(bench, "bridge")
    assert BRIDGE.public.kid.hex() in run("release", "inspect", bench / "out.nbr").out


def test_no_log_or_output_holds_the_content_key(bench: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    outcome = build(bench, "bridge")
    with open_release_file(bench / "out.nbr") as file:
        key = unseal(file.encryption, BRIDGE).key
    said = outcome.out + outcome.err + caplog.text
    assert key.hex() not in said
    assert repr(key)[2:-1] not in said
