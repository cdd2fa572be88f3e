"""Frames between planner and worker, and what a reply must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.plan import Ranking
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.llm.messages import HEADER_BYTES, MESSAGE_BYTES_MAX, Answer, Failure, frame, frame_length, read_reply, read_request
from cloudisense.llm.words import REASONING_CHARS_MAX


def body(value: object) -> bytes:
    return frame(value)[HEADER_BYTES:]


def test_requests_and_replies_come_back(request_for) -> None:
    request = request_for()
    assert read_request(body(request)) == request
    answer = Answer(Ranking((2, 0, 1, 3), "because", "llm", "smollm2", 1, 2))
    assert read_reply(body(answer), 4) == answer
    assert read_reply(body(Failure("no")), 4) == Failure("no")


def test_frame_length_counts_the_body() -> None:
    whole = frame(Failure("no"))
    assert frame_length(whole[:HEADER_BYTES]) == len(whole) - HEADER_BYTES


@pytest.mark.parametrize("length", [0, MESSAGE_BYTES_MAX + 1, 2**32 - 1])
def test_frames_are_bounded(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        frame_length(length.to_bytes(HEADER_BYTES, "big"))


@pytest.mark.parametrize(
    "ranking",
    [
        Ranking((), "r", "llm"),
        Ranking((0,), "r", "llm"),
        Ranking((0, 0), "r", "llm"),
        Ranking((0, 2), "r", "llm"),
        Ranking((0, -1), "r", "llm"),
        Ranking((0, 1, 2), "r", "llm"),
        Ranking((0, 1), "r" * (REASONING_CHARS_MAX + 1), "llm"),
        Ranking((0, 1), "r", "rules"),
        Ranking((0, 1), "r", "llm", "m" * 101),
        Ranking((0, 1), "r", "llm", "m", -1),
    ],
)
def test_rankings_that_are_not_are_refused(ranking: Ranking) -> None:
    with pytest.raises(RemoteProtocolError):
        read_reply(body(Answer(ranking)), 2)


@given(st.binary(max_size=200))
def test_junk_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_request(data)
    with pytest.raises(RemoteProtocolError):
        read_reply(data, 2)
