"""A PKCS#11 URI says which key and how to get there; one that does not is refused without repeating a PIN in it."""

from __future__ import annotations

import pytest

from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.token_uri import TokenUri, parse_token_uri

MODULE = "module-path=/lib/p11.so"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"pkcs11:object=k?{MODULE}", TokenUri("/lib/p11.so", object="k")),
        (f"pkcs11:object=k;type=private?{MODULE}", TokenUri("/lib/p11.so", object="k")),
        (f"pkcs11:id=%01%02?{MODULE}", TokenUri("/lib/p11.so", id=b"\x01\x02")),
        (f"pkcs11:id=%3B;token=a%20b%3Bc?{MODULE}", TokenUri("/lib/p11.so", token="a b;c", id=b";")),
        (
            "pkcs11:token=t;serial=12;manufacturer=m;model=x;object=k?pin-source=file:/run/pin&module-path=file:///m.so",
            TokenUri("/m.so", "t", "m", "12", "x", "k", pin_source="/run/pin"),
        ),
    ],
)  # fmt: skip
def test_a_key_is_found_by_what_its_uri_says(text: str, expected: TokenUri) -> None:
    assert parse_token_uri(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pkcs11:object=k", "module-path=FILE"),
        (f"pkcs11:token=t?{MODULE}", "object=LABEL or id"),
        (f"pkcs11:object=k;type=public?{MODULE}", "type=private"),
        (f"pkcs11:object=k;object=l?{MODULE}", "at most once"),
        (f"pkcs11:objekt=k?{MODULE}", "at most once, and nothing else"),
        (f"pkcs11:object=k?{MODULE}&x-way=1", "nothing else"),
        (f"pkcs11:object=?{MODULE}", "printable"),
        (f"pkcs11:object=%ff?{MODULE}", "printable"),
        (f"pkcs11:object=a%0Ab?{MODULE}", "printable"),
        (f"pkcs11:object=a\nb?{MODULE}", "one line"),
        ("pkcs11:object=k?module-path=p11.so", "whole path as module-path"),
        (f"pkcs11:object=k?{MODULE}&pin-source=pin", "whole path as pin-source"),
        (f"pkcs11:object=k?{MODULE}&pin-value=4711", "change it"),
        (f"pkcs11:object={'k' * 1024}?{MODULE}", "1024"),
        ("pkcs11:", "module-path"),
        ("http://x", "begins with pkcs11:"),
    ],
)
def test_a_uri_that_names_no_key_is_refused_and_not_repeated(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_token_uri(text)
    assert complaint in str(caught.value)
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
