"""Pictures of a run in Prefect's page: `make images-prefect`.

The platform of `make serve-demo` makes a run; Chromium opens it as a person would, and the window is saved.
"""

from __future__ import annotations

import argparse
import os
import shutil
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


def take(folder: Path, chromium: str, port: int | None) -> list[Path]:
    """Make a run, and save the pictures of it.

    Raises:
        RuntimeError: the page does not show what it should.
    """
    from playwright.sync_api import sync_playwright

    from tests.serve_demo import demo, free_port

    folder.mkdir(parents=True, exist_ok=True)
    with demo(port or free_port()) as platform, sync_playwright() as playwright:
        run_id = platform.run()
        state = platform.wait(run_id, seconds=1800).state
        if state is None or not state.is_completed():
            raise RuntimeError(f"the run did not complete: {state}\n{platform.tail('worker')}")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        pictures = [*shoot(page, platform, run_id, folder)]
        browser.close()
    return pictures


def shoot(page: Page, platform: Platform, run_id: UUID, folder: Path) -> list[Path]:
    """A product's run with its steps and log, and the forecast in its artifact."""
    own = own_run(platform, run_id)
    page.goto(f"{platform.url}/runs/flow-run/{own}", wait_until="networkidle")
    page.get_by_text("candles").first.wait_for()
    page.wait_for_timeout(2000)  # the graph is drawn on a canvas, and moves until it fits
    run = save(page, folder / "prefect-run.png")
    page.goto(f"{platform.url}/artifacts/artifact/{forecast_of(platform, own)}", wait_until="networkidle")
    page.get_by_text("the naive forecast").first.wait_for()
    return [run, save(page, folder / "prefect-forecast.png")]


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


def save(page: Page, path: Path) -> Path:
    """Save the window as a PNG.

    Raises:
        RuntimeError: the file is larger than a page of documentation should load.
    """
    page.screenshot(path=path)
    if path.stat().st_size > MAX_BYTES:
        raise RuntimeError(f"{path} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    return path


def main() -> None:
    """Take the pictures, and print their paths."""
    parser = argparse.ArgumentParser(description="Pictures of a run in Prefect's page.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--chromium", default=os.environ.get("CHROMIUM") or shutil.which("chromium"))
    parser.add_argument("--port", type=int, help="of the server; a free one by default")
    given = parser.parse_args()
    if not given.chromium:
        sys.exit("a Chromium is needed: apt-get install chromium, or name one with --chromium")
    for path in take(given.folder, given.chromium, given.port):
        sys.stdout.write(f"{path} ({path.stat().st_size:,} bytes)\n")


if __name__ == "__main__":
    # Run as a file, Python looks for modules in tests/, where `tasks` would be the tests of the tasks.
    sys.path[0] = str(PROJECT)
    main()
