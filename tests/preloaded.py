"""A process that has loaded the big libraries, and forks a `closecast` for each order on its standard input.

Loading them, TensorFlow and Prefect above all, costs each command seven seconds of processor time. The
command itself makes the choices of its start, Prefect's settings included.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

# None of them has started a thread that a fork would lose. Prefect alone has read the environment when it was
# loaded: `as_just_loaded` lets it read again.
LIBRARIES = [
    "alembic.command",
    "arch",
    "deltalake",
    "flows.actions",
    "flows.backtest",
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
    """Fork for each line of standard input, one after the other, and print the child's exit code."""
    for library in LIBRARIES:
        importlib.import_module(library)
    # Otherwise a child's collector touches, and so copies, all of this: two seconds.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 (the result)


def become(order: dict[str, Any]) -> None:
    """Run `closecast` in this process to its end, with the order's words, variables, folder and files.

    A script `first` runs before it: it may set a clock.
    """
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["variables"])
    for number, path in enumerate((os.devnull, order["out"], order["err"])):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
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
    """Let Prefect read its variables and set up logging at the first use of its settings.

    It does so when it is loaded, and a command sets variables before it loads it.
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
