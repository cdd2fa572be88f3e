"""The sdist, the wheel made from it, and what an installed wheel is: built as a packager would, without a network."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("agent", "keys", "llm", "mesh", "sim")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=outside | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", out, cwd=ROOT)
    (made,) = out.glob("cloudisense-*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    (source,) = (path for path in out.iterdir() if path.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", out, cwd=source)
    (made,) = out.glob("cloudisense-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site-packages")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


def sources() -> set[str]:
    """What the package holds, by its name in the package: every file below cloudisense/ and the folders linked there."""
    found: set[str] = set()
    for folder in (ROOT / "cloudisense", *(ROOT / name for name in LINKED)):
        for path in folder.rglob("*"):
            relative = path.relative_to(ROOT)
            if path.is_symlink() or path.is_dir() or "__pycache__" in relative.parts:
                continue
            found.add(str(relative) if relative.parts[0] == "cloudisense" else f"cloudisense/{relative}")
    return found


def test_the_sdist_has_every_source_and_what_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert sources() <= names
    assert {"pyproject.toml", "LICENSE", "README.md", "Makefile", "tests/test_package.py", "scripts/prepare.py"} <= names


def test_the_wheel_has_every_source_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert {name for name in names if ".dist-info/" not in name} == sources()


def test_the_wheel_carries_its_data_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "cloudisense/host/catalogue.toml" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_only_our_own_name_lands_in_site_packages(installed: Path) -> None:
    """`llm` and `keys` are names of other people's packages."""
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} <= {"cloudisense", "bin"}


def test_an_installed_wheel_imports_from_itself(installed: Path) -> None:
    """PYTHONPATH stands before the editable checkout that this very interpreter has."""
    code = "import cloudisense.mesh.feed as feed, cloudisense.keys.errors as errors; print(feed.__file__, errors.__file__, sep='\\n')"
    lines = run(sys.executable, "-c", code, cwd=installed.parent, PYTHONPATH=str(installed)).splitlines()
    assert lines == [str(installed / "cloudisense/mesh/feed.py"), str(installed / "cloudisense/keys/errors.py")]


def test_an_installed_wheel_answers_help(installed: Path) -> None:
    out = run(sys.executable, "-m", "cloudisense", "--help", cwd=installed.parent, PYTHONPATH=str(installed))
    assert "demo" in out
    assert "status" in out
