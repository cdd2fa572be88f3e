"""The bounds fit into each other: what one allows, the next must carry."""

from cloudisense.keys.session import OVERHEAD_BYTES
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.wire import Push, PushPull, encode

LIMITS = Limits()
IPV6_AND_UDP = 40 + 8


def test_a_full_sealed_datagram_fits_the_least_path_of_ipv6() -> None:
    assert LIMITS.datagram_bytes + OVERHEAD_BYTES + IPV6_AND_UDP <= 1280


def test_the_largest_entry_fits_a_message() -> None:
    assert len(encode(Push((bytes(LIMITS.entry_bytes),)))) <= LIMITS.bulk_bytes // 2


def test_the_vector_of_all_feeds_fits_beside_a_part_of_the_claims() -> None:
    vector = tuple((bytes(32), 2**53 - 1, LIMITS.entries) for _ in range(LIMITS.feeds))
    claims = tuple((bytes(248), b"") for _ in range(LIMITS.bulk_bytes // 4 // 256))
    assert len(encode(PushPull(claims, vector, True))) <= LIMITS.bulk_bytes


def test_a_probe_ends_within_its_period() -> None:
    assert 0 < LIMITS.probe_timeout_ms < LIMITS.probe_interval_ms


def test_unix_time_in_milliseconds_is_cut_not_rounded() -> None:
    assert [Instant(0, ns).wall_ms for ns in (0, 999_999, 1_000_000, -1)] == [0, 0, 1, -1]
