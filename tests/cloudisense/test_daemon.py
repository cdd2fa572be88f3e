"""One agent as a process: how it ends, what it keeps, and what must not stop it."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense import daemon as daemon_module
from cloudisense.agent.effects import Notify
from cloudisense.agent.events import FileSystem
from cloudisense.config import parse_config
from cloudisense.control import ask
from cloudisense.daemon import Daemon, own_addresses
from cloudisense.home import Home

Cli = Callable[..., Any]
Start = Callable[..., Any]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_well(founded: Path, start: Start, number: int) -> None:
    agent = start(founded)
    code, seconds = agent.stop(number)
    assert (code, agent.errors) == (0, "") and seconds < 3
    assert not (founded / "agent.sock").exists()


def test_killed_it_comes_back_under_a_higher_incarnation(founded: Path, start: Start, command: Cli) -> None:
    agent = start(founded)
    before = command("status", "--state", founded, "--json").json["incarnation"]
    agent.stop(signal.SIGKILL)
    assert not command("status", "--state", founded, "--json").json["running"]
    start(founded)
    after = command("status", "--state", founded, "--json").json
    assert after["running"] and after["incarnation"] > before


def test_its_log_may_be_full_or_gone(founded: Path, until: Callable[..., Any]) -> None:
    """The log often lies on the very disk that is full."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    reader, gone = os.pipe()
    os.close(reader)
    for log in (os.open("/dev/full", os.O_WRONLY), gone):
        process = subprocess.Popen(
            [sys.executable, "-m", "cloudisense", "up", "--state", str(founded)], stdout=log, stderr=subprocess.PIPE, env=environment
        )
        os.close(log)
        try:
            until((founded / "agent.sock").exists)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=5)
            assert (process.returncode, errors) == (0, b"")
        finally:
            process.kill()
            process.wait()


def test_junk_on_its_ports_is_counted(founded: Path, start: Start, command: Cli, until: Callable[..., Any]) -> None:
    agent = start(founded)
    host, _, port = agent.expect("up")["text"].partition(":")
    rng = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for size in (0, 1, 33, 500, 1400, 9000):
            udp.sendto(rng.randbytes(size), (host, int(port)))
    with socket.create_connection((host, int(port))) as tcp:
        tcp.sendall(b"GET / HTTP/1.1\r\n\r\n")
        tcp.recv(100)
    dropped = until(lambda: command("status", "--state", founded, "--json").json["dropped"])
    assert dropped.get("malformed datagram", 0) >= 3 and agent.stop()[0] == 0 and agent.errors == ""


# In this process, to reach inside.


class Running:
    """A daemon on this loop. ``said`` is what it told its operator."""

    def __init__(self, state: Path, config: str) -> None:
        self.said: list[Notify] = []
        self.daemon = Daemon(Home(state), parse_config(config.encode(), "test"), None, self.said.append)
        self._up = asyncio.Event()
        self.task = asyncio.create_task(self.daemon.run(lambda address: self._up.set()))

    async def up(self) -> "Running":
        async with asyncio.timeout(5):
            await asyncio.wait({self.task, asyncio.create_task(self._up.wait())}, return_when=asyncio.FIRST_COMPLETED)
        return self

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to declare."""
    path = Path(os.path.realpath(tmp_path)) / "cache"
    path.mkdir()
    return path


CONFIG = '[mesh]\nbind = "127.0.0.1:0"\n[agent]\nsample_ms = 100\n'


async def test_a_bug_of_ours_stops_it_and_is_not_swallowed(founded: Path) -> None:
    running = await Running(founded, CONFIG).up()

    def broken(now: object) -> None:
        raise ZeroDivisionError("a bug")

    running.daemon._node.handle_timer = broken
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(5):
            await running.task
    assert await ask(founded / "agent.sock", "status") is None


async def test_a_file_system_that_hangs_holds_one_thread_and_does_not_hold_up_the_end(
    founded: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, calls = threading.Event(), 0

    def hangs(path: str) -> FileSystem:
        nonlocal calls
        calls += 1
        release.wait(30)
        raise OSError("gone")

    monkeypatch.setattr(daemon_module, "read_file_system", hangs)
    monkeypatch.setattr(daemon_module, "SAMPLE_TIMEOUT_S", 0.05)
    running = await Running(founded, CONFIG + f'[[path]]\npath = "{folder}"\nrole = "cache"\n').up()
    await asyncio.sleep(0.8)
    assert calls == 1
    assert [note.text for note in running.said if note.topic == "probe failed"] == [f"{_mount(folder)}: no answer in time"]
    began = time.monotonic()
    running.stop()
    async with asyncio.timeout(5):
        await running.task
    assert time.monotonic() - began < 2
    release.set()


def _mount(path: Path) -> str:
    from cloudisense.host.probes import mount_point

    return mount_point(str(path))


def test_where_peers_find_us() -> None:
    assert own_addresses("127.0.0.1") == ["127.0.0.1"]
    assert own_addresses("::1") == ["::1"]
    anywhere = own_addresses("0.0.0.0")
    assert anywhere == ["127.0.0.1"] or (anywhere and all(not address.startswith("127.") for address in anywhere))
