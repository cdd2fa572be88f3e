"""Invites: what people do to a line of text, and how often it can be spent."""

import base64
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import Refused
from cloudisense.keys.invite import InviteRecord, make_invite, parse_token, redeem

MESH, ISSUER, ADDRESSES = b"m" * 32, b"i" * 32, (("10.0.0.1", 7373),)
END_MS = 1_000_000


def invite(seed: int = 1, addresses=ADDRESSES, roles=("member",), uses: int = 1, expires_ms: int = END_MS) -> tuple[str, InviteRecord]:
    return make_invite(random.Random(seed), MESH, ISSUER, addresses, roles, uses, expires_ms)


TEXT, RECORD = invite()

hosts = st.ip_addresses().map(str) | st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True) | st.just("fe80::1%eth0")
addresses_lists = st.lists(st.tuples(hosts, st.integers(1, 65535)), min_size=1, max_size=4).map(tuple)


@given(st.integers(0, 2**32), addresses_lists, st.integers(1, 50), st.integers(0, 2**53))
def test_round_trip_in_one_line(seed, addresses, uses, expires_ms):
    text, record = invite(seed, addresses, uses=uses, expires_ms=expires_ms)
    assert text.split() == [text]
    token = parse_token(text)
    assert (token.mesh_id, token.issuer, token.addresses, token.expires_ms) == (MESH, ISSUER, addresses, expires_ms)
    assert record.uses_left == uses
    assert isinstance(redeem(record, token.secret, expires_ms - 1), InviteRecord)


def test_the_record_does_not_hold_the_secret():
    secret = parse_token(TEXT).secret
    assert secret not in RECORD.secret_hash
    assert len(RECORD.secret_hash) == 32


def test_blanks_line_breaks_and_case_do_not_matter():
    token = parse_token(TEXT)
    wrapped = "\n".join(TEXT[start : start + 40] for start in range(0, len(TEXT), 40))
    for variant in (f"  {TEXT}\n", wrapped, wrapped.replace("\n", "\r\n  "), TEXT.upper()):
        assert parse_token(variant) == token


@pytest.mark.parametrize("text", ["", "hello", "cloudisense", "cloudisense-join", "http://x/" + TEXT, "\x00", "é"])
def test_something_else_is_not_an_invite(text):
    with pytest.raises(ValueError, match="^this is not a CloudiSENSE invite$"):
        parse_token(text)


def test_every_wrong_missing_or_extra_character_is_damage():
    start = len("cloudisense-join-")
    for at in range(start, len(TEXT)):
        for text in (TEXT[:at] + TEXT[at + 1 :], TEXT[:at] + TEXT[at] + TEXT[at:]):
            with pytest.raises(ValueError, match="^the invite is damaged: a character is wrong or missing; copy it again$"):
                parse_token(text)
        for other in "abcdefghijklmnopqrstuvwxyz234567" + "018=-é":
            if other != TEXT[at]:
                with pytest.raises(ValueError, match="^the invite is damaged"):
                    parse_token(TEXT[:at] + other + TEXT[at + 1 :])


@given(st.text(max_size=300))
def test_any_text_after_the_prefix_is_one_clear_line(text):
    with pytest.raises(ValueError, match="^the invite is damaged"):
        parse_token("cloudisense-join-" + text)


def test_a_flood_of_text_is_damage():
    with pytest.raises(ValueError, match="^the invite is damaged"):
        parse_token("cloudisense-join-" + "a" * 1_000_000)


def test_an_invite_of_another_version_says_so():
    payload = pack([2, "something new"])
    checksum = hashlib.sha256(b"cloudisense/1|invite checksum|" + payload).digest()[:4]
    text = "cloudisense-join-" + base64.b32encode(payload + checksum).decode().rstrip("=").lower()
    with pytest.raises(ValueError, match="^this invite was made by another version of CloudiSENSE$"):
        parse_token(text)


def test_expired():
    token = parse_token(TEXT)
    assert not token.expired(END_MS - 1)
    assert token.expired(END_MS)


@given(st.integers(1, 20))
def test_it_is_good_for_exactly_its_uses(uses):
    text, record = invite(uses=uses)
    secret = parse_token(text).secret
    for left in reversed(range(uses)):
        answer = redeem(record, secret, 0)
        assert isinstance(answer, InviteRecord)
        record = answer
        assert record.uses_left == left
    assert redeem(record, secret, 0) == Refused("the invite is used up")


def test_a_wrong_secret_and_a_late_one_are_normal_noes():
    secret = parse_token(TEXT).secret
    other = parse_token(invite(2)[0]).secret
    assert redeem(RECORD, other, 0) == Refused("the invite is not known here")
    assert redeem(RECORD, b"", 0) == Refused("the invite is not known here")
    assert redeem(RECORD, secret, END_MS) == Refused("the invite has expired")
    # Who does not know the secret learns nothing of the record.
    assert redeem(RECORD, other, END_MS) == Refused("the invite is not known here")


@pytest.mark.parametrize(
    "bad",
    [
        {"addresses": ()}, {"addresses": ADDRESSES * 5}, {"addresses": (("", 1),)}, {"addresses": (("a b", 1),)},
        {"addresses": (("a", 0),)}, {"addresses": (("a", 65536),)}, {"addresses": (("a" * 254, 1),)},
        {"roles": ()}, {"roles": ("king",)}, {"roles": ("member", "member")},
        {"uses": 0}, {"uses": 10_001}, {"expires_ms": -1},
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_one_clear_line(bad):
    with pytest.raises(ValueError) as caught:
        invite(**bad)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
