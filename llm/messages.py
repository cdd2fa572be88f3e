"""What planner and worker say to each other: one length-prefixed msgpack value per message, over the worker's stdin and stdout."""

import struct
from typing import cast

import msgspec

from cloudisense.agent.plan import PlanRequest, Ranking
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.llm.words import REASONING_CHARS_MAX

MESSAGE_BYTES_MAX = 256 * 1024
CANDIDATES_MAX = 32
HEADER_BYTES = 4
_HEADER = struct.Struct(">I")


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """The worker's ranking."""

    ranking: Ranking


class Failure(msgspec.Struct, frozen=True, array_like=True, tag="failure"):
    """Why the worker has no ranking, in one line for people."""

    reason: str


Reply = Answer | Failure


def frame(value: object) -> bytes:
    """``value`` as it travels: length in 4 bytes, big-endian, then msgpack."""
    data = pack(value)
    return _HEADER.pack(len(data)) + data


def frame_length(header: bytes) -> int:
    """Bytes that follow ``header``. ``RemoteProtocolError`` when there are none or too many."""
    (length,) = _HEADER.unpack(header)
    if not 0 < length <= MESSAGE_BYTES_MAX:
        raise RemoteProtocolError("malformed frame: its length is out of bounds")
    return length


def read_request(data: bytes) -> PlanRequest:
    """A request in the worker. ``RemoteProtocolError`` for anything else."""
    return unpack(data, PlanRequest, MESSAGE_BYTES_MAX)


def read_reply(data: bytes, candidates: int) -> Reply:
    """A reply in the planner, checked: all ``candidates`` ranked once, words bounded. ``RemoteProtocolError`` otherwise."""
    reply = unpack(data, cast(type[Reply], Reply), MESSAGE_BYTES_MAX)
    if isinstance(reply, Answer):
        ranking = reply.ranking
        if sorted(ranking.order) != list(range(candidates)):
            raise RemoteProtocolError("malformed ranking: not every candidate exactly once")
        if len(ranking.reasoning) > REASONING_CHARS_MAX or len(ranking.model) > 100 or ranking.planner != "llm":
            raise RemoteProtocolError("malformed ranking: its words are out of bounds")
        if min(ranking.load_ms, ranking.think_ms) < 0:
            raise RemoteProtocolError("malformed ranking: negative times")
    return reply
