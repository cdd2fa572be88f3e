"""Two real agents on ::1: invite, join, meet, lose one, forget it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense.daemon import own_addresses
from cloudisense.mesh.address import reachable

ROOT = Path(__file__).resolve().parents[2]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::1", 0))
        return probe.getsockname()[1]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "cloudisense", *words]
    return subprocess.run(line, check=False, capture_output=True, text=True, env=environment, timeout=30)


def ask(*words: str) -> Any:
    done = command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def up(state: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    agent = subprocess.Popen([sys.executable, "-m", "cloudisense", "up", "--state", str(state), "--json"], stdout=-1, env=environment)
    assert agent.stdout is not None
    assert b'"topic": "up"' in agent.stdout.readline()
    return agent


def until(what: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_two_agents_over_ipv6_and_forget(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    ports = free_port(), free_port()
    ask("init", "--state", str(a), "--name", "a", "--bind", f"[::1]:{ports[0]}")
    agents = [up(a)]
    try:
        invite = ask("invite", "--state", str(a))
        assert invite["addresses"] == [f"[::1]:{ports[0]}"]
        ask("join", invite["token"], "--state", str(b), "--name", "b", "--bind", f"[::1]:{ports[1]}")
        agents.append(up(b))

        def states() -> dict[str, str]:
            return {row["name"]: row["state"] for row in ask("members", "--state", str(a))}

        until(lambda: states() == {"a": "alive", "b": "alive"})
        assert {row["name"]: row["address"] for row in ask("members", "--state", str(b))}["a"] == f"[::1]:{ports[0]}"
        refused = command("forget", "b", "--state", str(a))
        assert refused.returncode == 1 and "only a node that is gone" in refused.stderr
        agents[1].send_signal(signal.SIGKILL)
        until(lambda: states()["b"] == "agent_down")
        no_key = command("forget", "a", "--state", str(b))
        assert no_key.returncode == 1 and "no operator key" in no_key.stderr
        ask("forget", "b", "--state", str(a))
        until(lambda: states() == {"a": "alive"})
    finally:
        for agent in agents:
            agent.terminate()
            agent.communicate(timeout=10)


def test_own_addresses_are_such_as_others_can_use() -> None:
    assert own_addresses("10.1.2.3") == ["10.1.2.3"]
    for bound in ("0.0.0.0", "::"):
        found = own_addresses(bound)
        assert found and all(reachable((host, 7963)) for host in found)
    assert all(":" not in host for host in own_addresses("0.0.0.0"))
