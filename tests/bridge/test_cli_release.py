"""`narrowboat release`: signed by enough people in any order, refused when altered."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_bridge.cli.release_io import open_release_file
from narrowboat_protocol.cose import fleet_id_of
from narrowboat_protocol.documents import RoleName, sign_model
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import PayloadWriter
from narrowboat_protocol.payload.head import encode_head, measure_head
from narrowboat_protocol.release_file import HEADER_BYTES, encode_header, encode_trailer
from narrowboat_protocol.suit import Image, Manifest, build_envelope
from tests.bridge.cli_kit import IMAGE, Outcome, build, run, run_python, write_release_toml
from tests.support.fleet import CLASS_NAME, COMPONENT, HARDWARE, VENDOR, FleetKit
from tests.support.suit_manifests import sign_envelope


@dataclass(frozen=True, slots=True)
class Station:
    """A folder with a built release, the root of a 2-of-3 fleet, and the three release keys."""

    folder: Path
    fleet: FleetKit

    @property
    def root(self) -> Path:
        return self.folder / "root.signed"

    def key(self, number: int) -> Path:
        return self.folder / f"release-{number}.pem"

    def copy(self, name: str) -> Path:
        """A copy of the unsigned release, as if on another machine."""
        path = self.folder / name
        path.write_bytes((self.folder / "built.nbr").read_bytes())
        return path

    def signed(self, name: str, *numbers: int) -> Path:
        path = self.copy(name)
        for number in numbers:
            assert run("release", "sign", path, "--key", self.key(number)).status == 0
        return path

    def verify(self, path: Path) -> Outcome:
        return run("release", "verify", path, "--root", self.root)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Station:
    folder = tmp_path_factory.mktemp("station")
    fleet = FleetKit.create(release_threshold=2, release_keys=3)
    (folder / "image.ext4").write_bytes(IMAGE)
    (folder / "root.signed").write_bytes(fleet.root_data)
    for number, key in enumerate(fleet.release_signers, 1):
        (folder / f"release-{number}.pem").write_bytes(key.to_pem())
    outcome = run("release", "build", write_release_toml(folder, "image.ext4"), "-o", folder / "built.nbr")
    assert outcome.status == 0, outcome.err
    return Station(folder, fleet)


def test_any_two_of_three_may_sign_and_one_may_not(station: Station) -> None:
    for pair in itertools.combinations((1, 2, 3), 2):
        assert station.verify(station.signed("two.nbr", *pair)).status == 0
    for alone in (1, 2, 3):
        outcome = station.verify(station.signed("one.nbr", alone, alone))
        assert outcome.status == 1
        assert "expected valid signatures of 2 known keys, got 1" in outcome.error_line


def test_a_key_that_the_root_does_not_name_counts_for_nothing(station: Station) -> None:
    run("keys", "create", "stranger", "--out", station.folder)
    path = station.signed("stranger.nbr", 1)
    assert run("release", "sign", path, "--key", station.folder / "stranger.pem").status == 0
    assert station.verify(path).status == 1


def test_the_order_of_signing_and_merging_leaves_no_trace(station: Station) -> None:
    expected = station.signed("together.nbr", 1, 2, 3).read_bytes()
    for order in itertools.permutations((1, 2, 3)):
        assert station.signed("turns.nbr", *order).read_bytes() == expected
        first, *others = [station.signed(f"apart-{number}.nbr", number) for number in order]
        added = [argument for other in others for argument in ("--add", other)]
        assert run("release", "sign", *added, first).status == 0
        assert first.read_bytes() == expected


def test_a_signature_of_another_release_is_not_merged(station: Station, tmp_path: Path) -> None:
    (tmp_path / "image.ext4").write_bytes(IMAGE)
    build(tmp_path, "image.ext4", version="2.1.1")
    ours = station.signed("ours.nbr", 1)
    before = ours.read_bytes()
    outcome = run("release", "sign", ours, "--add", tmp_path / "out.nbr")
    assert outcome.status == 2
    assert "of one release, got" in outcome.error_line
    assert ours.read_bytes() == before


def test_signing_elsewhere_leaves_the_file_and_signing_here_leaves_the_payload(station: Station) -> None:
    here = station.copy("here.nbr")
    unsigned = here.read_bytes()
    assert run("release", "sign", here, "--key", station.key(1), "-o", station.folder / "there.nbr").status == 0
    assert here.read_bytes() == unsigned
    assert run("release", "sign", here, "--key", station.key(1)).status == 0
    with open_release_file(here) as file:
        end = file.layout.trailer_offset
    assert here.read_bytes()[:end] == unsigned[:end]
    assert here.read_bytes() == (station.folder / "there.nbr").read_bytes()


def test_signing_needs_somebody_to_sign(station: Station) -> None:
    assert run("release", "sign", station.copy("nobody.nbr")).status == 2


def test_an_encrypted_key_asks_for_its_passphrase_and_takes_no_other(station: Station) -> None:
    (station.folder / "locked.pem").write_bytes(station.fleet.release_signers[0].to_pem(b"right"))
    for words, status in ((None, 2), ("wrong", 2), ("right", 0)):
        given: tuple[object, ...] = ()
        if words is not None:
            (station.folder / "words").write_text(words)
            given = ("--passphrase-file", station.folder / "words")
        path = station.copy("locked.nbr")
        outcome = run("release", "sign", path, "--key", station.folder / "locked.pem", *given)
        assert outcome.status == status
        assert words is None or words not in outcome.out + outcome.err


def _positions(data: bytes) -> Iterator[tuple[str, int]]:
    """Places in a release file: the ends of every part of it, and some between."""
    payload_length = int.from_bytes(data[8:HEADER_BYTES], "big")
    head_length = measure_head(data[HEADER_BYTES : HEADER_BYTES + 200], DEFAULT_LIMITS)
    chunk_count = -(-len(IMAGE) >> DEFAULT_LIMITS.log2_chunk_size)
    ends = [0, HEADER_BYTES, head_length, 32, 32 * chunk_count]
    ends = list(itertools.accumulate(ends))
    parts = dict(zip(("header", "head", "layer", "leaves"), itertools.pairwise(ends), strict=True))
    parts["frames"] = (ends[-1], HEADER_BYTES + payload_length)
    parts["envelope"] = (HEADER_BYTES + payload_length, len(data))
    source = random.Random(7)
    for part, (begin, end) in parts.items():
        for position in (begin, end - 1, *(source.randrange(begin, end) for _ in range(12))):
            yield part, position


def test_no_altered_byte_passes(station: Station) -> None:
    data = station.signed("whole.nbr", 1, 2).read_bytes()
    assert station.verify(station.folder / "whole.nbr").status == 0
    altered = station.folder / "altered.nbr"
    for part, position in _positions(data):
        for bit in (0x01, 0x80):
            forged = bytearray(data)
            forged[position] ^= bit
            altered.write_bytes(forged)
            outcome = station.verify(altered)
            assert (part, outcome.status) == (part, 1), f"{part} at {position} bit {bit:#x}"
            assert outcome.error_line


@pytest.mark.parametrize("cut", [-1, -100, 12, 0])
def test_a_file_that_was_not_copied_completely_is_refused(station: Station, cut: int) -> None:
    data = station.signed("whole.nbr", 1, 2).read_bytes()
    (station.folder / "cut.nbr").write_bytes(data[:cut])
    assert station.verify(station.folder / "cut.nbr").status == 1
    (station.folder / "cut.nbr").write_bytes(data + b"\0")
    assert station.verify(station.folder / "cut.nbr").status == 1


@pytest.mark.parametrize(
    ("forged", "told"),
    [("frames", "decode to the image that was signed"), ("hashes", "does not hash to the signed root")],
)
def test_a_part_of_another_image_is_found_although_it_is_consistent_in_itself(
    station: Station, forged: str, told: str
) -> None:
    """The head of the signed image, over frames that decode well, or hashes that fit each other, of another one."""
    other = bytearray(IMAGE)
    other[400_000] ^= 1
    honest, forger = (PayloadWriter(DEFAULT_LIMITS, level=1) for _ in range(2))
    frames = [b"".join(writer.encode([image])) for writer, image in ((honest, IMAGE), (forger, bytes(other)))]
    wanted, made = honest.prologue(), forger.prologue()
    framed, hashed = (made, wanted) if forged == "frames" else (wanted, made)
    index = framed.head[-15 * -(-len(IMAGE) // DEFAULT_LIMITS.full_frame_image_bytes_max) :]
    payload = encode_head(wanted.image_sha256, wanted.tree, index) + hashed.layer + hashed.leaves
    payload += frames[framed is made]
    image = Image(COMPONENT, VENDOR, (HARDWARE.class_id,), wanted.image_sha256, wanted.tree, version="1", epoch=0)
    envelope = build_envelope(Manifest(1, (image,)))
    for key in station.fleet.release_signers[:2]:
        envelope = sign_envelope(envelope, key)
    path = station.folder / "forged.nbr"
    path.write_bytes(encode_header(len(payload), DEFAULT_LIMITS) + payload + encode_trailer(envelope, DEFAULT_LIMITS))
    outcome = station.verify(path)
    assert outcome.status == 1
    assert told in outcome.error_line


def test_a_class_that_the_release_keys_may_not_sign_for_is_refused(station: Station, tmp_path: Path) -> None:
    path = station.signed("classes.nbr", 1, 2)
    for class_ids, status in (((HARDWARE.class_id.bytes,), 0), ((bytes(16),), 1)):
        roles = tuple(
            role.model_copy(update={"class_ids": class_ids}) if role.name is RoleName.RELEASE else role
            for role in station.fleet.root.roles
        )
        root = station.fleet.root.model_copy(update={"roles": roles})
        signed = sign_model(root, fleet_id_of(root.encode()), station.fleet.root_signers)
        (tmp_path / "root").write_bytes(signed)
        outcome = run("release", "verify", path, "--root", tmp_path / "root")
        assert outcome.status == status, CLASS_NAME


def test_a_root_of_another_fleet_is_not_taken(station: Station) -> None:
    path = station.signed("pinned.nbr", 1, 2)
    pinned = run("release", "verify", path, "--root", station.root, "--fleet-id", station.fleet.fleet_id.hex())
    other = run("release", "verify", path, "--root", station.root, "--fleet-id", "00" * 32)
    assert (pinned.status, other.status) == (0, 1)
    assert "another fleet" in other.error_line


def test_machines_read_the_same_facts_from_every_command(station: Station, tmp_path: Path) -> None:
    (tmp_path / "image.ext4").write_bytes(IMAGE)
    out = tmp_path / "out.nbr"
    built = run("release", "build", write_release_toml(tmp_path, "image.ext4"), "-o", out, "--json")
    signed = run("release", "sign", out, "--key", station.key(1), "--json")
    run("release", "sign", out, "--key", station.key(2))
    inspected = run("release", "inspect", out, "--json")
    verified = run("release", "verify", out, "--root", station.root, "--json")
    facts = [json.loads(outcome.out) for outcome in (built, signed, inspected, verified)]
    assert len({fact["release"] for fact in facts}) == 1
    assert facts[0]["image_sha256"] == hashlib.sha256(IMAGE).hexdigest()
    assert facts[2]["images"]["rootfs"]["image_bytes"] == len(IMAGE)
    kids = [PrivateKey.from_pem(station.key(number).read_bytes()).public.kid.hex() for number in (1, 2)]
    assert sorted(kids) == facts[2]["signatures"] == facts[3]["signed_by"]


@pytest.mark.parametrize("command", [("inspect",), ("verify", "--root", "ROOT"), ("sign", "--key", "KEY")])
@pytest.mark.parametrize("content", [b"", b"NBRELS1\n", b"\0" * 5000, b"NBRELS1\n" + b"\xff" * 5000])
def test_what_is_no_release_file_is_refused_in_one_line(
    station: Station, tmp_path: Path, command: tuple[str, ...], content: bytes
) -> None:
    path = tmp_path / "noise.nbr"
    path.write_bytes(content)
    verb, *rest = [{"ROOT": str(station.root), "KEY": str(station.key(1))}.get(word, word) for word in command]
    outcome = run("release", verb, path, *rest)
    assert outcome.status == 1
    assert "noise.nbr" in outcome.error_line


@pytest.mark.parametrize(
    "arguments",
    [
        ("release", "build", "FOLDER/release.toml", "-o", "FOLDER/again.nbr"),
        ("release", "inspect", "FOLDER/built.nbr"),
        ("release", "push", "--help"),
        ("keys", "create", "quick", "--out", "FOLDER"),
        ("root", "inspect", "FOLDER/root.signed"),
    ],
)
def test_commands_of_a_build_machine_import_no_server(station: Station, arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from narrowboat_bridge.cli import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as left: status = left.code\n"
        "server = {'paho', 'sqlalchemy', 'tenacity', 'narrowboat_bridge.server', 'narrowboat_bridge.core'}\n"
        "found = [name for name in sys.modules if {name, name.partition('.')[0]} & server]\n"
        "sys.exit(f'imported {found}' if found else status)"
    )
    done = run_python(code, *(argument.replace("FOLDER", str(station.folder)) for argument in arguments))
    assert done.returncode == 0, done.stderr
