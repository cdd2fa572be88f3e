"""The state database: durable, all or nothing, readable while written, and never touched when it is damaged."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense import store as store_module
from cloudisense import writer as writer_module
from cloudisense.keys.errors import LocalProtocolError, Refused
from cloudisense.keys.invite import InviteRecord, secret_hash
from cloudisense.mesh.effects import Persist, Put, Scalar
from cloudisense.store import ADDED, TABLES, Store, StoreError
from cloudisense.writer import Writer

SECRET = bytes(range(16))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.db")
    yield opened
    opened.close()


def entry(number: int, **more: Scalar) -> Put:
    return Put("entries", {"node": b"n" * 32, "generation": 1, "number": number, "data": b"x", **more})


def test_what_was_written_is_there_after_reopening(tmp_path: Path):
    first = Store(tmp_path / "state.db")
    first.write([entry(2), entry(1)])
    first.put_meta("incarnation", b"\x07")
    first.close()
    second = Store(tmp_path / "state.db")
    assert [row["number"] for row in second.rows("entries", order_by=["number"])] == [1, 2]
    assert second.get_meta("incarnation") == b"\x07"
    assert second.get_meta("nothing") is None
    second.close()


def test_an_upsert_keeps_the_columns_that_it_does_not_name(store: Store):
    store.write([entry(1, hash=b"h", arrived_ms=5)])
    store.write([entry(1, data=b"new")])
    assert store.rows("entries") == [
        {"node": b"n" * 32, "generation": 1, "number": 1, "hash": b"h", "data": b"new", "arrived_ms": 5},
    ]


def test_a_row_of_nothing_but_its_key_is_written_once(store: Store):
    spent = Put("spent", {"nonce": b"a", "step": 0})
    store.write([spent, spent])
    assert len(store.rows("spent")) == 1


def test_rows_filter_order_and_limit(store: Store):
    store.write([entry(n, arrived_ms=n % 3) for n in range(9)] + [entry(9)])
    assert [r["number"] for r in store.rows("entries", {"arrived_ms": 1}, ["-number"])] == [7, 4, 1]
    assert [r["number"] for r in store.rows("entries", {"arrived_ms": 1}, ["-number"], limit=1)] == [7]
    assert [r["number"] for r in store.rows("entries", {"arrived_ms": None})] == [9]
    assert [r["number"] for r in store.rows("entries", order_by=["-arrived_ms", "number"], limit=2)] == [2, 5]
    assert store.rows("entries", limit=0) == []


@pytest.mark.parametrize(
    "put",
    [
        Put("nowhere", {"a": 1}),
        Put("meta", {"key": "a", "valu": b""}),
        Put("meta", {"value": b""}),
        Put("meta", {"key": None, "value": b""}),
        Put("meta", {"key": "a", "value": "text"}),
        Put("meta", {"key": "\udc80", "value": b""}),
        Put("spent", {"nonce": b"", "step": True}),
        Put("spent", {"nonce": b"", "step": 1 << 63}),
        Put("spent", {"nonce": b"", "step": 1.0}),
        Put('meta"; drop table meta; --', {"key": "a"}),
    ],
)
def test_a_row_that_does_not_fit_is_our_bug_and_writes_nothing(store: Store, put: Put):
    with pytest.raises(LocalProtocolError):
        store.write([Put("meta", {"key": "before", "value": b""}), put])
    assert store.rows("meta") == []


def test_reading_by_an_unknown_name_is_our_bug(store: Store):
    for call in (
        lambda: store.rows("nowhere"),
        lambda: store.rows("meta", {"nothing": 1}),
        lambda: store.rows("meta", order_by=["-nothing"]),
        lambda: store.rows("meta", order_by=['key" --']),
    ):
        with pytest.raises(LocalProtocolError):
            call()


VALUES = {
    int: st.integers(-(1 << 63), (1 << 63) - 1),
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    bytes: st.binary(max_size=20),
}


@st.composite
def puts(draw: st.DrawFn) -> Put:
    table = draw(st.sampled_from(sorted(TABLES)))
    columns, key = TABLES[table]
    row = {name: draw(VALUES[kind] if name in key else st.none() | VALUES[kind]) for name, kind in columns.items()}
    return Put(table, row)


@given(st.lists(puts(), max_size=8))
@settings(max_examples=40, deadline=None)
def test_every_table_gives_back_the_last_row_of_each_key(tmp_path_factory: pytest.TempPathFactory, rows: list[Put]):
    opened = Store(tmp_path_factory.mktemp("any") / "state.db")
    opened.write(rows)
    expected = {(put.table, *(put.row[name] for name in TABLES[put.table][1])): dict(put.row) for put in rows}
    found = {(table, *(row[name] for name in TABLES[table][1])): row for table in TABLES for row in opened.rows(table)}
    opened.close()
    assert found == expected


def test_a_failing_transaction_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch):
    real = store_module._upsert
    monkeypatch.setattr(
        store_module, "_upsert", lambda put: real(put) if put.row["key"] != "bad" else ("insert into nowhere values (1)", [])
    )
    with pytest.raises(StoreError, match="no such table"):
        store.write([Put("meta", {"key": "good"}), Put("meta", {"key": "bad"})])
    assert store.rows("meta") == []
    store.put_meta("after", b"")
    assert store.get_meta("after") == b""


def test_a_full_database_is_one_line_and_goes_on_later(store: Store):
    database = store._writer
    assert database is not None
    database.execute("PRAGMA max_page_count=40")
    with pytest.raises(StoreError, match="full"):
        store.write([Put("meta", {"key": "large", "value": bytes(1 << 20)})])
    database.execute("PRAGMA max_page_count=100000")
    store.put_meta("small", b"1")
    assert [row["key"] for row in store.rows("meta")] == ["small"]


def test_settings_that_durability_rests_on(store: Store):
    database = store._writer
    assert database is not None
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert database.execute("PRAGMA busy_timeout").fetchone()[0] >= 1000
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(f"{store.path}-wal").st_mode) == 0o600


def test_commands_read_while_the_daemon_writes(store: Store):
    store.put_meta("a", b"1")
    reader = Store.open_readonly(store.path)
    with store._writing() as database:
        database.execute("insert into meta values ('b', x'02')")
        assert reader.get_meta("a") == b"1"
        assert reader.get_meta("b") is None
    assert reader.get_meta("b") == b"\x02"
    with pytest.raises(LocalProtocolError, match="reading only"):
        reader.put_meta("c", b"")
    reader.close()


def test_reading_works_when_no_daemon_runs(tmp_path: Path):
    daemon = Store(tmp_path / "a state #1?.db")
    daemon.put_meta("a", b"1")
    daemon.close()
    reader = Store.open_readonly(tmp_path / "a state #1?.db")
    assert reader.get_meta("a") == b"1"
    reader.close()


def test_state_bytes_counts_the_log_too(store: Store):
    before = store.state_bytes()
    store.put_meta("large", bytes(200_000))
    assert store.state_bytes() >= before + 200_000


# What cannot be opened.


def damaged_copies(path: Path) -> dict[str, bytes]:
    good = Store(path)
    good.write([entry(n, data=bytes(500)) for n in range(200)])
    good.close()
    whole = path.read_bytes()
    scribbled = bytearray(whole)
    scribbled[4096 * 3 : 4096 * 6] = b"\xa5" * (4096 * 3)
    return {"text": b"this is not a database at all, but long enough", "scribbled": bytes(scribbled), "cut": whole[: len(whole) // 2]}


@pytest.mark.parametrize("how", ["text", "scribbled", "cut"])
def test_a_damaged_database_is_reported_and_left_as_it_is(tmp_path: Path, how: str):
    content = damaged_copies(tmp_path / "good.db")[how]
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state database .*state\.db is damaged: ") as caught:
        Store(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_missing_table_is_damage(tmp_path: Path):
    Store(tmp_path / "state.db").close()
    raw = sqlite3.connect(tmp_path / "state.db")
    raw.execute("drop table spent")
    raw.close()
    with pytest.raises(ValueError, match="damaged: table spent"):
        Store(tmp_path / "state.db")


def test_an_older_database_is_read_after_its_agent_ran_once(tmp_path: Path):
    path = tmp_path / "state.db"
    Store(path).close()
    old = sqlite3.connect(path, isolation_level=None)
    for table in ADDED:
        old.execute(f"drop table {table}")
    old.execute("pragma user_version=1")
    old.execute("insert into meta values ('kept', x'01')")
    old.close()
    with pytest.raises(ValueError, match="cloudisense up"):
        Store.open_readonly(path)
    Store(path).close()
    store = Store.open_readonly(path)
    assert store.get_meta("kept") == b"\x01" and not store.rows("forks") and not store.rows("checkpoints")
    store.close()


def test_a_newer_schema_and_a_foreign_database_are_refused(tmp_path: Path):
    Store(tmp_path / "newer.db").close()
    for name, sql in (("newer.db", "pragma user_version=99"), ("foreign.db", "create table songs (title)")):
        raw = sqlite3.connect(tmp_path / name)
        raw.execute(sql)
        raw.close()
    for opened in (Store, Store.open_readonly):
        with pytest.raises(ValueError, match=r"newer CloudiSENSE \(schema 99"):
            opened(tmp_path / "newer.db")
        with pytest.raises(ValueError, match="something else"):
            opened(tmp_path / "foreign.db")


def test_a_place_that_cannot_be_opened_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "state.db", tmp_path / "file" / "state.db", tmp_path):
        with pytest.raises(ValueError, match="cannot be opened") as caught:
            Store(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no state database"):
        Store.open_readonly(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_an_empty_file_is_a_new_database_to_a_writer_only(tmp_path: Path):
    (tmp_path / "state.db").touch()
    with pytest.raises(ValueError, match="is empty"):
        Store.open_readonly(tmp_path / "state.db")
    opened = Store(tmp_path / "state.db")
    opened.put_meta("a", b"")
    opened.close()


# Invites.


def test_an_invite_is_spent_once(store: Store):
    store.put_invite(InviteRecord(secret_hash(SECRET), ("member", "voter"), 1, 1_000))
    assert isinstance(store.spend_invite(bytes(16), 0), Refused)
    assert isinstance(store.spend_invite(SECRET, 1_000), Refused)
    assert store.spend_invite(SECRET, 999) == ("member", "voter")
    refusal = store.spend_invite(SECRET, 999)
    assert isinstance(refusal, Refused)
    assert "used up" in refusal.reason


def start_together(running: list[subprocess.Popen[str]]) -> None:
    """Each says that it is ready, and then waits for the line that lets all go."""
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


SPEND = """
import sys; from pathlib import Path; from cloudisense.store import Store
store = Store(Path(sys.argv[1])); print("ready", flush=True); sys.stdin.readline()
print(sum(bool(store.spend_invite(bytes(range(16)), 0)) for _ in range(200)))
"""


def test_processes_that_spend_at_once_never_overspend(store: Store):
    store.put_invite(InviteRecord(secret_hash(SECRET), ("member",), 250, 1_000))
    command = [sys.executable, "-c", SPEND, str(store.path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    start_together(running)
    taken = [int(process.communicate()[0]) for process in running]
    assert sum(taken) == 250
    assert store.rows("invites")[0]["uses_left"] == 0


CREATE = """
import sys; from pathlib import Path; from cloudisense.store import Store
print("ready", flush=True); sys.stdin.readline(); Store(Path(sys.argv[1])).close()
"""


def test_processes_that_create_it_at_once_agree(tmp_path: Path):
    command = [sys.executable, "-c", CREATE, str(tmp_path / "state.db")]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    start_together(running)
    for process in running:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    Store(tmp_path / "state.db").close()


# The writer.


def persist(token: int) -> Persist:
    return Persist(token, (entry(token),))


def test_tokens_come_back_in_order_after_their_rows_are_on_disk(store: Store, monkeypatch: pytest.MonkeyPatch):
    reported: list[int] = []
    transactions: list[int] = []
    real = store.write

    def write(rows: list[Put]) -> None:
        transactions.append(len(rows))
        real(rows)

    def on_persisted(token: int) -> None:
        assert store.rows("entries", {"number": token}) or token == 50
        reported.append(token)

    async def main() -> None:
        monkeypatch.setattr(store, "write", write)
        writer = Writer(store, on_persisted, lambda error, waiting: pytest.fail(str(error)))
        for token in range(100):
            writer.put(Persist(50) if token == 50 else persist(token))
        assert await writer.close() == 0

    asyncio.run(main())
    assert reported == list(range(100))
    assert sum(transactions) == 99
    assert len(transactions) <= 3, "what is queued goes into one transaction"


def test_the_loop_runs_while_the_disk_is_slow(store: Store, monkeypatch: pytest.MonkeyPatch):
    gate = threading.Event()

    async def main() -> None:
        monkeypatch.setattr(store, "write", lambda rows: gate.wait(5))
        writer = Writer(store, lambda token: None, lambda error, waiting: None)
        writer.put(persist(1))
        await asyncio.sleep(0.02)
        assert writer.waiting == 1
        gate.set()
        assert await writer.close() == 0

    asyncio.run(main())


def test_a_disk_that_refuses_is_reported_and_nothing_is_lost_or_overtaken(store: Store, monkeypatch: pytest.MonkeyPatch):
    reported: list[int] = []
    errors: list[tuple[str, int]] = []
    real, failures = store.write, [2]

    def write(rows: list[Put]) -> None:
        if failures[0]:
            failures[0] -= 1
            raise StoreError("database or disk is full")
        real(rows)

    async def main() -> None:
        monkeypatch.setattr(store, "write", write)
        writer = Writer(store, reported.append, lambda error, waiting: errors.append((str(error), waiting)), retry_s=0.01)
        writer.put(persist(1))
        await asyncio.sleep(0)
        writer.put(persist(2))
        async with asyncio.timeout(5):
            while len(reported) < 2:
                await asyncio.sleep(0.005)
        assert await writer.close() == 0

    asyncio.run(main())
    assert reported == [1, 2]
    assert [text for text, _ in errors] == ["database or disk is full"] * 2
    assert errors[-1][1] >= 1


def test_closing_on_a_disk_that_refuses_ends_and_says_how_many_were_lost(store: Store, monkeypatch: pytest.MonkeyPatch):
    reported: list[int] = []
    errors: list[Exception] = []

    def write(rows: list[Put]) -> None:
        raise StoreError("I/O error")

    async def main() -> int:
        monkeypatch.setattr(store, "write", write)
        writer = Writer(store, reported.append, lambda error, waiting: errors.append(error), retry_s=60)
        writer.put(persist(1))
        writer.put(persist(2))
        await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            return await writer.close()

    assert asyncio.run(main()) == 2
    assert reported == []
    assert len(errors) == 2, "one attempt, and one more at closing"


def test_the_writer_refuses_what_cannot_ever_be_written_and_what_is_too_much(store: Store, monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        writer = Writer(store, lambda token: None, lambda error, waiting: None)
        with pytest.raises(LocalProtocolError):
            writer.put(Persist(1, (Put("nowhere", {}),)))
        monkeypatch.setattr(writer_module, "MAX_WAITING", 3)
        for token in range(3):
            writer.put(persist(token))
        with pytest.raises(OSError, match="has not taken"):
            writer.put(persist(3))
        assert await writer.close() == 0
        with pytest.raises(LocalProtocolError, match="closed"):
            writer.put(persist(4))

    asyncio.run(main())
