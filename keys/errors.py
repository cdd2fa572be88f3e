"""The three kinds of trouble, and the one that must never happen.

A normal "no" is a value (``Refused``), not an exception. Junk from the network is
``RemoteProtocolError``: count it, drop it, throttle the peer. A bug of ours is ``LocalProtocolError``.
A broken invariant stops the node: it never acts on a state that it cannot explain.
"""

from dataclasses import dataclass


class LocalProtocolError(Exception):
    """We used an interface wrongly: our bug."""


class RemoteProtocolError(Exception):
    """A peer sent something that a correct peer never sends. ``reason`` is one stable lower-case phrase."""

    def __init__(self, reason: str, peer: bytes | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.peer = peer


@dataclass(frozen=True, slots=True)
class Refused:
    """A normal no, with its reason in words."""

    reason: str

    def __bool__(self) -> bool:
        return False


class InvariantBroken(Exception):
    """An invariant of DESIGN section 4 does not hold: stop, do not act."""


def invariant(condition: bool, what: str) -> None:
    """Raise ``InvariantBroken`` unless ``condition``; unlike ``assert``, it survives ``python -O``."""
    if not condition:
        raise InvariantBroken(what)
