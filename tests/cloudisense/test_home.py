"""The state folder: made once, kept, locked, and never written over."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudisense.clock import read_clock
from cloudisense.home import BACKDATE_MS, VALID_MS, Home, certify, default_state, home_of
from cloudisense.keys.certificate import Certificate, check_certificate
from cloudisense.keys.encoding import unpack
from cloudisense.keys.envelope import read_envelope
from cloudisense.keys.identity import Identity
from cloudisense.keys.tls import node_of
from cloudisense.store import Store

Snapshot = Callable[[Path], dict[str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state")
    home.lock()
    home.found("a", "# mine\n", read_clock())
    home.unlock()
    return home


def test_a_founder_is_all_that_a_mesh_needs(home: Home) -> None:
    member = home.load()
    now = read_clock()
    certificate = check_certificate(member.certificate, member.roster, member.mesh_id, now.wall_ms, wall_trusted=True)
    assert certificate.node == node_of(member.leaf) == member.identity.id
    assert certificate.roles == ("member", "voter", "actor", "issuer", "operator")
    assert member.roster.voters == (member.identity.id,) and member.roster.issuer(member.identity.id) is not None
    assert certificate.not_before_ms <= now.wall_ms - BACKDATE_MS + 60_000
    assert now.wall_ms + VALID_MS - 60_000 < certificate.not_after_ms <= now.wall_ms + VALID_MS
    keys = [home.key(name).seed for name in ("identity", "root", "operator")]
    assert len(set(keys)) == 3
    assert home.config.read_text() == "# mine\n"


def test_what_is_secret_is_for_this_user_only(home: Home) -> None:
    for name in ("identity.key", "root.key", "operator.key", "state.db", "agent.lock"):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert not list(home.path.glob("*.part"))


def test_nothing_is_written_over(home: Home, snapshot: Snapshot) -> None:
    before = snapshot(home.path)
    member = home.load()
    for attempt in (
        lambda: home.found("b", "", read_clock()),
        lambda: home.enrol(member.identity, member.certificate, member.leaf, member.chain, (), ""),
    ):
        with pytest.raises(ValueError, match="belongs to node a of mesh .* nothing was changed"):
            attempt()
    (home.path / "identity.key").rename(home.path / "elsewhere")
    with pytest.raises(ValueError, match="holds a root.key"):
        home.found("b", "", read_clock())
    (home.path / "elsewhere").rename(home.path / "identity.key")
    assert snapshot(home.path) == before


def test_the_lock_keeps_other_processes_out_and_dies_with_its_own(home: Home) -> None:
    program = "import sys; from pathlib import Path; from cloudisense.home import Home; Home(Path(sys.argv[1])).lock()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}

    def other() -> str:
        command = [sys.executable, "-c", program, str(home.path)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stderr

    home.lock()
    assert "in use by another agent" in other()
    home.unlock()
    home.unlock()
    assert other() == other() == ""


def test_boots_and_incarnations_only_rise(home: Home) -> None:
    store = Store(home.database)
    assert home.next_boot(store) == (1, 1)
    assert home.next_boot(store) == (2, 2)
    store.close()
    store = Store(home.database)
    assert home.next_boot(store) == (3, 3)
    store.close()


def test_a_key_half_written_is_not_a_key(home: Home) -> None:
    (home.path / "identity.key").rename(home.path / "identity.part")
    with pytest.raises(ValueError, match="there is no node in"):
        home.load()


def test_only_an_issuer_certifies(home: Home) -> None:
    member = home.load()
    node = Identity(bytes(32)).id
    now = read_clock()
    given, leaf = certify(member.identity, member.roster, member.mesh_id, node, "b", ("member",), (("site", "x"),), now)
    assert node_of(leaf) == node
    content = unpack(read_envelope(given).body, Certificate, 4096)
    assert (content.name, content.roles, content.labels) == ("b", ("member",), (("site", "x"),))
    with pytest.raises(ValueError, match="may not issue"):
        certify(Identity(bytes(32)), member.roster, member.mesh_id, node, "b", ("member",), (), now)


def test_where_state_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/cloudisense")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_state() == tmp_path / "cloudisense"
    monkeypatch.chdir(tmp_path)
    assert home_of(Path("x")).path == tmp_path / "x"
