"""Profiles by name: ours, those of installed packages, or a class by its path."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from closecast.storage.core.errors import BadSetting, did_you_mean

if TYPE_CHECKING:
    from closecast.tasks.profiles.base import Profile

GROUP = "closecast.profiles"
DEFAULT_PROFILE = "calibrated"
# Imported when they are asked for: they load Pydantic.
OURS = {
    "article": "closecast.tasks.profiles.article:ArticleProfile",
    "calibrated": "closecast.tasks.profiles.calibrated:CalibratedProfile",
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def profile_names() -> list[str]:
    """The names of our profiles and of those of installed packages."""
    return [*OURS, *sorted(entry_points(group=GROUP).names - OURS.keys())]


def profile_class(name: str) -> Any:
    """The class of a profile by its name, such as `calibrated`, or by `package.module:Class`.

    Raises:
        BadSetting: there is none of that name, it cannot be imported, or it has no name of its own.
    """
    if name in OURS:
        return _attribute(OURS[name])
    installed = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    path = installed.get(name, name)
    if not _CLASS.fullmatch(path):
        names = profile_names()
        raise BadSetting(
            f"the profiles are {', '.join(names)}, not {name!r:.60}{did_you_mean(name, names)};"
            " a class of your own is named as package.module:Class"
        )
    # Python finds a module in the current folder for a script, but not for an installed command.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        profile = _attribute(path)
    except Exception as error:  # somebody else's module may raise anything
        raise BadSetting(f"profile {path} cannot be imported: {type(error).__name__}: {error}") from error
    if not _NAME.fullmatch(str(getattr(profile, "name", ""))) or profile.name in OURS:
        raise BadSetting(
            f"profile {path} needs a name of its own (lower-case letters, digits and _, such as gru),"
            f" not {getattr(profile, 'name', None)!r:.60}"
        )
    return profile


def profile_named(name: str, settings: Mapping[str, object] | None = None) -> Profile:
    """The profile of that name, with these settings in place of its defaults.

    Raises:
        BadSetting: there is no such profile or setting, or a value is out of range.
    """
    return cast("Profile", profile_class(name)(settings))


def stored_name(name: str) -> str:
    """The name in the tables of the profile that `profile_named` finds by this name.

    One of ours is not loaded for it. Errors are those of `profile_class`.
    """
    return name if name in OURS else str(profile_class(name).name)


def class_path(profile: Profile) -> str:
    """`package.module:Class` of a profile."""
    kind = type(profile)
    return f"{kind.__module__}:{kind.__qualname__}"


def own_files(profile: Profile) -> tuple[Path, ...]:
    """What a user's own profile adds to `code_version`: its package's folder, or its file; none for ours."""
    module = sys.modules[type(profile).__module__]
    if class_path(profile) in OURS.values():
        return ()
    package = sys.modules[module.__name__.partition(".")[0]]
    file = Path(inspect.getfile(package)).resolve()
    return (file.parent,) if file.name == "__init__.py" else (file,)


def _attribute(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
