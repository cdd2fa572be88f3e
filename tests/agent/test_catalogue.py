"""The only things that a host can be asked to do."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.catalogue import Action, Catalogue, DeclaredPath
from cloudisense.agent.plan import Step
from cloudisense.keys.errors import Refused

ACTION = '[[action]]\nid = "a"\ntitle = "Clean {path}"\nrisk = "reversible"\nhelps = ["disk_full"]\n'
PARAMETER = '[action.parameters.path]\nroles = ["cache"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "catalogue: "),
        (ACTION.replace("reversible", "harmless") + PARAMETER, "Invalid enum value 'harmless'"),
        (ACTION + "command = 'rm'\n" + PARAMETER, "unknown field `command`"),
        (ACTION + PARAMETER.replace("cache", "home"), "Invalid enum value 'home'"),
        (ACTION + PARAMETER + "free_text = true\n", "unknown field `free_text`"),
        ((ACTION + PARAMETER) * 2, "action 'a' is there twice"),
        (ACTION.replace("{path}", "{folder}") + PARAMETER, "its title names {folder}, which is no parameter"),
        (ACTION.replace("{path}", "{path.x}") + PARAMETER, "its title names {path.x}, which is no parameter"),
        (ACTION.replace("{path}", "{") + PARAMETER, "title: "),
        (ACTION, "parameters"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="catalogue: ") as error:
        Catalogue.parse(text)
    assert words in str(error.value) and "\n" not in str(error.value).strip()


def test_a_good_file() -> None:
    [action] = Catalogue.parse(ACTION + PARAMETER)
    assert (action.id, action.risk, action.timeout_s) == ("a", "reversible", 60)


def test_every_field_is_in_the_digest(rig) -> None:
    action: Action = rig.catalogue.actions["purge_old_files"]
    others = [
        msgspec.structs.replace(action, **change)
        for change in (
            {"id": "x"},
            {"title": "x"},
            {"risk": "observe"},
            {"helps": ()},
            {"parameters": {}},
            {"timeout_s": 1},
        )
    ]
    assert len({action.digest, *(other.digest for other in others)}) == 7


def test_steps_for(rig) -> None:
    steps = rig.catalogue.steps_for("disk_full", "/vol")
    assert [rig.catalogue.signature(step) for step in steps] == [
        "clean_cache role=cache",
        "compress_logs role=logs",
        *(f"purge_old_files age={age} role=temp" for age in ("1h", "6h", "1d", "7d")),
    ]
    assert "compress_logs" not in {step.action for step in rig.catalogue.steps_for("inodes_full", "/vol")}
    assert rig.catalogue.steps_for("disk_full", "/other") == ()
    assert rig.catalogue.steps_for("fire", "/vol") == ()
    assert all("/vol/data" not in dict(step.values).values() for step in steps), "data is never touched"
    for step in steps:
        assert isinstance(rig.catalogue.check(step), Action), "what it makes, it takes"
        assert step.value("path") in rig.catalogue.title(step)


def replaced(step: Step, **values: str) -> Step:
    return msgspec.structs.replace(step, values=tuple((name, values.get(name, value)) for name, value in step.values))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: msgspec.structs.replace(s, action="rm"),
        lambda s: msgspec.structs.replace(s, definition=bytes(32)),
        lambda s: msgspec.structs.replace(s, values=()),
        lambda s: msgspec.structs.replace(s, values=s.values[:1]),
        lambda s: msgspec.structs.replace(s, values=(*s.values, ("extra", "1"))),
        lambda s: msgspec.structs.replace(s, values=(*s.values, s.values[0])),
        lambda s: replaced(s, age="1s"),
        lambda s: replaced(s, age="/vol/scratch"),
        lambda s: replaced(s, path="1d"),
        lambda s: replaced(s, path="/vol/data"),
        lambda s: replaced(s, path="/vol/cache"),
        lambda s: replaced(s, path="/vol/scratch/"),
        lambda s: replaced(s, path="/vol/scratch/../data"),
        lambda s: replaced(s, path="$(id)"),
    ],
)
def test_what_is_not_allowed(rig, change) -> None:
    step = next(s for s in rig.steps if s.action == "purge_old_files")
    assert isinstance(rig.catalogue.check(step), Action)
    assert isinstance(rig.catalogue.check(change(step)), Refused)


@given(st.text(), st.text())
def test_hostile_values(make_rig, age: str, path: str) -> None:
    rig = make_rig()
    step = next(s for s in rig.steps if s.action == "purge_old_files")
    allowed = age in ("1h", "6h", "1d", "7d") and path == "/vol/scratch"
    assert isinstance(rig.catalogue.check(replaced(step, age=age, path=path)), Action) == allowed


def test_a_declared_path_with_braces_stays_a_path(rig) -> None:
    """A folder's name is data, also where it goes through a template."""
    catalogue = Catalogue(tuple(rig.catalogue.actions.values()), (DeclaredPath("/v/{age}{0.__class__}", "cache", "/v"),))
    [step] = [s for s in catalogue.steps_for("disk_full", "/v") if s.action == "clean_cache"]
    assert "/v/{age}{0.__class__}" in catalogue.title(step)
