"""The bounds fit into each other: what one allows, the next must carry."""

from cloudisense.keys.session import OVERHEAD_BYTES
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import PROFILES, Limits
from cloudisense.mesh.wire import Push, PushPull, encode

LIMITS = Limits()
IPV6_AND_UDP = 40 + 8


def test_a_full_sealed_datagram_fits_the_least_path_of_ipv6() -> None:
    assert LIMITS.datagram_bytes + OVERHEAD_BYTES + IPV6_AND_UDP <= 1280


def test_the_largest_entry_fits_a_message() -> None:
    assert len(encode(Push((bytes(LIMITS.entry_bytes),), True))) <= LIMITS.bulk_bytes // 2


def test_the_vector_of_all_feeds_fits_beside_the_heads_of_all_members() -> None:
    vector = tuple((bytes(32), 2**53 - 1, LIMITS.entries) for _ in range(LIMITS.feeds))
    heads = tuple((bytes(32), 2**53 - 1, False) for _ in range(LIMITS.members))
    assert len(encode(PushPull(((bytes(1024), bytes(1024)),), heads, vector, 1000, True))) <= LIMITS.bulk_bytes


def test_a_probe_ends_within_its_period() -> None:
    for limits in PROFILES.values():
        assert 0 < limits.probe_timeout_ms + limits.indirect_timeout_ms <= limits.probe_interval_ms
        assert limits.knock_ms <= limits.indirect_timeout_ms, "TCP has its say before the probe ends"


def test_unix_time_in_milliseconds_is_cut_not_rounded() -> None:
    assert [Instant(0, ns).wall_ms for ns in (0, 999_999, 1_000_000, -1)] == [0, 0, 1, -1]
