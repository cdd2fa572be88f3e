"""Measure and run steps on this host. What may run is the gate's decision; what a step can reach is decided here."""

import time

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.plan import Measured, Step
from cloudisense.host.actions import HANDLERS
from cloudisense.host.outcome import Outcome, StepFailed, words
from cloudisense.keys.errors import Refused

__all__ = ["Executor", "Outcome", "StepFailed"]

NOTHING = Measured(0, 0, 0, "")


class Executor:
    """Runs the steps of one host's catalogue, in the calling thread; call it from a worker thread.

    Two runs in one folder exclude each other, across processes too: the second fails. A call that hangs in the
    kernel (a dead network file system) cannot be interrupted from here.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._paths = tuple(catalogue.paths.values())

    def measure(self, step: Step, wall_ns: int) -> Measured:
        """What ``run`` would free now, without changing anything; all zero if it could not run at all."""
        handler = HANDLERS.get(step.action)
        if handler is None or isinstance(self._catalogue.check(step), Refused):
            return NOTHING
        try:
            return handler.measure(step, self._paths, wall_ns)
        except (OSError, StepFailed):
            return NOTHING

    def run(self, step: Step, wall_ns: int) -> Outcome:
        """Do ``step`` within its ``timeout_s``. Raises ``StepFailed``; what was freed by then stays freed."""
        action = self._catalogue.check(step)
        if isinstance(action, Refused):
            raise StepFailed(action.reason)
        handler = HANDLERS.get(step.action)
        if handler is None:
            raise StepFailed(f"{step.action}: this host does not know how")
        try:
            return handler.run(step, self._paths, wall_ns, time.monotonic() + action.timeout_s)
        except OSError as error:
            raise StepFailed(f"{step.action}: {words(error)}") from error
