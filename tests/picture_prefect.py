"""Pictures of a run in Prefect's page: `make images-prefect`.

The platform of `make serve-demo` makes a run; Chromium opens it as a person would, and the window is saved.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from playwright.sync_api import Page

    from tests.serve_demo import Platform

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs" / "images"
MAX_BYTES = 300_000


def main() -> None:
    """Make a run, save the pictures of it, and print their paths."""
    from tests.browsing import chromium
    from tests.serve_demo import demo, free_port

    with chromium() as browser, demo(free_port()) as platform:
        run_id = platform.run()
        state = platform.wait(run_id, seconds=1800).state
        if state is None or not state.is_completed():
            sys.exit(f"the run did not complete: {state}\n{platform.tail('worker')}")
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        shoot(page, platform, run_id)


def shoot(page: Page, platform: Platform, run_id: UUID) -> None:
    """A product's run with its steps and log, and the forecast in its artifact."""
    own = own_run(platform, run_id)
    page.goto(f"{platform.url}/runs/flow-run/{own}", wait_until="networkidle")
    page.get_by_text("candles").first.wait_for()
    page.wait_for_timeout(2000)  # the graph is drawn on a canvas, and moves until it fits
    save(page, FOLDER / "prefect-run.png")
    page.goto(f"{platform.url}/artifacts/artifact/{forecast_of(platform, own)}", wait_until="networkidle")
    page.get_by_text("the naive forecast").first.wait_for()
    save(page, FOLDER / "prefect-forecast.png")


def own_run(platform: Platform, run_id: UUID) -> UUID:
    """The product's own run within the deployment's."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
    with platform.client() as client:
        return client.read_flow_runs(flow_run_filter=wanted)[0].id


def forecast_of(platform: Platform, run_id: UUID) -> UUID:
    """The Markdown artifact of a product's run."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType

    run, kind = ArtifactFilterFlowRunId(any_=[run_id]), ArtifactFilterType(any_=["markdown"])
    with platform.client() as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run, type=kind))[0].id


def save(page: Page, path: Path) -> None:
    """Save the window as a PNG that is no larger than a page of documentation should load."""
    page.screenshot(path=path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}")
    sys.stdout.write(f"{path} ({size:,} bytes)\n")


if __name__ == "__main__":
    # Run as a file, Python looks for modules in tests/, where `tasks` would be the tests of the tasks.
    sys.path[0] = str(PROJECT)
    main()
