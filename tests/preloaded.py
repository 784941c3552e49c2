"""A process that has loaded the big libraries, and forks another for each `closecast` that it is told to run.

What a command would load itself, TensorFlow and Prefect above all, costs seven seconds of processor time a
process. What closecast decides at its start, Prefect's settings included, is left to the command.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

# None of them has begun a thread that a fork would lose, or reads the environment later on, but for Prefect,
# which `as_just_loaded` sees to.
LIBRARIES = [
    "alembic.command",
    "arch",
    "deltalake",
    "flows.products",
    "flows.reporting",
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
    """Fork for each line of standard input, one after the other, and say how the child ended."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # Else a child copies all of this when its collector looks at it: two seconds, at its end.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 (the answer)


def become(order: dict[str, Any]) -> None:
    """Be `closecast` from here on, to this process' end: its words, variables, folder and files.

    A script that is to be run `first` is: it may set a clock.
    """
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["variables"])
    for number, path in enumerate((os.devnull, order["out"], order["err"])):
        given = os.open(path, os.O_RDWR)
        os.dup2(given, number)
        os.close(given)
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
    """Let Prefect read its variables and set up logging when its settings are first asked for.

    It does so when it is loaded, and a command sets variables of its own before it loads it.
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
