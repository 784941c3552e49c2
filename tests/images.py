"""Pictures of the report for the documents, from some weeks of runs on the sample.

    python tests/images.py [--days 91] [--out docs/images]

Takes the steps of the daily run, day after day, with the calibrated profile as it is, then the article's, and
photographs the pages in headless Chromium: two widths, two themes. Takes some five minutes.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import sys
import tempfile
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT)]

from flows import clock  # noqa: E402
from flows.settings import SAMPLE, SAMPLE_PRODUCT, profile_named  # noqa: E402
from storage.core.home import Home  # noqa: E402
from storage.core.provenance import code_version  # noqa: E402
from storage.prices.price_store import Prices  # noqa: E402
from tests.browsing import DESKTOP, FLAGS, NAMES, PHONE  # noqa: E402

log = logging.getLogger("closecast.images")
COLOURS = 192


def main() -> None:
    """Build, photograph, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=91)
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "images")
    parser.add_argument("--home", type=Path, help="a home that has the forecasts already")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="closecast-images-") as name:
        home = Home(given.home or Path(name)).prepare()
        if not given.home:
            live(home, given.days)
        photograph(*written(home), given.out)


def live(home: Home, days: int) -> None:
    """The last days of the sample, each with the steps of its run; then the article's run of the last one."""
    from tasks.profiles.article_refit import refit_version

    from tasks.forecast.publish import publish_prediction
    from tasks.prices.ingest_csv import ingest_file

    moment = clock.now()
    series = ingest_file(
        home,
        SAMPLE_PRODUCT,
        source="sample",
        path=SAMPLE,
        origin=None,
        last_finished_day=clock.last_complete_day(moment),
        observed_at=moment,
        on_duplicate="refuse",
        replace_source=False,
    )
    for back in range(days - 1, -1, -1):
        one_day(home, series.origin - timedelta(days=back), moment)
    recipe = profile_named("article")
    made = made_of(home, series.origin, recipe.version, "article", moment)
    known = {name: made[name] for name in ("data_version", "settings_version", "code_version")}
    settings = recipe.model_dump(mode="json")
    version = refit_version(home, SAMPLE_PRODUCT, "article", settings=settings, **known)
    where = {"origin": series.origin, "horizon": recipe.horizon}
    publish_prediction(home, SAMPLE_PRODUCT, "article", model_version=version, **where, **made)


def one_day(home: Home, origin: Any, moment: datetime) -> None:
    """Score, choose, forecast."""
    from tasks.evaluation.scoring import score_and_track
    from tasks.forecast.publish import publish_distribution
    from tasks.training.selection import select_model

    recipe = profile_named("calibrated")
    settings = recipe.model_dump(mode="json")
    made = made_of(home, origin, recipe.version, "calibrated", moment)
    data = made["data_version"]
    score_and_track(home, SAMPLE_PRODUCT, data_version=data, settings=settings, moment=moment)
    code = made["code_version"]
    told = {"data_version": data, "settings": settings, "code_version": code, "moment": moment}
    version = select_model(home, SAMPLE_PRODUCT, **told).version
    publish_distribution(
        home, SAMPLE_PRODUCT, origin=origin, settings=settings, model_version=version, **made
    )
    log.info("forecast from %s by version %s", origin, version)


def made_of(home: Home, origin: Any, settings_version: str, profile: str, moment: datetime) -> dict[str, Any]:
    """What the row of a forecast says that it was made of."""
    from tasks.forecast.publish import prediction_key

    with Prices(home) as prices:
        data = prices.data_version(SAMPLE_PRODUCT, origin, created_at=moment)
    parts = {"data_version": data, "settings_version": settings_version, "code_version": code_version()}
    key = prediction_key(product_id=SAMPLE_PRODUCT, origin=origin, profile=profile, **parts)
    return {**parts, "prediction_id": key, "created_at": moment, "flow_run_id": None}


def written(home: Home) -> tuple[Path, date]:
    """The pages, as of the day that the newest forecast is for; the calibrated one's path, and that day."""
    from tasks.report.context import products_of
    from tasks.report.page import write_report

    with Prices(home) as prices:
        last = prices.last_day(SAMPLE_PRODUCT)
    assert last is not None
    day = last + timedelta(days=1)
    for product, profile in products_of(home):
        write_report(home, product, profile, day=day)
    return home.reports / f"{SAMPLE_PRODUCT}.calibrated.html", day


def photograph(page: Path, day: date, out: Path) -> None:
    """Two widths and two themes of one page as it is seen on that day, down to the end of a part of it."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise SystemExit("pictures need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        for width, until, scale in ((DESKTOP, "past", 1), (PHONE, "forecast", 2)):
            for scheme in ("light", "dark"):
                context = chromium.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=scale
                )
                shown = context.new_page()
                shown.clock.set_fixed_time(datetime.combine(day, time(12), UTC))
                shown.goto(page.as_uri())
                bottom = shown.evaluate(
                    "id => document.getElementById(id).getBoundingClientRect().bottom + scrollY", until
                )
                clip = {"x": 0, "y": 0, "width": width, "height": bottom + 24}
                put(out / f"report-{width}-{scheme}.png", shown.screenshot(full_page=True, clip=clip))
                context.close()
        chromium.close()


def put(path: Path, png: bytes) -> None:
    """Keep a picture with few colours: a page has no more, and it is a fifth of the size."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(
            COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        ).save(path, optimize=True)
    log.info("%s, %d kB", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
