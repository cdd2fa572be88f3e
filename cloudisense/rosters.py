"""Rosters by hand: propose, gather signatures in a file that travels, apply; with or without a running agent, all of it offline."""

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudisense.control import ask
from cloudisense.home import ANCHOR_MS, BACKDATE_MS, OFFERED, RIVAL, Home, Membership, read_key, write_key
from cloudisense.keys import tls
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity, node_text, parse_node_text
from cloudisense.keys.roster import Issuer, Roster, check_chain, read_roster
from cloudisense.keys.succession import MAX_DRAFT_BYTES, add_signatures, completed, draft, read_draft, signers, upholding
from cloudisense.mesh.effects import Put
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.trust import Trust, parting, roster_hash
from cloudisense.store import Store

Change = Callable[[Roster], Roster]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What became of a change: applied, or a draft in ``path`` that ``signed`` of ``needed`` roots have signed."""

    roster: Roster
    signed: int
    needed: int
    applied: bool
    path: Path | None


def propose(home: Home, change: Change, roots: tuple[Path, ...], out: Path | None) -> Proposal:
    """Make the next roster and sign it with the root keys at hand: applied if they are enough; with ``out``, a draft there."""
    member = home.load()
    rival = home.rival()
    try:
        following = change(member.roster)
    except ValueError as error:
        raise ValueError(f"this cannot be done: {error}") from None
    fork = parting(member.chain, rival)
    if fork is not None and not following.is_revoked(roster_hash(rival[fork])):
        raise ValueError(
            "the root signed two rosters beside each other; choose one first, with cloudisense roster uphold on a node that has it"
        )
    keys = home.roots(member.roster, *roots)
    data = draft(member.chain, following)
    data = add_signatures(data, *{key.id: key for key in keys.values()}.values())
    chain, signed = completed(data), len(signers(data))
    if out is None:
        if chain is None:
            raise ValueError(
                f"{member.roster.threshold} root signatures are needed and {signed} can be had here; name the keys with --root FILE, "
                "or write a draft with --out FILE and have it signed elsewhere (cloudisense roster sign)"
            )
        apply_chain(home, chain)
    else:
        _write(out, data)
    return Proposal(following, signed, member.roster.threshold, out is None, out)


def read_file(path: Path) -> bytes:
    """A draft's bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DRAFT_BYTES + 1)
        read_draft(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RemoteProtocolError as error:
        raise ValueError(f"{path} is no draft of a roster ({error.reason})") from None
    return data


def sign_file(home: Home, path: Path, roots: tuple[Path, ...]) -> Proposal:
    """Add the signatures of the root keys at hand to the draft in ``path``. It needs no node here, only keys."""
    data = read_file(path)
    _, _, current, following = read_draft(data)
    keys = [*home.roots(current).values(), *(read_key(root) for root in roots)]
    if not keys:
        raise ValueError("there is no root key of this mesh here; name one with --root FILE")
    data = add_signatures(data, *{key.id: key for key in keys}.values())
    _write(path, data)
    return Proposal(following, len(signers(data)), current.threshold, False, path)


def apply_file(home: Home, path: Path) -> Proposal:
    """Take the roster of the draft in ``path``, if enough roots have signed it."""
    data = read_file(path)
    _, _, current, following = read_draft(data)
    chain = completed(data)
    if chain is None:
        raise ValueError(f"{path} has {len(signers(data))} of {current.threshold} root signatures; cloudisense roster sign adds one")
    apply_chain(home, chain)
    return Proposal(following, len(signers(data)), current.threshold, True, path)


def apply_chain(home: Home, chain: tuple[bytes, ...]) -> None:
    """Make ``chain`` hold here: through the agent that runs, or in the state folder itself, durable on return."""
    member = home.load()
    _check_follows(member, chain)
    store = Store(home.database)
    try:
        store.put_meta(OFFERED, pack(list(chain)))
        answer = asyncio.run(ask(home.socket, "roster"))
        if answer is None:
            home.lock()  # no agent runs, and none starts meanwhile
            try:
                _check_follows(home.load(), chain)
                values = {"roster": pack(list(chain)), OFFERED: pack([])}
                fork = parting(chain, home.rival())
                if fork is not None and check_chain(chain, member.mesh_id).is_revoked(roster_hash(home.rival()[fork])):
                    values[RIVAL] = pack([])
                store.write(Put("meta", {"key": key, "value": value}) for key, value in values.items())
            finally:
                home.unlock()
        elif "error" in answer:
            raise ValueError(f"the running agent did not take it: {answer['error']}; if the roster has changed, run the command again")
    finally:
        store.close()


def uphold(home: Home, roots: tuple[Path, ...], out: Path | None) -> Proposal:
    """Of two rosters that the root signed beside each other, the one that holds here holds everywhere."""
    rival, chain = home.rival(), home.load().chain
    fork = parting(chain, rival)
    if not fork:
        raise ValueError("no rival of the roster that holds here is known")
    return propose(home, lambda roster: upholding(roster, read_roster(rival[-1]), roster_hash(rival[fork])), roots, out)


def _overrules(member: Membership, chain: tuple[bytes, ...]) -> bool:
    try:
        return Trust(member.chain).offer(chain)
    except RemoteProtocolError:
        return False


def _check_follows(member: Membership, chain: tuple[bytes, ...]) -> None:
    if len(chain) <= len(member.chain) and parting(member.chain, chain) is None:
        raise ValueError(f"this mesh is at roster {member.roster.number} already; make the change anew")
    if parting(member.chain, chain) is not None and not _overrules(member, chain):
        raise ValueError("this roster follows another one than holds here; make the change anew")
    try:
        roster = check_chain(chain, member.mesh_id)
    except RemoteProtocolError as error:
        raise ValueError(f"this roster does not hold: {error.reason}") from None
    if roster.is_revoked(member.identity.id):
        raise ValueError("it revokes this very node; apply it on another one")


def find_node(home: Home, text: str) -> bytes:
    """The node that a person means by its name, its id or the beginning of it. ``ValueError`` for none or several."""
    store = Store.open_readonly(home.database)
    try:
        rows = store.rows("members", order_by=("node",))
    finally:
        store.close()
    from cloudisense.renewal import content

    member = home.load()
    names = {bytes(row["node"]): content(bytes(row["certificate"])).name for row in rows} | {member.identity.id: member.name}
    found = [node for node, name in names.items() if name == text or (len(text) >= 4 and node_text(node).startswith(text))]
    if len(found) == 1:
        return found[0]
    if not found:
        try:
            return parse_node_text(text)
        except ValueError:
            raise ValueError(f"no node {text!r} is known here; cloudisense members lists them; give its name or its whole id") from None
    raise ValueError(f"{text!r} is more than one node; give its whole id")


def present_nodes(home: Home) -> list[bytes]:
    """The members that this folder knows and that have not left, and this node."""
    store = Store.open_readonly(home.database)
    try:
        rows = store.rows("members", order_by=("node",))
    finally:
        store.close()
    return [home.load().identity.id, *(bytes(row["node"]) for row in rows if row["state"] not in ("left", "forgotten"))]


def move_offline(home: Home, target: Path) -> list[Path]:
    """Move the root keys of this folder to ``target``, a folder elsewhere or a new file; where they are now."""
    member = home.load()
    keys = home.roots(member.roster)
    if not keys:
        raise ValueError("no root key lies in this state folder")
    if target.absolute().is_relative_to(home.path):
        raise ValueError(f"{target} is in the state folder; name a place that can be taken away")
    if len(keys) > 1 and not target.is_dir():
        raise ValueError(f"{len(keys)} root keys lie here; name a folder that exists")
    moved: list[Path] = []
    for path, key in keys.items():
        place = target / path.name if target.is_dir() else target
        if place.exists():
            raise ValueError(f"{place} is there already and stays as it is; name another place")
        write_key(place, key)
        if read_key(place).id != key.id:
            raise ValueError(f"{place} does not read back as it was written; the key stays here")
        path.unlink()
        moved.append(place)
    return moved


def new_roots(folder: Path, number: int, count: int) -> list[Identity]:
    """``count`` new root keys in ``folder``, durable before anything names them."""
    keys = [Identity(secrets.token_bytes(32)) for _ in range(count)]
    for i, key in enumerate(keys):
        name = f"root-{number}.key" if count == 1 else f"root-{number}-{i + 1}.key"
        if (folder / name).exists():
            raise ValueError(f"{folder / name} is there already and stays as it is; name another folder with --into")
        write_key(folder / name, key)
    return keys


def drop_old_roots(home: Home) -> None:
    """Root keys of this folder that sign nothing any more are destroyed."""
    roster = home.load().roster
    for path in sorted(home.path.glob("root*.key")):
        if read_key(path).id not in roster.roots:
            path.unlink()


def own_anchor(home: Home, now: Instant) -> bytes:
    """What ``promote --issuer`` wants of a node: its id and its own X.509 CA certificate."""
    identity = home.load().identity
    return tls.anchor(identity, now.wall_ms - BACKDATE_MS, now.wall_ms + ANCHOR_MS, 1 + secrets.randbits(120))


def read_anchor(path: Path) -> Issuer:
    """The issuer whose anchor lies in ``path``."""
    try:
        data = path.read_bytes()
        return Issuer(tls.node_of(data), data)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RemoteProtocolError as error:
        raise ValueError(f"{path} is no issuer's certificate ({error.reason}); cloudisense roster anchor writes one") from None


def summary(roster: Roster, mesh: str) -> dict[str, Any]:
    """A roster for people and machines."""
    return {
        "mesh_id": mesh,
        "number": roster.number,
        "epoch": roster.epoch,
        "roots": [node_text(root) for root in roster.roots],
        "threshold": roster.threshold,
        "voters": [node_text(voter) for voter in roster.voters],
        "issuers": [node_text(issuer.key) for issuer in roster.issuers],
        "operators": [node_text(operator) for operator in roster.operators],
        "revoked": [node_text(key) for key in roster.revoked],
    }


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
