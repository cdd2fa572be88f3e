"""Bad input, each time: one clear line on stderr, a status that is not 0, and nothing written over."""

import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense.clock import read_clock
from cloudisense.home import Home
from cloudisense.mesh.effects import Put
from cloudisense.store import Store

Cli = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, str]]
THERE = ("--address", "127.0.0.1:9")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founded node that every test may copy: made once, because making it is a process."""
    home = Home(tmp_path_factory.mktemp("first") / "a")
    home.lock()
    home.found("a", '[mesh]\nbind = "127.0.0.1:0"\n', read_clock())
    home.unlock()
    return home.path


@pytest.fixture
def state(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first, tmp_path / "a"))


# Words that are no command, no option, no value.


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], ("nonsense", "cloudisense --help")),
        (["--nonsense"], ("--nonsense", "cloudisense --help")),
        (["init", "--nonsense"], ("--nonsense", "cloudisense init --help")),
        (["init", "extra"], ("extra",)),
        (["join"], ("name the invite", "--file")),
        (["llm", "nonsense"], ("nonsense", "cloudisense llm --help")),
        (["sim", "--nodes", "x"], ("--nodes",)),
        (["sim", "nonsense"], ("nonsense", "disk_full")),
        (["sim", "--seeds", "9-1"], ("--seeds",)),
        (["demo", "--planner", "nonsense"], ("--planner nonsense", "rules")),
    ],
)
def test_a_slip_of_the_pen_costs_one_line(command: Cli, words: list[str], told: tuple[str, ...]) -> None:
    done = command(*words)
    done.refused(*told)
    assert done.code == (2 if "see cloudisense" in done.err else 1)


@pytest.mark.parametrize("words", [[], ["llm"]])
def test_no_command_shows_the_help_and_is_an_error(command: Cli, words: list[str]) -> None:
    done = command(*words)
    assert done.code == 2 and done.out.startswith("Usage: cloudisense") and done.err == ""


# A folder without a node, with a damaged one, with another one's.


@pytest.mark.parametrize("words", [["status"], ["members"], ["incidents"], ["history"], ["invite"], ["up"], ["leave"]])
def test_no_node_in_the_folder(command: Cli, tmp_path: Path, words: list[str]) -> None:
    command(*words, "--state", tmp_path / "none").refused("no node", "cloudisense init")
    assert not (tmp_path / "none").exists()


def test_nothing_founds_or_joins_over_a_node(command: Cli, state: Path, snapshot: Snapshot) -> None:
    token = command("invite", "--state", state, "--address", "127.0.0.1:9", "--json").json["token"]
    before = snapshot(state)
    command("init", "--state", state, "--name", "other").refused("belongs to node a of mesh", "nothing was changed")
    command("init", "--state", state, "--bind", "127.0.0.1:9").refused("belongs to node a of mesh")
    command("join", token, "--state", state).refused("belongs to node a of mesh", "nothing was changed")
    assert snapshot(state) == before


def test_a_lost_identity_does_not_cost_the_root_key(command: Cli, state: Path, snapshot: Snapshot) -> None:
    (state / "identity.key").unlink()
    before = snapshot(state)
    command("init", "--state", state).refused("root.key", "restore")
    assert snapshot(state) == before


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_identity(command: Cli, state: Path, snapshot: Snapshot, seed: bytes) -> None:
    (state / "identity.key").write_bytes(seed)
    before = snapshot(state)
    command("up", "--state", state).refused("identity.key", "damaged")
    command("init", "--state", state).refused("belongs to a node already")
    assert snapshot(state) == before


def test_the_identity_of_another_node(command: Cli, state: Path, snapshot: Snapshot) -> None:
    (state / "identity.key").write_bytes(b"x" * 32)
    before = snapshot(state)
    command("up", "--state", state).refused("not the key of this node's certificate")
    assert snapshot(state) == before


@pytest.mark.parametrize("damage", ["header", "middle", "empty", "gone"])
def test_a_damaged_state_database(command: Cli, state: Path, snapshot: Snapshot, damage: str) -> None:
    database = state / "state.db"
    with sqlite3.connect(database) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    data = bytearray(database.read_bytes())
    if damage == "header":
        data[:100] = os.urandom(100)
    elif damage == "middle":
        data[4096:] = os.urandom(len(data) - 4096)
    else:
        data.clear()
    database.unlink() if damage == "gone" else database.write_bytes(data)
    before = snapshot(state)
    command("up", "--state", state).refused("state.db")
    assert snapshot(state) == before
    command("status", "--state", state).refused("state.db")


@pytest.mark.parametrize("key", ["certificate", "roster", "leaf"])
def test_a_damaged_value_in_the_state_database(command: Cli, state: Path, key: str) -> None:
    """SQLite has no checksums: a value may be anything."""
    with sqlite3.connect(state / "state.db") as connection:
        value = bytearray(connection.execute("select value from meta where key = ?", [key]).fetchone()[0])
        value[len(value) // 2] ^= 1
        connection.execute("update meta set value = ? where key = ?", [bytes(value), key])
    connection.close()
    for word in ("up", "status", "members", "invite"):
        command(word, "--state", state).refused("damaged")


def test_a_damaged_row_in_the_state_database(command: Cli, state: Path) -> None:
    store = Store(state / "state.db")
    store.write([Put("members", {"node": b"n" * 32, "claim": b"\xff", "certificate": b"\xff", "state": "alive", "since_ms": 0})])
    store.close()
    command("members", "--state", state).refused("damaged")


def test_a_folder_that_cannot_be_written(command: Cli, tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("mine")
    command("init", "--state", plain).refused("cannot be used", "--state")
    command("init", "--state", plain / "below").refused("cannot be used", "--state")
    command("init", "--state", "/proc/1/state").refused("cannot be used", "--state")
    assert plain.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(command: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        command("init", "--state", tmp_path / "a").refused("Permission denied")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


# Configuration.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'[mesh]\nbind = "127.0.0.1:0"\nbindd = 1\n', (":3:", "bindd")),
        (b'[mesh]\nbind = "127.0.0.1"\n', (":2:", "host:port")),
        (b"[mesh\n", (":1:", "TOML")),
        (b"\xff\xfe", ("UTF-8",)),
        (b'[[path]]\npath = "/srv"\nrole = "wrong"\n', (":3:", "role")),
        (b'[model]\nfile = "/nonexistent.gguf"\n', ("/nonexistent.gguf",)),
        (b'[[path]]\npath = "/nonexistent/folder"\nrole = "cache"\n', ("/nonexistent/folder",)),
        (b'[mesh]\nbind = "192.0.2.1:7963"\n', ("192.0.2.1", "[mesh] bind")),
    ],
)
def test_a_wrong_configuration(command: Cli, state: Path, snapshot: Snapshot, text: bytes, told: tuple[str, ...]) -> None:
    (state / "agent.toml").write_bytes(text)
    keep = {name: hash_ for name, hash_ in snapshot(state).items() if name != "state.db-wal"}
    command("up", "--state", state).refused(*told)
    assert snapshot(state).items() >= keep.items()


def test_a_configuration_that_cannot_be_read(command: Cli, state: Path, tmp_path: Path) -> None:
    command("up", "--state", state, "--config", tmp_path / "none.toml").refused("none.toml", "no such file")
    command("up", "--state", state, "--config", tmp_path).refused(str(tmp_path))


def test_a_wrong_address_founds_nothing(command: Cli, tmp_path: Path) -> None:
    command("init", "--state", tmp_path / "a", "--bind", "nonsense").refused("--bind", "host:port")
    assert not (tmp_path / "a").exists()


def test_a_configuration_that_stands_is_not_passed_over(command: Cli, tmp_path: Path) -> None:
    state = tmp_path / "a"
    state.mkdir()
    (state / "agent.toml").write_text('[mesh]\nbind = "127.0.0.1:2"\n')
    command("init", "--state", state, "--bind", "127.0.0.1:3").refused("agent.toml", "without --bind")
    assert not (state / "identity.key").exists()
    assert command("init", "--state", state, "--name", "a").code == 0
    assert (state / "agent.toml").read_text() == '[mesh]\nbind = "127.0.0.1:2"\n'


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_port_is_taken(command: Cli, state: Path, port: Callable[[], int], kind: socket.SocketKind) -> None:
    number = port()
    (state / "agent.toml").write_text(f'[mesh]\nbind = "127.0.0.1:{number}"\n')
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", number))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        command("up", "--state", state).refused(f"127.0.0.1:{number} is taken", "[mesh] bind")


# Names, roles, labels, invites.


@pytest.mark.parametrize("name", ["", "Has Capitals", "x" * 64, "dot.ted"])
def test_a_name_that_is_none(command: Cli, tmp_path: Path, name: str) -> None:
    if name == "":  # the default is this host's
        assert command("init", "--state", tmp_path / "a", "--name", name).code == 0
    else:
        command("init", "--state", tmp_path / "a", "--name", name).refused("name")
        assert not (tmp_path / "a" / "identity.key").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([*THERE, "--role", "king"], "roles are"),
        ([*THERE, "--role", "member", "--role", "member"], "roles are"),
        ([*THERE, "--uses", "0"], "uses"),
        ([*THERE, "--uses", "x"], "--uses"),
        ([*THERE, "--expires", "5"], "length of time"),
        ([*THERE, "--expires", "0m"], "length of time"),
        ([*THERE, "--expires", "-5m"], "length of time"),
        ([*THERE, "--expires", ""], "length of time"),
        (["--address", "nonsense"], "host:port"),
        ([], "--address"),  # the configuration leaves the port open
        (["--address", "127.0.0.1:0"], "--address"),
        ([word for n in range(5) for word in ("--address", f"127.0.0.1:{n + 1}")], "addresses"),
    ],
)
def test_an_invite_that_cannot_be(command: Cli, state: Path, options: list[str], told: str) -> None:
    command("invite", "--state", state, *options).refused(told)
    with sqlite3.connect(state / "state.db") as connection:
        assert connection.execute("select count(*) from invites").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("token", ["", "garbage", "cloudisense-join-", "cloudisense-join-aaaa", "cloudisense-join-" + "a" * 5000, "ü"])
def test_garbage_is_no_invite_and_leaves_no_folder(command: Cli, tmp_path: Path, token: str) -> None:
    command("join", "--state", tmp_path / "b", "--", token).refused("invite")
    assert not (tmp_path / "b").exists()


def test_one_wrong_character_is_found_at_once(command: Cli, state: Path, tmp_path: Path) -> None:
    token = command("invite", "--state", state, "--address", "127.0.0.1:9", "--json").json["token"]
    for at in (20, len(token) // 2, len(token) - 2):
        wrong = token[:at] + ("a" if token[at] != "a" else "b") + token[at + 1 :]
        command("join", wrong, "--state", tmp_path / "b").refused("damaged", "copy it again")
    command("join", token[:-1], "--state", tmp_path / "b").refused("damaged")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("label", ["nonsense", "=", "a=", "A=b", "a=" + "x" * 300])
def test_a_label_that_is_none(command: Cli, state: Path, tmp_path: Path, label: str) -> None:
    token = command("invite", "--state", state, "--address", "127.0.0.1:9", "--json").json["token"]
    done = command("join", token, "--state", tmp_path / "b", "--label", label)
    done.refused("label" if label == "nonsense" else "")
    assert not (tmp_path / "b" / "identity.key").exists()


def test_labels_that_are_too_much_together(command: Cli, state: Path, tmp_path: Path) -> None:
    token = command("invite", "--state", state, "--address", "127.0.0.1:9", "--json").json["token"]
    many = [word for number in range(6) for word in ("--label", f"k{number}={'v' * 128}")]
    command("join", token, "--state", tmp_path / "b", *many).refused("all labels together are at most 640 characters")
    assert not (tmp_path / "b").exists(), "and nobody was asked"


def test_nobody_answers(command: Cli, state: Path, tmp_path: Path, port: Callable[[], int]) -> None:
    token = command("invite", "--state", state, "--address", f"127.0.0.1:{port()}", "--json").json["token"]
    command("join", token, "--state", tmp_path / "b").refused("no agent listens there")
    assert not (tmp_path / "b" / "identity.key").exists()
    command("leave", "--state", state).refused("no agent runs")
    command("incidents", "nonsense", "--state", state).refused("nonsense")


# Models.


def test_a_damaged_model(command: Cli, state: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF" + os.urandom(1000))
    models = tmp_path / "models"
    command("llm", "add", damaged, "--state", tmp_path).refused("model.gguf")
    command("llm", "add", tmp_path / "none.gguf", "--state", tmp_path).refused("none.gguf")
    assert not list(models.glob("*.gguf"))
    (state / "agent.toml").write_text(f'[mesh]\nbind = "127.0.0.1:0"\n[model]\nfile = "{damaged}"\n')
    command("up", "--state", state).refused("model.gguf")
    command("demo", "--json", "--state", tmp_path / "none").refused("cloudisense llm add smollm2", "--planner rules")
    assert command("llm", "list", "--state", tmp_path / "none", "--json").json == []


def test_a_model_that_was_damaged_after_it_was_added(command: Cli, state: Path) -> None:
    models = state / "models"
    models.mkdir()
    (models / "smollm2.gguf").write_bytes(b"GGUF" + bytes(100))
    (models / "models.json").write_text(
        '{"models": [{"name": "smollm2", "file": "smollm2.gguf", "sha256": "' + "0" * 64 + '", "bytes": 104, "source": "x"}]}'
    )
    for words in (["demo"], ["demo", "--json"], ["up"]):
        command(*words, "--state", state).refused("model smollm2 is damaged", "cloudisense llm add smollm2")
    (models / "models.json").write_text("{")
    command("up", "--state", state).refused("models.json")
    command("llm", "list", "--state", state).refused("models.json")
