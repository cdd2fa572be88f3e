"""Every bound and every period of the mesh, in one table. Units are the last word of each name."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are the LAN profile. Bytes bound what a peer can make us keep or send."""

    probe_interval_ms: int = 700
    """One probe and one answer a period: about 250 B/s a node, whatever the size of the mesh."""
    probe_timeout_ms: int = 250
    indirect_timeout_ms: int = 350
    indirect_probes: int = 3
    hurried_probes: int = 3
    """Probes started at once after one failed, so that a partition is seen whole and not one member a period."""
    suspicion_ms: int = 1200
    """Times max(1, log10 n): the shortest suspicion, with ``confirmers`` that agree."""
    suspicion_max_mult: int = 4
    """Suspicion starts this much longer than its minimum and shortens as others confirm (Lifeguard, section IV-B)."""
    confirmers: int = 3
    stalled_ms: int = 30_000
    """A stalled member is dead after this."""
    awareness_max: int = 8
    frozen_ms: int = 700
    """A timer that fires this late tells of a freeze or suspend of our own; what it timed proves nothing."""
    knock_ms: int = 300

    flap_window_ms: int = 120_000
    flap_hold_ms: int = 30_000
    flap_hold_max_ms: int = 600_000

    lost_eager_ms: int = 600_000
    """Lost members are tried every period for this long, then every ``lost_patient_ms``, for ever."""
    lost_patient_ms: int = 30_000

    seek_ms: int = 200
    """A node alone greets a seed so often; a started one gives members so long to greet it first."""
    acquaint_ms: int = 100
    """Exchanges of all that is known begin so often at most, whoever is met; digests tell whether more are needed."""

    gossip_interval_ms: int = 200
    gossip_fanout: int = 3
    retransmit_mult: int = 4
    small: int = 64
    """A mesh of up to this many members is told news directly, each member once, by who has the news."""

    push_retry_ms: int = 100
    push_attempts: int = 6
    gather_ms: int = 5
    """News goes out at once; what follows within this time goes together."""
    outbox: int = 512
    """Own entries that wait for acknowledgements; the oldest beyond it are left to the digests."""
    retried_per_peer: int = 64
    pulled_messages: int = 16
    """Messages with missing entries in answer to one push-pull; the next mismatch brings the rest."""
    piggyback: int = 4096
    orphans_per_feed: int = 64
    digest_mismatches: int = 2
    """A digest mismatch that outlives this many exchanges starts a push-pull."""

    datagram_bytes: int = 1190
    """Plaintext of one sealed datagram; with 42 bytes of seal, 8 of UDP and 40 of IPv6 it fits a path MTU of 1280."""
    bulk_bytes: int = 256 * 1024
    claim_bytes: int = 2048
    entry_bytes: int = 8192
    rekey_ms: int = 12 * 3_600_000
    """How long one session key is used; up to a tenth longer, so that a fleet started at once does not change at once."""
    members: int = 1500
    entries: int = 20_000
    feeds_bytes: int = 64 * 1024 * 1024
    feed_bytes: int = 8 * 1024 * 1024
    entries_per_day: int = 2000
    """Of one author in one generation; outcomes and endings may use ``closing_reserve`` more."""
    closing_reserve: int = 500
    keep_entries: int = 1000
    """A node's own entries beyond this many, older than ``keep_ms``, or in more than ``keep_generations``, are put behind a checkpoint."""
    keep_generations: int = 16
    keep_ms: int = 30 * 86_400_000
    checkpoint_ms: int = 600_000
    checkpoint_asked: int = 4
    """Members asked at once to co-sign."""
    feeds: int = 4000
    """Pairs of node and generation."""
    soon_rows_ms: int = 100
    late_rows_ms: int = 60_000
    """A member's row on disk may be this late about its state, and about its incarnation."""
    relayed_probes: int = 256
    hellos_per_source_s: int = 120
    """A fleet behind one address (NAT, loopback) greets at once: 50 joins are 100 hellos. An answer costs about 0.1 ms."""
    hellos_s: int = 240
    sources: int = 1024

    messages_s: int = 1000
    messages_burst: int = 4000
    """Messages of one member that we decode."""
    forgeries_s: int = 2
    forgeries_burst: int = 50
    """Bad signatures and malformed items that one member may bring. An honest one brings none: it checks before it passes on."""
    pulls_s: int = 5
    pulls_burst: int = 40
    """Push-pulls of one member: each can draw ``bulk_bytes``."""
    claims_s: int = 20
    claims_burst: int = 1000
    """New claims by one author, whoever brings them: each costs everybody a signature check and a transmission."""
    relayed_probes_asker: int = 32
    orphans_node: int = 128
    """Entries of one author that wait for their predecessors, over all its generations."""


LAN = Limits()
WAN = Limits(
    probe_interval_ms=2000,
    probe_timeout_ms=900,
    indirect_timeout_ms=1100,
    suspicion_ms=4000,
    knock_ms=1000,
    gossip_interval_ms=500,
    push_retry_ms=400,
    frozen_ms=1500,
)
PROFILES = {"lan": LAN, "wan": WAN}
"""What ``[mesh] profile`` may name."""
