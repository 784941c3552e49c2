"""Addresses in messages and logs, without their secrets."""

from __future__ import annotations

import re

MASK = "***"
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(\S*@)?[^\s'\"]+")
_SCHEME = r"([\w+.-]*:?//)?"
_PARTS = re.compile(_SCHEME + r"([^?#@\s]*@)?([^?#@\s]*)([?#][^@\s]*)?")


def masked_address(address: str) -> str:
    """An address whose user, password, query and fragment are masked.

    Of a malformed address all but the scheme is masked: a password may contain characters that would end it.
    """
    parts = _PARTS.fullmatch(address)
    if parts is None:
        return f"{''.join(re.findall(f'^{_SCHEME}', address))}{MASK}"
    scheme, user, rest, query = (part or "" for part in parts.groups())
    return f"{scheme}{f'{MASK}@' if user else ''}{rest}{f'?{MASK}' if query else ''}"


def masked(text: str) -> str:
    """The text, with every address that begins with a scheme masked."""
    return _IN_TEXT.sub(lambda found: masked_address(found[0]), text)
