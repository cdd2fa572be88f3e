"""``cloudisense audit``: does the record on this disk prove itself?"""

from typing import Any

import typer

from cloudisense.cli.options import Json, State, print_json
from cloudisense.home import home_of
from cloudisense.keys.identity import node_text
from cloudisense.store import Store

app = typer.Typer(help="The record: signed, chained, and checked here.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """A group, although it has one command yet."""


@app.command()
def verify(state: State = None, as_json: Json = False) -> None:
    """Walk every feed kept here: signatures, links, forks, actions without outcome, and where each feed begins."""
    from cloudisense.agent.audit import audit as walk

    home = home_of(state)
    member = home.load()
    store = Store.open_readonly(home.database)
    try:
        entries = [
            (bytes(row["node"]), int(row["generation"]), int(row["number"]), bytes(row["data"]))
            for row in store.rows("entries", order_by=["node", "generation", "number"])
        ]
        bundles = [bytes(row["bundle"]) for row in store.rows("checkpoints", order_by=["node"])]
        forks = [(bytes(row["first"]), bytes(row["second"])) for row in store.rows("forks", order_by=["node"])]
    finally:
        store.close()
    found = walk(member.mesh_id, entries, bundles, forks)
    problems = [{"node": _text(p.node), "generation": p.generation, "number": p.number, "what": p.what} for p in found.problems]
    feeds = [
        {
            "node": node_text(feed.node),
            "generation": feed.generation,
            "starts": "checkpoint" if feed.first else "beginning",
            "first": feed.first,
            "entries": feed.entries,
            "head": feed.head.hex(),
            "cosigners": feed.cosigners,
        }
        for feed in found.feeds
    ]
    if as_json:
        print_json({"ok": not problems, "feeds": feeds, "problems": problems})
    else:
        _print(feeds, problems)
    if problems:
        raise typer.Exit(1)


def _print(feeds: list[dict[str, Any]], problems: list[dict[str, Any]]) -> None:
    for feed in feeds:
        start = (
            f"from entry {feed['first']}, behind a checkpoint with {feed['cosigners']} co-signers"
            if feed["first"]
            else "from its beginning"
        )
        print(f"{feed['node'][:12]} generation {feed['generation']}: {feed['entries']} entries {start}")
    for problem in problems:
        print(f"PROBLEM {problem['node'][:12]} generation {problem['generation']} entry {problem['number']}: {problem['what']}")
    entries = sum(feed["entries"] for feed in feeds)
    print(f"{entries} entries in {len(feeds)} feeds: {'all in order' if not problems else f'{len(problems)} problems'}")


def _text(node: bytes) -> str:
    return node_text(node) if len(node) == 32 else ""
