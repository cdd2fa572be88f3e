"""Succession: the roster after this one, and how the signatures for it are gathered.

A draft is a file that travels: the whole chain with the candidate behind it, signed by nobody yet, by some, or by enough.
Whoever signs sees from the file alone which mesh it is, what holds now and what would change.
"""

from collections.abc import Collection, Sequence

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity, NodeId, verify
from cloudisense.keys.roster import MAX_CHAIN, MAX_ROSTER_BYTES, Issuer, Roster, SignedRoster, check_chain, mesh_id_of, read_roster

MAX_DRAFT_BYTES = 1 << 20

_TYPE = "roster"


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """``chain`` proves what holds now, oldest first; ``candidate`` is a ``SignedRoster`` that may lack signatures."""

    chain: tuple[bytes, ...]
    candidate: bytes


def revoking(current: Roster, key: NodeId) -> Roster:
    """``key`` loses all rights. ``ValueError`` where the mesh would be left without an issuer or a voter, or ``key`` is a root."""
    if current.is_revoked(key):
        raise ValueError("it is revoked already")
    if key in current.roots:
        raise ValueError("it is a root key; rotate the root instead")
    voters = tuple(voter for voter in current.voters if voter != key)
    issuers = tuple(issuer for issuer in current.issuers if issuer.key != key)
    if not issuers or not voters:
        raise ValueError(f"it is the only {'issuer' if not issuers else 'voter'} of the mesh; promote another node first")
    operators = tuple(operator for operator in current.operators if operator != key)
    return _next(current, voters, issuers=issuers, operators=operators, revoked=(*current.revoked, key))


def settling(current: Roster, replaced: Sequence[tuple[NodeId, NodeId]], known: Collection[NodeId]) -> Roster:
    """Keys that were replaced are revoked for good, and their votes go to their successors (``keys.handover``).

    A voter's vote moves only to a successor that is ``known``, a member; until then its old key stays as it is. ``ValueError``
    when there is nothing to settle.
    """
    heirs = dict(replaced)
    voters: list[NodeId] = []
    settled = {node for node in heirs if node not in current.voters and not current.is_revoked(node)}
    for voter in current.voters:
        heir = voter
        for _ in heirs:  # a chain of them, which two keys in one hand could close to a ring
            heir = heirs.get(heir, heir)
        if heir == voter or heir in heirs or heir not in known or current.is_revoked(heir):
            voters.append(voter)
            continue
        settled.add(voter)
        if heir not in (*current.voters, *voters):
            voters.append(heir)
    settled -= {issuer.key for issuer in current.issuers} | {*current.roots}
    if not settled:
        raise ValueError("no key was replaced that could be settled now")
    operators = tuple(operator for operator in current.operators if operator not in settled)
    return _next(current, tuple(voters), operators=operators, revoked=(*current.revoked, *sorted(settled)))


def with_voters(current: Roster, voters: Sequence[NodeId]) -> Roster:
    """These voters from now on; another set of them is another epoch. ``ValueError`` for a revoked or doubled one."""
    if any(current.is_revoked(voter) for voter in voters):
        raise ValueError("a revoked node cannot vote")
    return _next(current, tuple(voters))


def with_issuer(current: Roster, issuer: Issuer) -> Roster:
    """One more issuer."""
    if current.is_revoked(issuer.key) or current.issuer(issuer.key) is not None:
        raise ValueError("it is an issuer already, or revoked")
    return _next(current, current.voters, issuers=(*current.issuers, issuer))


def with_roots(current: Roster, roots: Sequence[NodeId], threshold: int) -> Roster:
    """Other root keys, of which ``threshold`` sign what comes after."""
    return _next(current, current.voters, roots=tuple(roots), threshold=threshold)


def upholding(current: Roster, rival: Roster, rival_hash: bytes) -> Roster:
    """``current`` holds, and not the rival branch that ends with ``rival`` and begins with the roster of hash ``rival_hash``.

    Whom either of them revokes stays revoked. ``ValueError`` when that leaves no issuer or voter, or when the branches have other
    roots: who signs no more must not decide.
    """
    if (current.roots, current.threshold) != (rival.roots, rival.threshold):
        raise ValueError("the two rosters have different root keys; nodes of the other one have to join anew")
    out = {*current.revoked, *rival.revoked, rival_hash} - {*current.roots}
    voters = tuple(voter for voter in current.voters if voter not in out)
    issuers = tuple(issuer for issuer in current.issuers if issuer.key not in out)
    if not voters or not issuers:
        raise ValueError("the rival roster revokes every issuer or every voter of this one; uphold that one")
    return msgspec.structs.replace(
        current,
        number=max(current.number, rival.number) + 1,
        epoch=max(current.epoch, rival.epoch) + 1,
        voters=voters,
        issuers=issuers,
        operators=tuple(operator for operator in current.operators if operator not in out),
        revoked=(*current.revoked, *sorted(out - {*current.revoked})),
    )


def _next(current: Roster, voters: tuple[NodeId, ...], **changes: object) -> Roster:
    epoch = current.epoch + (set(voters) != set(current.voters))
    return msgspec.structs.replace(current, number=current.number + 1, epoch=epoch, voters=voters, **changes)


def draft(chain: Sequence[bytes], roster: Roster) -> bytes:
    """The file for ``roster`` as the next of ``chain``; nobody has signed it."""
    return pack(Draft(tuple(chain), pack(SignedRoster(pack(roster), ()))))


def read_draft(data: bytes) -> tuple[Draft, bytes, Roster, Roster]:
    """A draft, its mesh id, the roster that holds now by its chain, and the candidate. ``RemoteProtocolError`` when it is none.

    The candidate's signatures are not checked here, only that it may follow; ``signers`` says who has signed.
    """
    found = unpack(data, Draft, MAX_DRAFT_BYTES)
    if not 0 < len(found.chain) < MAX_CHAIN:
        raise RemoteProtocolError("roster chain has a wrong length")
    mesh_id = mesh_id_of(found.chain[0])
    current, candidate = check_chain(found.chain, mesh_id), read_roster(found.candidate)
    if candidate.number <= current.number or candidate.epoch < current.epoch:
        raise RemoteProtocolError("draft does not follow its chain")
    return found, mesh_id, current, candidate


def signers(data: bytes) -> list[NodeId]:
    """The roots of the roster that holds now that have signed the draft ``data``, sorted."""
    found, mesh_id, current, _ = read_draft(data)
    signed = unpack(found.candidate, SignedRoster, MAX_ROSTER_BYTES)
    return sorted(
        root for root, signature in signed.signatures if root in current.roots and verify(root, _TYPE, mesh_id, signed.body, signature)
    )


def add_signatures(data: bytes, *roots: Identity) -> bytes:
    """The draft ``data`` with the signatures of ``roots`` added, byte for byte the same roster.

    ``ValueError`` for a key that is a root neither now nor in the candidate: its signature would count for nothing.
    """
    found, mesh_id, current, candidate = read_draft(data)
    signed = unpack(found.candidate, SignedRoster, MAX_ROSTER_BYTES)
    signatures = {root: signature for root, signature in signed.signatures if root in (*current.roots, *candidate.roots)}
    for root in roots:
        if root.id not in (*current.roots, *candidate.roots):
            raise ValueError("this key is not a root of the mesh")
        signatures[root.id] = root.sign(_TYPE, mesh_id, signed.body)
    return pack(Draft(found.chain, pack(SignedRoster(signed.body, tuple(sorted(signatures.items()))))))


def completed(data: bytes) -> tuple[bytes, ...] | None:
    """The chain that ends with the draft's candidate, or ``None`` while too few have signed."""
    found, _, current, _ = read_draft(data)
    return (*found.chain, found.candidate) if len(signers(data)) >= current.threshold else None
