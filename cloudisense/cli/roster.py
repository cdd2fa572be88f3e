"""Commands about who may speak: the roster's, and the operator's quick revocation. All but the latter work without an agent."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from cloudisense.cli.options import Json, State, print_json
from cloudisense.clock import read_clock
from cloudisense.home import home_of, mesh_text, read_key
from cloudisense.rosters import (
    Change,
    Proposal,
    apply_file,
    drop_old_roots,
    find_node,
    move_offline,
    new_roots,
    own_anchor,
    present_nodes,
    propose,
    read_anchor,
    read_file,
    sign_file,
    summary,
    uphold,
)

Roots = Annotated[list[Path] | None, typer.Option("--root", help="A root key that does not lie in the state folder; repeat for more.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write a draft to be signed and applied, and change nothing yet.")]
Node = Annotated[str, typer.Argument(metavar="NODE", help="Name, id, or the beginning of the id.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The draft.")]

app = typer.Typer(help="Who may vote, issue and operate, and who is out.", no_args_is_help=True, rich_markup_mode=None)


def register(parent: typer.Typer) -> None:
    """Add the commands of this file."""
    for name, command in (
        ("show", show),
        ("revoke", revoke),
        ("promote", promote),
        ("anchor", anchor),
        ("settle", settle),
        ("uphold", uphold_here),
        ("offline", offline),
        ("sign", sign),
        ("apply", apply),
        ("rotate-root", rotate_root),
    ):
        app.command(name)(command)
    parent.add_typer(app, name="roster")
    parent.command("revoke")(quick_revoke)


def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A draft, instead of what holds here.")] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """The roster that holds here, or a draft."""
    if file is not None:
        from cloudisense.keys.succession import read_draft, signers

        data = read_file(file)
        _, mesh_id, current, following = read_draft(data)
        found = summary(following, mesh_text(mesh_id)) | {"signed": len(signers(data)), "needed": current.threshold}
    else:
        home = home_of(state)
        member = home.load()
        found = summary(member.roster, mesh_text(member.mesh_id)) | {"root_here": bool(home.roots(member.roster))}
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        print(f"{key:<10} {', '.join(value) or 'none' if isinstance(value, list) else value}")


def revoke(node: Node, root: Roots = None, out: Out = None, state: State = None, as_json: Json = False) -> None:
    """Take all rights from a node for good; sessions are cut at once."""
    from cloudisense.keys.succession import revoking

    key = find_node(home_of(state), node)
    _change(state, lambda roster: revoking(roster, key), root, out, as_json)


def promote(
    node: Node,
    issuer: Annotated[Path | None, typer.Option("--issuer", help="Make it an issuer, by what its roster anchor command wrote.")] = None,
    root: Roots = None,
    out: Out = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Give a node a vote, or with --issuer the right to issue."""
    from cloudisense.keys.succession import with_issuer, with_voters

    key = find_node(home_of(state), node)
    if issuer is not None:
        entry = read_anchor(issuer)
        if entry.key != key:
            raise ValueError(f"{issuer} was written on another node than {node}")
        _change(state, lambda roster: with_issuer(roster, entry), root, out, as_json)
        return
    if key in home_of(state).load().roster.voters:
        raise ValueError(f"{node} has a vote already")
    _change(state, lambda roster: with_voters(roster, (*roster.voters, key)), root, out, as_json)


def settle(root: Roots = None, out: Out = None, state: State = None, as_json: Json = False) -> None:
    """Revoke replaced keys for good, and give their votes to their successors."""
    from cloudisense.keys.succession import settling

    home = home_of(state)
    replaced, known = home.replaced(home.load()), present_nodes(home)
    _change(state, lambda roster: settling(roster, replaced, known), root, out, as_json)


def uphold_here(root: Roots = None, out: Out = None, state: State = None, as_json: Json = False) -> None:
    """Of two rosters beside each other, let the one here hold."""
    _print(uphold(home_of(state), tuple(root or ()), out), as_json)


def anchor(path: Annotated[Path, typer.Argument(metavar="PATH", help="A new file.")], state: State = None) -> None:
    """Write what promote --issuer wants to know of this node."""
    if path.exists():
        raise ValueError(f"{path} is there already and stays as it is")
    path.write_bytes(own_anchor(home_of(state), read_clock()))


def offline(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or new file, on a medium that can be taken away.")],
    state: State = None,
    as_json: Json = False,
) -> None:
    """Move the root key away; voters are then made by hand."""
    moved = [str(place) for place in move_offline(home_of(state), path)]
    if as_json:
        print_json({"moved": moved})
    else:
        print(f"the root key lies in {', '.join(moved)} now, and nowhere else; keep a copy of it")


def sign(file: File, root: Roots = None, state: State = None, as_json: Json = False) -> None:
    """Add the signatures of the root keys at hand to a draft."""
    _print(sign_file(home_of(state), file, tuple(root or ())), as_json)


def apply(file: File, state: State = None, as_json: Json = False) -> None:
    """Take the roster of a draft that enough roots have signed."""
    home = home_of(state)
    done = apply_file(home, file)
    drop_old_roots(home)
    _print(done, as_json)


def rotate_root(
    keys: Annotated[int, typer.Option("--keys", help="How many new root keys.")] = 1,
    threshold: Annotated[int, typer.Option("--threshold", help="How many of them have to sign.")] = 1,
    into: Annotated[Path | None, typer.Option("--into", help="Folder for the new keys; default: the state folder.")] = None,
    root: Roots = None,
    out: Out = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Make new root keys; the old ones sign for the last time."""
    from cloudisense.keys.roster import MAX_ROOTS
    from cloudisense.keys.succession import with_roots

    home = home_of(state)
    if not 1 <= threshold <= keys <= MAX_ROOTS:
        raise ValueError(f"there are 1 to {MAX_ROOTS} keys, and not more of them have to sign than there are")
    member = home.load()
    have = len({key.id for key in home.roots(member.roster, *(root or ())).values()})
    if out is None and have < member.roster.threshold:
        raise ValueError(f"{member.roster.threshold} root signatures are needed and {have} can be had here; use --root FILE or --out FILE")
    made = [key.id for key in new_roots(into or home.path, member.roster.number + 1, keys)]
    _change(state, lambda roster: with_roots(roster, made, threshold), root, out, as_json)
    drop_old_roots(home)


def quick_revoke(
    node: Node,
    operator: Annotated[Path | None, typer.Option("--operator", help="The operator key; default operator.key in the state folder.")] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Shut a node out at once, for 7 days."""
    from cloudisense.control import ask
    from cloudisense.mesh.revocation import seal_revocation

    home = home_of(state)
    member = home.load()
    key = find_node(home, node)
    if key == member.identity.id:
        raise ValueError("this is this very node; run the command on another one")
    path = operator or home.path / "operator.key"
    if operator is None and not path.exists():
        raise ValueError("there is no operator key here; name one with --operator FILE")
    claim = seal_revocation(read_key(path), member.mesh_id, key, read_clock().wall_ms)
    answer = asyncio.run(ask(home.socket, f"revoke {claim.hex()}"))
    if answer is None:
        raise ValueError(f"no agent runs in {home.path}; a quick revocation needs one to spread it")
    if "error" in answer:
        raise ValueError(f"it was not taken: {answer['error']}")
    if as_json:
        print_json({"revoked": node, "days": 7})
    else:
        print(f"{node} is out for 7 days; for good: cloudisense roster revoke {node}")


def _change(state: Path | None, change: Change, roots: list[Path] | None, out: Path | None, as_json: bool) -> None:
    _print(propose(home_of(state), change, tuple(roots or ()), out), as_json)


def _print(done: Proposal, as_json: bool) -> None:
    found: dict[str, Any] = {
        "roster": done.roster.number, "epoch": done.roster.epoch, "signed": done.signed, "needed": done.needed, "applied": done.applied,
    }  # fmt: skip
    if as_json:
        print_json(found | {"file": str(done.path) if done.path else None})
    elif done.applied:
        print(f"roster {done.roster.number} holds now")
    else:
        ready = "ready for" if done.signed >= done.needed else "next: cloudisense roster sign, then"
        print(f"{done.path}: roster {done.roster.number}, {done.signed} of {done.needed} signatures; {ready} cloudisense roster apply")
