from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from closecast.storage.core.errors import BadInput, HomeUnusable
from closecast.storage.core.home import Home
from closecast.storage.reports import Reports


def listed(summaries: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(summaries))


def listed_in(home: Home) -> list[dict[str, Any]]:
    """The summaries that the index was made of; its digest follows them."""
    summaries: list[dict[str, Any]] = json.loads(Reports(home).index.read_text().partition("<!-- ")[0])
    return summaries


def write(home: Home, product_id: str = "BTC-USD", profile: str = "calibrated", page: str = "<p>") -> Path:
    summary = {"product_id": product_id, "point": 1.5}
    return Reports(home).write(product_id, profile, page=page, summary=summary, render_index=listed)


def test_a_page_its_summary_and_the_index_of_all(home: Home) -> None:
    assert Reports(home).summary("BTC-USD", "calibrated") == {}
    assert Reports(home).check([("BTC-USD", "calibrated")]) == (
        0,
        [],
    )  # none is missing
    path = write(home)
    assert path == home.root / "reports" / "BTC-USD.calibrated.html"
    assert path.read_text().startswith("<p><!-- sha256 ")
    assert write(home, page="<p>new").read_text().startswith("<p>new<!-- ")
    write(home, "ETH-USD", "article")
    assert Reports(home).summary("ETH-USD", "article")["point"] == 1.5
    assert listed_in(home) == [
        {"product_id": "BTC-USD", "point": 1.5, "page": "BTC-USD.calibrated.html"},
        {"product_id": "ETH-USD", "point": 1.5, "page": "ETH-USD.article.html"},
    ]
    Reports(home).index.unlink()
    assert Reports(home).summary("ETH-USD", "article") == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff", "9" * 100_000])
def test_an_unreadable_summary_does_no_harm_to_others(home: Home, text: str) -> None:
    write(home)
    (home.reports / "BTC-USD.calibrated.json").write_text(text, encoding="latin-1")
    write(home, "ETH-USD")
    first, second = listed_in(home)
    assert first == {"page": "BTC-USD.calibrated.html"}
    assert second["product_id"] == "ETH-USD"


def test_a_pipe_among_the_pages_is_named_and_waited_for_by_nobody(home: Home) -> None:
    write(home)
    os.mkfifo(home.reports / "BTC-USD.article.json")
    (home.reports / "BTC-USD.article.html").write_text("<p>")
    assert {"page": "BTC-USD.article.html"} in Reports(home).summaries()
    _, findings = Reports(home).check([])
    assert any("article.json cannot be trusted: it is not a regular file" in one for one in findings)


def test_every_changed_or_missing_file_is_named(home: Home) -> None:
    pages = [("BTC-USD", "calibrated")]
    path, reports = write(home), Reports(home)
    assert reports.check(pages) == (3, [])
    for file in (path, path.with_suffix(".json"), reports.index):
        content = file.read_bytes()
        for at in (0, len(content) // 2, len(content) - 3):
            file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            (line,) = reports.check(pages)[1]
            assert line.startswith(f"{file} cannot be trusted")
        file.unlink()
        assert reports.check(pages) == (2, [f"{file} is missing: `closecast report` writes it again"])
        file.write_bytes(content)
    assert len(reports.check([*pages, ("ETH-USD", "calibrated")])[1]) == 2
    path.unlink()
    path.symlink_to("nowhere")
    assert reports.check(pages)[1] == [f"{path} is missing: `closecast report` writes it again"]


def test_pages_that_were_swapped_are_named(home: Home) -> None:
    first, second = write(home), write(home, "ETH-USD")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert [line.split()[0] for line in Reports(home).check([])[1]] == [str(first), str(second)]


def test_files_of_others_beside_the_pages_are_theirs(home: Home) -> None:
    write(home)
    for name in ("notes.html", "notes.json", "btc-usd.calibrated.html", "BTC-USD.calibrated.txt"):
        (home.reports / name).write_text("mine")
    assert Reports(home).check([]) == (3, [])
    assert [one["page"] for one in Reports(home).summaries()] == ["BTC-USD.calibrated.html"]


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
