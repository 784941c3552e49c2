"""The examples below each command's help, and in the reference."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "run",
        "run --as-of 2019-10-13",
        "run --source csv --csv closes.csv --product ETH-USD",
        "run --profile article --set epochs=100 --set seed=7",
        "run --product BTC-USD --product ETH-USD --source coinbase",
        "run --json",
    ),
    "import": ("import closes.csv --product ETH-USD",),
    "predictions": ("predictions", "predictions --from 2019-10-01 --format csv"),
    "sql": (
        'sql "select target_day, point from predictions"',
        'sql "select max(day_utc) as newest from closes" --json',
    ),
    "score": ("score", "score --product ETH-USD --json"),
    "backtest": (
        "backtest --start 2019-07-01",
        "backtest --set members=5 --workers 2 --json",
        "backtest --profile article --set refit_every_days=30",
        "backtest --dask tcp://127.0.0.1:8786",
    ),
    "rollback": ("rollback --product BTC-USD", "rollback --product BTC-USD --to 1"),
    "versions": ("versions", "versions --product BTC-USD --json"),
    "report": ("report", "report --product BTC-USD --profile calibrated"),
    "alerts": ("alerts https://hooks.example.org/closecast",),
    "maintain": ("maintain", "maintain --prune --dry-run"),
    "reproduce": ("reproduce 0da6f6f05242eb56de6fc5cbe25fb918 --retrain",),
    "verify": ("verify", "verify --json"),
    "backup": ("backup closecast.tar.gz",),
    "restore": ("restore closecast.tar.gz --home /somewhere/else",),
}


def examples_of(command: str) -> str | None:
    """The examples of a command as its help shows them; an empty line between two keeps them apart."""
    lines = EXAMPLES.get(command)
    return "\n\n".join(("Examples:", *(f"$ closecast {line}" for line in lines))) if lines else None
