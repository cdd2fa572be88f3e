"""Commands that make and run a node, and speak for it: init, invite, join, up, note, leave."""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cloudisense.agent.effects import Notify
from cloudisense.cli.options import Json, State, plain, print_json
from cloudisense.clock import read_clock
from cloudisense.config import DEFAULT_PORT, Config, load_config, parse_address
from cloudisense.home import Home, default_state, home_of, mesh_text
from cloudisense.keys.identity import node_text
from cloudisense.mesh.address import address_text

Name = Annotated[str | None, typer.Option("--name", help="This node's name; default: this host's.")]
Bind = Annotated[str | None, typer.Option("--bind", help=f"IP address and port to listen on; default 0.0.0.0:{DEFAULT_PORT}.")]
MAX_TOKEN_FILE = 10_000
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (init, invite, join, up, rotate_key, note, leave):
        app.command()(command)


def init(state: State = None, name: Name = None, bind: Bind = None, as_json: Json = False) -> None:
    """Begin a new mesh: make keys and a roster in the state folder."""
    from cloudisense.joining import default_name, describe

    home = home_of(state)
    text = _config_text(home, bind)
    home.lock()
    member = home.found(name or default_name(), text, read_clock())
    if as_json:
        print_json(
            {"id": node_text(member.identity.id), "name": member.name, "mesh_id": mesh_text(member.mesh_id), "state": str(home.path)}
        )
    else:
        print(f"{describe(member)}; configuration in {home.config}")
        print(f"next: cloudisense up{_flag(state)}, and for each further host: cloudisense invite{_flag(state)}")


def invite(
    state: State = None,
    uses: Annotated[int, typer.Option("--uses", help="How many nodes may join with it.")] = 1,
    expires: Annotated[str, typer.Option("--expires", help="How long it is good for: 30m, 12h, 7d.")] = "1d",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="Role of the joining node; repeat for more. Default: member and actor.")
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option("--address", help="Where joiners reach this node, host:port. Default: as configured.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Write the invite to a new file, for a medium that is carried.")] = None,
    qr: Annotated[bool, typer.Option("--qr", help="Show it as a QR code, too.")] = False,
    as_json: Json = False,
) -> None:
    """Make an invite for a new node. This node has to be up when it is used."""
    from cloudisense.daemon import own_addresses
    from cloudisense.keys.invite import make_invite
    from cloudisense.store import Store

    home = home_of(state)
    member = home.load()
    if member.roster.issuer(member.identity.id) is None:
        raise ValueError(f"node {member.name} may not invite: it is not an issuer of its mesh; run this where the mesh was begun")
    config = _config(home, None).mesh
    bound = config.bind_address
    addresses = tuple(parse_address(text) for text in address or ())
    addresses = addresses or ((config.advertise_address,) if config.advertise_address else ())
    addresses = addresses or tuple((host, bound[1]) for host in own_addresses(bound[0]))[:4]
    if file is not None and file.exists():
        raise ValueError(f"{file} is there already and stays as it is; name another file")
    if any(port == 0 for _, port in addresses):
        raise ValueError(f"{home.config} leaves the port open; name it with --address host:port")
    expires_ms = read_clock().wall_ms + _seconds(expires) * 1000
    token, record = make_invite(
        random.SystemRandom(), member.mesh_id, member.identity.id, addresses, tuple(role or ("member", "actor")), uses, expires_ms
    )
    store = Store(home.database)
    try:
        store.put_invite(record)
    finally:
        store.close()
    if file is not None:
        file.touch(0o600, exist_ok=False)
        file.write_text(token + "\n", encoding="ascii")
    if qr:
        import segno

        # Case means nothing in an invite, and capitals fit a denser code (ISO/IEC 18004, alphanumeric mode).
        segno.make(token.upper(), micro=False).terminal(out=sys.stderr, compact=True)
    if as_json:
        print_json({"token": token, "uses": uses, "expires_ms": expires_ms, "addresses": [address_text(address) for address in addresses]})
    else:
        if file is None:
            print(token)
        how = f"--file {file.name}" if file is not None else "TOKEN"
        print(f"good for {uses} node{'s' if uses > 1 else ''} and {expires}; on the new host: cloudisense join {how}", file=sys.stderr)


def join(
    token: Annotated[str, typer.Argument(metavar="[TOKEN]", help="The invite.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Read the invite from a file.")] = None,
    state: State = None,
    name: Name = None,
    bind: Bind = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="key=value; repeat for more.")] = None,
    as_json: Json = False,
) -> None:
    """Become a member of the mesh that made the invite."""
    from cloudisense.joining import default_name, describe
    from cloudisense.joining import join as join_mesh
    from cloudisense.keys.certificate import labels_problem
    from cloudisense.keys.invite import parse_token

    if bool(token) == (file is not None):
        raise ValueError("name the invite, or its file with --file")
    if file is not None:
        with file.open(encoding="utf-8", errors="replace") as opened:
            token = opened.read(MAX_TOKEN_FILE)
    home = home_of(state)
    labels = tuple(_label(text) for text in label or ())
    if (problem := labels_problem(labels)) is not None:
        raise ValueError(problem)
    parse_token(token)  # here too, so that a slip in copying leaves no folder behind
    text = _config_text(home, bind)
    home.lock()
    member = asyncio.run(join_mesh(home, token, name or default_name(), labels, text))
    if as_json:
        print_json(
            {"id": node_text(member.identity.id), "name": member.name, "mesh_id": mesh_text(member.mesh_id), "state": str(home.path)}
        )
    else:
        print(f"{describe(member)}; next: cloudisense up{_flag(state)}")


def up(
    state: State = None,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration; default agent.toml in the state folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell what happens as one JSON object a line.")] = False,
) -> None:
    """Run the agent of this state folder until it is told to stop."""
    home = home_of(state)
    settings = _config(home, config)
    from cloudisense.daemon import Daemon
    from cloudisense.host.model_file import find_model

    home.load()
    home.lock()
    home.finish_rotation()
    if home.rotating:
        _tell("the replacement of this node's key did not end: if its peers refuse it, stop it and run cloudisense rotate-key again")
    model = find_model(settings.model, (home.models, default_state() / "models")) if "llm" in settings.agent.planners else None
    daemon = Daemon(home, settings, model, _say_json if as_json else _say)

    def ready(address: tuple[str, int]) -> None:
        if as_json:
            _say_json(Notify("up", "", address_text(address)))
        else:
            _tell(f"up on {address_text(address)}" + (f", model {model.name}" if model else ", no model"))

    asyncio.run(daemon.run(ready))


def rotate_key(state: State = None, as_json: Json = False) -> None:
    """Give this node a new identity key.

    Stop its agent first; an issuer has to be up. Run it again if it was interrupted.
    """
    from cloudisense.rotation import rotate

    home = home_of(state)
    old = home.load()
    home.lock()
    member = asyncio.run(rotate(home))
    if as_json:
        print_json({"id": node_text(member.identity.id), "name": member.name, "replaced": node_text(old.identity.id)})
    else:
        print(
            f"{member.name} is {node_text(member.identity.id)[:12]} now; the old key is out everywhere; next: cloudisense up{_flag(state)}"
        )


def note(text: Annotated[str, typer.Argument(help="One line.")], state: State = None, as_json: Json = False) -> None:
    """Tell all operators one line, signed by this node.

    Agents show it and do nothing else with it.
    """
    from cloudisense.control import ask

    home = home_of(state)
    home.load()
    answer = asyncio.run(ask(home.socket, f"note {text}")) if "\n" not in text else {"error": "a note is one line"}
    if answer is None:
        raise ValueError(f"no agent runs in {home.path}; start it with cloudisense up{_flag(state)}")
    if "error" in answer:
        raise ValueError(answer["error"])
    if as_json:
        print_json(answer)
    else:
        print("noted; every node that is up learns it now, the others when they are back")


def leave(state: State = None, as_json: Json = False) -> None:
    """Leave the mesh on purpose, and stop this node's agent."""
    from cloudisense.control import ask

    home = home_of(state)
    member = home.load()
    answer = asyncio.run(ask(home.socket, "leave"))
    if answer is None:
        raise ValueError(f"no agent runs in {home.path}; a node leaves while it is up")
    if as_json:
        print_json({"left": member.name})
    else:
        print(f"{member.name} has left")


def _say(note: Notify) -> None:
    facts = dict(note.facts)
    by = f" ({facts['by']})" if "by" in facts else ""
    _tell(plain(f"{time.strftime('%H:%M:%S')} {note.topic:<12} {note.text}{by}"))


def _say_json(note: Notify) -> None:
    line = {"at_ms": time.time_ns() // 1_000_000, "topic": note.topic, "incident": note.incident, "text": note.text, **dict(note.facts)}
    _tell(json.dumps(line, ensure_ascii=False))


def _tell(line: str) -> None:
    """A line of the running agent on stdout. The log may lie on the very disk that is full, or its reader be gone: that costs the line."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), line.encode(errors="replace") + b"\n")


def _config(home: Home, path: Path | None) -> Config:
    if path is not None:
        return load_config(path)
    return load_config(home.config) if home.config.exists() else Config()


def _config_text(home: Home, bind: str | None) -> str:
    """The first configuration of a node; checked, so that a bad ``--bind`` is found here."""
    from cloudisense.config import parse_config

    text = f"""\
# One agent's configuration; restart the agent after a change. README.md says what else may stand here.
[mesh]
bind = {json.dumps(bind or f"0.0.0.0:{DEFAULT_PORT}")}

# Folders that the agent may clean when their file system fills: role cache, temp or logs.
# A folder with role data is never touched, wherever it lies.
# [[path]]
# path = "/srv/app/cache"
# role = "cache"
"""
    if bind is not None:
        parse_config(text.encode(), "--bind")
        if home.config.exists():
            home.check_vacant()
            raise ValueError(f"{home.config} is there already and stays as it is; write the address into its [mesh] bind, without --bind")
    return text


def _flag(state: Path | None) -> str:
    return f" --state {state}" if state is not None else ""


def _seconds(text: str) -> int:
    if not text[:-1].isdecimal() or text[-1] not in UNITS_S or not 0 < int(text[:-1]) < 100_000:
        raise ValueError(f"{text!r} is not a length of time; write 30m, 12h or 7d")
    return int(text[:-1]) * UNITS_S[text[-1]]


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not a label; write key=value")
    return key, value
