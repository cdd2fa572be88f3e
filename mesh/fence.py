"""The fence at one gate: nobody acts with a token below the highest that acted there (L4), however long it slept.

A fence protects one gate. It believes a certificate and what it has seen itself; that the holder still holds is for the holder's
guard to say (``left_ns``), and where that is wrong, the fence is what stands. It admits the newest epoch that this node knows and no other:
the holder of an older one may still have time left, and loses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.mesh.effects import Put
from cloudisense.mesh.epoch import Epochs
from cloudisense.mesh.grant import check_certificate
from cloudisense.mesh.marks import Marks
from cloudisense.mesh.signatures import Signatures
from cloudisense.mesh.token import Token

KEYS = 1024


@dataclass(frozen=True, slots=True)
class Pass:
    """Go on, once ``rows`` are durable and ``Fence.confirm`` still says yes."""

    key: str
    token: Token
    rows: tuple[Put, ...]


class Fence:
    """One gate's memory of tokens. ``stored`` is its host's ``meta`` rows."""

    def __init__(self, signatures: Signatures, epochs: Epochs, stored: Mapping[str, bytes]) -> None:
        self._signatures = signatures
        self._epochs = epochs
        self._highest = Marks("fence", KEYS, stored)

    def admit(self, key: str, holder: bytes, certificate: bytes, left_ns: int) -> Pass | Refused:
        """Whether ``holder``, who says that it has ``left_ns`` left, may act on ``key`` here. A refusal changes nothing."""
        try:
            grant = check_certificate(self._signatures, self._epochs, certificate, self._epochs.roster.is_revoked)
        except RemoteProtocolError as error:
            return Refused(error.reason)
        newest = self._epochs.newest
        if grant.key != key or grant.token.holder != holder:
            return Refused("a lease on something else, or somebody else's")
        if grant.token.epoch != newest.number:
            return Refused(f"a lease of epoch {grant.token.epoch}; the epoch is {newest.number}")
        if not 0 < left_ns <= newest.hold_ns:
            return Refused("no time left on the lease")
        if self._is_below(key, grant.token):
            return Refused(f"a later holder was here: round {self._highest.get(key).round}")
        rows = self._highest.put(key, grant.token, lambda _: True)
        return Pass(key, grant.token, rows or ())

    def confirm(self, admitted: Pass) -> bool:
        """Whether nobody later came while the pass was made durable, or while this process slept: ask before every step."""
        return not self._is_below(admitted.key, admitted.token)

    def _is_below(self, key: str, token: Token) -> bool:
        return token < self._highest.get(key)
