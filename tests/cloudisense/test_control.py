"""The socket between a command and its agent: what it answers, and what cannot disturb it."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense import control
from cloudisense.control import LINE_BYTES, ControlServer, ask


async def echo(word: str) -> dict[str, Any]:
    """What the agent's handler would say."""
    return {"word": word}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path / "agent.sock", echo)
    await server.start()
    yield tmp_path / "agent.sock"
    await server.close()


async def send(path: Path, data: bytes) -> bytes:
    """Raw bytes in; all that comes back."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


async def test_it_answers_and_is_for_its_user_only(path: Path) -> None:
    assert await ask(path, "status") == {"word": "status"}
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600


async def test_garbage_harms_nobody(path: Path) -> None:
    assert b"\\ufffd" in await send(path, b"\xff\x00\x1b[2J\n")
    assert await send(path, b"x" * (2 * LINE_BYTES)) == b""
    assert await send(path, b"\n") == b'{"word": ""}\n'
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"leave")
    writer.write_eof()
    assert await reader.read() == b"", "half a word is no command"
    writer.close()
    assert await ask(path, "status") == {"word": "status"}


async def test_a_slow_client_delays_nobody_and_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIMEOUT_S", 0.2)
    slow = [await asyncio.open_unix_connection(str(path)) for _ in range(20)]
    for _, writer in slow:
        writer.write(b"stat")
    assert await ask(path, "status") == {"word": "status"}
    async with asyncio.timeout(2):
        assert [await reader.read() for reader, _ in slow] == [b""] * 20
    for _, writer in slow:
        writer.close()


async def test_the_state_may_lie_deeper_than_a_socket_name(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = ControlServer(deep / "agent.sock", echo)
    await server.start()
    assert await ask(deep / "agent.sock", "status") == {"word": "status"}
    await server.close()
    assert not list(deep.iterdir())


async def test_what_a_dead_agent_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.touch()
    assert await ask(path, "status") is None
    path.unlink()
    dead = await asyncio.start_unix_server(lambda reader, writer: None, str(path))
    dead.close()
    await dead.wait_closed()
    server = ControlServer(path, echo)
    await server.start()
    assert await ask(path, "status") == {"word": "status"}
    await server.close()
    assert await ask(path, "status") is None
    assert await ask(tmp_path / "none" / "agent.sock", "status") is None


@pytest.mark.parametrize("answer", [b"", b"not json\n", b"{" * LINE_BYTES * 2])
async def test_an_answer_that_is_none(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(tmp_path / "agent.sock"))
    async with server:
        assert await ask(tmp_path / "agent.sock", "status") is None


async def test_a_running_agent_is_not_disturbed(founded: Path, start: Callable[..., Any]) -> None:
    agent = start(founded)
    path = founded / "agent.sock"
    assert b"unknown command" in await send(path, b"\xff\xfe leave\n")
    assert await send(path, b"x" * (2 * LINE_BYTES)) == b""
    _, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"stat")
    status = await ask(path, "status")
    assert status is not None and status["running"]
    code, seconds = agent.stop()
    assert (code, agent.errors) == (0, "") and seconds < 3
    writer.close()
