"""Fencing tokens, and what may be leased: the text of what is acted on (DESIGN section 3.2)."""

from typing import NamedTuple

from cloudisense.keys.identity import NODE_ID_BYTES
from cloudisense.keys.roster import COUNTERS

MAX_KEY_BYTES = 128
MAX_JUMP = 1 << 28
"""How far above a voter's promise a round may lie. An honest round rises by one a try and never gets that far ahead;
without the bound, one request would use up a key's rounds for good."""


class Token(NamedTuple):
    """One tenure of one key: compared as (epoch, round, holder), and used by one boot of one holder only.

    A voter promises a round to one holder only, and a new epoch begins above the rounds of the one before: the round alone
    rises from holder to holder, for a fence that can compare but one number. (A forced epoch keeps that as far as it can know.)
    """

    epoch: int
    round: int
    holder: bytes


NO_TOKEN = Token(0, 0, b"")
"""Below every token that anybody ever had."""


def is_key(text: str) -> bool:
    """Whether ``text`` may be leased: 1 to 128 bytes of printable text."""
    return 0 < len(text) <= MAX_KEY_BYTES and text.isprintable() and len(text.encode("utf-8", "replace")) <= MAX_KEY_BYTES


def check_key(key: str) -> None:
    """``ValueError`` for what cannot be leased."""
    if not is_key(key):
        raise ValueError("lease: a key is 1 to 128 bytes of printable text")


def check_token(token: Token) -> None:
    """``ValueError`` for a field out of bounds."""
    if token.epoch not in COUNTERS or token.round not in COUNTERS or len(token.holder) != NODE_ID_BYTES:
        raise ValueError("lease: a token's field is out of bounds")
