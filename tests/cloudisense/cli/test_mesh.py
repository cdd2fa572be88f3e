"""A mesh made by hand, as the README tells it: real processes on the loopback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense.mesh.effects import Put
from cloudisense.store import Store

Cli = Callable[..., Any]
Start = Callable[..., Any]
Port = Callable[[], int]


def test_two_agents_from_init_to_leave(cli: Cli, command: Cli, start: Start, port: Port, tmp_path: Path) -> None:
    founded, b = tmp_path / "a", tmp_path / "b"
    begun = cli("init", "--state", founded, "--name", "a", "--bind", f"127.0.0.1:{port()}", "--json").json
    assert begun["name"] == "a" and begun["state"] == str(founded)
    first = start(founded)
    made = command("invite", "--state", founded, "--role", "member", "--role", "voter", "--uses", 2, "--expires", "5m", "--json").json
    assert made["uses"] == 2 and made["addresses"] == [first.expect("up")["text"]]
    joined = cli("join", made["token"], "--state", b, "--name", "b", "--bind", f"127.0.0.1:{port()}", "--label", "site=x", "--json").json
    assert (joined["name"], joined["mesh_id"]) == ("b", begun["mesh_id"]) and joined["state"] == str(b)
    second = start(b)
    first.expect("member", node="b", state="alive")
    second.expect("member", node="a", state="alive")

    rows = command("members", "--state", founded, "--json").json
    assert [row["name"] for row in rows] == ["a", "b"] and {row["state"] for row in rows} == {"alive"}
    assert rows[1]["id"] == joined["id"] and rows[1]["roles"] == ["member", "voter"] and rows[1]["labels"] == {"site": "x"}
    assert {"id", "name", "address", "state", "incarnation", "since_ms", "roles", "labels"} <= rows[0].keys()
    status = command("status", "--state", b, "--json").json
    keys = "id name mesh_id members epoch voters lease mode paused model dropped state_bytes running"
    assert set(keys.split()) <= status.keys()
    assert (status["name"], status["members"], status["running"], status["mesh_id"]) == ("b", 2, True, joined["mesh_id"])
    assert command("incidents", "--state", b, "--json").json == command("history", "--state", b, "--json").json == []

    command("up", "--state", founded).refused("in use by another agent")
    command("invite", "--state", b).refused("may not invite")
    for name in ("a", "b"):
        cli("join", made["token"], "--state", tmp_path / "c", "--name", name).refused("taken", "--name")
    assert command("leave", "--state", b, "--json").json == {"left": "b"}
    assert second.process.wait(20) == 0
    first.expect("member", node="b", state="left")
    assert command("members", "--state", founded, "--json").json[1]["state"] == "left"
    # It may come back: the folder is still a member's.
    start(b)
    assert command("status", "--state", b, "--json").json["incarnation"] >= 2
    first_events = len(first.events)
    assert first_events >= 2 and first.stop()[0] == 0 and first.errors == ""


def test_words_for_people_fit_a_terminal(founded: Path, command: Cli) -> None:
    for words in (["status"], ["members"], ["incidents"], ["history"]):
        done = command(*words, "--state", founded)
        assert (done.code, done.err) == (0, "") and done.out
        if words != ["status"]:  # it names the folder, however long
            assert max(map(len, done.out.splitlines())) <= 80, done.out
    assert "DOWN" in command("status", "--state", founded).out
    for words in ([], ["init"], ["invite"], ["join"], ["up"], ["leave"], ["demo"], ["sim"], ["llm"], ["llm", "add"]):
        done = command(*words, "--help")
        assert (done.code, done.err) == (0, "") and max(map(len, done.out.splitlines())) <= 80
        assert "..." not in done.out.partition("Commands:")[2], "a line of the list was cut off"


def test_a_reader_that_goes_away_is_no_error(founded: Path) -> None:
    command = f"'{sys.executable}' -m cloudisense members --state '{founded}' --json | head -c 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_the_invite_is_the_one_line_on_stdout(founded: Path, command: Cli) -> None:
    done = command("invite", "--state", founded)
    assert done.out.startswith("cloudisense-join-") and done.out.count("\n") == 1
    assert "cloudisense join TOKEN" in done.err


@pytest.mark.parametrize("text", ["[/nonsense]", "\x1b[2J\x9b31m", "[red]x"])
def test_what_a_peer_wrote_cannot_steer_the_terminal(founded: Path, command: Cli, text: str) -> None:
    store = Store(founded / "state.db")
    words = dict.fromkeys(("subject", "kind", "plan", "planner", "reasoning", "verdict", "findings", "state"), text)
    store.write([Put("incidents", {"id": "abc", **words, "opened_ms": 0, "closed_ms": 0})])
    store.close()
    for words in (["incidents"], ["incidents", "abc"]):
        done = command(*words, "--state", founded)
        assert (done.code, done.err) == (0, "") and not {"\x1b", "\x9b"} & set(done.out)
        assert text.replace("\x1b", "?").replace("\x9b", "?") in done.out.replace("\n", "")
