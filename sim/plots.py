"""The scenarios by name: the quiet plots and chaos."""

from collections.abc import Callable

from cloudisense.agent.catalogue import Action
from cloudisense.sim.chaos import chaos
from cloudisense.sim.scenarios import QUIET, Result

SCENARIOS: dict[str, Callable[[int, tuple[Action, ...], int], Result]] = {"chaos": chaos, **QUIET}
