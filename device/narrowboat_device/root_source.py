"""Where newer roots may lie when no bridge brings them: a file, a folder, or a folder on the web, with `N.root` in it.

Roots prove themselves, so their sources need no trust: plain HTTP serves as well as HTTPS, whose certificate is not
looked at, since it may be the very thing that a gateway without a clock or with old anchors cannot judge. What a server
may do is to keep roots back, or to waste time and bytes; a root is read up to its limit and no further, and a whole
answer has to come within a time. The HTTP client is imported when it is used: a gateway needs it once in years.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from narrowboat_protocol.errors import MediumError, PeerError, Reason, UsageError
from narrowboat_protocol.limits import Limits

from .loop import monotonic_s

_HTTP_TIMEOUT_S = 20.0
_ANSWER_S_MAX = 60.0
_PIECE_BYTES = 4096
_WEB = ("http://", "https://")

ReadRoot = Callable[[int], bytes | None]
"""The root of a version, or None if there is none there."""


def root_source(text: str, limits: Limits) -> ReadRoot:
    """Read roots from where `text` points: a URL or a path, of a folder or of one `.root` file."""
    is_one = text.endswith(".root")
    if text.startswith(_WEB):
        return lambda version: read_url(text if is_one else f"{text.rstrip('/')}/{version}.root", limits)
    path = Path(text)
    if not path.exists():
        raise UsageError(Reason.BAD_USE, f"expected a root, a folder with N.root files, or a URL, got {text!r:.200}")
    return lambda version: read_file(path / f"{version}.root" if path.is_dir() else path, limits)


def read_file(path: Path, limits: Limits) -> bytes | None:
    try:
        with path.open("rb") as file:
            return _bounded(file.read(limits.root_bytes_max + 1), limits)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MediumError(Reason.MEDIUM_FAILED, f"{path}: expected a readable root: {error.strerror}") from None


def read_url(url: str, limits: Limits) -> bytes | None:
    """What a web server has there. None if it has nothing; `PeerError` if it does not answer as it should."""
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ends_s = monotonic_s() + _ANSWER_S_MAX
    data = b""
    try:
        # The scheme was checked: it is one of `_WEB`, here and in every redirect that urllib follows.
        with urlopen(Request(url), timeout=_HTTP_TIMEOUT_S, context=context) as answer:  # noqa: S310
            while len(data) <= limits.root_bytes_max and (piece := answer.read1(_PIECE_BYTES)):
                data += piece
                if monotonic_s() > ends_s:
                    raise TimeoutError
    except HTTPError as error:
        if error.code in (404, 410):
            return None
        raise PeerError(Reason.NO_SOURCE, f"{url}: expected a root, got HTTP status {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise PeerError(Reason.NO_SOURCE, f"{url}: expected an answer, got {type(error).__name__}") from None
    return _bounded(data, limits)


def _bounded(data: bytes, limits: Limits) -> bytes:
    if len(data) > limits.root_bytes_max:
        raise PeerError(Reason.TOO_LARGE, f"expected a root of at most {limits.root_bytes_max} bytes, got more")
    return data
