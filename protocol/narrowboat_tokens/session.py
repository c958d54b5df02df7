"""From a URI to a key that signs: load the module, find the token, log in once, find the key.

What does not fit is said before a PIN is used. A wrong PIN must not lock a token, which a service that is started again
and again would do within seconds. So a PIN out of a file is tried only on a token whose last login succeeded
(CKF_USER_PIN_COUNT_LOW is not set): one file with a wrong PIN costs one try, whatever starts how often. A person who
types the right one takes the mark away. Nothing here tries twice.

A token has room for one login of a process, so the second key in it is opened without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pkcs11 import Attribute, KeyType, ObjectClass, Session, Token, TokenFlag
from pkcs11 import exceptions as errors
from pkcs11.types import PROTECTED_AUTH, Object, SignMixin

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.token_uri import TokenUri

from .key import ONE_AT_A_TIME, TokenEd25519Key, TokenP256Key
from .pin import Pin

_P256_PARAMETERS = bytes.fromhex("06082a8648ce3d030107")
_ED25519_POINT_BYTES, _P256_POINT_BYTES = 32, 65
_WRAPPINGS = {bytes((0x04, size)) for size in (_ED25519_POINT_BYTES, _P256_POINT_BYTES)}
"""How a DER OCTET STRING of a point begins."""
_RETRY_MARKS = TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY
# What a login answers to a PIN, by what a person has to do about it.
_PIN_REFUSED = {
    errors.PinIncorrect: "the PIN of this token, got another; correct it before the next try, as tokens count",
    errors.PinInvalid: "the PIN of this token, got one that no token has; correct it",
    errors.PinLenRange: "the PIN of this token, got one of another length; correct it before the next try",
    errors.PinExpired: "a PIN that is valid, got one that expired; set a new one with the tool of the token's vendor",
    errors.PinLocked: "a PIN that is not locked, got a locked one; unlock it with the token's security officer PIN",
}


def open_token_key(uri: TokenUri, pin: Callable[[], Pin]) -> PrivateKey:
    """The key that the URI names. `pin` is asked for the PIN if one is needed. Raises `UsageError`."""
    try:
        with ONE_AT_A_TIME:
            session = log_in(uri, _find_token(uri), pin)
            return PrivateKey(_open_key(uri, session))
    except errors.PKCS11Error as error:
        raise _bad(uri, f"a token that answers, got {type(error).__name__}; see that it is plugged in") from None


def _find_token(uri: TokenUri) -> Token:
    found = [token for token in _tokens(uri) if _fits(token, uri)]
    match found:
        case [token]:
            return token
        case _:
            raise _bad(uri, f"one token that fits, got {len(found)}; see that it is plugged in, and say which it is")


def _tokens(uri: TokenUri) -> Iterator[Token]:
    try:
        module = pkcs11.lib(uri.module)
    except errors.PKCS11Error as error:
        detail = str(error) or type(error).__name__
        raise _bad(uri, f"a PKCS#11 module at {uri.module}, got none: {detail:.200}; install it") from None
    for slot in module.get_slots(token_present=True):
        with suppress(errors.PKCS11Error):  # a slot that does not answer is not the one
            token = slot.get_token()
            if token.flags & TokenFlag.TOKEN_INITIALIZED:
                yield token


def _fits(token: Token, uri: TokenUri) -> bool:
    serial = token.serial.decode(errors="replace").strip("\0 ")
    asked = (uri.token, uri.serial, uri.manufacturer, uri.model)
    has = (token.label, serial, token.manufacturer_id, token.model)
    return all(each is None or each == value for each, value in zip(asked, has, strict=True))


def log_in(uri: TokenUri, token: Token, pin: Callable[[], Pin]) -> Session:
    """A session that may use private keys. `pin` is asked only for a token that would take one."""
    flags = token.flags
    if not flags & TokenFlag.LOGIN_REQUIRED:
        return token.open()
    if flags & TokenFlag.USER_PIN_LOCKED:
        raise _bad(uri, _PIN_REFUSED[errors.PinLocked])
    if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
        return _open_session(uri, token, PROTECTED_AUTH)
    given = pin()
    if flags & _RETRY_MARKS and not given.is_typed:
        raise _bad(
            uri,
            "a token whose last login succeeded, got one that refused a PIN since; the PIN in the file is not tried, so"
            " that it does not get locked. Log in once by hand, and correct the file",
        )
    return _open_session(uri, token, given.text)


def _open_session(uri: TokenUri, token: Token, pin: object) -> Session:
    try:
        return token.open(user_pin=pin)
    except errors.UserAlreadyLoggedIn:
        return token.open()
    except tuple(_PIN_REFUSED) as error:
        raise _bad(uri, _PIN_REFUSED[type(error)]) from None


def _open_key(uri: TokenUri, session: Session) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    asked: dict[Attribute, object] = {Attribute.LABEL: uri.object, Attribute.ID: uri.id}
    template = {name: value for name, value in asked.items() if value is not None}
    private = _only(uri, session, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, **template}, "private key")
    if not isinstance(private, SignMixin):
        raise _bad(uri, "a key that may sign, got one that may not (CKA_SIGN)")
    if _read(private, Attribute.ALWAYS_AUTHENTICATE):
        raise _bad(uri, "a key that signs after one login, got one that asks each time (CKA_ALWAYS_AUTHENTICATE)")
    identifier = cast("bytes | None", _read(private, Attribute.ID))
    beside = {Attribute.ID: identifier} if identifier else {Attribute.LABEL: uri.object}
    public = _only(uri, session, {Attribute.CLASS: ObjectClass.PUBLIC_KEY, **beside}, "public key beside the private")
    kind, point = _read(private, Attribute.KEY_TYPE), _point(_read(public, Attribute.EC_POINT))
    try:
        if kind == KeyType.EC_EDWARDS and len(point) == _ED25519_POINT_BYTES:
            edwards = ed25519.Ed25519PublicKey.from_public_bytes(point)
            return cast(ed25519.Ed25519PrivateKey, TokenEd25519Key(uri, session, private, edwards))
        if kind == KeyType.EC and _read(private, Attribute.EC_PARAMS) == _P256_PARAMETERS:
            curve = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            return cast(ec.EllipticCurvePrivateKey, TokenP256Key(uri, session, private, curve))
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise _bad(uri, "an Ed25519 or P-256 key, got another kind; make one")


def _only(uri: TokenUri, session: Session, template: dict[Attribute, object], what: str) -> Object:
    found = list(session.get_objects(template))
    if len(found) != 1:
        raise _bad(uri, f"one {what} that fits, got {len(found)}; `pkcs11-tool --list-objects` shows what there is")
    return found[0]


def _read(thing: Object, name: Attribute) -> object:
    """An attribute; None if the token does not know it."""
    try:
        return cast(object, thing[name])
    except (errors.AttributeTypeInvalid, errors.AttributeSensitive):
        return None


def _point(value: object) -> bytes:
    """CKA_EC_POINT: the point in a DER OCTET STRING; some tokens leave the wrapping out."""
    if not isinstance(value, bytes):
        return b""
    return value[2:] if value[:2] in _WRAPPINGS and len(value) == 2 + value[1] else value


def _bad(uri: TokenUri, expected: str) -> UsageError:
    return UsageError(Reason.BAD_USE, f"{uri}: expected {expected}")
