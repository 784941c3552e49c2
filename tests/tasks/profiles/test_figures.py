"""Figures of trainings: readable PNGs, a gap drawn as a gap, and no global state."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from closecast.tasks.core.history import PriceHistory
from closecast.tasks.network.trainer import Losses
from closecast.tasks.profiles import figures
from closecast.tasks.profiles.figures import _price_canvas, article_figures, loss_figure, price_tick
from tests.helpers import BTC, PROJECT, made_up, without

NAMES = ["losses.png", "predicted.png", "prices.png"]
LOSSES = Losses(np.array([0.5, 0.1]), np.array([0.4, 0.2]), 2)


def some_test_part(days: int = 8, of: int = 60) -> pd.DataFrame:
    test = made_up(of).tail(days)[["day_utc", "close"]].reset_index(drop=True)
    return test.assign(last_close=test["close"] + 1, point=test["close"] - 2)


def draw(
    candles: pd.DataFrame | None = None, losses: Losses = LOSSES, test: pd.DataFrame | None = None
) -> dict[str, bytes]:
    frame = made_up(60) if candles is None else candles
    history = PriceHistory(BTC, frame, "BTC-USD@1:ab", "csv@0")
    return article_figures(history, losses, some_test_part() if test is None else test)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


@pytest.fixture(scope="module", autouse=True)
def _rendered(png_of: Callable[[Figure], bytes]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_png", png_of)
        yield


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return draw()


def test_pngs_are_mostly_background(drawn: dict[str, bytes]) -> None:
    assert sorted(drawn) == NAMES
    for png in (*drawn.values(), loss_figure([LOSSES, LOSSES], "loss")):
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", png[16:24]) == (1100, 550)
        dark = pixels(png)[..., :3].min(axis=-1) < 0.9
        assert 0.005 < dark.mean() < 0.5


def test_each_picture_shows_its_own_figures(drawn: dict[str, bytes]) -> None:
    closes, test = made_up(60), some_test_part()
    other = draw(closes.assign(close=closes["close"] * np.linspace(1, 2, 60)))
    assert [name for name in NAMES if drawn[name] != other[name]] == ["prices.png"]
    doubled = Losses(LOSSES.training * 2, LOSSES.validation, 2)
    other = draw(losses=doubled, test=test.assign(point=test["point"] + 100))
    assert [name for name in NAMES if drawn[name] != other[name]] == ["losses.png", "predicted.png"]


def test_a_scale_shows_whole_prices() -> None:
    ticks = [price_tick(price) for price in (6e-9, 1.0004000000000002, 30000.0, 0.0)]
    assert ticks == ["0.000000006", "1.0004", "30000", "0"]
    axes = _price_canvas("close", PriceHistory(BTC, made_up(5), "BTC-USD@1:ab", "csv@0"))[1]
    assert axes.yaxis.get_major_formatter()(6e-9) == ticks[0]
    assert axes.get_ylabel() == "USD"


def test_a_gap_is_not_drawn_as_a_line() -> None:
    level = made_up(60)
    level["close"] = np.where(level["day_utc"] < pd.Timestamp(2019, 2, 1), 100.0, 200.0)
    gapped = without(level, date(2019, 1, 31), date(2019, 2, 1))

    def blue_in_the_middle(candles: pd.DataFrame) -> int:
        # Half way between the two levels nothing but the jump itself is blue.
        middle = pixels(draw(candles)["prices.png"])[200:300, 150:1000]
        return int(((middle[..., 2] > 0.5) & (middle[..., 0] < 0.4)).sum())

    assert blue_in_the_middle(level) > 50
    assert blue_in_the_middle(gapped) == 0


@pytest.mark.parametrize(("loss", "epochs", "test_days"), [(1.0, 1, 1), (1.0, 300, 2), (0.0, 3, 2)])
def test_short_long_and_zero_losses_are_drawn(loss: float, epochs: int, test_days: int) -> None:
    losses = Losses(np.full(epochs, loss), np.full(epochs, loss), epochs)
    assert sorted(draw(made_up(20), losses, some_test_part(test_days, 20))) == NAMES


def test_threads_draw_the_same_bytes(drawn: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: draw(), range(2))) == [drawn] * 2


def test_drawing_needs_no_display_and_no_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom tests.tasks.profiles.test_figures import draw\n"
        "assert draw() and 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = {"PATH": "", "MPLCONFIGDIR": str(tmp_path), "MPLBACKEND": "TkAgg"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, env=environment)
