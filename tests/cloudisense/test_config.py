"""The configuration file: what loads, and the one line for what does not."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense.config import MAX_CONFIG_BYTES, Config, load_config, parse_address, parse_config

FULL = """
[mesh]
bind = "[::]:7963"
advertise = "10.0.0.5:7963"
seeds = ["10.0.0.6:7963", "edge-2.example:7963", "[fd00::7]:7963"]

[[path]]
path = "/var/cache/app"
role = "cache"

[[path]]
path = "/srv/data"
role = "data"

[mode]
reversible = "act"
disruptive = "advise"

[model]
enabled = true
name = "other.Q4_1"
file = "/srv/models/other.gguf"
threads = 2
memory_mb = 512
idle_s = 60
timeout_s = 30

[agent]
sample_ms = 500
planners = ["rules", "memory"]
"""


def test_an_empty_file_is_the_defaults():
    config = parse_config(b"", "agent.toml")
    assert config == Config()
    assert config.mesh.bind_address == ("0.0.0.0", 7963)
    assert (config.mode.reversible, config.mode.disruptive, config.mode.destructive) == ("act", "observe", "observe")
    assert config.agent.planners == ("memory", "rules", "llm")


def test_a_full_file(tmp_path: Path):
    (tmp_path / "agent.toml").write_text(FULL)
    config = load_config(tmp_path / "agent.toml")
    assert config.mesh.bind_address == ("::", 7963)
    assert config.mesh.advertise_address == ("10.0.0.5", 7963)
    assert config.mesh.seed_addresses == (("10.0.0.6", 7963), ("edge-2.example", 7963), ("fd00::7", 7963))
    assert [(p.path, p.role) for p in config.paths] == [("/var/cache/app", "cache"), ("/srv/data", "data")]
    assert (config.mode.disruptive, config.model.name, config.model.threads, config.agent.sample_ms) == ("advise", "other.Q4_1", 2, 500)
    with pytest.raises(AttributeError):
        setattr(config, "mesh", Config().mesh)  # noqa: B010 (pyright knows that it must fail)


WRONG = {
    "path-role": ('[[path]]\npath = "/a"\nrole = "cachee"\n', "3: [[path]] role: 'cachee' is not one of cache, temp, logs, data"),
    "second-role": (
        '[[path]]\npath = "/a"\nrole = "temp"\n\n[[path]]\nrole = "tmp"\npath = "/b"\n',
        "6: [[path]] role: 'tmp' is not one of cache, temp, logs, data",
    ),
    "missing-role": ('[mesh]\n\n[[path]]\npath = "/a"', "3: [[path]]: role is missing; use one of cache, temp, logs, data"),
    "missing-path": ('[[path]]\nrole = "temp"', "1: [[path]]: path is missing"),
    "unknown-key": ("[mesh]\nbnd = 1", "2: [mesh] bnd: unknown key; use bind, advertise, seeds, profile, discovery, voters"),
    "unknown-section": ("[mesh]\n[pathz]\na = 1", "2: [pathz]: unknown section; use mesh, path, mode, model, agent"),
    "odd-section": ('"a\\nb" = 1', "1: ['a\\nb']: unknown section; use mesh, path, mode, model, agent"),
    "not-a-table": ("mesh = 1", "1: [mesh]: 1 is not a table"),
    "not-a-list": ("[path]\na = 1", "1: [path]: a table is not a list"),
    "dotted": ("# first\nmesh.bind = 4", "2: [mesh] bind: 4 is not text in quotes"),
    "bool": ("[model]\nenabled = 1", "2: [model] enabled: 1 is not true or false"),
    "int": ('[model]\nidle_s = 5\nthreads = "x"', "3: [model] threads: 'x' is not a whole number"),
    "low": ("[agent]\nsample_ms = 1", "2: [agent] sample_ms: 1 is out of range; use 100 or more"),
    "high": (f"[model]\nmemory_mb = 1{'0' * 30}", f"2: [model] memory_mb: 1{'0' * 30} is out of range; use 1048576 or less"),
    "mode": ('[mode]\ndestructive = "yes"', "2: [mode] destructive: 'yes' is not one of observe, advise, act"),
    "planner": ('[agent]\nplanners = ["llm", "magic"]', "2: [agent] planners: 'magic' is not one of memory, rules, llm"),
    "no-planner": ("[agent]\nplanners = []", "2: [agent] planners: is empty; use at least 'rules'"),
    "planner-twice": ('[agent]\nplanners = ["llm", "llm"]', "2: [agent] planners: names a planner twice"),
    "relative": (
        '[[path]]\nrole = "temp"\npath = "tmp/x"',
        "3: [[path]] path: 'tmp/x' is not an absolute path; write it in full from /, without ..",
    ),
    "dots": (
        '[[path]]\nrole = "temp"\npath = "/a/../etc"',
        "3: [[path]] path: '/a/../etc' is not an absolute path; write it in full from /, without ..",
    ),
    "root": ('[[path]]\nrole = "temp"\npath = "//"', "3: [[path]] path: '/' is the whole host; name the folder that is meant"),
    "duplicate": (
        '[[path]]\npath = "/a"\nrole = "temp"\n[[path]]\npath = "/a/"\nrole = "data"',
        "5: [[path]] path: '/a/' is declared twice; keep one of the two",
    ),
    "bind": ('[mesh]\nbind = "7963"', "2: [mesh] bind: '7963' is not an address; write host:port, for example 10.0.0.5:7963 or [::]:7963"),
    "bind-name": ('[mesh]\nbind = "edge-1:7963"', "2: [mesh] bind: 'edge-1' is a name; write the IP address"),
    "port": (
        '[mesh]\nbind = "0.0.0.0:70000"',
        "2: [mesh] bind: '0.0.0.0:70000' is not an address; write host:port, for example 10.0.0.5:7963 or [::]:7963",
    ),
    "advertise": ('[mesh]\nadvertise = "0.0.0.0:7963"', "2: [mesh] advertise: peers cannot reach 0.0.0.0; write an address of this host"),
    "seed-line": (
        '[mesh]\nseeds = [\n  "10.0.0.1:7963",\n  "10.0.0.2",\n]',
        "4: [mesh] seeds: '10.0.0.2' is not an address; write host:port, for example 10.0.0.5:7963 or [::]:7963",
    ),
    "seed-port": ('[mesh]\nseeds = ["10.0.0.1:0"]', "2: [mesh] seeds: port 0 cannot be reached; write the port that the agent listens on"),
    "model-name": ('[model]\nname = "../x"', "2: [model] name: '../x' is not a model's name; use letters, digits, dot, dash, underscore"),
    "model-file": ('[model]\nfile = "x.gguf"', "2: [model] file: 'x.gguf' is not an absolute path; write it in full from /"),
    "header-in-text": (
        '[model]\nname = """\n[[path]]\nrole = "x"\n"""\nthreads = -1',
        "6: [model] threads: -1 is out of range; use 0 or more",
    ),
    "syntax": ("[mesh]\nbind = \n", "2: not valid TOML: Invalid value"),
    "syntax-end": ("[mesh]\n\n[model", "3: not valid TOML: Expected ']' at the end of a table declaration"),
    "same-key-twice": ("[mesh]\n[model]\n[mesh]\n", "3: not valid TOML: Cannot declare ('mesh',) twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    text, line = WRONG[case]
    monkeypatch.chdir(tmp_path)
    Path("agent.toml").write_text(text)
    with pytest.raises(ValueError, match="agent") as caught:
        load_config(Path("agent.toml"))
    assert str(caught.value) == f"agent.toml:{line}"


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "latin.toml").write_bytes(b"# fine\n# caf\xe9\n")
    (tmp_path / "large.toml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    (tmp_path / "deep.toml").write_bytes(b"x = " + b"[" * 20_000)
    for name, words in (
        ("none.toml", "there is no such file"),
        ("", "cannot be read"),
        ("latin.toml", "latin.toml:2: not UTF-8"),
        ("large.toml", "larger than"),
        ("deep.toml", "nested too deeply"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            load_config(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:7963", ("10.0.0.5", 7963)),
        ("[::1]:1", ("::1", 1)),
        ("[fe80::1%eth0]:9", ("fe80::1%eth0", 9)),
        ("a-b.example:80", ("a-b.example", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":1", "a:", "a:x", "a b:1", "::1:7963", "[a]:1", "-a:1", "a..b:1", "a:65536", "10.0.0.5:7963\n", "a:\u0661"]
)
def test_what_is_no_address(text: str):
    with pytest.raises(ValueError, match=r"not an address|neither"):
        parse_address(text)


KEYS = [
    "mesh",
    "path",
    "mode",
    "model",
    "agent",
    "bind",
    "advertise",
    "seeds",
    "role",
    "reversible",
    "name",
    "threads",
    "planners",
    "extra",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "/a", "cache", "act", "rules", "1.2.3.4:5"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
PIECES = [
    "[mesh]",
    "[[path]]",
    "[model]",
    "[agent]",
    "path",
    "role",
    "bind",
    "seeds",
    "=",
    '"',
    "'",
    '"""',
    "[",
    "]",
    "{",
    "}",
    ",",
    "\n",
    "1",
    ".",
    "cache",
    "/a",
]
TEXT = st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)


def loads_or_one_line(data: bytes) -> None:
    try:
        assert isinstance(parse_config(data, "agent.toml"), Config)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error).startswith("agent.toml:")
        assert str(error).isprintable(), "one line, nothing that a terminal would obey"


@given(TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60))
@settings(deadline=None)
def test_any_text_loads_or_is_one_line(data: bytes):
    loads_or_one_line(data)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@settings(deadline=None)
def test_any_tree_of_values_loads_or_is_one_line(tree: dict[str, object]):
    loads_or_one_line("\n".join(f"{key} = {toml(value)}" for key, value in tree.items()).encode())


def toml(value: object) -> str:
    """``value`` as TOML, written on one line."""
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else letter for letter in value) + '"'
    return str(value)


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_line_survives_anything_around_it(before: int, after: int):
    filler = ["# [mesh]", "", '[[path]]\npath = "/p{n}"\nrole = "data"', "[mesh]\nseeds = [\n\n\n]"]
    head = "\n".join(filler[n % 3].format(n=n) for n in range(before))
    text = (
        f'{head}\n[[path]]\npath = "/x"\nrole = "no"\n'
        + "\n".join(filler[n % 3].format(n=n + 100) for n in range(after))
        + "\n"
        + filler[3]
    )
    with pytest.raises(ValueError, match=f"^agent.toml:{head.count(chr(10)) + 4}: "):
        parse_config(text.encode(), "agent.toml")
