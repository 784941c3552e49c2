"""The figures of docs/accuracy.md, made anew from files of real prices.

    python benchmarks/accuracy.py --prices FOLDER [--home FOLDER] [--only NAME]

FOLDER holds `article_bitcoin.csv`, `coinbase_btc-usd_daily.csv` and CryptoDataDownload's exports of ETH-USD
and LTC-USD under the names below. Each part is a `closecast backtest`; one that was made before is read.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

ARTICLE = "article_bitcoin.csv"
BTC = "coinbase_btc-usd_daily.csv"
ETH = "coinbase_eth-usd_daily_cdd.csv"
LTC = "coinbase_ltc-usd_daily_cdd.csv"
SETTINGS = {"refit_every_days": 90, "members": 3}
START, NOW = date(2018, 1, 1), datetime.now(UTC)


def main() -> None:
    """Run the parts that are asked for, and print their tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prices", type=Path, required=True, help="folder of the price files")
    parser.add_argument("--home", type=Path, help="where everything is root; a folder that is removed after")
    parser.add_argument("--only", choices=PARTS, action="append", help="part to run; all by default")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    logging.getLogger("closecast").setLevel(logging.WARNING)
    root = arguments.home or Path(tempfile.mkdtemp(prefix="closecast-accuracy-"))
    for name in arguments.only or PARTS:
        print(f"\n## {name}\n", flush=True)
        PARTS[name](arguments.prices, root)
    if not arguments.home:
        shutil.rmtree(root)


def whole_span(prices: Path, root: Path) -> None:
    """BTC-USD, the two files joined, about two thousand days."""
    home = _home(prices, root, "btc", {"BTC-USD": (ARTICLE, BTC)})
    _print_backtest(home, "BTC-USD", date(2023, 6, 29))


def article_file(prices: Path, root: Path) -> None:
    """The article's file alone, its last 396 days."""
    home = _home(prices, root, "article", {"BTC-USD": (ARTICLE,)})
    _print_backtest(home, "BTC-USD", date(2020, 6, 3), start=date(2019, 5, 5))


def pooled(prices: Path, root: Path) -> None:
    """BTC-USD with ETH-USD and LTC-USD in its training and without, side by side."""
    from closecast.tasks.core.quantiles import crps
    from closecast.tasks.evaluation.significance import compare

    files = {"BTC-USD": (ARTICLE, BTC), "ETH-USD": (ETH,), "LTC-USD": (LTC,)}
    home, end = _home(prices, root, "pooled", files), date(2020, 11, 19)
    scores = []
    for products in (("BTC-USD", "ETH-USD", "LTC-USD"), ()):
        print(f"### {'pooled' if products else 'alone'}\n")
        evaluations = _print_backtest(home, "BTC-USD", end, pool_products=products)
        outcomes = {h: np.log(one.close / one.last_close) for h, one in evaluations.items()}
        scores.append(
            {
                (h, name): crps(outcomes[h], one.quantiles[name])
                for h, one in evaluations.items()
                for name in OWN
            }
        )
    print(
        "### pooled over alone\n\n| days ahead | | CRPS ratio | 95 % interval | DM p |\n|---|---|---|---|---|"
    )
    for horizon, name in scores[0]:
        over = compare(scores[0][horizon, name], scores[1][horizon, name], horizon=horizon, seed=2020)
        interval = f"{over.lower:.4f} to {over.upper:.4f}"
        print(f"| {horizon} | {OWN[name]} | {over.ratio:.4f} | {interval} | {over.p_value:.2g} |")


OWN = {"calibrated": "published forecast", "lstm": "networks alone"}


def litecoin(prices: Path, root: Path) -> None:
    """LTC-USD, on which settings were chosen, too."""
    _print_backtest(_home(prices, root, "ltc", {"LTC-USD": (LTC,)}), "LTC-USD", date(2020, 11, 18))


def ether(prices: Path, root: Path) -> None:
    """ETH-USD, untuned."""
    _print_backtest(_home(prices, root, "eth", {"ETH-USD": (ETH,)}), "ETH-USD", date(2020, 11, 18))


def young(prices: Path, root: Path) -> None:
    """The days 61 to 399 of ETH-USD and LTC-USD, each with the older products in the database."""
    home = _home(prices, root, "young", {"BTC-USD": (ARTICLE,), "ETH-USD": (ETH,), "LTC-USD": (LTC,)})
    for product in ("ETH-USD", "LTC-USD"):
        print(f"### {product}\n")
        candles = _candles(home, product)
        first, last = candles["day_utc"].dt.date.iloc[[59, 397]]
        _print_young(candles, _print_backtest(home, product, last, start=first))


PARTS = {
    "young": young,
    "whole-span": whole_span,
    "litecoin": litecoin,
    "article-file": article_file,
    "pooled": pooled,
    "ether": ether,
}


def _home(prices: Path, root: Path, name: str, files: dict[str, tuple[str, ...]]) -> str:
    """A home with the files imported, one after the other: the later one's figures count."""
    from closecast.flows.actions import import_file
    from closecast.flows.settings import home_at

    home = home_at(root / name).prepare()
    for product, paths in files.items():
        for path in paths:
            import_file(home, product, prices / path)
    return str(home.root)


def _candles(home: str, product: str):  # type: ignore[no-untyped-def]
    from closecast.flows.settings import home_at
    from closecast.storage.prices.price_store import Prices

    with Prices(home_at(home)) as prices:
        return prices.prices_at(
            prices.data_version(product, prices.last_day(product), created_at=NOW)
        ).candles


def _print_backtest(home: str, product: str, end: date, *, start: date = START, **changed: object):  # type: ignore[no-untyped-def]
    """Print the summary as Markdown, and the CRPS over that of a plain EWMA; the evaluations by horizon."""
    from closecast.flows.backtest import rolling_backtest
    from closecast.flows.settings import home_at
    from closecast.tasks.backtest.result import evaluations_of, read_rows
    from closecast.tasks.backtest.summary import markdown

    result = rolling_backtest(product, "calibrated", {**SETTINGS, **changed}, start, end, home, workers=2)
    evaluations = evaluations_of(read_rows(home_at(home), product, result.backtest_id), "calibrated")
    refused = sum("refused" in gate for gate in result.gates)
    print(f"{markdown(result.every)}\n\nChallengers: {len(result.gates)}, refused: {refused}.\n")
    print(f"CRPS / EWMA(.94)-t without weekdays: {_over_plain_ewma(home, product, evaluations)}\n")
    return evaluations


def _print_young(candles, evaluations) -> None:  # type: ignore[no-untyped-def]
    """Print the CRPS over that of EWMA with the pool's t, and of the quantiles of all own returns so far."""
    from closecast.tasks.core.quantiles import LEVELS, covered, crps
    from closecast.tasks.evaluation.significance import compare
    from closecast.tasks.features.volatility import log_returns

    print("| days ahead | days | / `ewma_t` | DM p | / own returns | DM p | covered 50/80/90/95 |")
    print("|---|---|---|---|---|---|---|")
    for horizon, one in evaluations.items():
        returns, past = np.log(one.close / one.last_close), log_returns(candles, days=horizon)
        origins = candles["day_utc"].searchsorted(np.array(one.target_days, "datetime64[s]")) - horizon
        known = [past[: row + 1][np.isfinite(past[: row + 1])] for row in origins]
        own = np.array([np.quantile(values, LEVELS) for values in known])
        made = one.quantiles["calibrated"]
        ours = crps(returns, made)
        cells = [str(horizon), str(len(returns))]
        for other in (one.quantiles["ewma_t"], own):
            over = compare(ours, crps(returns, other), horizon=horizon, seed=2020)
            cells += [f"{over.ratio:.4f}", f"{over.p_value:.2g}"]
        shares = (f"{100 * covered(returns, made, percent).mean():.1f}" for percent in (50, 80, 90, 95))
        print(f"| {' | '.join([*cells, '/'.join(shares)])} |")


def _over_plain_ewma(home: str, product: str, evaluations) -> str:  # type: ignore[no-untyped-def]
    """For each horizon the CRPS of the forecast over that of an EWMA of squared returns times its root.

    Its t is fitted as those of the baselines are. No component of a forecast is so plain.
    """
    from closecast.tasks.core.quantiles import crps, student_t
    from closecast.tasks.features.expected_sigma import refit_cuts
    from closecast.tasks.features.volatility import ewma, log_returns, rows_before
    from closecast.tasks.profiles.baselines import REFIT_DAYS, T_DAYS
    from closecast.tasks.profiles.student_t import fit_t

    candles = _candles(home, product)
    daily = np.sqrt(ewma(np.square(log_returns(candles)), decay=0.94))
    cuts, ratios = refit_cuts(candles, REFIT_DAYS), []
    row_of = {day: row for row, day in enumerate(candles["day_utc"].dt.date)}
    for horizon, evaluation in evaluations.items():
        sigma, before = daily * np.sqrt(horizon), rows_before(candles, horizon)
        units = np.where(before >= 0, log_returns(candles, days=horizon) / sigma[before], np.nan)
        targets = np.array([row_of[day] for day in evaluation.target_days])
        rows, fits = before[targets], {}
        for cut in np.unique(cuts[rows]):
            known = units[:cut]
            fits[cut] = fit_t(known[np.isfinite(known)][-T_DAYS:])
        size, dof = np.array([fits[cut] for cut in cuts[rows]]).T
        plain = student_t(np.zeros(len(rows)), sigma[rows] * size, dof)
        returns = np.log(evaluation.close / evaluation.last_close)
        ours = crps(returns, evaluation.quantiles["calibrated"]).mean()
        ratios.append(f"{horizon} days {ours / crps(returns, plain).mean():.4f}")
    return ", ".join(ratios)


if __name__ == "__main__":
    main()
