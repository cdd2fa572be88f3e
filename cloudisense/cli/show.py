"""Commands that only look: status, members, incidents, history."""

import asyncio
import time
from typing import Annotated, Any

import typer

from cloudisense.cli.options import Json, State, plain, print_json, print_table
from cloudisense.home import Home, home_of
from cloudisense.keys.certificate import Certificate
from cloudisense.keys.encoding import unpack
from cloudisense.keys.envelope import read_envelope
from cloudisense.keys.identity import node_text, parse_node_text
from cloudisense.mesh.address import address_text
from cloudisense.mesh.member import Alive
from cloudisense.mesh.naming import shown_names
from cloudisense.store import Store

CLAIM_BYTES = 4096


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (status, members, incidents, history):
        app.command()(command)


def status(state: State = None, as_json: Json = False) -> None:
    """This node: who it is, and how its agent does."""
    from cloudisense.control import ask
    from cloudisense.daemon import status_of
    from cloudisense.standing import offline_status

    home = home_of(state)
    found = status_of(home.load()) | offline_status(home)
    live = asyncio.run(ask(home.socket, "status"))
    store = Store.open_readonly(home.database)
    try:
        still = {"members": 1 + len(store.rows("members")), "mode": None, "model": None, "dropped": {}, "state_bytes": store.state_bytes()}
    finally:
        store.close()
    found |= live if live is not None else {**still, "running": False}
    if as_json:
        print_json(found)
        return
    print(f"{found['name']}  {'up' if found['running'] else 'DOWN: no agent runs in ' + str(home.path)}")
    keys = "id mesh_id address members roster epoch voters tolerates certificate_days attention mode model dropped state_bytes"
    for key in keys.split():
        if key in found:
            value = found[key]
            print(f"  {key:<16} {', '.join(value) or 'none' if isinstance(value, list) else value if value not in (None, {}) else 'none'}")


def members(state: State = None, as_json: Json = False) -> None:
    """Every node of the mesh, as this one sees it."""
    from cloudisense.control import ask

    home = home_of(state)
    own = home.load()
    live = asyncio.run(ask(home.socket, "status"))
    out = {*own.roster.revoked, *(node for node, _ in home.replaced(own))}
    rows = [
        _member(
            row["node"],
            read_envelope(row["claim"]).body,
            row["certificate"],
            "left" if row["node"] in out else row["state"],
            row["since_ms"],
        )
        for row in _rows(home, "members", ("node",))
        if row["state"] != "forgotten"
    ]
    certificate = unpack(read_envelope(own.certificate).body, Certificate, CLAIM_BYTES)
    me = {
        "id": node_text(own.identity.id),
        "name": own.name,
        "address": (live or {}).get("address", ""),
        "state": "alive" if live else "down",
        "incarnation": (live or {}).get("incarnation", 0),
        "since_ms": time.time_ns() // 1_000_000 - 1000 * (live or {}).get("up_s", 0) if live else 0,
        "roles": list(certificate.roles),
        "labels": dict(certificate.labels),
    }
    forged = {bytes(row["node"]) for row in _rows(home, "forks", ("node",))}
    for node in sorted(forged):
        for row in (row for row in [me, *rows] if row["id"] == node_text(node)):
            row["forked"] = True
    # A key that was replaced, or whose node was let in anew, has lost its name to the one that has rights.
    names = {own.name, *(row["name"] for row in rows if parse_node_text(row["id"]) not in out)}
    rows = [row for row in rows if parse_node_text(row["id"]) not in out or row["name"] not in names]
    rows = _distinct([me | {"begins_ms": certificate.not_before_ms}, *rows])
    if as_json:
        print_json(rows)
    else:
        shown = [
            {**row, "id": row["id"][:12], "roles": "none: FORKED its feed" if row.get("forked") else " ".join(row["roles"])} for row in rows
        ]
        print_table(shown, (("name", "name"), ("state", "state"), ("address", "address"), ("roles", "roles"), ("id", "id")), "no members")


def incidents(
    ident: Annotated[str, typer.Argument(metavar="[ID]", help="Show one, whole.")] = "", state: State = None, as_json: Json = False
) -> None:
    """Incidents of the whole mesh, newest first, or one."""
    home = home_of(state)
    home.load()
    rows = [{**row, "findings": [row["findings"]]} for row in _rows(home, "incidents", ("-opened_ms",))]
    if ident:
        rows = [row for row in rows if row["id"].startswith(ident)]
        if len(rows) != 1:
            raise ValueError(f"{'no' if not rows else 'more than one'} incident {ident!r} is known here; cloudisense incidents lists them")
        if as_json:
            print_json(rows[0])
        else:
            for key, value in rows[0].items():
                print(f"{key:<16} {plain(_words(key, value))}")
    elif as_json:
        print_json(rows)
    else:
        columns = (
            ("id", "id"),
            ("opened", "opened"),
            ("subject", "subject"),
            ("kind", "kind"),
            ("state", "state"),
            ("plan", "plan"),
            ("planner", "by"),
        )
        print_table([{**row, "opened": _when(row["opened_ms"])} for row in rows], columns, "no incidents")


def history(state: State = None, as_json: Json = False) -> None:
    """What was done about incidents, and whether it helped."""
    home = home_of(state)
    home.load()
    rows = _rows(home, "history", ("-at",))
    if as_json:
        print_json(rows)
    else:
        columns = (
            ("when", "when"),
            ("subject", "subject"),
            ("fingerprint", "trouble"),
            ("signature", "fix"),
            ("outcome", "outcome"),
            ("ms_to_heal", "ms"),
        )
        print_table([{**row, "when": _when(row["at"])} for row in rows], columns, "no history yet")


def _rows(home: Home, table: str, order: tuple[str, ...]) -> list[dict[str, Any]]:
    store = Store.open_readonly(home.database)
    try:
        return store.rows(table, order_by=order)
    finally:
        store.close()


def _member(node: bytes, claim: bytes, certificate: bytes, state: str, since_ms: int) -> dict[str, Any]:
    alive = unpack(claim, Alive, CLAIM_BYTES)
    content = unpack(read_envelope(certificate).body, Certificate, CLAIM_BYTES)
    return {
        "id": node_text(node),
        "name": alive.name,
        "address": address_text((alive.host, alive.port)),
        "state": state,
        "incarnation": alive.incarnation,
        "since_ms": since_ms,
        "roles": list(content.roles),
        "labels": dict(content.labels),
        "begins_ms": content.not_before_ms,
    }


def _distinct(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows sorted by the name to show."""
    shown = shown_names((parse_node_text(row["id"]), row["name"], row.pop("begins_ms")) for row in rows)
    return sorted(({**row, "name": shown[parse_node_text(row["id"])]} for row in rows), key=lambda row: row["name"])


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else ""


def _words(key: str, value: Any) -> str:
    if key.endswith("_ms"):
        return _when(value)
    return "; ".join(value) if isinstance(value, list) else str(value)
