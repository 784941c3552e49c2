from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.core.errors import BadInput, HomeUnusable
from storage.core.home import Home
from storage.reports import Reports


def listed(summaries: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(summaries))


def write(home: Home, product_id: str = "BTC-USD", profile: str = "calibrated", page: str = "<p>") -> Path:
    summary = {"product_id": product_id, "point": 1.5}
    return Reports(home).write(product_id, profile, page=page, summary=summary, render_index=listed)


def test_a_page_its_summary_and_the_index_of_all(home: Home) -> None:
    assert Reports(home).summary("BTC-USD", "calibrated") == {}
    path = write(home)
    assert path == home.root / "reports" / "BTC-USD.calibrated.html"
    assert path.read_text() == "<p>"
    assert write(home, page="<p>new").read_text() == "<p>new"
    write(home, "ETH-USD", "article")
    assert Reports(home).summary("ETH-USD", "article")["point"] == 1.5
    assert json.loads(Reports(home).index.read_text()) == [
        {"product_id": "BTC-USD", "point": 1.5, "page": "BTC-USD.calibrated.html"},
        {"product_id": "ETH-USD", "point": 1.5, "page": "ETH-USD.article.html"},
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff", "9" * 100_000])
def test_an_unreadable_summary_does_no_harm_to_others(home: Home, text: str) -> None:
    write(home)
    (home.reports / "BTC-USD.calibrated.json").write_text(text, encoding="latin-1")
    write(home, "ETH-USD")
    first, second = json.loads(Reports(home).index.read_text())
    assert first == {"page": "BTC-USD.calibrated.html"}
    assert second["product_id"] == "ETH-USD"


def test_without_an_index_there_is_no_summary(home: Home) -> None:
    write(home)
    Reports(home).index.unlink()
    assert Reports(home).summary("BTC-USD", "calibrated") == {}


@pytest.mark.parametrize(
    ("product_id", "profile"),
    [
        *((product_id, "calibrated") for product_id in ("../x-USD", "btc-usd", "", "index")),
        *(("BTC-USD", profile) for profile in ("../up", "Calibrated", "", "a.b", "x" * 40)),
    ],
)
def test_names_that_lead_elsewhere_are_refused(home: Home, product_id: str, profile: str) -> None:
    with pytest.raises(BadInput):
        write(home, product_id, profile)
    assert not home.reports.exists()


def test_no_link_is_followed(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.write_text("mine")
    home.reports.mkdir()
    Reports(home).index.symlink_to(other)
    with pytest.raises(HomeUnusable, match="is a link"):
        write(home)
    assert other.read_text() == "mine"
