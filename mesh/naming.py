"""What people call a node. A name belongs to the certificate that had it first; a later one shows as ``name~id4``.

One issuer refuses a name that is taken; two issuers, apart from each other, may both give it.
"""

from collections.abc import Iterable

from cloudisense.keys.identity import node_text

SUFFIX_LETTERS = 4


def shown_names(members: Iterable[tuple[bytes, str, int]]) -> dict[bytes, str]:
    """Node to the name to show, from (node, name, when its certificate begins)."""
    owners: dict[str, tuple[int, bytes]] = {}
    given = list(members)
    for node, name, begins_ms in given:
        owners[name] = min(owners.get(name, (begins_ms, node)), (begins_ms, node))
    return {node: name if owners[name][1] == node else f"{name}~{node_text(node)[:SUFFIX_LETTERS]}" for node, name, _ in given}
