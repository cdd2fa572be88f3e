"""House rules that no other tool holds: sizes, links, sans-I/O, reasons beside dependencies, and nothing tied to one place."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("agent", "keys", "llm", "mesh", "sim")
SANS_IO = ("agent", "keys", "mesh")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 90
NOT_OURS = {"__pycache__", "build", "dist", "node_modules"}
# Written in two halves, or this file would name them.
HOSTS = tuple(
    left + right
    for left, right in (
        ("pypi.", "org"),
        ("files.python", "hosted.org"),
        ("registry.npm", "js.org"),
        ("deb.", "debian.org"),
        ("hugging", "face.co"),
        ("ghcr.", "io"),
        ("docker.", "io"),
    )
)
SANS_IO_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def our_files() -> list[Path]:
    """Every file of the project, each once: links and hidden caches are not walked."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name == ".ci" or not (name.startswith(".") or name in NOT_OURS))
        found += [path for path in (Path(folder, name) for name in sorted(names)) if not path.is_symlink()]
    return found


SOURCES = [path for path in our_files() if path.suffix == ".py"]


def project() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_walk_sees_the_project() -> None:
    names = {str(path.relative_to(ROOT)) for path in our_files()}
    assert {"pyproject.toml", "Makefile", ".ci/run", "keys/errors.py", "mesh/instant.py", "tests/test_house.py"} <= names
    assert not any(name.startswith("cloudisense/mesh/") for name in names), "a link was followed"


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX}
    assert not long, f"longer than {FILE_LINES_MAX} lines; one concept, one file: {long}"


def test_functions_are_short() -> None:
    long: list[str] = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not long, f"longer than {FUNCTION_LINES_MAX} lines: {long}"


@pytest.mark.parametrize("name", LINKED)
def test_package_folders_are_links_to_the_top(name: str) -> None:
    link = ROOT / "cloudisense" / name
    assert link.is_symlink(), "a checkout keeps these as symbolic links (git config core.symlinks true)"
    assert os.readlink(link) == f"../{name}"
    assert (ROOT / name / "__init__.py").is_file()


def test_no_other_links() -> None:
    links = {str(path.relative_to(ROOT)) for path in (ROOT / "cloudisense").rglob("*") if path.is_symlink()}
    assert links == {f"cloudisense/{name}" for name in LINKED}


def test_every_module_is_imported_as_part_of_the_package() -> None:
    """`from keys import x` works from a checkout and fails once installed."""
    wrong = re.compile(rf"^\s*(?:from|import)\s+(?:{'|'.join(LINKED)})(?:[.\s]|$)", re.MULTILINE)
    assert wrong.search("from keys import identity\n"), "the pattern must be able to find one"
    bad = [str(path.relative_to(ROOT)) for path in SOURCES if wrong.search(path.read_text(encoding="utf-8"))]
    assert not bad, f"import cloudisense.<folder> instead: {bad}"


def test_sans_io_folders_call_nothing_that_is_io() -> None:
    """The imports are import-linter's part; builtins need no import."""
    bad: list[str] = []
    for path in (path for name in SANS_IO for path in sorted((ROOT / name).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SANS_IO_CALLS:
                bad.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}")
    assert not bad


def test_pyright_is_told_of_every_link() -> None:
    """It skips links when it walks a folder, in silence: what is not named is not checked."""
    settings = project()["tool"]["pyright"]
    assert {f"cloudisense/{name}" for name in LINKED} <= set(settings["include"])
    assert {f"cloudisense/{name}" for name in SANS_IO} == set(settings["strict"])


@pytest.mark.parametrize("word", ["time", "asyncio", "random", "socket"])
def test_the_layer_contract_can_fail(word: str, tmp_path: Path) -> None:
    """A forbidden import in a copy of the tree breaks the contract, by name."""
    for name in LINKED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cloudisense", tmp_path / "cloudisense", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    linter = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache", "--contract", "no-io"]
    (tmp_path / "mesh/planted.py").write_text(f"import {word}\n\nprint({word})\n", encoding="utf-8")
    here = os.environ | {"PYTHONPATH": str(tmp_path)}  # or the linter would look at the installed tree
    done = subprocess.run(linter, cwd=tmp_path, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"cloudisense.mesh.planted -> {word}" in done.stdout


def test_every_dependency_says_why_and_from_which_version() -> None:
    table = project()
    wanted = [*table["project"]["dependencies"], *(line for extra in table["project"]["optional-dependencies"].values() for line in extra)]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in wanted:
        assert re.search(r"[=~>]=\s*\d", requirement), f"{requirement}: from which version?"
        assert re.search(rf'"{re.escape(requirement)}",  # \w', text), f"{requirement}: why is it here?"


def test_every_import_from_elsewhere_is_declared() -> None:
    """A library that is only there because another one brought it may leave with it."""
    table = project()["project"]
    declared = {re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_") for line in table["dependencies"]}
    used: set[str] = set()
    for path in (path for path in SOURCES if path.relative_to(ROOT).parts[0] in {*LINKED, "cloudisense"}):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.split(".")[0])
    used -= {*sys.stdlib_module_names, "cloudisense", "llama_cpp"}  # the last one is the extra `llm`
    assert used - declared == set(), "imported and not declared in pyproject.toml"
    assert "msgspec" in used, "the walk must see something"
    assert declared - used == set(), "declared in pyproject.toml and never imported"


def test_nothing_names_a_package_host() -> None:
    bad: list[str] = []
    for path in our_files():
        text = path.read_bytes().decode("utf-8", "replace")
        bad += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host in text]
    assert not bad, f"pip and its settings know where packages come from: {bad}"


def test_scripts_can_be_run() -> None:
    for name in (".ci/run", "scripts/with-python"):
        assert os.access(ROOT / name, os.X_OK), f"chmod +x {name}"
