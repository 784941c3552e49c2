"""Pictures of the report for the documents, from some weeks of runs on the sample: `make images`.

Runs the steps of a day, day after day, and photographs the page in headless Chromium: two widths, two themes.
Takes some five minutes.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT)]

from closecast.flows import clock  # noqa: E402
from closecast.storage.core.home import Home  # noqa: E402
from closecast.storage.models.registry import Models  # noqa: E402
from closecast.storage.prices.price_store import Prices  # noqa: E402
from closecast.tasks.evaluation.scoring import score_due  # noqa: E402
from closecast.tasks.forecast.publish import publish_forecast  # noqa: E402
from closecast.tasks.prices.ingest import IngestRequest, read_stored  # noqa: E402
from closecast.tasks.prices.ingest_file import ingest_file  # noqa: E402
from closecast.tasks.prices.sources import SAMPLE, SAMPLE_PRODUCT  # noqa: E402
from closecast.tasks.profiles.named import profile_named  # noqa: E402
from closecast.tasks.report.page import write_report  # noqa: E402
from closecast.tasks.training.registration import load_model  # noqa: E402
from closecast.tasks.training.selection import select_model  # noqa: E402
from tests.browsing import DESKTOP, PHONE, chromium  # noqa: E402

log = logging.getLogger("closecast.images")
DAYS, COLOURS = 91, 192
FOLDER = PROJECT / "docs" / "images"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    with tempfile.TemporaryDirectory(prefix="closecast-images-") as folder:
        home = Home(Path(folder)).prepare()
        last = live(home)
        photograph(write_report(home, SAMPLE_PRODUCT, "calibrated", day=last + timedelta(days=1)), last)


def live(home: Home) -> date:
    """The last days of the sample with the calibrated profile, then the article on the last one; that day."""
    moment = clock.now()
    request = IngestRequest(SAMPLE_PRODUCT, None, moment, clock.last_complete_day(moment))
    with Prices(home) as prices:
        last = ingest_file(prices, request, source="sample", path=SAMPLE).history.origin
    for back in reversed(range(DAYS)):
        one_day(home, "calibrated", replace(request, origin=last - timedelta(days=back)))
    one_day(home, "article", request)
    return last


def one_day(home: Home, profile_name: str, request: IngestRequest) -> None:
    profile, prices = profile_named(profile_name), read_stored(home, request)
    score_due(home, prices.history, profile, request.observed_at)
    version = select_model(home, profile, prices).version
    model = load_model(Models(home), profile, SAMPLE_PRODUCT, version)
    publish_forecast(home, profile, model, prices.history, created_at=request.observed_at, flow_run_id=None)
    log.info("forecast from %s by %s version %s", prices.history.origin, profile_name, version)


def photograph(page: Path, origin: date) -> None:
    """Two widths and two themes of a page on the day after its origin, down to the end of one section."""
    with chromium() as browser:
        for width, until, scale in ((DESKTOP, "past", 1), (PHONE, "forecast", 2)):
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale
                )
                browser_page = context.new_page()
                browser_page.clock.set_fixed_time(datetime.combine(origin + timedelta(days=1), time(12), UTC))
                browser_page.goto(page.as_uri())
                bottom = browser_page.evaluate(
                    "id => document.getElementById(id).getBoundingClientRect().bottom + scrollY", until
                )
                clip: Any = {"x": 0, "y": 0, "width": width, "height": bottom + 24}
                save(
                    FOLDER / f"report-{width}-{scheme}.png",
                    browser_page.screenshot(full_page=True, clip=clip),
                )
                context.close()


def save(path: Path, png: bytes) -> None:
    """Save a picture with few colours: a page has no more, and the file is a fifth of the size."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(
            COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        ).save(path, optimize=True)
    log.info("%s, %d kB", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
