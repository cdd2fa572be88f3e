"""The test mesh is what it says it is, and the same everywhere."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cloudisense.keys
from cloudisense.keys import issue_for_tests, tls
from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.roster import Roster, check_chain, mesh_id_of
from cloudisense.keys.testing import WALL_MS, HashRng

MESH = issue_for_tests(7)


def test_the_valid_one_is_valid_and_votes():
    certificate = check_certificate(MESH.valid.certificate, MESH.roster, MESH.mesh_id, WALL_MS, True)
    assert certificate.node == MESH.valid.identity.id == tls.node_of(MESH.valid.leaf)
    assert MESH.roster.voters == (MESH.valid.identity.id,)


def test_the_revoked_one_was_valid_once():
    before = check_chain(MESH.chain[:1], MESH.mesh_id)
    assert check_certificate(MESH.revoked.certificate, before, MESH.mesh_id, WALL_MS, True).name == "revoked"
    with pytest.raises(RemoteProtocolError, match="revoked key"):
        check_certificate(MESH.revoked.certificate, MESH.roster, MESH.mesh_id, WALL_MS, True)


def test_the_foreign_one_is_of_another_mesh():
    assert MESH.foreign_mesh_id != MESH.mesh_id
    with pytest.raises(RemoteProtocolError):
        check_certificate(MESH.foreign.certificate, MESH.roster, MESH.mesh_id, WALL_MS, True)
    assert tls.node_of(MESH.foreign_anchor) not in [issuer.key for issuer in MESH.roster.issuers]


def test_the_chain_is_the_meshs():
    assert mesh_id_of(MESH.chain[0]) == MESH.mesh_id
    assert check_chain(MESH.chain, MESH.mesh_id) == MESH.roster


def test_more_members_and_more_rosters():
    extra = MESH.member("extra", ("member",))
    assert extra.identity.id == issue_for_tests(7).member("extra").identity.id != MESH.member("other").identity.id
    assert check_certificate(extra.certificate, MESH.roster, MESH.mesh_id, WALL_MS, True).roles == ("member",)
    old = MESH.roster
    third = Roster(3, 2, old.roots, 1, (extra.identity.id,), old.issuers, old.operators, old.revoked, old.lease_ms, old.rho_ppm)
    assert check_chain(MESH.sign(third), MESH.mesh_id) == third


FINGERPRINT = """
import hashlib
from cloudisense.keys import issue_for_tests
m = issue_for_tests({seed})
parts = (*m.chain, m.valid.certificate, m.valid.leaf, m.valid.session_key.public, m.revoked.leaf, m.foreign.leaf)
print(hashlib.sha256(b"".join(parts)).hexdigest())
"""


def _elsewhere(code: str, hash_seed: int = 0) -> str:
    """What ``code`` prints in a fresh process."""
    environment = {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": ":".join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_seeds_differ_and_processes_do_not():
    first = _elsewhere(FINGERPRINT.format(seed=7), 1)
    assert len(first) == 64
    assert first == _elsewhere(FINGERPRINT.format(seed=7), 99) != _elsewhere(FINGERPRINT.format(seed=8), 1)


def test_importing_the_package_does_not_import_the_test_mesh():
    assert _elsewhere("import sys, cloudisense.keys.identity; print('cloudisense.keys.testing' in sys.modules)") == "False"


def test_the_package_has_no_other_lazy_names():
    with pytest.raises(AttributeError, match="nothing_here"):
        cloudisense.keys.nothing_here  # noqa: B018


@given(st.integers(1, 2**70))
def test_the_rng_keeps_its_ranges(n):
    rng = HashRng(str(n))
    assert 0 <= rng.randrange(n) < n
    assert 0 <= rng.random() < 1


def test_the_rng_is_a_stream():
    whole, parts = HashRng("x"), HashRng("x")
    assert whole.randbytes(100) == parts.randbytes(1) + parts.randbytes(0) + parts.randbytes(99)
    assert HashRng("x").randbytes(8) != HashRng("y").randbytes(8)
    with pytest.raises(ValueError, match="empty range"):
        whole.randrange(0)
