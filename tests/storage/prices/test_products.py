"""The products that a shell is offered: at once, and never with a word of trouble."""

from __future__ import annotations

from pathlib import Path

from storage.core.home import Home
from storage.prices.engine import stored_products
from tests.helpers import made_up, store


def test_products_come_in_order_and_reading_leaves_no_trace(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    for product in ("ETH-USD", "ADA-USD"):
        store(home, made_up(3), product_id=product)
    before = (home.root / "prices.db").read_bytes()
    assert stored_products(home) == ["ADA-USD", "ETH-USD"]
    assert (home.root / "prices.db").read_bytes() == before


def test_a_database_elsewhere_is_asked_in_place_of_the_homes_own(tmp_path: Path) -> None:
    store(Home(tmp_path / "home").prepare(), made_up(3), product_id="ADA-USD")
    there = Home(tmp_path / "home", f"sqlite:///{tmp_path / 'else where.db'}")
    assert stored_products(there) == []
    store(there, made_up(3), product_id="ETH-USD")
    assert stored_products(there) == ["ETH-USD"]


def test_no_home_another_database_and_a_damaged_one_offer_nothing(tmp_path: Path) -> None:
    assert stored_products(Home(tmp_path / "nowhere")) == []
    assert not (tmp_path / "nowhere").exists()
    home = Home(tmp_path / "home").prepare()
    store(home, made_up(3))
    assert stored_products(Home(home.root, "postgresql+psycopg://nobody@127.0.0.1:9/none")) == []
    (home.root / "prices.db").write_bytes(b"no database at all, however long it is" * 100)
    assert stored_products(home) == []
