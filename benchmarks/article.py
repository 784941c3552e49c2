"""Train the article's network over several seeds: its losses, and its test errors against naive.

    python benchmarks/article.py [--csv FILE] [--seeds 1 2 3] [--set epochs=50 ...]

The file is the embedded sample unless one is named; the article's own gives the article's figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from closecast.flows import clock
from closecast.tasks.core.history import PriceHistory
from closecast.tasks.prices.file_reader import read_candles
from closecast.tasks.prices.sources import SAMPLE, SAMPLE_PRODUCT
from closecast.tasks.prices.validation import check_candles
from closecast.tasks.profiles.named import profile_named


def main() -> None:
    """Print a row a seed, then the spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", type=Path, default=SAMPLE)
    parser.add_argument("--product", default=SAMPLE_PRODUCT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    changed = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in arguments.set)}
    candles = read_candles(arguments.csv.read_bytes(), arguments.product, name=arguments.csv.name).candles
    closes = check_candles(candles, last_finished_day=clock.last_complete_day()).accepted
    history = PriceHistory(arguments.product, closes, data_version="", series="csv@0")
    print(f"{arguments.csv.name}: {len(closes)} closes")
    print("seed  seconds  first loss  last loss  last val_loss  test RMSE  test MAE  / naive")
    rmse = []
    for seed in arguments.seeds:
        profile = profile_named("article", {**changed, "seed": seed})
        start = time.perf_counter()
        fitted = profile.fit(history, {})
        seconds = time.perf_counter() - start
        losses, figures = fitted.training.losses[0], fitted.training.metrics
        rmse.append(figures["test_rmse"])
        print(
            f"{seed:4d}  {seconds:7.1f}  {losses.training[0]:10.5f}  {losses.training[-1]:9.5f}"
            f"  {losses.validation[-1]:13.5f}  {figures['test_rmse']:9.1f}"
            f"  {figures['test_mae']:8.1f}  {figures['rmse_ratio_to_naive']:7.2f}"
        )
    print(
        f"naive: RMSE {figures['naive_rmse']:.1f}, MAE {figures['naive_mae']:.1f} {history.quote_currency}"
        f" over {fitted.training.windows['test']} test days; model RMSE {min(rmse):.1f} to {max(rmse):.1f}, "
        f"median {statistics.median(rmse):.1f}"
    )


if __name__ == "__main__":
    main()
