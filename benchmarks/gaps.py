"""Forecasts from series with missing days, for docs/accuracy.md: a backtest from the 60th day on each.

    python benchmarks/gaps.py --prices FOLDER [--home FOLDER] [--only PRODUCT] [--missing NAME] [--draw N]

FOLDER is that of accuracy.py. "After a gap" are origins with a missing day among their newest 20. Their CRPS
is set over that of an EWMA(.94) of the same days, whose t is fitted as those of the baselines are; the CRPS
of the other origins over that of the whole series.
"""

from __future__ import annotations

import argparse
import functools
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.accuracy import BTC, ETH, LTC, NOW, SETTINGS

FILES = {"BTC-USD": BTC, "ETH-USD": ETH, "LTC-USD": LTC}
END = date(2020, 10, 1)
Missing = Callable[[pd.Series], np.ndarray]
NEWEST, HORIZONS = 20, (1, 7, 30)


def _at_random(share: float):  # type: ignore[no-untyped-def]
    return lambda draw, days: np.random.default_rng(draw).random(len(days)) >= share


MISSING = {
    "none": _at_random(0.0),
    "1 %": _at_random(0.01),
    "5 %": _at_random(0.05),
    "20 %": _at_random(0.2),
    "Sundays": lambda _, days: days.dt.day_of_week.to_numpy() != 6,
    "10 of 60 days": lambda _, days: np.arange(len(days)) % 60 < 50,
}


def main() -> None:
    """Print a row for each product, kind of missing days, and horizon, and one day ahead for each basis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prices", type=Path, required=True, help="folder of the price files")
    parser.add_argument("--home", type=Path, help="where homes are made; a folder that is removed after")
    parser.add_argument("--only", choices=FILES, action="append", help="product; all by default")
    parser.add_argument("--missing", choices=MISSING, action="append", help="beside none; all by default")
    parser.add_argument("--draw", type=int, default=2020, help="seed of the days that are deleted at random")
    arguments = parser.parse_args()
    logging.getLogger("closecast").setLevel(logging.ERROR)
    root = arguments.home or Path(tempfile.mkdtemp(prefix="closecast-gaps-"))
    header = ["product", "missing", "days ahead", "after a gap", "fallbacks", "CRPS / EWMA-t", "80 %", "95 %"]
    print(f"| {' | '.join([*header, 'others', 'CRPS / whole'])} |\n|{'---|' * (len(header) + 2)}")
    for product in arguments.only or FILES:
        whole = None
        for name in dict.fromkeys(["none", *(arguments.missing or MISSING)]):
            missing = functools.partial(MISSING[name], arguments.draw)
            rows = _backtest(arguments.prices / FILES[product], root / f"{product}-{name}", product, missing)
            if whole is None:
                whole = rows
                continue
            for horizon in HORIZONS:
                print(f"| {product} | {name} | {horizon} | {_cells(rows, whole, horizon)} |", flush=True)
            for basis in ("model", "fallback"):
                part = rows[rows["basis"] == basis]
                print(f"| {product} | {name}, {basis} | 1 | {_cells(part, whole, 1)} |", flush=True)
    if not arguments.home:
        shutil.rmtree(root)


def _backtest(file: Path, folder: Path, product: str, missing: Missing) -> pd.DataFrame:
    """A row for each forecast: its origin, horizon, basis, CRPS, coverage, and the CRPS of the EWMA."""
    from closecast.flows.actions import import_file
    from closecast.flows.backtest import rolling_backtest
    from closecast.flows.settings import home_at
    from closecast.storage.prices.price_store import Prices
    from closecast.storage.tables.schemas import backtests
    from closecast.tasks.core.quantiles import covered, crps

    home = home_at(folder).prepare()
    import_file(home, product, file)
    with Prices(home) as prices:
        candles = prices.prices_at(prices.data_version(product, END, created_at=NOW)).candles
    kept = missing(candles["day_utc"])
    candles = candles[kept].reset_index(drop=True)
    if not kept.all():
        home = home_at(folder / "with-gaps").prepare()
        columns = ["open", "high", "low", "close", "volume"]
        closes = candles.assign(date=candles["day_utc"].dt.date)[["date", *columns]]
        closes.to_csv(folder / "closes.csv", index=False)
        import_file(home, product, folder / "closes.csv")
    days = candles["day_utc"].dt.date
    start, end = days.iloc[0] + timedelta(days=59), days.iloc[-2]
    result = rolling_backtest(product, "calibrated", SETTINGS, start, end, str(home.root), workers=2)
    stored = backtests(home, product).read().to_pandas()
    rows = stored[
        (stored["component"] == "calibrated") & (stored["backtest_id"] == result.backtest_id)
    ].copy()
    returns = np.log(rows["close"] / rows["last_close"]).to_numpy()
    quantiles = np.log(np.stack(rows["quantiles"].tolist()) / rows[["last_close"]].to_numpy())
    rows["crps"] = crps(returns, quantiles)
    rows["80"], rows["95"] = (covered(returns, quantiles, percent) for percent in (80, 95))
    present = set(days)
    rows["gap"] = [
        any(origin - timedelta(days=back) not in present for back in range(NEWEST))
        for origin in rows["origin_day"]
    ]
    for horizon in HORIZONS:
        wanted = rows["horizon"] == horizon
        plain = _plain_ewma(candles, rows.loc[wanted, "origin_day"], horizon)
        rows.loc[wanted, "plain"] = crps(returns[wanted.to_numpy()], plain)
    return rows.set_index(["origin_day", "horizon"])


def _plain_ewma(candles: pd.DataFrame, origins: pd.Series, horizon: int) -> np.ndarray:
    from closecast.tasks.core.quantiles import student_t
    from closecast.tasks.features.expected_sigma import refit_cuts
    from closecast.tasks.features.volatility import daily_moves, ewma, log_returns, rows_before
    from closecast.tasks.profiles.baselines import REFIT_DAYS, T_DAYS, WARM_UP
    from closecast.tasks.profiles.student_t import fit_t

    sigma = np.sqrt(ewma(np.square(daily_moves(candles)), decay=0.94) * horizon)
    before, cuts = rows_before(candles, horizon), refit_cuts(candles, REFIT_DAYS)
    known = (before >= WARM_UP) & (sigma[before] > 0)
    units = np.where(known, log_returns(candles, days=horizon) / np.where(known, sigma[before], 1.0), np.nan)
    rows = candles["day_utc"].dt.date.searchsorted(origins.to_numpy())
    fits = {}
    for cut in np.unique(cuts[rows]):
        past = units[:cut][np.isfinite(units[:cut])]
        fits[cut] = fit_t(past[-T_DAYS:]) if len(past) >= WARM_UP else (1.0, 4.0)
    size, dof = np.array([fits[cut] for cut in cuts[rows]]).T
    return student_t(np.zeros(len(rows)), sigma[rows] * size, dof)


def _cells(forecasts: pd.DataFrame, whole: pd.DataFrame, horizon: int) -> str:
    rows = forecasts[forecasts.index.get_level_values("horizon") == horizon]
    gap, others = rows[rows["gap"]], rows[~rows["gap"]]
    cells = [len(gap), (gap["basis"] == "fallback").sum(), f"{gap['crps'].mean() / gap['plain'].mean():.4f}"]
    cells += [f"{100 * gap[percent].mean():.1f}" for percent in ("80", "95")]
    same = others.join(whole["crps"].rename("whole")).dropna(subset="whole").sort_index()
    return " | ".join(map(str, [*cells, len(same), _ratio(same, horizon)]))


def _ratio(same: pd.DataFrame, horizon: int) -> str:
    """The CRPS over that of the whole series, with the p value of their difference from as many days on."""
    from closecast.tasks.evaluation.significance import compare

    if same.empty:
        return "—"
    found = compare(same["crps"].to_numpy(), same["whole"].to_numpy(), horizon=horizon, seed=0)
    return f"{found.ratio:.4f}" + ("" if found.p_value is None else f" (p {found.p_value:.2g})")


if __name__ == "__main__":
    main()
