"""Durable state: one SQLite file that the daemon writes and every command may read while it does.

Two rules: what ``write`` returned from is on the disk, synced; and what we cannot explain we leave as it is
(a damaged file is reported, never repaired in place). SQLite in WAL mode with ``synchronous=FULL``
syncs at every commit (sqlite.org/wal.html, section 2), so group commit is what makes it quick: see ``Writer``.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from cloudisense.keys.errors import LocalProtocolError, Refused
from cloudisense.keys.invite import InviteRecord, redeem, secret_hash
from cloudisense.mesh.effects import Delete, Put, Row, Scalar

SCHEMA_VERSION = 2
BUSY_TIMEOUT_MS = 5_000
WAL_BYTES_KEPT = 4 << 20

TABLES: dict[str, tuple[dict[str, type], tuple[str, ...]]] = {
    "meta": ({"key": str, "value": bytes}, ("key",)),
    "entries": (
        {"node": bytes, "generation": int, "number": int, "hash": bytes, "data": bytes, "arrived_ms": int},
        ("node", "generation", "number"),
    ),
    "checkpoints": ({"node": bytes, "generation": int, "number": int, "bundle": bytes}, ("node",)),
    "forks": ({"node": bytes, "first": bytes, "second": bytes, "at_ms": int}, ("node",)),
    "members": ({"node": bytes, "claim": bytes, "certificate": bytes, "state": str, "since_ms": int}, ("node",)),
    "incidents": (
        {"id": str, "subject": str, "kind": str, "state": str, "opened_ms": int, "closed_ms": int, "planned_by": str, "acted_by": str}
        | {"planner": str, "plan": str, "reasoning": str, "verdict": str, "escalated_to": str, "findings": str}
        | {"target": str, "authorised_by": str, "failed_plans": str, "used_before": int, "used_after": int, "size": int}
        | {"offered_ms": int, "granted_ms": int, "acted_ms": int, "known_to_all_ms": int},
        ("id",),
    ),
    "history": (
        {"incident": str, "node": str, "fingerprint": str, "signature": str, "action": str, "outcome": str, "ms_to_heal": int}
        | {"planned_by": str, "acted_by": str, "subject": str, "planner": str, "evidence": str, "plan": str, "at": int},
        ("incident",),
    ),
    "invites": ({"secret_hash": bytes, "roles": str, "uses_left": int, "expires_ms": int}, ("secret_hash",)),
    "spent": ({"nonce": bytes, "step": int, "at_ms": int}, ("nonce", "step")),
    "journal": ({"nonce": bytes, "step": int, "phase": str, "detail": str, "at_ms": int}, ("nonce", "step", "phase")),
}
ADDED = {"checkpoints": 2, "forks": 2}
"""The schema that brought a table, where that is not the first."""
"""Each table: its columns with their types, and its primary key. Times are Unix milliseconds."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_INT64 = range(-(1 << 63), 1 << 63)


class StoreError(OSError):
    """The state could not be written or read now (disk full, I/O error, locked for too long). One line."""


class Store:
    """The state database at ``path``, created (mode 0600) where there is none.

    Safe to use from several threads; readers never wait for a writer. Raises ``ValueError`` with one line when
    the file is damaged, is something else, was written by a newer CloudiSENSE, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        with self._opening(), contextlib.ExitStack() as undo:
            if path.exists() and path.stat().st_size:
                self._check_undamaged()
            else:
                # Invite hashes and session counters lie in it: for this user only. SQLite copies the mode to -wal and -shm.
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._writer: Database | None = undo.enter_context(contextlib.closing(_connect(path, "rw")))
            _use_wal(self._writer)
            with self._transaction(self._writer):
                if self._check_schema(self._writer) < SCHEMA_VERSION:
                    _create_missing(self._writer)
            self._reader = undo.enter_context(contextlib.closing(_connect(path, "ro")))
            undo.pop_all()

    @classmethod
    def open_readonly(cls, path: Path) -> "Store":
        """The same database for a command that only reads; ``write`` on it is a ``LocalProtocolError``."""
        store = cls.__new__(cls)
        store.path, store._writer = path, None
        store._write_lock, store._read_lock = threading.Lock(), threading.Lock()
        if not path.exists():
            raise ValueError(f"there is no state database {path}: run cloudisense init or join first, or name another --state")
        with store._opening(), contextlib.ExitStack() as undo:
            store._reader = undo.enter_context(contextlib.closing(_connect(path, "ro")))
            version = store._check_schema(store._reader)
            if version == 0:
                raise ValueError(f"state database {path} is empty: no agent has used it yet")
            if version < SCHEMA_VERSION:
                raise ValueError(f"state database {path} was last used by an older CloudiSENSE: start its agent once (cloudisense up)")
            undo.pop_all()
        return store

    def close(self) -> None:
        """Close the file. Everything written is on disk already."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def write(self, puts: Iterable[Row]) -> None:
        """Upsert (``Put``) or delete every row by its primary key, in order, all or none, durable on return.

        Columns that a row does not name keep their value. Raises ``LocalProtocolError`` for a row that does not
        fit ``TABLES`` (before anything is written) and ``StoreError`` when the disk refuses.
        """
        statements = [_statement(put) for put in puts]
        with self._writing() as database:
            for sql, values in statements:
                database.execute(sql, values)

    def rows(
        self, table: str, where: Mapping[str, Scalar] | None = None, order_by: Sequence[str] = (), limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows whose columns equal ``where``. ``order_by`` names columns, ``-name`` for the largest first."""
        columns = _columns(table)
        where = where or {}
        for name in (*where, *(name.removeprefix("-") for name in order_by)):
            if name not in columns:
                raise LocalProtocolError(f"table {table} has no column {name!r}")
        sql = f"select * from {table}"
        if where:
            sql += " where " + " and ".join(f'"{name}" is null' if value is None else f'"{name}" = ?' for name, value in where.items())
        if order_by:
            sql += " order by " + ", ".join(f'"{name[1:]}" desc' if name.startswith("-") else f'"{name}"' for name in order_by)
        if limit is not None:
            sql += f" limit {max(0, int(limit))}"
        with self._read_lock, self._translated():
            return list(self._reader.query(sql, [value for value in where.values() if value is not None]))

    def get_meta(self, key: str) -> bytes | None:
        """The bytes stored under ``key``, or ``None``."""
        found = self.rows("meta", {"key": key})
        return found[0]["value"] if found else None

    def put_meta(self, key: str, value: bytes) -> None:
        """Store ``value`` under ``key``, durable on return."""
        self.write([Put("meta", {"key": key, "value": value})])

    def put_invite(self, record: InviteRecord) -> None:
        """Remember a new invite (only its secret's hash), durable on return."""
        self.write([_invite_row(record)])

    def spend_invite(self, secret: bytes, wall_ms: int) -> tuple[str, ...] | Refused:
        """Use up one use of the invite with ``secret`` and return its roles, or say why not.

        Two processes that try at once are put in order by the write lock that BEGIN IMMEDIATE takes before reading.
        """
        with self._writing() as database:
            found = list(database.query("select * from invites where secret_hash = ?", [secret_hash(secret)]))
            if not found:
                return Refused("the invite is not known here")
            row = found[0]
            record = InviteRecord(row["secret_hash"], tuple(row["roles"].split(",")), row["uses_left"], row["expires_ms"])
            left = redeem(record, secret, wall_ms)
            if isinstance(left, Refused):
                return left
            database.execute(*_upsert(_invite_row(left)))
            return left.roles

    def state_bytes(self) -> int:
        """Bytes that the database takes on disk now, its write-ahead log included."""
        total = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(f"{self.path}{suffix}").st_size
        return total

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Database]:
        if self._writer is None:
            raise LocalProtocolError("this store was opened for reading only")
        with self._write_lock, self._translated(), self._transaction(self._writer):
            yield self._writer

    @contextlib.contextmanager
    def _transaction(self, database: Database) -> Iterator[None]:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors (a full disk among them); then there is nothing left to undo.
            if database.conn.in_transaction:
                database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _primary_code(error) in _DAMAGE:
                raise self._damaged(str(error)) from None
            raise StoreError(f"state database {self.path}: {error}") from None

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            with self._translated():
                yield
        except OSError as error:
            raise ValueError(f"state database {self.path} cannot be opened: {error.strerror or error}") from None

    def _damaged(self, what: str) -> ValueError:
        what = " ".join(what.split())
        return ValueError(f"state database {self.path} is damaged: {what}; it was left as it is, restore a copy or move it away")

    def _check_undamaged(self) -> None:
        """Read-only, so that a damaged file (and its log) stays byte for byte what it was."""
        with contextlib.closing(_connect(self.path, "ro")) as database:
            self._check_schema(database)
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise self._damaged(verdict)

    def _check_schema(self, database: Database) -> int:
        """The version of the tables, all of which stand; 0 for a database without any."""
        version = database.execute("PRAGMA user_version").fetchone()[0]
        names = set(database.table_names())
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"state database {self.path} was written by a newer CloudiSENSE "
                f"(schema {version}, this one reads {SCHEMA_VERSION}): upgrade this host"
            )
        if version == 0 and not names:
            return 0
        if version < 1:
            raise ValueError(f"{self.path} is a database of something else, not CloudiSENSE state: name another --state")
        for table, (columns, _) in TABLES.items():
            if ADDED.get(table, 1) > version:
                continue
            if table not in names or database.table(table).columns_dict.keys() != columns.keys():
                raise self._damaged(f"table {table} is missing or has other columns")
        return version


def _connect(path: Path, mode: str) -> Database:
    # Autocommit, so that every transaction is one that we opened; no plug-ins, no extensions, no functions named by the schema.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES_KEPT}")
        return Database(connection, recursive_triggers=False, execute_plugins=False)
    except BaseException:
        connection.close()
        raise


def _use_wal(database: Database) -> None:
    """Switch to WAL. The switch does not wait for others that create the file at the same moment, whatever the busy timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if _primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _create_missing(database: Database) -> None:
    """All tables of a new database; of an older one, those that came later."""
    names = set(database.table_names())
    for table, (columns, key) in TABLES.items():
        if table not in names:
            # CREATE by its SQL, inside our own transaction: a crash leaves all tables or none.
            database.execute(database.create_table_sql(table, columns, pk=key[0] if len(key) == 1 else key))
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _primary_code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _columns(table: str) -> dict[str, type]:
    if table not in TABLES:
        raise LocalProtocolError(f"there is no table {table!r}")
    return TABLES[table][0]


def check_row(put: Row) -> None:
    """Raise ``LocalProtocolError`` unless ``put`` fits ``TABLES``: table, columns, types, a whole key."""
    columns, key = _columns(put.table), TABLES[put.table][1]
    row = put.key if isinstance(put, Delete) else put.row
    if isinstance(put, Delete) and set(row) != set(key):
        raise LocalProtocolError(f"a row of {put.table} is deleted by its whole key {key}")
    for name, value in row.items():
        if name not in columns:
            raise LocalProtocolError(f"table {put.table} has no column {name!r}")
        if value is not None and (type(value) is not columns[name] or not _storable(value)):
            raise LocalProtocolError(f"{put.table}.{name} cannot hold {value!r:.80}")
    for name in key:
        if row.get(name) is None:
            raise LocalProtocolError(f"a row of {put.table} needs its key column {name!r}")


def _statement(row: Row) -> tuple[str, list[Scalar]]:
    if isinstance(row, Put):
        return _upsert(row)
    check_row(row)
    where = " and ".join(f'"{name}" = ?' for name in row.key)
    return f"delete from {row.table} where {where}", list(row.key.values())


def _upsert(put: Put) -> tuple[str, list[Scalar]]:
    """The statement and its values for one row."""
    check_row(put)
    key = TABLES[put.table][1]
    names = ", ".join(f'"{name}"' for name in put.row)
    keys = ", ".join(f'"{name}"' for name in key)
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in put.row if name not in key)
    action = f"update set {changes}" if changes else "nothing"
    sql = f"insert into {put.table} ({names}) values ({', '.join('?' * len(put.row))}) on conflict ({keys}) do {action}"
    return sql, list(put.row.values())


def _storable(value: Scalar) -> bool:
    if isinstance(value, int):
        return value in _INT64
    if isinstance(value, str):
        # A lone surrogate (a file name that is not UTF-8) would fail inside the transaction and take its neighbours with it.
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    return True


def _invite_row(record: InviteRecord) -> Put:
    return Put(
        "invites",
        {
            "secret_hash": record.secret_hash,
            "roles": ",".join(record.roles),
            "uses_left": record.uses_left,
            "expires_ms": record.expires_ms,
        },
    )
