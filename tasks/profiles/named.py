"""The profile that a name means: ours, one that an installed package brings, or a class by its path."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from closecast.storage.core.errors import BadSetting, did_you_mean
from closecast.tasks.profiles.article import ArticleProfile
from closecast.tasks.profiles.base import Profile
from closecast.tasks.profiles.calibrated import CalibratedProfile

GROUP = "closecast.profiles"
DEFAULT_PROFILE = "calibrated"
OURS: dict[str, Any] = {"article": ArticleProfile, "calibrated": CalibratedProfile}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def profile_names() -> list[str]:
    """Our profiles and those of installed packages."""
    return [*OURS, *sorted(entry_points(group=GROUP).names - OURS.keys())]


def profile_class(name: str) -> Any:
    """The class of a profile by its name, such as `calibrated`, or by `package.module:Class`.

    Raises:
        BadSetting: there is none of that name, or it cannot be imported.
    """
    if name in OURS:
        return OURS[name]
    installed = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    path = installed.get(name, name)
    if not _CLASS.fullmatch(path):
        names = profile_names()
        raise BadSetting(
            f"the profiles are {', '.join(names)}, not {name!r:.60}{did_you_mean(name, names)};"
            " a class of your own is named as package.module:Class"
        )
    module, _, attribute = path.partition(":")
    try:
        found = getattr(_imported(module), attribute)
    except Exception as error:  # somebody else's module may raise anything
        raise BadSetting(f"profile {path} cannot be imported: {type(error).__name__}: {error}") from error
    if not _NAME.fullmatch(str(getattr(found, "name", ""))) or found.name in OURS:
        raise BadSetting(
            f"profile {path} needs a name of its own of small letters, digits and _, such as gru, not"
            f" {getattr(found, 'name', None)!r:.60}"
        )
    return found


def profile_named(name: str, settings: Mapping[str, object] | None = None) -> Profile:
    """The profile of that name with some settings set otherwise.

    Raises:
        BadSetting: no such profile, no such setting, or a value out of its range.
    """
    return cast("Profile", profile_class(name)(settings))


def own_files(profile: Profile) -> tuple[Path, ...]:
    """The folder of a user's own profile, or its file where it is in no package; nothing for ours."""
    module = sys.modules[type(profile).__module__]
    if type(profile) in OURS.values():
        return ()
    package = sys.modules[module.__name__.partition(".")[0]]
    file = Path(inspect.getfile(package)).resolve()
    return (file.parent,) if file.name == "__init__.py" else (file,)


def _imported(module: str) -> Any:
    # A module beside the caller is found by scripts, but not by an installed command.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(module)
