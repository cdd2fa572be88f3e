"""What the parts of one node's mesh share."""

from dataclasses import dataclass

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.given import Rng
from cloudisense.keys.identity import Identity
from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.mesh.hello import Greeter
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.outbound import Outbound
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.trust import Trust


@dataclass(slots=True)
class Context:
    """``certificate`` is our own, signed, until it is renewed; ``stored`` what we brought along from disk."""

    identity: Identity
    certificate: bytes
    trust: Trust
    session_key: SessionKey
    sessions: Sessions
    greeter: Greeter
    out: Outbound
    limits: Limits
    rng: Rng
    stored: Stored

    @property
    def id(self) -> bytes:
        return self.identity.id

    @property
    def mesh_id(self) -> bytes:
        return self.trust.mesh_id

    def seal(self, kind: str, body: object) -> bytes:
        """``body`` signed by us."""
        return seal(self.identity, kind, self.mesh_id, pack(body))

    def choose(self, nodes: list[bytes], count: int) -> list[bytes]:
        """``count`` different nodes at random."""
        pool = sorted(nodes)
        return [pool.pop(self.rng.randrange(len(pool))) for _ in range(min(count, len(pool)))]
