"""A process that loads the large libraries once and forks a child for each `closecast` command.

Loading them, above all TensorFlow and Prefect, takes seven seconds of processor time in each process. What a
command decides at its start, such as Prefect's settings, is still up to the child.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

# None of these starts a thread, which a fork would lose. Only Prefect reads the environment later:
# `as_just_loaded` handles that.
LIBRARIES = [
    "alembic.command",
    "arch",
    "deltalake",
    "flows.actions",
    "flows.daily",
    "h5py",
    "httpx",
    "jinja2",
    "keras",
    "matplotlib.figure",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "pandas",
    "prefect.main",
    "pyarrow.dataset",
    "pydantic",
    "requests",
    "rich.progress",
    "scipy.stats",
    "sklearn.preprocessing",
    "tensorflow",
    "typer",
]


def serve() -> None:
    """Fork a child for each line of standard input, one at a time, and print its exit code."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # Otherwise each child's garbage collector touches, and so copies, all of this: two seconds.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 (read by the parent)


def become(order: dict[str, Any]) -> None:
    """Turn this process into the `closecast` command of the order: arguments, variables, folder, output.

    The script `first` runs before the command; it may set a clock.
    """
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["variables"])
    for number, path in enumerate((os.devnull, order["out"], order["err"])):
        descriptor = os.open(path, os.O_RDWR)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate(("r", "w", "w"))
    )
    sys.argv = ["closecast", *order["words"]]
    as_just_loaded()
    if order["first"]:
        runpy.run_path(order["first"])
    runpy.run_module("closecast", run_name="__main__", alter_sys=True)
    sys.exit(0)


def as_just_loaded() -> None:
    """Make Prefect read its variables and set up logging at the first access to its settings.

    Prefect does this at import; a command sets variables of its own before that.
    """
    import prefect.settings
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    read = prefect.settings.get_current_settings

    def read_anew() -> prefect.settings.Settings:
        prefect.settings.get_current_settings = read
        refresh_global_settings_context()
        setup_logging(incremental=False)
        return read()

    prefect.settings.get_current_settings = read_anew


if __name__ == "__main__":
    serve()
