"""The judge is judged: each known way to break the lease, switched on here only, is caught by the checkers within the seeds that CI runs.

A mutant that is not caught says that the search does not reach what it breaks.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloudisense.keys.errors import Refused
from cloudisense.mesh import epoch, fence, grant, holder, tenure, voter
from cloudisense.mesh.instant import Instant
from cloudisense.sim.lease_plot import run

pytestmark = pytest.mark.slow

SEEDS = 1200
"""Within the first so many: what test_lease_seeds runs."""

Patch = pytest.MonkeyPatch


def timed_from_receipt(patch: Patch) -> None:
    patch.setattr(holder.Holder, "_until_ns", lambda self, attempt, terms, now: now.boot_ns + terms.hold_ns)


def no_rate_margin(patch: Patch) -> None:
    patch.setattr(epoch.Epoch, "hold_ns", property(lambda self: self.lease_ns))


def no_restart_quarantine(patch: Patch) -> None:
    patch.setattr(tenure.Tenure, "_quarantine_ms", lambda self: 0)


def promise_not_persisted(patch: Patch) -> None:
    """The voter waits for its disk, but there is nothing in the write."""
    real = voter.Voter.__init__

    def broken(self: Any, *args: Any) -> None:
        real(self, *args)
        put = self._promised.put
        self._promised.put = lambda *a: None if put(*a) is None else ()

    patch.setattr(voter.Voter, "__init__", broken)


def round_not_synced(patch: Patch) -> None:
    """The candidate does not wait until its round is on disk."""

    def broken(self: Any, rows: Any, then: Callable[[Instant], None]) -> None:
        self._port.persist(rows, lambda _: None)
        then(Instant(self._asked_ns, 0))

    real = holder.Holder._try

    def asked(self: Any, wish: Any, now: Instant) -> None:
        self._asked_ns = now.boot_ns
        real(self, wish, now)

    patch.setattr(holder.Holder, "_try", asked)
    patch.setattr(holder.Holder, "_make_durable", broken)


def reply_before_sync(patch: Patch) -> None:
    real = voter.Voter.requested

    def broken(self: Any, peer: bytes, message: Any, now: Instant) -> None:
        class Hasty:
            def __init__(self, port: Any) -> None:
                self._port = port

            def persist(self, rows: Any, then: Callable[[Instant], None]) -> None:
                then(now)
                self._port.persist(rows, lambda _: None)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._port, name)

        port = self._port
        self._port = Hasty(port)
        real(self, peer, message, now)
        self._port = port

    patch.setattr(voter.Voter, "requested", broken)


def half_is_enough(patch: Patch) -> None:
    patch.setattr(epoch.Epoch, "quorum", property(lambda self: max(1, len(self.voters) // 2)))


def no_fence(patch: Patch) -> None:
    patch.setattr(fence.Fence, "_is_below", lambda *_: False)


def fence_not_persisted(patch: Patch) -> None:
    real = fence.Fence.admit

    def broken(self: fence.Fence, *args: Any) -> fence.Pass | Refused:
        admitted = real(self, *args)
        return replace(admitted, rows=()) if isinstance(admitted, fence.Pass) else admitted

    patch.setattr(fence.Fence, "admit", broken)


def change_without_seal(patch: Patch) -> None:
    """The new voters begin as soon as they hear of the epoch, and the old ones go on for as long as they have not."""
    patch.setattr(tenure, "beginning", lambda *_: epoch.Sealing([], 0))


def sealed_and_grants_on(patch: Patch) -> None:
    """A voter says that it sealed, and goes on granting in its old epoch."""
    real = tenure.Tenure.objection

    def broken(self: Any, number: int, now: Instant) -> tuple[str, int] | None:
        return None if number == self._durable.active and now.boot_ns >= self._quiet_until_ns else real(self, number, now)

    patch.setattr(tenure.Tenure, "objection", broken)


def seal_not_persisted(patch: Patch) -> None:
    """A voter forgets over a restart what it sealed and began."""
    real = tenure.Tenure._row
    patch.setattr(tenure.Tenure, "_row", lambda self, record: replace(real(self, record), row={"key": "lost", "value": b""}))


def change_without_wait(patch: Patch) -> None:
    real = tenure.Tenure._begin
    patch.setattr(tenure.Tenure, "_begin", lambda self, terms, wait_ns, floor, forced, now: real(self, terms, 0, floor, forced, now))


def change_without_floor(patch: Patch) -> None:
    real = tenure.Tenure._begin
    patch.setattr(tenure.Tenure, "_begin", lambda self, terms, wait_ns, floor, forced, now: real(self, terms, wait_ns, 0, forced, now))


def release_frees_older_grants(patch: Patch) -> None:
    real = voter.Voter.released

    def broken(self: Any, peer: bytes, message: Any, now: Instant) -> None:
        if message.key in self._issued:
            self._issued[message.key].older_ns = 0
        real(self, peer, message, now)

    patch.setattr(voter.Voter, "released", broken)


def stuck_candidate(patch: Patch) -> None:
    patch.setattr(holder.Holder, "_back_off", lambda *_: None)


def blind_to_evidence(patch: Patch) -> None:
    patch.setattr(grant.Watch, "see", lambda *_: [])


def framed(patch: Patch) -> None:
    """Evidence that does not look at the holders convicts the honest."""

    def broken(self: grant.Equivocation, signatures: Any) -> bytes:
        return grant.open_grant(signatures, self.first)[0]

    def see(self: grant.Watch, certificate: bytes) -> list[grant.Equivocation]:
        grants = grant.unpack(certificate, tuple[bytes, ...], grant.MAX_CERTIFICATE_BYTES)
        return [grant.Equivocation(grants[0], grants[0])]

    patch.setattr(grant.Equivocation, "check", broken)
    patch.setattr(grant.Watch, "see", see)


MUTANTS: dict[Callable[[Patch], None], tuple[str, int]] = {
    timed_from_receipt: ("L1", 483),
    no_rate_margin: ("L1", 17),
    no_restart_quarantine: ("L1", 7),
    promise_not_persisted: ("L5", 4),
    round_not_synced: ("L3", 67),
    reply_before_sync: ("L5", 4),
    half_is_enough: ("L1", 5),
    no_fence: ("L4", 8),
    fence_not_persisted: ("L4", 48),
    change_without_seal: ("L1", 36),
    sealed_and_grants_on: ("L6", 17),
    seal_not_persisted: ("L6", 163),
    change_without_wait: ("L1", 82),
    change_without_floor: ("L2", 884),
    release_frees_older_grants: ("L1", 29),
    stuck_candidate: ("L9", 3),
    blind_to_evidence: ("L7", 16),
    framed: ("L7", 1),
}
"""Each with the invariant that catches it, and the seed that was the first to do so when this was written: it is tried first."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_caught(mutant: Callable[[Patch], None], monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    mutant(monkeypatch)
    name, first = MUTANTS[mutant]
    for seed in (first, *range(1, SEEDS + 1)):
        found = [words for words in run(seed).violations if words.startswith(name)]
        if found:
            with capsys.disabled():
                sys.stdout.write(f"\n{mutant.__name__}: seed {seed}, {found[0]} ")
            return
    pytest.fail(f"{mutant.__name__} lives through {SEEDS} seeds")
