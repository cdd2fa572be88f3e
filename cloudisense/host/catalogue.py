"""The built-in actions, and the check of the folders that the operator declares."""

import os
from collections.abc import Iterable
from importlib import resources
from typing import cast, get_args

from cloudisense.agent.catalogue import Action, Catalogue, DeclaredPath, Role
from cloudisense.host.probes import mount_point

PATHS_MAX = 256

# A slip in the configuration must not make a whole system a "cache". These are refused themselves ...
_NEVER = frozenset({"/", "/dev", "/home", "/root", "/run", "/usr", "/var", "/var/lib"})
# ... and these with all that is below them. Folders of role data may be anywhere: they are only ever left alone.
_NEVER_BELOW = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr/bin", "/usr/lib", "/usr/sbin")


def builtin_actions() -> tuple[Action, ...]:
    """The actions of ``catalogue.toml``, which is installed beside this file."""
    return Catalogue.parse(resources.files("cloudisense.host").joinpath("catalogue.toml").read_text(encoding="utf-8"))


def declare(paths: Iterable[tuple[str, str]]) -> tuple[DeclaredPath, ...]:
    """Check (path, role) pairs as the operator wrote them. Raises ``ValueError`` with one line that says what is wrong.

    A declaration inside another one is allowed and wins: actions on the outer folder never enter the inner one.
    So a ``data`` folder inside a ``temp`` folder is safe. One folder declared twice is refused, however it is spelled.
    """
    declared: list[DeclaredPath] = []
    names: dict[tuple[int, int], str] = {}
    for raw, role in paths:
        if len(declared) == PATHS_MAX:
            raise ValueError(f"more than {PATHS_MAX} declared paths")
        if role not in get_args(Role):
            raise ValueError(f"path {raw!r}: role {role!r} is none of {', '.join(get_args(Role))}")
        path, identity = _check(raw, role)
        if identity in names:
            other = names[identity]
            raise ValueError(f"path {path!r} is declared twice" if other == path else f"paths {other!r} and {path!r} are the same folder")
        names[identity] = path
        declared.append(DeclaredPath(path=path, role=cast(Role, role), mount=mount_point(path)))
    return tuple(declared)


def _check(raw: str, role: str) -> tuple[str, tuple[int, int]]:
    if not raw.startswith("/") or "\0" in raw:
        raise ValueError(f"path {raw!r} is not absolute")
    path = "/" + "/".join(part for part in raw.split("/") if part)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"path {path!r} is not valid UTF-8, so it cannot be named in a plan") from None
    if {".", ".."} & set(path.split("/")):
        raise ValueError(f"path {path!r} must not contain '.' or '..'")
    try:
        real = os.path.realpath(path, strict=True)
        status = os.lstat(path)
    except OSError as error:
        raise ValueError(f"path {path!r}: {(error.strerror or 'cannot be read').lower()}") from None
    if real != path:
        raise ValueError(f"path {path!r} leads through a symbolic link; declare {real!r} if that is meant")
    if not os.path.isdir(path):
        raise ValueError(f"path {path!r} is not a folder")
    if role != "data" and (path in _NEVER or any(path == top or path.startswith(top + "/") for top in _NEVER_BELOW)):
        raise ValueError(f"path {path!r} belongs to the system and cannot be declared as {role}")
    return path, (status.st_dev, status.st_ino)
