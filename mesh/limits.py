"""Every bound and every period of the mesh, in one table. Units are the last word of each name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are for a LAN. Bytes bound what a peer can make us keep or send."""

    probe_interval_ms: int = 1000
    probe_timeout_ms: int = 300
    indirect_probes: int = 3
    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    """Suspicion starts this much longer than its minimum and shortens as others confirm (Lifeguard, section IV-B)."""

    gossip_interval_ms: int = 200
    gossip_fanout: int = 3
    retransmit_mult: int = 4

    push_retry_ms: int = 100
    push_attempts: int = 6
    orphans_per_feed: int = 64
    digest_mismatches: int = 2
    """A digest mismatch that outlives this many exchanges starts a push-pull."""

    datagram_bytes: int = 1190
    """Plaintext of one sealed datagram; with 42 bytes of seal, 8 of UDP and 40 of IPv6 it fits a path MTU of 1280."""
    bulk_bytes: int = 256 * 1024
    claim_bytes: int = 2048
    entry_bytes: int = 8192
    members: int = 2000
    entries: int = 20_000
    feeds: int = 4000
    """Pairs of node and generation."""
    relayed_probes: int = 256
    hellos_per_source_s: int = 5
    hellos_s: int = 100
    sources: int = 1024
