"""The web page in headless Chromium, on a real service.

AVS_SCREENSHOTS=FOLDER keeps the picture that README shows, AVS_SCREENSHOT_RUN=RUN makes it with a
trained model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import page_checks as checks
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from serving_service import running, serve_config

from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[str]:
    request.getfixturevalue("ray_cluster")
    checkpoint = Path(os.environ.get("AVS_SCREENSHOT_RUN") or tiny_checkpoint)
    with running(serve_config(checkpoint, max_duration_s=60.0)) as url:
        yield url


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SyntheticConfig(
        layout=Layout.MS3,
        num_train=1,
        num_val=0,
        num_test=0,
        size_px=224,
        width_px=320,
        duration_s=7,
        silent_ratio=0,
    )
    root = tmp_path_factory.mktemp("videos")
    [spec] = clip_plan(config)
    write_clip(root, spec, config)
    [path] = root.rglob("*.mp4")
    return path


@pytest.fixture(scope="module")
def browser(url: str) -> Iterator[Browser]:  # ended first: its event loop bars calls to Serve
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(checks.WAIT_MS)
    yield page
    context.close()


def test_a_video_is_segmented_played_and_downloaded(
    page: Page, url: str, video: Path, tmp_path: Path
) -> None:
    answer = checks.ask(url, video)
    watch = checks.open_page(page, url)
    checks.upload(page, video)
    checks.check_masks(page, answer)
    checks.check_playback(page, answer)
    checks.check_seeking(page, answer)
    checks.check_opacity(page, answer)
    checks.check_names(page)
    if folder := os.environ.get("AVS_SCREENSHOTS"):
        checks.screenshot(page, Path(folder) / "page.png")
    checks.check_json_download(page, answer, tmp_path)
    for file_format in ("overlay", "png"):
        assert checks.download(page, file_format, tmp_path).stat().st_size > 0
    checks.check_rerun(page, watch)
    checks.check_fits(page, width_px=320)
    watch.check()


def test_a_broken_file_is_told_in_words(page: Page, url: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypisom" + bytes(2000))
    watch = checks.open_page(page, url)
    checks.check_refused_file(page, broken)
    watch.check(refused=(422,))


def test_a_camera_shows_masks_while_it_runs(page: Page, url: str) -> None:
    watch = checks.open_page(page, url)
    checks.check_camera(page)
    watch.check()


def test_the_documentation_needs_nothing_from_elsewhere(page: Page, url: str) -> None:
    watch = checks.Watch(page, url)
    checks.check_docs(page, url)
    checks.check_fits(page, width_px=320)
    watch.check()
