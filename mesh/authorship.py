"""Who made a claim, and how often it may: signatures cost their checker time, and each new claim a word to everyone."""

from cloudisense.keys.envelope import open_envelope
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.throttle import Throttle


class Authorship:
    """Checks the signer of claims, within what each author may say in a time."""

    def __init__(self, mesh_id: bytes, limits: Limits) -> None:
        self._mesh_id = mesh_id
        self._limits = limits
        self._authors = Throttle(limits.claims_s, limits.claims_burst, limits.members)

    def check(self, author: bytes, now: Instant) -> None:
        """Raise ``RemoteProtocolError`` when ``author`` has said too much lately; before the costly signature check."""
        if not self._authors.has(author, now):
            raise RemoteProtocolError("claims too often", author)

    def charge(self, author: bytes, now: Instant) -> None:
        """``author`` really signed one: only that is charged to it, or others could use up what it may say."""
        self._authors.charge(author, 1, now)

    def check_signer(self, claim: bytes, kind: str, signer: bytes, now: Instant) -> None:
        """Raise ``RemoteProtocolError`` unless ``signer`` signed this claim, and may still say something."""
        self.check(signer, now)
        if open_envelope(claim, self._mesh_id, kind, self._limits.claim_bytes).signer != signer:
            raise RemoteProtocolError("claim in another's name")
        self.charge(signer, now)
