import os
from pathlib import Path

import pytest

from cloudisense.agent.catalogue import Action, Catalogue
from cloudisense.host.actions import AGES, HANDLERS
from cloudisense.host.catalogue import PATHS_MAX, builtin_actions, declare
from cloudisense.host.probes import mount_point


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


def test_every_action_has_a_handler_and_every_handler_an_action() -> None:
    assert {action.id for action in builtin_actions()} == HANDLERS.keys()


@pytest.mark.parametrize("action", builtin_actions(), ids=lambda action: action.id)
def test_definitions_hold_together(action: Action) -> None:
    assert action.risk == "reversible"
    assert "data" not in {role for parameter in action.parameters.values() for role in parameter.roles}
    title = action.title.format(**{name: f"<{name}>" for name in action.parameters})
    assert all(f"<{name}>" in title for name in action.parameters), "a title that leaves a parameter out does not say what will happen"
    assert "path" in action.parameters


def test_the_ages_offered_are_the_ages_known() -> None:
    purge = next(action for action in builtin_actions() if action.id == "purge_old_files")
    assert set(purge.parameters["age"].choices) == AGES.keys()
    assert [AGES[age][0] for age in purge.parameters["age"].choices] == [3600, 6 * 3600, 86400, 7 * 86400]


def test_declared_paths_give_steps(here: Path) -> None:
    for name in ("cache", "tmp", "logs", "data"):
        (here / name).mkdir()
    paths = declare(
        [(str(here / "cache"), "cache"), (str(here / "tmp") + "//", "temp"), (str(here / "logs"), "logs"), (str(here / "data"), "data")]
    )
    assert [p.path for p in paths] == [str(here / name) for name in ("cache", "tmp", "logs", "data")]
    assert {p.mount for p in paths} == {mount_point(str(here))}
    catalogue = Catalogue(builtin_actions(), paths)
    full = catalogue.steps_for("disk_full", paths[0].mount)
    assert sorted({step.action for step in full}) == ["clean_cache", "compress_logs", "purge_old_files"]
    assert len(full) == 6
    assert not any(str(here / "data") in dict(step.values).values() for step in full)
    assert {step.action for step in catalogue.steps_for("inodes_full", paths[0].mount)} == {"clean_cache", "purge_old_files"}


def test_nested_declarations_are_allowed(here: Path) -> None:
    (here / "tmp/keep").mkdir(parents=True)
    assert len(declare([(str(here / "tmp"), "temp"), (str(here / "tmp/keep"), "data")])) == 2


@pytest.mark.parametrize(
    ("path", "role", "words"),
    [
        ("{}/cache", "trash", "role 'trash' is none of cache, temp, logs, data"),
        ("cache", "cache", "is not absolute"),
        ("", "cache", "is not absolute"),
        ("{}/cache\0", "cache", "is not absolute"),
        ("{}/cache/../cache", "cache", "must not contain"),
        ("{}/./cache", "cache", "must not contain"),
        ("{}/gone", "cache", "no such file or directory"),
        ("{}/file", "cache", "is not a folder"),
        ("{}/link", "cache", "leads through a symbolic link"),
        ("{}/link/inner", "cache", "leads through a symbolic link"),
        ("{}/b\udcff", "cache", "not valid UTF-8"),
        ("/", "cache", "belongs to the system"),
        ("/usr", "temp", "belongs to the system"),
        ("/etc", "logs", "belongs to the system"),
        ("/proc/self/fd", "temp", "symbolic link"),
        ("/sys/kernel", "temp", "belongs to the system"),
    ],
)
def test_what_is_refused_in_one_line(here: Path, path: str, role: str, words: str) -> None:
    (here / "cache/inner").mkdir(parents=True)
    (here / "file").write_text("")
    (here / "link").symlink_to(here / "cache")
    (here / "b\udcff").mkdir()
    with pytest.raises(ValueError, match=words) as caught:
        declare([(path.format(here), role)])
    assert "\n" not in str(caught.value)


def test_data_may_be_declared_anywhere() -> None:
    assert declare([("/etc", "data")])[0].role == "data"


def test_one_folder_has_one_role(here: Path) -> None:
    (here / "a").mkdir()
    with pytest.raises(ValueError, match="declared twice"):
        declare([(str(here / "a"), "cache"), (str(here / "a") + "/", "data")])


def test_the_number_of_paths_is_bounded(here: Path) -> None:
    names = [here / str(number) for number in range(PATHS_MAX + 1)]
    for name in names:
        name.mkdir()
    with pytest.raises(ValueError, match="more than"):
        declare((str(name), "temp") for name in names)
