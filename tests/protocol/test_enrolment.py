"""A request to enrol is worth what the keys that signed it are worth, and no secret is needed to check one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from narrowboat_protocol.cose import sign_document
from narrowboat_protocol.documents import EnrolmentRequest, claim_key, open_request, sign_model
from narrowboat_protocol.errors import Reason, TrustError, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey

FLEET = b"f" * 32
OWN, BIRTH, STRANGER = (PrivateKey.generate(Algorithm.ESP256) for _ in range(3))


def request(*vouchers: PrivateKey, key: PrivateKey = OWN) -> EnrolmentRequest:
    return EnrolmentRequest(
        csr=b"signing request",
        nonce=b"n" * 16,
        cose_key=key.public.to_cbor(),
        vouchers=tuple(each.public.to_cbor() for each in vouchers),
        vendor_id=b"v" * 16,
        class_id=b"c" * 16,
    )


def test_a_request_names_every_key_that_signed_it() -> None:
    asked = request(BIRTH)
    opened, kids = open_request(sign_model(asked, FLEET, [OWN, BIRTH]), FLEET)
    assert opened == asked
    assert kids == {OWN.public.kid, BIRTH.public.kid}


@pytest.mark.parametrize("signers", [[OWN], [BIRTH], [OWN, STRANGER]], ids=["own", "voucher", "own and a stranger"])
def test_a_key_that_is_named_and_did_not_sign_vouches_for_nobody(signers: list[PrivateKey]) -> None:
    with pytest.raises(TrustError):
        open_request(sign_model(request(BIRTH), FLEET, signers), FLEET)


def test_a_request_of_another_fleet_or_kind_is_not_one() -> None:
    asked = request()
    with pytest.raises(TrustError):
        open_request(sign_model(asked, b"g" * 32, [OWN]), FLEET)
    as_hello = sign_document(asked.encode(), asked.FORMAT, "hello", FLEET, [OWN])
    with pytest.raises(TrustError):
        open_request(as_hello.encode(), FLEET)


def test_a_key_does_not_vouch_for_itself() -> None:
    with pytest.raises(ValidationError, match="each key must stand here once"):
        request(OWN)


def test_a_claim_secret_is_one_key_in_one_fleet_and_never_short() -> None:
    secret = b"sixteen bytes or more"
    assert claim_key(secret, FLEET).public == claim_key(secret, FLEET).public
    assert claim_key(secret, FLEET).public != claim_key(secret, b"g" * 32).public
    with pytest.raises(UsageError) as caught:
        claim_key(b"short", FLEET)
    assert caught.value.reason is Reason.BAD_USE
    assert "short" not in str(caught.value)
