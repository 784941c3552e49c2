from __future__ import annotations

import pytest

from closecast.storage.core.masking import masked, masked_address


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://api.exchange.coinbase.com", "https://api.exchange.coinbase.com"),
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        ("https://me:pa/ss@host:8/path?key=1#x", "https://***@host:8/path?***"),
        ("https://me:pa@ss@host", "https://***"),
        ("https://me:pa?ss@host", "https://***"),
        ("https://host?key=pa@ss", "https://***"),
        ("https://me@host", "https://***@host"),
        ("https://host/path?key=1", "https://host/path?***"),
        ("https://host#1", "https://host?***"),
        ("postgresql+psycopg://me:x@host/db?password=x", "postgresql+psycopg://***@host/db?***"),
        ("//me:x@host", "//***@host"),
        ("me:x@host:1", "***@host:1"),
        ("host:1?token", "host:1?***"),
        ("http://my pass@host", "http://***"),
        ("", ""),
    ],
)
def test_user_password_query_and_fragment_of_an_address_are_masked(address: str, shown: str) -> None:
    assert masked_address(address) == shown


def test_only_addresses_in_a_text_are_masked() -> None:
    text = "BTC-USD@123:ab of models:/closecast.BTC-USD.calibrated@champion (did you mean BTC-USD?)"
    assert masked(text) == text
    quoted = "'https://a:b@c/d' and s3://bucket/folder and (http://x?y) and db://me:it's@host/d"
    shown = "'https://***@c/d' and s3://bucket/folder and (http://x?*** and db://***@host/d"
    assert masked(quoted) == shown
