"""Shared by the simulator's tests."""

import pytest

from cloudisense.agent.catalogue import Action
from cloudisense.host.catalogue import builtin_actions


@pytest.fixture(scope="session")
def actions() -> tuple[Action, ...]:
    return builtin_actions()
