"""The catalogue: the only things that this host can be asked to do, each with a type and a risk.

Definitions come as TOML text (files are read by ``cloudisense.host``); an action that runs has a handler
in ``cloudisense.host.actions`` of the same id. There is no shell and no free text anywhere in a step.
"""

import hashlib
import string
import tomllib
from typing import Literal

import msgspec

from cloudisense.agent.plan import Step
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import Refused

Risk = Literal["observe", "reversible", "disruptive", "destructive"]
Role = Literal["cache", "temp", "logs", "data"]


class DeclaredPath(msgspec.Struct, frozen=True):
    """A folder that the operator declared, and what may be assumed of it.

    ``data`` is never touched. ``mount`` is the mount point that holds it, resolved by the shell at start.
    """

    path: str
    role: Role
    mount: str


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One typed value: a declared path of certain roles, or one of a fixed list. Nothing else exists."""

    roles: tuple[Role, ...] = ()
    choices: tuple[str, ...] = ()


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that can be done, as declared in TOML."""

    id: str
    title: str
    """A sentence with ``{parameter}`` holes, for people and for the model."""
    risk: Risk
    helps: tuple[str, ...]
    """Kinds of incident that it may help (``disk_full`` ...)."""
    parameters: dict[str, Parameter]
    timeout_s: int = 60

    @property
    def digest(self) -> bytes:
        """SHA-256 of the definition; part of every plan hash."""
        return hashlib.sha256(pack(msgspec.to_builtins(self))).digest()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    action: tuple[Action, ...]


class Catalogue:
    """This host's actions and the declared paths that they may touch."""

    def __init__(self, actions: tuple[Action, ...], paths: tuple[DeclaredPath, ...]) -> None:
        self.actions = {action.id: action for action in actions}
        self.paths = {declared.path: declared for declared in paths}

    @staticmethod
    def parse(text: str) -> tuple[Action, ...]:
        """Actions in a catalogue file. Raises ``ValueError`` with one line that says what is wrong."""
        try:
            actions = msgspec.convert(tomllib.loads(text), _File).action
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ValueError(f"catalogue: {error}") from None
        for i, action in enumerate(actions):
            if any(action.id == other.id for other in actions[:i]):
                raise ValueError(f"catalogue: action {action.id!r} is there twice")
            _check_title(action)
        return actions

    def steps_for(self, kind: str, mount: str) -> tuple[Step, ...]:
        """Every step that might help an incident of ``kind`` on ``mount``: actions x declared paths x choices."""
        steps: list[Step] = []
        for action in sorted(self.actions.values(), key=lambda a: a.id):
            if kind not in action.helps:
                continue
            combinations: list[tuple[tuple[str, str], ...]] = [()]
            for name, parameter in sorted(action.parameters.items()):
                values = parameter.choices or tuple(
                    p.path for p in sorted(self.paths.values(), key=lambda p: p.path) if p.mount == mount and p.role in parameter.roles
                )
                combinations = [(*chosen, (name, value)) for chosen in combinations for value in values]
            steps += [Step(action.id, action.digest, values) for values in combinations]
        return tuple(steps)

    def check(self, step: Step) -> Action | Refused:
        """The action that ``step`` names, if this host has it, unchanged, and every value is allowed here."""
        action = self.actions.get(step.action)
        if action is None:
            return Refused(f"no action {step.action!r} in this host's catalogue")
        if action.digest != step.definition:
            return Refused(f"{step.action}: its definition here is another one")
        values = dict(step.values)
        if len(values) != len(step.values) or values.keys() != action.parameters.keys():
            return Refused(f"{step.action}: wrong parameters")
        for name, parameter in action.parameters.items():
            if parameter.choices and values[name] in parameter.choices:
                continue
            declared = self.paths.get(values[name])
            if declared is None or declared.role not in parameter.roles:
                return Refused(f"{step.action}: {name}={values[name]!r} is not allowed here")
        return action

    def title(self, step: Step) -> str:
        """The step in words."""
        return self.actions[step.action].title.format(**dict(step.values))

    def signature(self, step: Step) -> str:
        """The step without this host's paths: ``purge_old_files age=1d role=temp``."""
        words: list[str] = []
        for name, value in step.values:
            declared = self.paths.get(value)
            words.append(f"role={declared.role}" if declared else f"{name}={value}")
        return " ".join([step.action, *sorted(words)])


def _check_title(action: Action) -> None:
    """A hole that no parameter fills would be found out in the middle of an incident."""
    try:
        holes = {name for _, name, _, _ in string.Formatter().parse(action.title) if name is not None}
    except ValueError as error:
        raise ValueError(f"catalogue: action {action.id!r}: title: {error}") from None
    if unknown := sorted(holes - action.parameters.keys()):
        raise ValueError(f"catalogue: action {action.id!r}: its title names {{{unknown[0]}}}, which is no parameter")
