"""Who may speak: identity, certificates, roster, invites, capabilities, sessions. No I/O, no clock."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudisense.keys.testing import issue_for_tests

__all__ = ["issue_for_tests"]


def __getattr__(name: str) -> object:
    # Late (PEP 562): the daemon imports this package and never the X.509 builders of the tests.
    if name == "issue_for_tests":
        from cloudisense.keys.testing import issue_for_tests

        return issue_for_tests
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
