import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from storage.core.errors import BadProduct, ExchangeRefused
from tasks.prices.coinbase_responses import MAX_BYTES, MAX_ROWS, judge, read_body
from tasks.prices.session import Passing, Session, within
from tests.exchange import ANSWERS, Answer, Exchange


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({}, burst=1000, stall_seconds=5) as exchange:
        yield exchange


def ask(ex: Exchange, answer: str | Answer, *, seconds: float = 5.0) -> list[Any]:
    """What one real answer is worth."""
    ex.faults.append(answer)
    how: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": 5}
    with Session() as session, within(seconds), session.get(ex.url, **how) as response:
        payload = read_body(response)
    return judge(response, payload, "BTC-USD")


def test_rows_come_through_whatever_they_hold(ex: Exchange) -> None:
    assert ask(ex, Answer(200, b"[]")) == []
    assert ask(ex, Answer(200, b"[[1,2.5],null]")) == [[1, 2.5], None]
    body = gzip.compress(b"[[1,2]]")
    assert ask(ex, Answer(200, body, headers=(("Content-Encoding", "gzip"),))) == [[1, 2]]


def test_a_number_of_thousands_of_digits_costs_a_row_not_the_page(ex: Exchange) -> None:
    assert ask(ex, Answer(200, f"[[{'9' * 6000}],[7]]".encode())) == [[float("inf")], [7]]


@pytest.mark.parametrize(
    ("body", "looks"),
    [
        (b"", "an empty body"),
        (b"null", "JSON cut short or none"),
        (b"7", "JSON that is no array"),
        (b'{"candles":[]}', "JSON that is no array"),
        (b"[" * 100_000, "JSON cut short or none"),
        (b"\xff\xfe\x00", "JSON cut short or none"),
        (b"[1,]", "JSON cut short or none"),
        (b" <html>", "an HTML page"),
        (b'{"message":"Come back\\nlater"}', "Come back later"),
        (b"[" + b"1," * MAX_ROWS + b"1]", f"an array of {MAX_ROWS + 1}"),
    ],
)
def test_a_200_that_is_no_array_may_pass(ex: Exchange, body: bytes, looks: str) -> None:
    with pytest.raises(Passing) as error:
        ask(ex, Answer(200, body))
    assert str(error.value) == f"200 without an array of candles ({looks})"


@pytest.mark.parametrize("status", ["429", "500", "502", "503", "504"])
def test_these_may_pass(ex: Exchange, status: str) -> None:
    with pytest.raises(Passing, match=f"^{status} "):
        ask(ex, ANSWERS[status])


def test_404_in_the_words_of_the_exchange_is_an_unknown_product(ex: Exchange) -> None:
    with pytest.raises(BadProduct, match="knows no product BTC-USD; check its spelling"):
        ask(ex, Answer(404, b'{"message":"NotFound"}'))


@pytest.mark.parametrize("status", [404, 403])
def test_404_and_403_that_are_not_the_exchange(ex: Exchange, status: int) -> None:
    with pytest.raises(ExchangeRefused, match=f"{status}: an HTML page; .*CLOSECAST_COINBASE_URL"):
        ask(ex, Answer(status, b"<html>nginx</html>", "text/html"))


@pytest.mark.parametrize("status", [400, 401, 403, 418, 451])
def test_a_refusal_is_in_the_words_of_the_exchange(ex: Exchange, status: int) -> None:
    with pytest.raises(ExchangeRefused, match=f"refused BTC-USD with {status}: Not from here.;"):
        ask(ex, Answer(status, b'{"message":"Not from here."}'))


def test_the_words_of_the_exchange_are_made_harmless(ex: Exchange) -> None:
    foul = "\x1b[2J\r\nTraceback:\u202e\x00 " + "long " * 200
    with pytest.raises(ExchangeRefused) as error:
        ask(ex, Answer(400, json.dumps({"message": foul}).encode()))
    said = str(error.value)
    assert "400: [2J Traceback: long long" in said
    assert said.isprintable()
    assert len(said) < 350


def test_a_redirect_is_named(ex: Exchange) -> None:
    with pytest.raises(
        ExchangeRefused, match=r"302, a redirect to https://elsewhere\.example/, which is not"
    ):
        ask(ex, "redirect")
    with pytest.raises(ExchangeRefused, match="304, a redirect to nowhere"):
        ask(ex, Answer(304, b""))


def test_a_body_past_all_measure_is_refused_also_compressed(ex: Exchange) -> None:
    for answer in ("huge", Answer(200, b"[" + b" " * MAX_BYTES + b"]")):
        with pytest.raises(ExchangeRefused, match=f"at most {MAX_BYTES} bytes"):
            ask(ex, answer)
    assert ask(ex, Answer(200, b"[" + b" " * (MAX_BYTES - 2) + b"]")) == []
