"""The highest token seen for each key, durable and bounded.

A key that makes room for another lives on in the floor, below which nothing passes for any key that has no mark of its own.
So forgetting costs nobody's safety; it costs the next holder one more round trip, in which it learns how high to go.
Each mark has a numbered place on disk, so that the disk stays bounded, too.
"""

from collections.abc import Callable, Mapping

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.effects import Put
from cloudisense.mesh.token import NO_TOKEN, Token

TABLE = "meta"
PREFIX = "lease/"
"""All of the lease's rows in ``meta`` have keys that begin with this."""


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    key: str
    token: Token


class Marks:
    """``name`` says which of a node's marks these are; ``stored`` is its ``meta`` rows. ``ValueError`` when they are damaged."""

    def __init__(self, name: str, size: int, stored: Mapping[str, bytes]) -> None:
        self._prefix = f"{PREFIX}{name}/"
        self._size = size
        self._tokens: dict[str, Token] = {}
        self._places: dict[str, int] = {}
        self.floor = NO_TOKEN
        for key in sorted(key for key in stored if key.startswith(self._prefix)):
            self._restore(key.removeprefix(self._prefix), stored[key])

    def _restore(self, place: str, data: bytes) -> None:
        try:
            if place == "floor":
                self.floor = unpack(data, Token)
                return
            mark = unpack(data, _Mark)
            self._places[mark.key] = int(place)
            self._tokens[mark.key] = mark.token
        except (RemoteProtocolError, ValueError):
            # A promise that cannot be read may be any: to go on would be to break it.
            raise ValueError(f"lease: the stored row {self._prefix}{place} is damaged") from None

    def __len__(self) -> int:
        return len(self._tokens)

    def get(self, key: str) -> Token:
        """The highest token marked for ``key``, or the floor."""
        return self._tokens.get(key, self.floor)

    def highest_round(self) -> int:
        """Over all keys, forgotten ones included."""
        return max(self.floor.round, *(token.round for token in self._tokens.values()), 0)

    def put(self, key: str, token: Token, may_go: Callable[[str], bool]) -> tuple[Put, ...] | None:
        """Mark ``token``; the rows that make it durable, together. ``None`` when full of keys of which none ``may_go``."""
        rows: tuple[Put, ...] = ()
        if key not in self._places:
            if len(self._places) < self._size:
                place = len(self._places)
            else:
                oldest = next((other for other in self._tokens if may_go(other)), None)
                if oldest is None:
                    return None
                gone, place = self._tokens.pop(oldest), self._places.pop(oldest)
                self.floor = Token(max(self.floor.epoch, gone.epoch), max(self.floor.round, gone.round), b"")
                rows = (self._row("floor", pack(self.floor)),)
            self._places[key] = place
        self._tokens.pop(key, None)  # so that the order of the keys is that of their use
        self._tokens[key] = token
        return (*rows, self._row(str(self._places[key]), pack(_Mark(key, token))))

    def _row(self, place: str, value: bytes) -> Put:
        return Put(TABLE, {"key": self._prefix + place, "value": value})
