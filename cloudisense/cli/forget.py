"""The command forget: an operator says that a node does not come back."""

import asyncio
from typing import Annotated, Any

import typer

from cloudisense.cli.options import Json, State, print_json
from cloudisense.home import Home, home_of
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import read_envelope, seal
from cloudisense.keys.identity import node_text
from cloudisense.mesh.member import PRESENT, Alive, Forgotten
from cloudisense.store import Store

CLAIM_BYTES = 4096


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(forget)


def forget(
    node: Annotated[str, typer.Argument(help="Name, or the beginning of the id, of a member that is not alive.")],
    state: State = None,
    as_json: Json = False,
) -> None:
    """Take a node that does not come back out of everybody's list. Should it come back after all, it is a member again."""
    from cloudisense.control import ask

    home = home_of(state)
    member = home.load()
    if not (home.path / "operator.key").exists():
        raise ValueError(f"node {member.name} holds no operator key; run this where the mesh was begun")
    operator = home.key("operator")
    if operator.id not in member.roster.operators:
        raise ValueError("this operator key is not in the roster any more")
    row, alive = _find(home, node)
    if row["state"] in PRESENT:
        raise ValueError(f"{alive.name} is {row['state']}; only a node that is gone can be forgotten (revoke it to shut it out)")
    claim = seal(operator, "forgotten", member.mesh_id, pack(Forgotten(alive.node, alive.incarnation)))
    answer = asyncio.run(ask(home.socket, f"forget {claim.hex()}"))
    if answer is None:
        raise ValueError(f"no agent runs in {home.path}; a node is forgotten while this one is up")
    if "error" in answer:
        raise ValueError(f"not forgotten: {answer['error']}")
    if as_json:
        print_json({"forgotten": node_text(alive.node), "name": alive.name})
    else:
        print(f"{alive.name} ({node_text(alive.node)[:12]}) is forgotten")


def _find(home: Home, text: str) -> tuple[dict[str, Any], Alive]:
    store = Store.open_readonly(home.database)
    try:
        rows = [row for row in store.rows("members") if row["state"] != "forgotten"]
    finally:
        store.close()
    members = [(row, unpack(read_envelope(row["claim"]).body, Alive, CLAIM_BYTES)) for row in rows]
    found = [(row, a) for row, a in members if a.name == text] or [(row, a) for row, a in members if node_text(a.node).startswith(text)]
    if len(found) != 1:
        raise ValueError(f"{'no' if not found else 'more than one'} member {text!r} is known here; cloudisense members lists them")
    return found[0]
