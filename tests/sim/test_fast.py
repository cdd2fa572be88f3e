"""What makes runs short changes nothing that happens in them, and stays in the simulator."""

import random
import subprocess
import sys

import pytest

from cloudisense.keys import envelope
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.session import SessionKey
from cloudisense.mesh.instant import Instant
from cloudisense.sim.fast import SimSessions, keyring, member_of, remembering
from cloudisense.sim.meshes import Meshes


def test_signatures_are_remembered_only_within() -> None:
    real = envelope.verify
    with remembering():
        assert envelope.verify is not real
        with remembering():
            pass
        assert envelope.verify is not real
    assert envelope.verify is real


def test_a_bad_signature_is_bad_each_time() -> None:
    ring = keyring(1)
    member = member_of(1, "n1").identity
    good = envelope.seal(member, "entry", ring.mesh_id, b"x")
    with remembering():
        for _ in range(2):
            assert envelope.open_envelope(good, ring.mesh_id).body == b"x"
            with pytest.raises(RemoteProtocolError):
                envelope.open_envelope(good[:-1] + bytes([good[-1] ^ 1]), ring.mesh_id)


def test_only_the_pair_opens_what_the_pair_sealed() -> None:
    now, rng, mesh_id = Instant(0, 0), random.Random(1), bytes(32)
    a, b, c = (SimSessions(bytes([i]) * 32, mesh_id, SessionKey.generate(rng)) for i in (1, 2, 3))
    a.learn(bytes([2]) * 32, b.key.public, now)
    b.learn(bytes([1]) * 32, a.key.public, now)
    c.learn(bytes([1]) * 32, a.key.public, now)
    sealed = a.seal(bytes([2]) * 32, b"hello")
    with pytest.raises(RemoteProtocolError):
        c.open(sealed, now)
    assert b.open(sealed, now) == (bytes([1]) * 32, b"hello")
    with pytest.raises(RemoteProtocolError, match="replayed"):
        b.open(sealed, now)


def test_a_mesh_that_has_met_is_at_peace() -> None:
    world = Meshes(20, joined=True)
    assert world.whole()
    world.run(10)
    assert world.whole() and not any(host.news for host in world.hosts)
    world.append(world[3], "note", b"x")
    world.run(1)
    assert len({host.live()._delivery.digest() for host in world.hosts}) == 1


def test_the_daemon_does_not_import_the_simulator() -> None:
    code = "import sys, cloudisense.daemon; print([m for m in sys.modules if m.startswith('cloudisense.sim')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout.strip() == "[]"
