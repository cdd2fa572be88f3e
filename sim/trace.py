"""What happened, as a hash that two runs of one seed must share, and as a story that a person can read."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that a node told its operator. ``at_ms`` is true time since the world began."""

    at_ms: int
    node: str
    topic: str
    incident: str
    text: str


class Trace:
    """Every datagram, write and word goes into the hash; the words are kept."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._hash = hashlib.sha256()

    def note(self, now_ns: int, node: str, what: str, data: bytes = b"") -> None:
        """Something that no person reads."""
        self._hash.update(f"{now_ns}|{node}|{what}|{len(data)}|".encode() + data)

    def tell(self, now_ns: int, node: str, topic: str, incident: str, text: str) -> None:
        """Something for people."""
        self.note(now_ns, node, f"{topic}|{incident}|{text}")
        self.lines.append(Line(now_ns // 1_000_000, node, topic, incident, text))

    @property
    def hash(self) -> str:
        """Hex of all so far."""
        return self._hash.hexdigest()
