"""Real agents on the loopback whose standing changes: revoked, promoted, renewed, restarted with an old roster."""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudisense.clock import read_clock
from cloudisense.control import ask
from cloudisense.home import PROMOTED, RIVAL, Home, certify
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.keys.roster import Roster, read_roster, sign_roster
from cloudisense.keys.succession import revoking, with_voters
from cloudisense.keys.tls import private_pem
from cloudisense.net.streams import StreamClient, TlsOwn
from cloudisense.renewal import DAY_MS, GRACE_MS, RenewReply, content, due, renew, renew_own
from cloudisense.standing import offline_status
from cloudisense.store import Store

COMMAND = [sys.executable, "-m", "cloudisense"]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
QUIET = '[agent]\nplanners = ["rules"]\n'


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done
    return done.stdout if code == 0 else done.stderr


def run_json(*words: object) -> Any:
    return json.loads(run(*words, "--json"))


def until(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Fleet:
    """State folders ``a`` (the founder) and further ones, and the agents that run in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def address(self, name: str) -> str:
        while name not in self.ports:
            number = random.SystemRandom().randrange(20_000, 30_000)
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                try:
                    tcp.bind(("127.0.0.1", number))
                    udp.bind(("127.0.0.1", number))
                except OSError:
                    continue
            self.ports[name] = number
        return f"127.0.0.1:{self.ports[name]}"

    def found(self) -> None:
        run("init", "--state", self["a"], "--name", "a", "--bind", self.address("a"))
        self.quiet("a")

    def quiet(self, name: str) -> None:
        config = self[name] / "agent.toml"
        config.write_text(config.read_text() + QUIET)

    def join(self, *names: str) -> None:
        invite = self.folder / "invite"
        invite.unlink(missing_ok=True)
        run("invite", "--state", self["a"], "--file", invite, "--uses", len(names))
        assert invite.stat().st_mode & 0o077 == 0
        for name in names:
            run("join", "--file", invite, "--state", self[name], "--name", name, "--bind", self.address(name))
            self.quiet(name)

    def up(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen([*COMMAND, "up", "--state", self[name]], stdout=log, stderr=log, env=ENVIRONMENT)
        for name in names:
            until(lambda name=name: self.status(name)["running"])

    def down(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    def status(self, name: str) -> Any:
        """As ``cloudisense status`` has it, without the price of a process."""
        home = Home(self[name])
        return asyncio.run(ask(home.socket, "status")) or {"running": False} | offline_status(home)

    def states(self, name: str) -> dict[str, str]:
        store = Store.open_readonly(self[name] / "state.db")
        try:
            return {content(row["certificate"]).name: row["state"] for row in store.rows("members")}
        finally:
            store.close()

    def roles(self, name: str) -> list[tuple[str, ...]]:
        store = Store.open_readonly(self[name] / "state.db")
        try:
            return [content(row["certificate"]).roles for row in store.rows("members")]
        finally:
            store.close()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.found()
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


def bulk(home: Path, target: Path, port: int, leaf: bytes | None = None) -> bool:
    """Whether the node of ``home`` can bring a bulk message to ``target``'s agent."""
    own, other = Home(home).load(), Home(target).load()

    async def post() -> bool:
        client = StreamClient(TlsOwn(leaf or own.leaf, private_pem(own.identity)), [issuer.anchor for issuer in own.roster.issuers])
        try:
            return await client.post_bulk(other.identity.id, ("127.0.0.1", port), b"junk")
        finally:
            await client.close()

    return asyncio.run(post())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_three_agents_promote_revoke_and_never_go_back(fleet: Fleet) -> None:
    fleet.up("a")
    assert fleet.status("a")["tolerates"] == "the only voter may not die"
    fleet.join("b", "c")
    fleet.up("b", "c")
    until(lambda: all(fleet.status(name)["tolerates"] == "1 of 3 voters may die" for name in "abc"))
    assert len({fleet.status(name)["roster"] for name in "abc"}) == 1
    # The new voters' certificates say so, without a restart, and everybody sees it.
    until(lambda: all("voter" in roles for roles in fleet.roles("a")))
    old = Home(fleet["b"]).load().chain

    c = Home(fleet["c"]).load()
    assert bulk(fleet["c"], fleet["b"], fleet.ports["b"])
    run("revoke", "c", "--state", fleet["a"])
    until(lambda: fleet.states("a")["c"] == fleet.states("b")["c"] == "left")
    founder = Home(fleet["a"]).load()
    _, leaf = certify(founder.identity, founder.roster, founder.mesh_id, c.identity.id, "c", ("member",), (), read_clock())
    assert not bulk(fleet["c"], fleet["b"], fleet.ports["b"]), "its stream is refused"
    assert not bulk(fleet["c"], fleet["b"], fleet.ports["b"], leaf), "another certificate of the same key is no way round"
    # For good, and the quick one is not needed any more.
    done = run_json("roster", "revoke", "c", "--state", fleet["a"])
    assert done["applied"] and done["signed"] == done["needed"] == 1
    until(lambda: fleet.status("b")["roster"] == done["roster"])
    shown = run_json("roster", "show", "--state", fleet["b"])
    assert shown["revoked"] == [node_text(c.identity.id)] and node_text(c.identity.id) not in shown["voters"]
    assert "already" in run("roster", "revoke", "c", "--state", fleet["a"], code=1)

    # c comes back with a new incarnation and its old roster: nobody takes it in, and nobody falls back.
    fleet.down("c")
    fleet.up("c")
    until(lambda: fleet.status("b")["dropped"].get("revoked key", 0) > 0)
    assert fleet.states("b")["c"] == "left"
    fleet.down("b")
    store = Store(fleet["b"] / "state.db")
    store.put_meta("roster_offered", pack(list(old)))
    store.put_meta(PROMOTED, pack(list(old)))
    store.close()
    fleet.up("b")
    assert fleet.status("b")["roster"] == done["roster"], "an old roster offered again, across a restart"
    time.sleep(1)
    assert fleet.states("b")["c"] == "left"
    assert not any("Traceback" in fleet.log(name) for name in "abc")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_node_replaces_its_key_and_keeps_name_and_vote_and_a_thief_of_the_old_one_gets_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.up("a")
    fleet.join("b", "c")
    fleet.up("b", "c")
    until(lambda: all(fleet.status(name)["tolerates"] == "1 of 3 voters may die" for name in "abc"))
    until(lambda: all("voter" in roles for roles in fleet.roles("a")))
    assert "in use by another agent" in run("rotate-key", "--state", fleet["b"], code=1)
    fleet.down("b")
    shutil.copytree(fleet["b"], fleet["stolen"])
    config = fleet["stolen"] / "agent.toml"
    config.write_text(config.read_text().replace(fleet.address("b"), fleet.address("stolen")))
    done = run_json("rotate-key", "--state", fleet["b"])
    fleet.up("b")

    def seen(by: str, name: str) -> list[tuple[str, str]]:
        return [(row["id"], row["state"]) for row in run_json("members", "--state", fleet[by]) if row["name"].startswith(name)]

    until(lambda: all(seen(by, "b") == [(done["id"], "alive")] for by in "abc"))
    # The root key lies at a: the vote moved, and the old key is out for good.
    until(lambda: all(done["id"] in fleet.status(by)["voters"] and not fleet.status(by)["attention"] for by in "abc"))
    shown = run_json("roster", "show", "--state", fleet["c"])
    assert done["replaced"] in shown["revoked"] and done["replaced"] not in shown["voters"] and len(shown["voters"]) == 3
    # Who stole the old key gets neither a certificate nor a word in.
    assert "replaced already" in run("rotate-key", "--state", fleet["stolen"], code=1)
    assert not bulk(fleet["stolen"], fleet["c"], fleet.ports["c"]) and bulk(fleet["b"], fleet["c"], fleet.ports["c"])
    fleet.up("stolen")
    until(lambda: fleet.status("c")["dropped"].get("revoked key", 0) > 0)
    assert seen("c", "b") == [(done["id"], "alive")]
    fleet.down("stolen")

    # Once more, with the root key away: the vote waits, status says for what, and one command settles it.
    run("roster", "offline", tmp_path / "root", "--state", fleet["a"])
    fleet.down("c")
    again = run_json("rotate-key", "--state", fleet["c"])
    fleet.up("c")
    until(lambda: all("roster settle" in " ".join(fleet.status(by)["attention"]) for by in "abc"))
    assert "signatures are needed" in run("roster", "settle", "--state", fleet["a"], code=1)
    assert run_json("roster", "settle", "--root", tmp_path / "root", "--state", fleet["a"])["applied"]
    until(lambda: all(again["id"] in fleet.status(by)["voters"] and not fleet.status(by)["attention"] for by in "abc"))
    assert all(seen(by, "c") == [(again["id"], "alive")] for by in "abc")
    assert not any("Traceback" in fleet.log(name) for name in ("a", "b", "c", "stolen"))


@pytest.mark.timeout(120)
def test_two_of_three_roots_offline_and_a_root_that_is_carried_away(fleet: Fleet, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    done = run_json("roster", "rotate-root", "--keys", 3, "--threshold", 2, "--into", medium, "--state", fleet["a"])
    assert done["applied"] and not list(fleet["a"].glob("root*.key")), "the old root signs nothing any more, and is gone"
    keys = sorted(medium.glob("*.key"))
    operator = run_json("roster", "show", "--state", fleet["a"])["operators"][0]
    assert "2 root signatures" in run("roster", "revoke", operator, "--state", fleet["a"], "--root", keys[0], code=1)
    paper = medium / "draft"
    assert not run_json("roster", "revoke", operator, "--state", fleet["a"], "--out", paper)["applied"]
    # Signed where there is no node at all.
    nowhere = tmp_path / "nowhere"
    assert run_json("roster", "sign", paper, "--root", keys[0], "--state", nowhere)["signed"] == 1
    assert "1 of 2" in run("roster", "apply", paper, "--state", fleet["a"], code=1)
    assert run_json("roster", "sign", paper, "--root", keys[2], "--state", nowhere)["signed"] == 2
    assert run_json("roster", "apply", paper, "--state", fleet["a"])["applied"]
    shown = run_json("roster", "show", "--state", fleet["a"])
    assert (shown["number"], shown["operators"], shown["revoked"], shown["root_here"]) == (3, [], [operator], False)
    assert "already" in run("roster", "apply", paper, "--state", fleet["a"], code=1)


def test_the_root_key_moves_away_and_comes_to_hand_again(fleet: Fleet, tmp_path: Path) -> None:
    (medium := tmp_path / "medium").mkdir()
    run("roster", "offline", fleet["a"] / "here", "--state", fleet["a"], code=1)
    assert run_json("roster", "offline", medium, "--state", fleet["a"])["moved"] == [str(medium / "root.key")]
    assert not (fleet["a"] / "root.key").exists()
    assert "signatures are needed" in run("roster", "rotate-root", "--state", fleet["a"], code=1)
    assert not list(fleet["a"].glob("root*")), "a refused rotation leaves no key behind"
    assert run_json("roster", "rotate-root", "--root", medium / "root.key", "--state", fleet["a"])["applied"]
    assert run_json("roster", "show", "--state", fleet["a"])["root_here"]


def test_half_way_through_it_is_renewed_and_for_a_month_after_its_end(fleet: Fleet) -> None:
    founder = Home(fleet["a"]).load()
    now_ms = read_clock().wall_ms
    own = content(founder.certificate)
    assert own.not_after_ms - now_ms == pytest.approx(90 * DAY_MS, abs=DAY_MS) and not due(founder, now_ms)
    assert due(founder, now_ms + 46 * DAY_MS)
    instant = read_clock()

    def aged(days: int) -> Any:
        then = replace(instant, wall_ns=instant.wall_ns - days * DAY_MS * 1_000_000)
        certificate, leaf = certify(
            founder.identity, founder.roster, founder.mesh_id, founder.identity.id, "a", ("member", "actor"), (("site", "x"),), then
        )
        return replace(founder, certificate=certificate, leaf=leaf)

    for days in (0, 60, 100, 90 + GRACE_MS // DAY_MS - 1):
        reply = renew_own(aged(days))
        fresh = content(reply.certificate)
        assert fresh.not_after_ms > now_ms + 89 * DAY_MS
        assert set(fresh.roles) == {"member", "actor", "voter", "issuer"} and fresh.labels == (("site", "x"),)
    with pytest.raises(RemoteProtocolError, match="30 days"):
        renew_own(aged(90 + GRACE_MS // DAY_MS))
    with pytest.raises(RemoteProtocolError, match="bad signature|malformed"):
        renew(founder, pack(RenewReply(founder.certificate, founder.leaf, founder.chain)))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_host_that_was_off_for_a_quarter_renews_over_the_wire(fleet: Fleet) -> None:
    fleet.up("a")
    fleet.join("b")
    founder, b = Home(fleet["a"]).load(), Home(fleet["b"]).load()
    then = replace(read_clock(), wall_ns=read_clock().wall_ns - 100 * DAY_MS * 1_000_000)
    certificate, leaf = certify(founder.identity, founder.roster, founder.mesh_id, b.identity.id, "b", ("member", "actor"), (), then)
    store = Store(fleet["b"] / "state.db")
    store.put_meta("certificate", certificate)
    store.put_meta("leaf", leaf)
    store.close()
    assert fleet.status("b")["certificate_days"] < 0
    fleet.up("b")
    until(lambda: fleet.status("b")["certificate_days"] >= 89)
    until(lambda: fleet.states("a").get("b") == "alive")
    assert not any("Traceback" in fleet.log(name) for name in "ab")


def test_a_roster_that_was_signed_and_not_yet_told_survives_a_crash(fleet: Fleet) -> None:
    home = Home(fleet["a"])
    member = home.load()
    root = home.key("root")
    following = with_voters(member.roster, member.roster.voters)
    store = Store(home.database)
    store.put_meta(PROMOTED, pack([*member.chain, sign_roster(following, member.mesh_id, root)]))
    assert home.load().roster.number == 2
    # What is no successor of the stored chain is left alone.
    store.put_meta(PROMOTED, pack([sign_roster(following, member.mesh_id, root)]))
    assert home.load().roster.number == 1
    store.close()


def test_invites_for_a_fleet_as_file_and_picture(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "invite"
    done = subprocess.run(
        [*COMMAND, "invite", "--state", fleet["a"], "--file", path, "--qr", "--uses", "50"],
        capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    assert done.stdout == "" and path.read_text().startswith("cloudisense-join-") and "50 nodes" in done.stderr
    assert done.stderr.count("\n") > 20 and "█" in done.stderr
    before = path.read_text()
    assert "there already" in run("invite", "--state", fleet["a"], "--file", path, code=1) and path.read_text() == before
    assert "name the invite" in run("join", "--state", tmp_path / "x", code=1)


@pytest.mark.timeout(120)
def test_two_rosters_beside_each_other_wait_for_a_person(fleet: Fleet) -> None:
    home = Home(fleet["a"])
    member = home.load()
    assert "no rival" in run("roster", "uphold", "--state", fleet["a"], code=1)
    key = b"\x21" * 32
    rival = (*member.chain, sign_roster(revoking(member.roster, key), member.mesh_id, home.key("root")))
    operator = node_text(member.roster.operators[0])
    run("roster", "revoke", operator, "--state", fleet["a"])
    store = Store(home.database)
    store.put_meta(RIVAL, pack(list(rival)))
    store.close()
    assert "roster uphold" in fleet.status("a")["attention"][0]
    assert "choose one first" in run("roster", "rotate-root", "--state", fleet["a"], code=1)
    assert run_json("roster", "uphold", "--state", fleet["a"])["applied"]
    shown = run_json("roster", "show", "--state", fleet["a"])
    assert {operator, node_text(key)} < set(shown["revoked"]) and shown["number"] == 3
    assert fleet.status("a")["attention"] == []


def test_a_revoked_node_is_told_in_one_line(fleet: Fleet) -> None:
    home = Home(fleet["a"])
    member = home.load()
    roster = read_roster(member.chain[-1])
    revoked = Roster(2, 1, roster.roots, 1, roster.voters, roster.issuers, (), (member.identity.id,), roster.lease_ms, roster.rho_ppm)
    store = Store(home.database)
    store.put_meta("roster", pack([*member.chain, sign_roster(revoked, member.mesh_id, home.key("root"))]))
    store.close()
    assert "was revoked" in run("up", "--state", fleet["a"], code=1)
