"""Fuzz every decoder with Atheris (coverage-guided, libFuzzer), each for its share of the time; keep what found new ground.

    make fuzz SECONDS=3600          an hour over all targets
    python tests/fuzz/run.py --seconds 600 mesh signed

A crash, a hang of 30 s or more than 1 GiB ends a target with the input that did it, written to ``tests/fuzz/found``: mend it,
then move it to the target's corpus, which ``tests/fuzz/test_corpus.py`` replays without Atheris.
"""

import argparse
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("*.py"))
KEEP_FILES, KEEP_BYTES, KEEP_FILE_BYTES = 40, 16_000, 1_500
ATHERIS = "atheris>=3.0,<4"


def inside(target: str, arguments: list[str]) -> None:
    """The child: instrument, import, fuzz. Never returns."""
    atheris: Any = importlib.import_module("atheris")
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["cloudisense"]):
        spec = importlib.util.spec_from_file_location(target, HERE / "targets" / f"{target}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        one = module.make()
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def fuzz(target: str, seconds: int, seeds: list[bytes]) -> bool:
    """One target for ``seconds``; prints one line; true when nothing was found."""
    kept, found = HERE / "corpus" / target, HERE / "found"
    found.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as folder:
        work = Path(folder)
        for i, seed in enumerate(seeds):
            (work / f"seed{i}").write_bytes(seed)
        for path in sorted(kept.glob("*")) if kept.is_dir() else []:
            shutil.copy(path, work)
        before = {path.name for path in work.iterdir()}
        options = [
            f"-max_total_time={seconds}",
            "-timeout=30",
            "-rss_limit_mb=1024",
            "-max_len=4096",
            f"-artifact_prefix={found}/{target}-",
        ]
        command = [sys.executable, str(HERE / "run.py"), "--inside", target, "--", str(work), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        lines = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/.*$", done.stderr, re.MULTILINE)
        runs, coverage, features, corpus = lines[-1] if lines else ("0", "0", "0", "0")
        reached = f"cov {coverage:>5}  features {features:>6}  corpus {corpus:>5}"
        print(f"{target:<8} {seconds:>5} s {runs:>9} runs  {reached}  rc {done.returncode}", flush=True)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            return False
        keep(work, before, kept)
    return True


def keep(work: Path, before: set[str], kept: Path) -> None:
    """Add the smallest new inputs to the kept corpus, within its bounds."""
    kept.mkdir(parents=True, exist_ok=True)
    size, count = sum(path.stat().st_size for path in kept.iterdir()), len(list(kept.iterdir()))
    for path in sorted((p for p in work.iterdir() if p.name not in before), key=lambda p: (p.stat().st_size, p.name)):
        size, count = size + path.stat().st_size, count + 1
        if path.stat().st_size > KEEP_FILE_BYTES or size > KEEP_BYTES or count > KEEP_FILES:
            break
        shutil.copy(path, kept)


def seeds_of(target: str) -> list[bytes]:
    """The target's own first inputs."""
    sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location(target, HERE / "targets" / f"{target}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.seeds()


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; default all")
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside, arguments.targets)
    if unknown := sorted(set(arguments.targets) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}")
    if importlib.util.find_spec("atheris") is None:
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ATHERIS], check=False)
        if done.returncode:
            print("fuzz: Atheris cannot be installed here (its wheels are for Linux and some Pythons); make test still replays the corpus")
            return 1
    targets = arguments.targets or TARGETS
    results = [fuzz(target, max(1, arguments.seconds // len(targets)), seeds_of(target)) for target in targets]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
