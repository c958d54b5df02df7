"""A whole fleet in memory, for tests: root, keys of every role, releases, assignments, devices and operators.

Everything is made by the functions that the product uses. Nothing touches the disk. Times are constants, never the
clock: `NOW` is a moment inside every validity that is made here.

    fleet = FleetKit.create(release_threshold=2, release_keys=3)
    release = fleet.make_release(b"image" * 1000, version="2.0.0", sequence=1)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.pki import Authority, issue_client, new_key
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import (
    Assignment,
    Command,
    ComponentRule,
    Hello,
    Operator,
    OperatorRole,
    Operators,
    PayloadReference,
    Report,
    Request,
    Role,
    RoleName,
    Root,
    Scope,
    SlotInfo,
    Target,
    sign_model,
)
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey, Signer
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.payload import Codec, Head, PayloadWriter, parse_head
from narrowboat_protocol.release_file import encode_header, encode_trailer
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import (
    AgreementKey,
    ContentKey,
    Image,
    Manifest,
    build_envelope,
    class_id,
    parse_envelope,
    seal,
    vendor_id,
)
from narrowboat_protocol.trust import Hardware, Trust
from tests.support.suit_manifests import sign_envelope

NOW = 1_800_000_000
"""The wall time of every test, in seconds since 1970."""
_WEEK_S = 7 * 86_400

COMPONENT = "rootfs"
VENDOR = vendor_id("example.com")
CLASS_NAME = "gateway-a"
HARDWARE = Hardware(VENDOR, class_id(VENDOR, CLASS_NAME))
BOOT_ID = UUID(int=1).bytes


@dataclass(frozen=True, slots=True)
class MadeRelease:
    """A signed release and the payload of its (only) image."""

    envelope: bytes
    digest: bytes
    image: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    head: Head
    head_size: int
    head_sha256: bytes
    file: bytes = field(repr=False)
    """The release file, `*.nbr`."""
    encryption: bytes | None = None
    """To whom the key of the payload is sealed, if it is encrypted."""
    image_sha256: bytes = field(init=False)
    payload_digest: bytes = field(init=False)
    file_digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        for name, content in (
            ("image_sha256", self.image),
            ("payload_digest", self.payload),
            ("file_digest", self.file),
        ):
            object.__setattr__(self, name, hashlib.sha256(content).digest())

    @property
    def reference(self) -> PayloadReference:
        return PayloadReference(
            digest=self.payload_digest,
            kind=self.head.kind,
            size=len(self.payload),
            head_size=self.head_size,
            head_sha256=self.head_sha256,
            encryption=self.encryption,
        )

    def target(self, component: str = COMPONENT) -> Target:
        return Target(component=component, release=self.digest, payloads=(self.reference,))


@dataclass(frozen=True, slots=True)
class DeviceKit:
    """One gateway's identity. The key signs its documents and is the key of its certificate."""

    name: str
    key: PrivateKey
    certificate: bytes
    fleet_id: bytes
    agreement_key: AgreementKey | None = None
    """Opens the keys of encrypted payloads."""

    def hello(self, *, pair: tuple[int, int] = (1, 1), nonce: bytes = bytes(16), **changes: object) -> bytes:
        """A signed hello of a gateway with two slots that runs nothing of ours in slot `a`; `changes` are fields of
        `Hello`.
        """
        return self.sign(hello_document(self, pair=pair, nonce=nonce, **changes))

    def report(self, release: bytes, state: State, *, attempt: int, pair: tuple[int, int], **changes: object) -> bytes:
        """A signed report about `release`; `changes` are fields of `Report`."""
        return self.sign(report_document(self, release, state, attempt=attempt, pair=pair, **changes))

    def sign(self, document: Hello | Report) -> bytes:
        return sign_model(document, self.fleet_id, [self.key])


@dataclass(frozen=True, slots=True)
class OperatorKit:
    """One operator and the key that signs its commands."""

    name: str
    key: PrivateKey
    role: OperatorRole
    fleet_id: bytes
    scope: Scope | None = None

    def entry(self) -> Operator:
        return Operator(name=self.name, cose_key=self.key.public.to_cbor(), role=self.role, scope=self.scope)

    def command(
        self,
        request: Request,
        *,
        request_id: bytes,
        operator: str | None = None,
        issued_at: int = NOW,
        expires_at: int = NOW + 60,
    ) -> bytes:
        command = Command.of(
            request,
            operator=operator or self.name,
            request_id=request_id,
            issued_at=issued_at,
            expires_at=expires_at,
        )
        return sign_model(command, self.fleet_id, [self.key])


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """One of the fleet's certificate authorities, at the time of the tests."""

    authority: Authority

    @property
    def pem(self) -> bytes:
        return self.authority.certificate_pem

    @classmethod
    def create(cls, common_name: str) -> CertificateAuthority:
        return cls(Authority.create(common_name, NOW))

    def issue(self, name: str, key: ec.EllipticCurvePublicKey) -> bytes:
        """A client certificate, DER."""
        pem = issue_client(self.authority, name, key, NOW)
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class FleetKit:
    """The owner's side of a fleet: every private key, and the root that names the public ones."""

    root_data: bytes
    fleet_id: bytes
    root_signers: tuple[PrivateKey, ...]
    release_signers: tuple[PrivateKey, ...]
    release_threshold: int
    director: PrivateKey
    bridge: PrivateKey
    admin: PrivateKey
    device_ca: CertificateAuthority
    limits: Limits

    @classmethod
    def create(
        cls,
        *,
        release_threshold: int = 1,
        release_keys: int = 1,
        algorithm: Algorithm = Algorithm.ED25519,
        components: Sequence[str] = (COMPONENT,),
        minimum_sequence: int = 0,
        epoch: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> FleetKit:
        root_key, director, bridge, admin = (PrivateKey.generate(algorithm) for _ in range(4))
        release_signers = tuple(PrivateKey.generate(algorithm) for _ in range(release_keys))
        everyone = [root_key, director, bridge, admin, *release_signers]
        root = Root(
            version=1,
            expires_at=NOW + 10 * 365 * 86_400,
            keys=tuple(key.public.to_cbor() for key in everyone),
            roles=(
                _role(RoleName.ROOT, [root_key]),
                _role(RoleName.RELEASE, release_signers, release_threshold),
                _role(RoleName.DIRECTOR, [director]),
                _role(RoleName.BRIDGE, [bridge]),
                _role(RoleName.ADMIN, [admin]),
            ),
            components=tuple(
                ComponentRule(component=component, epoch=epoch, minimum_sequence=minimum_sequence)
                for component in components
            ),
        )
        fleet_id = hashlib.sha256(root.encode()).digest()
        return cls(
            root_data=sign_model(root, fleet_id, [root_key]),
            fleet_id=fleet_id,
            root_signers=(root_key,),
            release_signers=release_signers,
            release_threshold=release_threshold,
            director=director,
            bridge=bridge,
            admin=admin,
            device_ca=CertificateAuthority.create("device-ca"),
            limits=limits,
        )

    def trust(self) -> Trust:
        return Trust(self.root_data, self.fleet_id, self.limits)

    @property
    def root(self) -> Root:
        return self.trust().root

    def root_chain(self, versions: int) -> list[bytes]:
        """The roots after the first one, up to version `versions`, alike but for their number."""
        return [
            sign_model(self.root.model_copy(update={"version": version}), self.fleet_id, self.root_signers)
            for version in range(2, versions + 1)
        ]

    def next_root(self, *, epoch: int = 0, minimum_sequence: int = 0, director: PrivateKey | None = None) -> bytes:
        """Version 2 of the root, signed: with another epoch, minimum or director."""
        root = self.root
        limits = {"epoch": epoch, "minimum_sequence": minimum_sequence}
        changes: dict[str, object] = {
            "version": root.version + 1,
            "components": tuple(rule.model_copy(update=limits) for rule in root.components),
        }
        if director is not None:
            role = root.role(RoleName.DIRECTOR).model_copy(update={"kids": (director.public.kid,)})
            changes["roles"] = tuple(role if other.name is role.name else other for other in root.roles)
            former, latter = self.director.public.to_cbor(), director.public.to_cbor()
            changes["keys"] = tuple(latter if key == former else key for key in root.keys)
        return sign_model(root.model_copy(update=changes), self.fleet_id, self.root_signers)

    def make_release(
        self,
        image: bytes,
        *,
        version: str = "1.0.0",
        sequence: int = 1,
        component: str = COMPONENT,
        classes: Sequence[str] = (CLASS_NAME,),
        epoch: int = 0,
        codec: Codec = Codec.LZMA,
        signers: Iterable[Signer] | None = None,
        content_key: ContentKey | None = None,
        sealed_to: Sequence[PublicKey] = (),
    ) -> MadeRelease:
        """Build and sign a release of one image; by as many release keys as the threshold asks for, if `signers` is
        absent. With a content key its payload is encrypted.
        """
        writer = PayloadWriter(self.limits, codec, content_key=content_key)
        frames = b"".join(writer.encode([image]))
        prologue = writer.prologue()
        payload = prologue.head + prologue.layer + prologue.leaves + frames
        made_for = tuple(class_id(VENDOR, name) for name in classes)
        described = Image(component, VENDOR, made_for, prologue.image_sha256, prologue.tree, version, epoch)
        envelope = build_envelope(Manifest(sequence, (described,)), limits=self.limits)
        chosen = self.release_signers[: self.release_threshold] if signers is None else signers
        for signer in chosen:
            envelope = sign_envelope(envelope, signer, self.limits)
        encryption = None if prologue.content_key is None else seal(prologue.content_key, sealed_to)
        trailer = encode_trailer(envelope, self.limits, encryption or b"")
        return MadeRelease(
            envelope=envelope,
            digest=parse_envelope(envelope, self.limits).digest,
            image=image,
            payload=payload,
            head=parse_head(prologue.head, self.limits),
            head_size=len(prologue.head),
            head_sha256=hashlib.sha256(prologue.head).digest(),
            file=encode_header(len(payload), self.limits) + payload + trailer,
            encryption=encryption,
        )

    def assignment(
        self,
        device: str,
        *releases: MadeRelease,
        counter: int = 1,
        nonce: bytes = bytes(16),
        signer: Signer | None = None,
        **changes: object,
    ) -> bytes:
        """A signed assignment of these releases (none: an abort); `changes` are fields of `Assignment`."""
        fields: dict[str, object] = {
            "device": device,
            "counter": counter,
            "issued_at": NOW,
            "expires_at": NOW + _WEEK_S,
            "nonce": nonce,
            "root_version": self.root.version,
            "targets": tuple(release.target() for release in releases),
        }
        return sign_model(Assignment.model_validate(fields | changes), self.fleet_id, [signer or self.director])

    def device(self, name: str, *, ca: CertificateAuthority | None = None) -> DeviceKit:
        """A new gateway with a P-256 key and a certificate of the device CA (or of `ca`)."""
        key = new_key()
        certificate = (ca or self.device_ca).issue(name, key.public_key())
        return DeviceKit(name, PrivateKey(key), certificate, self.fleet_id)

    def operator(self, name: str, role: OperatorRole = OperatorRole.ADMIN, scope: Scope | None = None) -> OperatorKit:
        return OperatorKit(name, PrivateKey.generate(Algorithm.ED25519), role, self.fleet_id, scope)

    def operators(self, *operators: OperatorKit, version: int = 1) -> bytes:
        """The signed document that lets these operators command."""
        document = Operators(version=version, operators=tuple(operator.entry() for operator in operators))
        return sign_model(document, self.fleet_id, [self.admin])


def root_version(root: bytes) -> int:
    return Root.decode(SignedDocument.decode(root).content).version


def hello_document(device: DeviceKit, /, **changes: object) -> Hello:
    """The hello that `DeviceKit.hello` signs."""
    fields: dict[str, object] = {
        "device": device.name,
        "pair": (1, 1),
        "nonce": bytes(16),
        "root_version": 1,
        "assignment_counter": 0,
        "certificate": device.certificate,
        "component": COMPONENT,
        "vendor_id": HARDWARE.vendor_id.bytes,
        "class_id": HARDWARE.class_id.bytes,
        "slots": (SlotInfo(name="a", size=1 << 30), SlotInfo(name="b", size=1 << 30)),
        "running_slot": "a",
        "boot_id": BOOT_ID,
        "codecs": (0, 1, 2),
        "formats": (1,),
        "agent_version": "0.1.0",
    }
    return Hello.model_validate(fields | changes)


def report_document(device: DeviceKit, /, release: bytes, state: State, **changes: object) -> Report:
    """The report that `DeviceKit.report` signs."""
    fields: dict[str, object] = {
        "device": device.name,
        "component": COMPONENT,
        "release": release,
        "state": state,
        "slot": "a",
        "boot_id": BOOT_ID,
        "done_bytes": 0,
        "total_bytes": 0,
        "wire_bytes": 0,
    }
    return Report.model_validate(fields | changes)


def _role(name: RoleName, signers: Sequence[PrivateKey], threshold: int = 1) -> Role:
    return Role(name=name, threshold=threshold, kids=tuple(signer.public.kid for signer in signers))
