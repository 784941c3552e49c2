from __future__ import annotations

import io
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from tasks.network.trainer import Losses
from tasks.profiles.figures import article_figures
from tests.helpers import PROJECT, made_up, without

NAMES = ["losses.png", "predicted.png", "prices.png"]


def parts(days: int = 60, test_days: int = 8) -> tuple[pd.DataFrame, Losses, pd.DataFrame]:
    closes = made_up(days)
    test = closes.tail(test_days)[["day_utc", "close"]].reset_index(drop=True)
    test = test.assign(last_close=test["close"] + 1, point=test["close"] - 2)
    return closes, Losses(np.array([0.5, 0.1]), np.array([0.4, 0.2]), 2), test


def draw(*given: pd.DataFrame | Losses, **more: str) -> dict[str, bytes]:
    return article_figures(*given, **{"product_id": "BTC-USD", **more})  # type: ignore[arg-type]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png), format="png"))


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return draw(*parts())


def test_three_readable_pngs(drawn: dict[str, bytes]) -> None:
    assert sorted(drawn) == NAMES
    for png in drawn.values():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", png[16:24]) == (1100, 550)
        # Something is drawn, and most of it is background.
        dark = pixels(png)[..., :3].min(axis=-1) < 0.9
        assert 0.005 < dark.mean() < 0.5


def test_other_content_is_another_picture(drawn: dict[str, bytes]) -> None:
    closes, losses, test = parts()
    other = draw(closes.assign(close=closes["close"] * np.linspace(1, 2, 60)), losses, test)
    assert [name for name in NAMES if drawn[name] != other[name]] == ["prices.png"]
    other = draw(
        closes,
        Losses(losses.training * 2, losses.validation, 2),
        test.assign(point=test["point"] + 100),
    )
    assert [name for name in NAMES if drawn[name] != other[name]] == ["losses.png", "predicted.png"]


def test_a_hole_is_a_gap_not_a_line() -> None:
    whole, losses, test = parts()
    level = whole.assign(close=np.where(whole["day_utc"] < pd.Timestamp(2019, 2, 1), 100.0, 200.0))
    broken = without(level, date(2019, 1, 31), date(2019, 2, 1))
    with_line, with_gap = (pixels(draw(frame, losses, test)["prices.png"]) for frame in (level, broken))

    def blue_in_the_middle(picture: np.ndarray) -> int:
        # Half way between the two levels nothing but the jump itself is blue.
        middle = picture[200:300, 150:1000]
        return int(((middle[..., 2] > 0.5) & (middle[..., 0] < 0.4)).sum())

    assert blue_in_the_middle(with_line) > 50
    assert blue_in_the_middle(with_gap) == 0


@pytest.mark.parametrize(("epochs", "test_days"), [(1, 1), (2, 2), (300, 2)])
def test_the_smallest_and_the_longest(epochs: int, test_days: int) -> None:
    closes, _, test = parts(20, test_days)
    losses = Losses(np.linspace(1, 0.1, epochs), np.linspace(1, 0.2, epochs), epochs)
    assert sorted(draw(closes, losses, test)) == NAMES


def test_losses_of_nothing_at_all() -> None:
    """A series that never moves is learned perfectly, which a logarithmic axis cannot show."""
    closes, _, test = parts()
    assert sorted(draw(closes, Losses(np.zeros(3), np.zeros(3), 3), test)) == NAMES


def test_in_threads_the_same_bytes_as_in_the_main_one(drawn: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: draw(*parts()), range(2))) == [drawn] * 2


def test_without_a_display_or_global_state(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path[:0] = ['.', 'tests/tasks']\n"
        "from test_figures import draw, parts\n"
        "assert draw(*parts()) and 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    environment = {"PATH": "", "MPLCONFIGDIR": str(tmp_path), "MPLBACKEND": "TkAgg"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, env=environment)
