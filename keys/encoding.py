"""The one encoding: msgpack out, and msgpack in under limits, straight into checked types.

What comes in is hostile. Order of work: length; a structural scan that builds nothing (so that a declared length
must be backed by bytes before anything is allocated for it); decode; finite floats only; convert into the type.
The scan is not decoration: without it, 64 KiB of nested array headers cost 66 MB and 90 ms in msgpack.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError

T = TypeVar("T")

MAX_BYTES = 64 * 1024
"""Default limit on one encoded value, in bytes. A caller that expects less says so."""

_scan = msgspec.msgpack.Decoder(msgspec.Raw).decode
_packb = cast(Callable[..., bytes], msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
_unpackb = cast(Callable[..., object], msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]
_ODD_FLOAT = re.compile(rb"[\xca\xcb][\x7f\xff][\x80-\xff]")
"""How a float that is not finite begins, its marker first. Other data may look so by chance; a finite float never does, or is looked at."""
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def pack(value: object) -> bytes:
    """Encode ``value`` deterministically: map keys sorted, tuples as arrays, ``msgspec`` Structs as they declare.

    Raises ``LocalProtocolError`` for what has no encoding: a float that is not finite, an integer beyond 64 bits,
    a type that is not data, nesting beyond what a peer would accept.
    """
    try:
        builtins = msgspec.to_builtins(value, builtin_types=(bytes,), order="deterministic")
        data = _packb(builtins, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"cannot encode {type(value).__name__}: {error}") from None
    if _may_be_infinite(data) and not _is_finite(builtins):
        raise LocalProtocolError(f"cannot encode {type(value).__name__}: a float is not finite")
    return data


def unpack(data: bytes, type_: type[T], limit: int = MAX_BYTES) -> T:
    """Decode ``data``, at most ``limit`` bytes, into ``type_`` (a Struct, a union of tagged Structs, a builtin).

    No coercion, no extension types, no timestamps, map keys are text or bytes, nothing after the value.
    Raises ``RemoteProtocolError("malformed ...")`` for everything else, and nothing but that.
    """
    if len(data) > limit:
        raise RemoteProtocolError(f"malformed {_words(type_)}: too long")
    size = len(data)
    try:
        _scan(data)
        value = _unpackb(
            data, raw=False, strict_map_key=True, ext_hook=_no_extension, timestamp=0,
            max_str_len=size, max_bin_len=size, max_array_len=size, max_map_len=size, max_ext_len=0,
        )  # fmt: skip
        if not _may_be_infinite(data) or _is_finite(value):
            # Naming bytes as a builtin is what refuses text for bytes: msgspec would read it as base64, even when strict.
            return msgspec.convert(value, type_, strict=True, builtin_types=(bytes,))
    # msgspec's and msgpack's errors are mostly ValueErrors; the rest is listed so that no input decides which exception the caller sees.
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException, msgspec.MsgspecError):
        pass
    raise RemoteProtocolError(f"malformed {_words(type_)}")


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError("extension type")


def _may_be_infinite(data: bytes) -> bool:
    return _ODD_FLOAT.search(data) is not None


def _is_finite(value: object) -> bool:
    """Whether every float in ``value`` is finite. Iterative: the depth is the sender's choice."""
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            if item - item != 0:  # inf - inf and nan - nan are nan
                return False
        elif isinstance(item, (list, tuple)):
            pending.extend(cast(list[Any], item))
        elif isinstance(item, dict):
            pending.extend(cast(dict[Any, Any], item).values())
    return True


def _words(type_: object) -> str:
    """``SignedRoster`` -> ``signed roster``; anything without a plain name is a ``message``."""
    name = getattr(type_, "__name__", "message") if isinstance(type_, type) else "message"
    return _WORD_STARTS.sub(" ", name).lower()
