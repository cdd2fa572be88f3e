"""The one configuration file: TOML in, a frozen ``Config`` out, or one line that says which line is wrong.

``tomllib`` keeps no positions. The line of a wrong value is found afterwards, only when something is wrong: it belongs
to the statement after the longest beginning of the file that parses and does not have the value yet.
"""

import ipaddress
import re
import tomllib
import typing
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from cloudisense.agent.catalogue import Role
from cloudisense.mesh.effects import Address

DEFAULT_PORT = 7963
MAX_CONFIG_BYTES = 256 * 1024

Mode = Literal["observe", "advise", "act"]
Planner = Literal["memory", "rules", "llm"]
Where = tuple[str | int, ...]
"""Keys and indices from the root of the file to a value."""


class MeshConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[mesh]``: where to listen, how peers reach us, whom to try first. UDP and TCP use the same port.

    ``profile``: the periods, for one site or for several. ``discovery``: announce ourselves on the LAN and look for peers there.
    """

    bind: str = f"0.0.0.0:{DEFAULT_PORT}"
    advertise: str | None = None
    seeds: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    profile: Literal["lan", "wan"] = "lan"
    discovery: bool = False
    voters: Annotated[int, msgspec.Meta(ge=1, le=7)] = 5
    """How many voters the mesh gets by itself at most; asked where the root key lies."""

    @property
    def bind_address(self) -> Address:
        """IP address and port to listen on; port 0 means any."""
        return parse_address(self.bind)

    @property
    def advertise_address(self) -> Address | None:
        """IP address and port that peers should use, where it is not what they see."""
        return None if self.advertise is None else parse_address(self.advertise)

    @property
    def seed_addresses(self) -> tuple[Address, ...]:
        """Hosts to try first. A host may be a name here: the caller resolves it."""
        return tuple(parse_address(seed) for seed in self.seeds)


class PathConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[path]]``: a folder, absolute, and what it is for."""

    path: str
    role: Role


class ModeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[mode]``: how far the agent may go, for each class of risk."""

    reversible: Mode = "act"
    disruptive: Mode = "observe"
    destructive: Mode = "observe"


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[model]``: the language model on this host. ``threads`` 0: as many as are sensible here."""

    enabled: bool = True
    name: str = "smollm2"
    file: str | None = None
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    memory_mb: Annotated[int, msgspec.Meta(ge=64, le=1_048_576)] = 1024
    idle_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=600)] = 60


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[agent]``: how often to look, and who may propose plans, the first asked first."""

    sample_ms: Annotated[int, msgspec.Meta(ge=100, le=60_000)] = 1000
    planners: tuple[Planner, ...] = ("memory", "rules", "llm")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"paths": "path"}):
    """A whole configuration file; every section may be left out."""

    mesh: MeshConfig = MeshConfig()
    paths: Annotated[tuple[PathConfig, ...], msgspec.Meta(max_length=1000)] = ()
    mode: ModeConfig = ModeConfig()
    model: ModelConfig = ModelConfig()
    agent: AgentConfig = AgentConfig()


class _Wrong(Exception):
    def __init__(self, where: Where, what: str) -> None:
        super().__init__(what)
        self.where, self.what = where, what


_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|([^\[\]:\s]+)):([0-9]{1,5})", re.ASCII)


def parse_address(text: str) -> Address:
    """``host:port`` or ``[ipv6]:port``. Raises ``ValueError`` that says what an address looks like."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError(f"{_shown(text)} is not an address; write host:port, for example 10.0.0.5:{DEFAULT_PORT} or [::]:{DEFAULT_PORT}")
    host = match[1] or match[2]
    if not _is_ip(host) and (match[1] is not None or not _HOST_NAME.fullmatch(host) or len(host) > 253):
        raise ValueError(f"{_shown(host)} is neither an IP address nor a host name")
    return host, int(match[3])


def load_config(path: Path) -> Config:
    """The configuration in ``path``. Raises ``ValueError``: one line with file, line, what is wrong, what to write."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_config(data, str(path))


def parse_config(data: bytes, name: str) -> Config:
    """As ``load_config``, for bytes that came from the file called ``name``."""
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"{name}: larger than {MAX_CONFIG_BYTES // 1024} KiB; this is not a configuration file")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}:{data.count(10, 0, error.start) + 1}: not UTF-8 text; save the file as UTF-8") from None
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply; this is not a configuration file") from None
    except ValueError as error:
        raise ValueError(_syntax_error(name, text, str(error))) from None
    try:
        config = msgspec.convert(tree, Config)
        _check_values(config)
        return config
    except msgspec.ValidationError as error:
        where, what = _explain(tree, str(error))
    except _Wrong as error:
        where, what = error.where, error.what
    raise ValueError(f"{name}:{_line_of(text, tree, where)}: {_section(tree, where)}: {what}")


def _check_values(config: Config) -> None:
    """What types alone cannot say."""
    _check_addresses(config.mesh)
    seen: dict[str, int] = {}
    for index, declared in enumerate(config.paths):
        where: Where = ("path", index, "path")
        if not declared.path.startswith("/") or "\0" in declared.path or ".." in PurePosixPath(declared.path).parts:
            raise _Wrong(where, f"{_shown(declared.path)} is not an absolute path; write it in full from /, without ..")
        plain = "/" + "/".join(PurePosixPath(declared.path).parts[1:])
        if plain == "/":
            raise _Wrong(where, "'/' is the whole host; name the folder that is meant")
        if plain in seen:
            raise _Wrong(where, f"{_shown(declared.path)} is declared twice; keep one of the two")
        seen[plain] = index
    if not _MODEL_NAME.fullmatch(config.model.name):
        raise _Wrong(("model", "name"), f"{_shown(config.model.name)} is not a model's name; use letters, digits, dot, dash, underscore")
    if config.model.file is not None and not config.model.file.startswith("/"):
        raise _Wrong(("model", "file"), f"{_shown(config.model.file)} is not an absolute path; write it in full from /")
    if not config.agent.planners:
        raise _Wrong(("agent", "planners"), "is empty; use at least 'rules'")
    if len(set(config.agent.planners)) != len(config.agent.planners):
        raise _Wrong(("agent", "planners"), "names a planner twice")


def _check_addresses(mesh: MeshConfig) -> None:
    given = [(("mesh", "bind"), mesh.bind), (("mesh", "advertise"), mesh.advertise)]
    given += [(("mesh", "seeds", index), seed) for index, seed in enumerate(mesh.seeds)]
    for where, text in given:
        if text is None:
            continue
        try:
            host, port = parse_address(text)
        except ValueError as error:
            raise _Wrong(where, str(error)) from None
        if where[1] != "seeds" and not _is_ip(host):
            raise _Wrong(where, f"{_shown(host)} is a name; write the IP address")
        if where[1] != "bind" and port == 0:
            raise _Wrong(where, "port 0 cannot be reached; write the port that the agent listens on")
        if where[1] == "advertise" and ipaddress.ip_address(host).is_unspecified:
            raise _Wrong(where, f"peers cannot reach {host}; write an address of this host")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _syntax_error(name: str, text: str, message: str) -> str:
    match = re.search(r"^(.*?) ?\((?:at line (\d+), column \d+|at end of document)\)$", message, re.DOTALL)
    what = " ".join((match[1] if match else message).split()).rstrip(".")
    line = int(match[2]) if match and match[2] else max(1, len(text.splitlines()))
    return f"{name}:{line}: not valid TOML: {what}"


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_KINDS = {"str": "text in quotes", "int": "a whole number", "bool": "true or false", "object": "a table", "array": "a list"}


def _explain(tree: dict[str, Any], message: str) -> tuple[Where, str]:
    """Where msgspec found fault, and what it found in words that need no knowledge of msgspec."""
    reason, _, place = message.partition(" - at `$")
    where: Where = tuple(int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|\.(\w+)", place))
    fields = _fields_at(where)
    if match := _UNKNOWN.fullmatch(reason):
        kind = "key" if where else "section"
        return (*where, match[1]), f"unknown {kind}; use {', '.join(fields)}"
    if match := _MISSING.fullmatch(reason):
        allowed = _choices_at((*where, match[1]))
        return where, f"{match[1]} is missing" + (f"; use one of {', '.join(allowed)}" if allowed else "")
    value = _resolve(tree, where)
    if allowed := _choices_at(where):
        return where, f"{_shown(value)} is not one of {', '.join(allowed)}"
    if match := re.fullmatch(r"Expected `(.+)`, got `(.+)`", reason):
        wanted = " or ".join(_KINDS.get(word, word) for word in match[1].split(" | ") if word != "null")
        return where, f"{_shown(value)} is not {wanted}"
    if match := re.fullmatch(r"Expected `(int|array)`(?: of length)? (>=|<=) (\d+)", reason):
        bound = f"{match[3]} or {'more' if match[2] == '>=' else 'less'}"
        return where, f"{_shown(value)} is out of range; use {bound}" if match[1] == "int" else f"has too many items; use {bound}"
    return where, f"{_shown(value)}: {reason.replace('`', '')}"


def _type_at(where: Where) -> Any:
    """The type that ``Config`` gives to ``where``, without its constraints; ``None`` where there is none."""
    current: Any = Config
    for part in where:
        if isinstance(part, int):
            current = typing.get_args(current)[0]
        elif isinstance(current, type) and issubclass(current, msgspec.Struct):
            by_name = {field.encode_name: field.type for field in msgspec.structs.fields(current)}
            current = by_name.get(part)
        else:
            return None
        if typing.get_origin(current) is Annotated:
            current = typing.get_args(current)[0]
    return current


def _fields_at(where: Where) -> tuple[str, ...]:
    current = _type_at(where)
    if isinstance(current, type) and issubclass(current, msgspec.Struct):
        return tuple(field.encode_name for field in msgspec.structs.fields(current))
    return ()


def _choices_at(where: Where) -> tuple[str, ...]:
    current = _type_at(where)
    return typing.get_args(current) if typing.get_origin(current) is Literal else ()


_ABSENT = object()
_MAX_TRIES = 300


def _resolve(tree: Any, where: Where) -> Any:
    for part in where:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):  # TypeError: neither a table nor a list, or a name where a list is
            return _ABSENT
    return tree


def _line_of(text: str, tree: dict[str, Any], where: Where) -> int:
    """The line of the statement that gives ``where`` its value; of the value itself where a list spans lines.

    Bisection: a beginning of the file that parses either has the value already or does not.
    """
    lines = text.split("\n")
    without, having = 0, len(lines)
    while (found := _beginning_near(lines, (without + having) // 2, without, having)) is not None:
        length, beginning = found
        if _resolve(beginning, where) is _ABSENT:
            without = length
        else:
            having = length
    value = _resolve(tree, where)
    if isinstance(value, str) and isinstance(where[-1] if where else None, int):
        exact = [number for number in range(without, having) if value in lines[number]]
        if len(exact) == 1:
            return exact[0] + 1
    return without + 1


def _beginning_near(lines: list[str], middle: int, low: int, high: int) -> tuple[int, dict[str, Any]] | None:
    """The beginning of the file that parses and whose length in lines is nearest to ``middle``, between the two ends.

    Not every length parses: a value may span lines. Few do not, so a bounded number is tried.
    """
    lengths = [*range(middle, low, -1), *range(middle + 1, high)]
    for length in lengths[:_MAX_TRIES]:
        try:
            return length, tomllib.loads("\n".join(lines[:length]))
        except ValueError:
            continue
    return None


def _section(tree: dict[str, Any], where: Where) -> str:
    """``[[path]] role`` for people."""
    if not where:
        return "file"
    head = _name(where[0])
    several = isinstance(_resolve(tree, where[:1]), list)
    keys = [_name(part) for part in where[1:] if not isinstance(part, int)]
    return " ".join([f"[[{head}]]" if several else f"[{head}]", *keys])


def _name(part: str | int) -> str:
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", text) else _shown(text)


def _shown(value: Any) -> str:
    """A value in one short printable line."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:56] + " ..."
