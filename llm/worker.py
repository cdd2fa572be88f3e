"""``python -m cloudisense.llm.worker --model PATH``: the process that holds the model. Started and stopped by ``ModelPlanner``.

Requests on stdin, replies on stdout, one at a time; ends when stdin ends. Errors of a request are replies; a worker that cannot go
on simply dies, which costs its parent one plan.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.llm.confine import close_the_door, confine
from cloudisense.llm.messages import HEADER_BYTES, Answer, Failure, Reply, frame, frame_length, read_request

if TYPE_CHECKING:
    from cloudisense.llm.local import LocalModel

MISSING = "llama-cpp-python is not installed: pip install 'cloudisense[llm]'"


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin ends; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloudisense.llm.worker")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--memory-mb", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what a library prints must not land among the replies
    os.close(nothing)
    for lack in confine(options.memory_mb, options.parent):
        sys.stderr.write(lack + "\n")
    model: LocalModel | None = None
    while (request := _read_frame(source)) is not None:
        try:
            if model is None:
                model = _open(options.model, options.threads)
            reply: Reply = Answer(model.rank(read_request(request)))
            close_the_door()
        except ImportError as error:
            absent = getattr(error, "name", "") in ("llama_cpp", "numpy")
            reply = Failure(MISSING if absent else f"llama-cpp-python does not start here: {error}"[:300])
        except MemoryError:
            reply = Failure(f"the model does not fit in {options.memory_mb} MB")
        except (ValueError, OSError, RemoteProtocolError) as error:
            reply = Failure(str(error)[:300])
        _write(sink, frame(reply))
    return 0


def _open(path: Path, threads: int | None) -> "LocalModel":
    from cloudisense.llm.gguf import read_header

    read_header(path)  # its reasons are plainer than llama.cpp's
    from cloudisense.llm.local import LocalModel

    return LocalModel(path, threads)


def _read_frame(source: int) -> bytes | None:
    """The next message, or ``None`` when the parent is done."""
    header = _read(source, HEADER_BYTES)
    return None if len(header) < HEADER_BYTES else _read(source, frame_length(header))


def _read(source: int, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := os.read(source, count - len(data))):
        data += part
    return data


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


if __name__ == "__main__":
    sys.exit(main())
