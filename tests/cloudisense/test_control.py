"""One line each way between a command and the running agent."""

from pathlib import Path
from typing import Any

import pytest

from cloudisense.control import LINE_BYTES, ControlServer, ask


@pytest.fixture
def heard() -> list[tuple[str, str]]:
    return []


async def started(folder: Path, heard: list[tuple[str, str]]) -> ControlServer:
    async def answer(word: str, rest: str) -> dict[str, Any]:
        heard.append((word, rest))
        return {"word": word}

    server = ControlServer(folder / "agent.sock", answer)
    await server.start()
    return server


@pytest.mark.parametrize("rest", ["", "one", "two words", "größer  spaced"])
async def test_a_word_and_what_follows_it(tmp_path: Path, heard: list[tuple[str, str]], rest: str) -> None:
    server = await started(tmp_path, heard)
    assert await ask(tmp_path / "agent.sock", "note", rest) == {"word": "note"}
    assert heard == [("note", rest)]
    await server.close()


async def test_no_agent_is_no_answer(tmp_path: Path, heard: list[tuple[str, str]]) -> None:
    assert await ask(tmp_path / "agent.sock", "status") is None
    server = await started(tmp_path, heard)
    await server.close()
    assert await ask(tmp_path / "agent.sock", "status") is None


async def test_a_line_without_end_is_no_command(tmp_path: Path, heard: list[tuple[str, str]]) -> None:
    server = await started(tmp_path, heard)
    assert await ask(tmp_path / "agent.sock", "note", "x" * (2 * LINE_BYTES)) is None
    assert heard == []
    await server.close()
