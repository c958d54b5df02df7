"""No document costs more than its size suggests: one message neither stops a bridge nor outgrows an agent's memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from narrowboat_protocol import documents
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import (
    AttemptSummary,
    CampaignDetail,
    CampaignStart,
    CampaignSummary,
    CampaignTerms,
    Command,
    Delivery,
    Hello,
    Hold,
    Operator,
    OperatorRole,
    Operators,
    PayloadReference,
    Report,
    RootChain,
    SignedModel,
    SlotInfo,
    Target,
    open_signed,
    sign_model,
)
from narrowboat_protocol.errors import DocumentError, EncodingError, NarrowboatError, Reason, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from narrowboat_protocol.model import Document
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.transfer import FetchRequest
from tests.fuzz.costs import measure
from tests.support.fleet import NOW, FleetKit

ITEMS_MAX = DEFAULT_LIMITS.items_max
KINDS: dict[str, type[Document]] = {
    kind.__name__: kind
    for kind in [getattr(documents, name) for name in documents.__all__] + [FetchRequest]
    if isinstance(kind, type) and issubclass(kind, Document) and kind not in (SignedModel, documents.Request)
}


def head(major: int, argument: int) -> bytes:
    return bytes([major << 5 | 25]) + argument.to_bytes(2, "big")


def lists_of(item: bytes, count: int) -> bytes:
    return head(4, count) + item * count


def bombs(kind: type[Document], count: int) -> Iterator[tuple[str, bytes]]:
    """Very many small things, in each place of the model that takes a list or a map, and as keys of its own."""
    keys = b"".join(b"\x19" + (256 + number).to_bytes(2, "big") + b"\x00" for number in range(count // 4))
    texts = b"".join(b"\x64%04x\x00" % number for number in range(count // 6))
    yield "unknown keys", head(5, count // 4) + keys
    for number, name in kind._by_key.items():  # noqa: SLF001  # the model's own keys
        place, field = b"\xa1" + encode(number), str(kind.model_fields[name].annotation)
        if "tuple" in field or "dict" in field:
            yield f"{name}, empty maps", place + lists_of(b"\xa0", count)
            yield f"{name}, keys of text", place + head(5, count // 6) + texts
            yield f"{name}, a list of keys of text", place + b"\x81" + head(5, count // 6) + texts


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_many_small_things_cost_neither_memory_nor_time(kind: type[Document]) -> None:
    for name, data in bombs(kind, kind.ITEMS_MAX - 10):

        def read(data: bytes = data) -> None:
            with pytest.raises(NarrowboatError):
                kind.decode(data)

        cost = measure(read)
        assert cost.peak_bytes <= 64 * KIB + 100 * kind.ITEMS_MAX, f"{name}: {cost}"
        assert cost.steps <= 500 + 10 * kind.ITEMS_MAX, f"{name}: {cost}"


@pytest.mark.parametrize("kind", [Hello, Report, FetchRequest, Delivery, RootChain], ids=lambda kind: kind.__name__)
def test_what_comes_unsigned_is_refused_within_a_few_thousand_steps(kind: type[Document]) -> None:
    """All of these are read before any signature counts: a Delivery has none, a hello brings its own key."""
    assert kind.ITEMS_MAX <= 256
    for name, data in bombs(kind, 2000):
        with pytest.raises(EncodingError) as caught:
            kind.decode(data)
        assert caught.value.reason is Reason.TOO_LARGE, name


def test_too_many_items_are_refused_before_the_first_is_read() -> None:
    for data in (lists_of(b"\x00", ITEMS_MAX), b"\xa1\x00" + lists_of(b"\xa0", ITEMS_MAX - 2)):
        with pytest.raises(EncodingError) as caught:
            decode(data, max_bytes=len(data))
        assert caught.value.reason is Reason.TOO_LARGE
    assert decode(lists_of(b"\x00", ITEMS_MAX - 1), max_bytes=ITEMS_MAX + 9) == [0] * (ITEMS_MAX - 1)
    spread = lists_of(lists_of(b"\x00", 90), 90)
    with pytest.raises(EncodingError):
        decode(spread, max_bytes=len(spread))
    with pytest.raises(UsageError):
        encode([0] * ITEMS_MAX)


def test_a_flood_of_signatures_is_refused_before_it_is_built() -> None:
    flood = b"\x83\x01\x40" + lists_of(b"\x40", 1000)
    with pytest.raises(EncodingError) as caught:
        SignedDocument.decode(flood)
    assert caught.value.reason is Reason.TOO_LARGE


def largest() -> Iterator[Document]:
    """The largest honest documents of each kind that has many parts."""
    name, text, version = "n" * 64, "\u0915" * 500, "\u0915" * 64
    key = PrivateKey.generate(Algorithm.ED25519)
    top = (1 << 40) - 1
    attempt = AttemptSummary(
        device=name,
        attempt=(1 << 53) - 1,
        state=State.ROLLBACK_FAILED,
        hold=HoldReason.BYTE_BUDGET,
        reason=Reason.IMAGE_CONTRADICTS_RELEASE,
        done_bytes=top,
        total_bytes=top,
        wire_bytes=top,
        reported_at=top,
    )
    summary = CampaignSummary(
        name=name,
        release=bytes(32),
        version="1",
        started_at=top,
        started_by=name,
        counts={**{state.value: 1 for state in State}, "waiting": 1, "withdrawn": 1},
        devices=top,
        content=bytes(32),
        approval_ends_at=top,
        approved_by=name,
    )
    windows = ((0, 86_400),) * 8
    reference = PayloadReference(
        digest=bytes(32),
        kind=0,
        size=top,
        head_size=1 << 22,
        head_sha256=bytes(32),
        sources=("s" * 500,) * 8,
        encryption=bytes(3072),
    )
    slot = SlotInfo(name=name, size=top, release=bytes(32), version=version)
    yield FetchRequest(payload=bytes(32), ranges=((top, 32_768),) * 32, block_bytes=65_536)
    yield Hello(
        device=name,
        pair=((1 << 53) - 1,) * 2,
        nonce=bytes(16),
        root_version=(1 << 53) - 1,
        assignment_counter=(1 << 53) - 1,
        certificate=bytes(4096),
        component=name,
        vendor_id=bytes(16),
        class_id=bytes(16),
        slots=(slot,) * 8,
        running_slot=name,
        boot_id=bytes(16),
        codecs=(255,) * 16,
        formats=(255,) * 16,
        agent_version=version,
        challenge=bytes(16),
        state=State.ROLLBACK_FAILED,
        agreement_key=PrivateKey.generate(Algorithm.ESP256).public.to_cbor(),
    )
    yield Report(
        device=name,
        pair=((1 << 53) - 1,) * 2,
        attempt=(1 << 53) - 1,
        component=name,
        release=bytes(32),
        state=State.ROLLBACK_FAILED,
        hold=Hold(reason=HoldReason.BYTE_BUDGET, since=top, next_check=top),
        slot=name,
        boot_id=bytes(16),
        done_bytes=top,
        total_bytes=top,
        wire_bytes=top,
        reason=Reason.IMAGE_CONTRADICTS_RELEASE,
        detail=text,
        parked=(1 << 53) - 1,
    )
    yield RootChain(roots=(bytes(16_370),) * 4)
    yield Delivery(assignment=bytes(8192), envelopes=(bytes(5000),) * 8)
    yield Operators(
        version=1,
        operators=tuple(
            Operator(name=f"operator-{at}", cose_key=key.public.to_cbor(), role=OperatorRole.OPERATOR)
            for at in range(256)
        ),
    )
    yield CampaignStart(
        campaign=name,
        release=bytes(32),
        devices=tuple(f"gateway-{at:050}" for at in range(1000)),
        reboot_windows=windows,
    )
    terms = CampaignTerms(everybody=False, reboot_windows=windows, byte_budget=(1 << 40) - 1)
    yield CampaignDetail(summary=summary, attempts=(attempt,) * 200, more=True, terms=terms)
    yield Target(component=name, release=bytes(32), payloads=(reference,) * 8)


@pytest.mark.parametrize("document", list(largest()), ids=lambda document: type(document).__name__)
def test_the_largest_honest_document_is_read(document: Document) -> None:
    assert type(document).decode(document.encode()) == document


def test_what_may_be_signed_may_be_read_with_every_signature(fleet: FleetKit) -> None:
    names = tuple(f"{at:064}" for at in range(900))
    start = CampaignStart(campaign="spring", release=bytes(32), devices=names)
    command = Command.of(start, operator="ada", request_id=bytes(16), issued_at=NOW, expires_at=NOW)
    signers = [PrivateKey.generate(Algorithm.ED25519) for _ in range(DEFAULT_LIMITS.signatures_max)]
    keys = {signer.public.kid: signer.public for signer in signers}
    data = sign_model(command, fleet.fleet_id, signers)
    assert open_signed(Command, data, fleet_id=fleet.fleet_id, keys=keys, threshold=16) == command


def test_what_would_not_be_read_is_not_signed(fleet: FleetKit) -> None:
    names = tuple(f"{at:064}" for at in range(1000))
    start = CampaignStart(campaign="spring", release=bytes(32), devices=names)
    command = Command.of(start, operator="ada", request_id=bytes(16), issued_at=NOW, expires_at=NOW)
    root = fleet.root.model_copy(update={"broker_anchors": (bytes(4096),) * 4})
    for document in (command, root):
        with pytest.raises(UsageError) as caught:
            sign_model(document, fleet.fleet_id, fleet.root_signers)
        assert caught.value.reason is Reason.TOO_LARGE


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create()


def test_what_is_too_long_is_refused_by_what_was_expected() -> None:
    with pytest.raises(DocumentError, match="expected at most 1000 items, got more"):
        CampaignStart.from_cbor({1: "spring", 2: bytes(32), 3: ["gw"] * 1001, 4: [], 6: False})
