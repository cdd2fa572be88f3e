"""The guard's part of this host: admit a step at the gate, spend it durably, run it, journal both ends.

One process with the agent for now; it stands behind ``RunStep`` so that it can move into one of its own.
"""

import asyncio
import time

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.effects import RunStep
from cloudisense.agent.events import StepDone
from cloudisense.agent.gate import Admitted, Gate
from cloudisense.clock import read_clock
from cloudisense.host.executor import Executor, StepFailed
from cloudisense.host.thread import in_thread
from cloudisense.mesh.effects import Put, Scalar
from cloudisense.store import Store, StoreError

DETAIL_CHARS = 200
END_S = 1.5
"""A step under way may take this long to end when the agent stops; longer, and it counts as begun and not ended, as after a crash."""


class Guard:
    """Carries out ``RunStep`` effects of one host, one at a time. ``boot`` names this start of the guard."""

    def __init__(self, host: bytes, mesh_id: bytes, boot: bytes, catalogue: Catalogue, mode: dict[str, str], store: Store) -> None:
        self._store = store
        spent = [(bytes(row["nonce"]), int(row["step"])) for row in store.rows("spent")]
        self._gate = Gate(host, mesh_id, boot, catalogue, mode, spent)
        self._executor = Executor(catalogue)
        self._turn = asyncio.Lock()
        self._step: asyncio.Future[StepDone] | None = None

    async def run(self, request: RunStep) -> StepDone:
        """Admit and run one step; never raises for what the world does to it."""
        async with self._turn:
            admitted = self._gate.admit(request, read_clock())
            if not isinstance(admitted, Admitted):
                return StepDone(request.token, "refused", admitted.reason)
            try:
                self._step = in_thread(lambda: self._carry_out(request, admitted))
                return await asyncio.shield(self._step)
            except StoreError as error:
                return StepDone(request.token, "failed", f"the journal cannot be written: {error}")

    async def close(self) -> None:
        """Begin nothing more, and let a step under way end and be journalled, for a while. Call it while the store is open."""
        self._gate.paused = True
        if self._step is not None and not self._step.done():
            await asyncio.wait({self._step}, timeout=END_S)

    def _carry_out(self, request: RunStep, admitted: Admitted) -> StepDone:
        key = {"nonce": admitted.spent.row["nonce"], "step": request.index}
        # Spent and journalled before anything happens: after a crash this step counts as begun, and is never begun again.
        self._store.write([admitted.spent, _journal(key, "intent", admitted.step.action)])
        try:
            outcome = self._executor.run(admitted.step, time.time_ns())
            done = StepDone(request.token, "done", outcome.detail, outcome.freed_bytes, outcome.files)
        except StepFailed as failure:
            done = StepDone(request.token, "failed", failure.reason[:DETAIL_CHARS], failure.freed_bytes, failure.files)
        self._store.write([_journal(key, "outcome", f"{done.verdict}: {done.detail}")])
        return done


def _journal(key: dict[str, Scalar], phase: str, detail: str) -> Put:
    return Put("journal", {**key, "phase": phase, "detail": detail[:DETAIL_CHARS], "at_ms": time.time_ns() // 1_000_000})
