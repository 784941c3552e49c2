import time
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.prices.coinbase_responses import read_body
from tasks.prices.session import Passing, Session, within
from tests.exchange import Answer, Exchange


@pytest.fixture
def ex() -> Iterator[Exchange]:
    with Exchange({}, burst=1000, stall_seconds=5) as exchange:
        yield exchange


def ask(session: Session, ex: Exchange, answer: str | Answer, seconds: float) -> bytes:
    ex.faults.append(answer)
    how: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": 5}
    with within(seconds), session.get(ex.url, **how) as response:
        return read_body(response)


@pytest.mark.parametrize("fault", ["trickle", "stall", "silent", "slow-head", "continue", "gzip-nothing"])
def test_an_answer_that_never_ends_is_given_up_wherever_it_hangs(ex: Exchange, fault: str) -> None:
    began = time.monotonic()
    with Session() as session:
        with pytest.raises(Passing, match="did not end in time"):
            ask(session, ex, fault, 0.3)
        assert time.monotonic() - began < 2
        # And the session's next answer is none the worse for it.
        assert ask(session, ex, Answer(200, b"[]"), 5) == b"[]"


def test_a_limit_is_over_with_its_answer(ex: Exchange) -> None:
    with Session() as session:
        for _ in range(3):
            assert ask(session, ex, Answer(200, b"[]"), 0.5) == b"[]"
            time.sleep(0.3)


def test_where_a_redirect_leads_is_not_looked_at(ex: Exchange) -> None:
    with Session() as session:
        assert ask(session, ex, "redirect", 5) == b""
        assert ask(session, ex, "lost", 5) == b"moved"
    assert len(ex.requests) == 2
