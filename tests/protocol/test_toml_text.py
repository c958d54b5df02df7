"""A configuration file, whoever wrote it, is read in bounded memory or refused with our error."""

from __future__ import annotations

import pytest

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.toml_text import CONFIG_BYTES_MAX, parse_toml

REFUSED = {
    "more than a file may have": (b"#" * (CONFIG_BYTES_MAX + 1), "at most 65536 bytes"),
    "a name of five thousand parts": (b"a." * 5000 + b"a = 1", "at most 256 dots in line 1"),
    "a list in a list, five thousand deep": (b"a = " + b"[" * 5000, "TOML"),
    "a number of five thousand digits": (b"a = " + b"9" * 5000, "TOML"),
    "a name that would fill the screen": (b"[a]\n" + b"b" * 101 + b" = 1", "names of at most 100"),
    "such a name in a list": (b"a = [[{ " + b"b" * 101 + b" = 1 }]]", "names of at most 100"),
    "not UTF-8": (b"a = '\xff'", "UTF-8"),
    "two values of one name": (b"a = 1\na = 2", "TOML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_cost_too_much_or_is_no_toml_is_refused_with_what_was_expected(case: str) -> None:
    data, expected = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        parse_toml(data)
    assert caught.value.reason is Reason.BAD_CONFIG
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300
