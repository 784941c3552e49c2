"""Tables, most of them JSON, that name a price twice, or values of something else."""

from __future__ import annotations

import json

import pytest

from tests.tasks.prices.reading import CLOSES, DAYS, ROWS, closes, refusal


def test_a_json_record_has_each_key_once() -> None:
    by_day = ",".join(f'"{day}": {close}' for day, close in ROWS)
    assert "is there with two values" in refusal(f'{{{by_day}, "{DAYS[3]}": 9000}}')
    assert closes(f'{{{by_day}, "{DAYS[3]}": {CLOSES[3]}}}') == dict(ROWS)


@pytest.mark.parametrize("keys", [("kraken", "coinbase"), ("bid", "ask"), ("adjusted", "raw")])
def test_prices_of_two_records_in_a_record_are_two_columns(keys: tuple[str, str]) -> None:
    first, second = keys
    records = [{"date": str(day), first: {"c": close / 2}, second: {"c": close}} for day, close in ROWS]
    assert "one column is needed for the close, the header has two: 'c' and 'c.1'" in refusal(
        json.dumps(records)
    )
    assert closes(json.dumps(records), columns={"date": "date", "close": "c.1"}) == dict(ROWS)
    records = [{"date": str(day), first: {"4. close": 7}, second: {"4. close": close}} for day, close in ROWS]
    assert "one column is needed for the close, the header has two" in refusal(json.dumps(records))


@pytest.mark.parametrize("key", ["LTC", "ethereum", "TRY"])
def test_the_key_of_a_record_in_a_record_names_another_product(key: str) -> None:
    records = [{"date": str(day), key: {"close": close}} for day, close in ROWS]
    assert f"row 1 is of '{key}'" in refusal(json.dumps(records))
    records = [{"date": str(day), "bitcoin": {"close": close}} for day, close in ROWS]
    assert closes(json.dumps(records)) == dict(ROWS)


@pytest.mark.parametrize("text", ["market_cap", "Opening prices", "Trading volume", "7-day average"])
def test_values_of_another_figure_are_no_closes(text: str) -> None:
    table = "\n".join(["date,value", *(f"{day},{close}" for day, close in ROWS)])
    column = "\n".join(["date,metric,value", *(f"{day},{text},{close}" for day, close in ROWS)])
    by_day = {str(day): close for day, close in ROWS}
    for data in (f"{text}\n{table}", column, json.dumps({"name": text, "values": by_day})):
        assert f"'value' is of '{text}'" in refusal(data)
        assert closes(data.replace(text, "Closing price")) == dict(ROWS)
    refusal(json.dumps({text: by_day}))
    assert closes(column, columns={"date": "date", "close": "value"}) == dict(ROWS)
    assert closes(f"{text}\n{table}".replace("value", "close")) == dict(ROWS)
