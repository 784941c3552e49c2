"""The front door: the entry of the command line, and what scripts, notebooks and MLflow call.

Nothing is loaded before it is used.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from closecast.flows.api import backtest, load_model, predictions, run, scores
    from closecast.storage.core.errors import ClosecastError
    from closecast.tasks.backtest.result import BacktestResult
    from closecast.tasks.core.forecast import Forecast
    from closecast.tasks.core.model import Model

__all__ = [
    "BacktestResult",
    "ClosecastError",
    "Forecast",
    "Model",
    "backtest",
    "load_model",
    "main",
    "predictions",
    "run",
    "scores",
]
_MODULES = {
    **dict.fromkeys(("run", "predictions", "scores", "backtest", "load_model"), "flows.api"),
    "ClosecastError": "storage.core.errors",
    "Forecast": "tasks.core.forecast",
    "BacktestResult": "tasks.backtest.result",
    "Model": "tasks.core.model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def main() -> None:
    """Run the command line."""
    # Arrow's own allocator keeps memory for each thread, and each of Prefect's tasks is a new one.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    gc.set_threshold(300_000)  # an import leaves no garbage, so each search would be in vain
    atexit.register(_leave_garbage)
    try:
        from closecast.flows.cli.commands import main as run_command
    except KeyboardInterrupt:
        sys.stderr.write("closecast: interrupted\n")
        sys.exit(130)
    run_command()


def _leave_garbage() -> None:
    """Search for no garbage at the end, which takes .1 s: the system takes the memory back anyway."""
    if "duckdb" not in sys.modules:  # it would report what is left as leaks
        gc.freeze()


def _load_pyfunc(folder: str) -> Any:
    """The model of a bundle, for `mlflow.pyfunc.load_model`."""
    from closecast.tasks.training.pyfunc import load_pyfunc

    return load_pyfunc(folder)


def mlflow_artifacts(uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """The files of a version, for MLflow's addresses `closecast:/…`."""
    from closecast.flows.mlflow_plugin import artifact_repository

    return artifact_repository(uri, tracking_uri, registry_uri)
