"""What the web page must do, as checks on a Playwright page; whose service answers is all the same.

``open_page`` gives a ``Watch`` that collects what must not happen at all: uncaught errors, messages
of the console (a broken content policy is one) and requests to other hosts. Waiting is for
conditions; Playwright's ``wait_for_function`` needs eval, which the policy forbids.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import ConsoleMessage, Page, Request, expect

from avs.media.masks import decode_rle

WAIT_MS = 60_000
NAMED_ROLES = "button|link|slider|combobox|checkbox|textbox|searchbox|progressbar|radio|switch|tab"

_READ_ALPHA = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let k = 3; k < data.length; k += 4) text += String.fromCharCode(data[k]);
  return [canvas.height, canvas.width, btoa(text)];
}"""
_SEEK = """(video, time_s) => new Promise((done) => {
  video.addEventListener("seeked", done, {once: true});
  video.currentTime = time_s;
})"""
_SETTLED = """(video, [time_s, within_s]) => new Promise((done, fail) => {
  let turns = 0;
  const look = () => {
    if (!video.seeking && Math.abs(video.currentTime - time_s) <= within_s) done();
    else if (turns++ > 300) fail(new Error(`at ${video.currentTime}, not ${time_s}`));
    else requestAnimationFrame(look);
  };
  look();
})"""
# What the canvas shows after each of the next frames: the page draws in its own callback.
_WATCH_FRAMES = """(video, count) => new Promise((done) => {
  const seen = [];
  video.addEventListener("ended", () => done(seen), {once: true});
  const onFrame = (_, {mediaTime}) => setTimeout(() => {
    seen.push([mediaTime, Number(document.getElementById("mask").dataset.index ?? -1)]);
    if (seen.length === count) done(seen); else video.requestVideoFrameCallback(onFrame);
  });
  video.requestVideoFrameCallback(onFrame);
})"""
_TOO_SMALL = """() => [...document.querySelectorAll("button, select, summary, nav a, .button")]
  .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 43.5)
  .map((one) => one.outerHTML.slice(0, 80))"""


class Watch:
    """Collects while a page is used; ``check`` raises AssertionError for what must not happen."""

    def __init__(self, page: Page, base_url: str) -> None:
        self._host = urlsplit(base_url).netloc
        self.problems: list[str] = []
        self.requests: list[Request] = []
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("console", self._on_console)
        page.on("request", self._on_request)
        page.on("websocket", lambda socket: self._on_url(socket.url))

    def check(self, *, refused: tuple[int, ...] = ()) -> None:
        """``refused``: statuses of answers of which the browser writes to the console itself."""
        words = [f"responded with a status of {status} " for status in refused]
        left = [one for one in self.problems if not any(word in one for word in words)]
        assert left == [], "\n".join(left)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        self._on_url(request.url)

    def _on_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("blob", "data") and parts.netloc != self._host:
            self.problems.append(f"foreign request: {url}")


def ask(base_url: str, video: Path, *, token: str | None = None, **parameters: Any) -> Any:
    """What the service itself answers as rle_json, to compare the page with."""
    headers = {"X-AVS-Client": "page"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with video.open("rb") as file, httpx.Client(timeout=WAIT_MS / 1000, trust_env=False) as client:
        answer = client.post(
            base_url.rstrip("/") + "/v1/segment",
            params={"format": "rle_json", **parameters},
            files={"file": (video.name, file)},
            headers=headers,
        )
    answer.raise_for_status()
    return answer.json()


def open_page(page: Page, base_url: str) -> Watch:
    """Open the page and wait until it knows the service."""
    watch = Watch(page, base_url)
    page.goto(base_url)
    expect(page.locator("#limits")).to_contain_text("Up to")
    expect(page.locator("body")).to_have_attribute("data-mode", "start")
    return watch


def upload(page: Page, video: Path) -> None:
    """Choose a file as a user does, and wait for the last mask."""
    page.set_input_files("#file", video)
    wait_for_state(page, "done")
    expect(page.locator("#downloads")).to_be_visible()
    expect(page.locator("#working")).to_be_hidden()


def wait_for_state(page: Page, state: str) -> None:
    """``state``: one of idle, uploading, segmenting, done, stopped, failed, live."""
    expect(page.locator("body")).to_have_attribute("data-state", state, timeout=WAIT_MS)


def mask_alpha(page: Page) -> NDArray[np.uint8]:
    """Opacity of the mask canvas, uint8 [H, W]."""
    height, width, text = page.locator("#mask").evaluate(_READ_ALPHA)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width)


def expected_mask(answer: Any, index: int) -> NDArray[np.bool_]:
    """What sounds in mask ``index`` of an rle_json answer, bool [H, W]."""
    mask = np.zeros((answer["height"], answer["width"]), np.bool_)
    for one in answer["masks"][index]["objects"]:
        mask |= decode_rle(one["rle"]).astype(bool)
    return mask


def starts_s(answer: Any) -> list[float]:
    """From when on each mask holds."""
    before_s = 15 / (16 * answer["masks_per_s"])
    return [max(0.0, mask["time_s"] - before_s) for mask in answer["masks"]]


def check_masks(page: Page, answer: Any) -> None:
    """At the middle of every mask's time the canvas shows that mask, pixel for pixel.

    For at most half as many masks as frames, or native: else the frame there is an earlier one's.
    """
    starts = [*starts_s(answer), answer["duration_s"]]
    has_pixels = False
    for k in range(min(len(starts) - 1, 12)):
        page.locator("#video").evaluate(_SEEK, (starts[k] + starts[k + 1]) / 2)
        expect(page.locator("#mask")).to_have_attribute("data-index", str(k))
        shown, expected = mask_alpha(page) > 0, expected_mask(answer, k)
        np.testing.assert_array_equal(shown, expected, err_msg=f"mask {k}")
        has_pixels |= bool(expected.any())
    assert has_pixels, "no mask of this video has a pixel: nothing was compared"


def check_playback(page: Page, answer: Any, *, num_frames: int = 25) -> None:
    """It plays, and with every frame the canvas shows the mask that holds then."""
    video, starts = page.locator("#video"), np.array(starts_s(answer))
    video.evaluate(_SEEK, max(0.0, starts[1] - 0.5))
    page.get_by_role("button", name="Play", exact=True).click()
    frames = video.evaluate(_WATCH_FRAMES, num_frames)
    if not video.evaluate("video => video.ended"):
        page.get_by_role("button", name="Pause", exact=True).click()
    times = [time_s for time_s, _ in frames]
    assert times[-1] > times[0] + 0.2, f"it does not play: {times}"
    expected = [int(np.searchsorted(starts, time_s + 5e-4, side="right")) - 1 for time_s in times]
    assert [index for _, index in frames] == expected
    assert len(set(expected)) > 1, "no mask changed meanwhile: watch more frames"


def check_seeking(page: Page, answer: Any) -> None:
    """Keys and clicks on the timeline move the video, and the slider tells where it is."""
    line, duration_s = page.locator("#timeline"), answer["duration_s"]
    expect(line).to_have_attribute("role", "slider")
    line.press("Home")
    _expect_time(page, 0.0, 0.01)
    line.press("ArrowRight")
    _expect_time(page, 1.0, 0.01)
    line.press("ArrowLeft")
    _expect_time(page, 0.0, 0.01)
    line.press("End")
    _expect_time(page, duration_s, 0.5)
    box = line.bounding_box()
    assert box is not None
    line.click(position={"x": box["width"] / 2, "y": 30})
    _expect_time(page, duration_s / 2, 0.3)
    expect(line).to_have_attribute("aria-valuetext", re.compile(r"^\d+:\d\d of \d+:\d\d"))
    page.get_by_role("button", name="Next mask").click()
    index = int(page.locator("#mask").get_attribute("data-index") or -1)
    assert starts_s(answer)[index] > duration_s / 2 - 0.3


def _expect_time(page: Page, time_s: float, within_s: float) -> None:
    page.locator("#video").evaluate(_SETTLED, [time_s, within_s])
    told = float(page.locator("#timeline").get_attribute("aria-valuenow") or "nan")
    assert abs(told - time_s) <= within_s + 0.05


def check_opacity(page: Page, answer: Any) -> None:
    """The slider makes the same mask fainter and stronger at once, without a request."""
    index = next(k for k in range(len(answer["masks"])) if expected_mask(answer, k).any())
    page.locator("#video").evaluate(_SEEK, starts_s(answer)[index] + 0.01)
    expect(page.locator("#mask")).to_have_attribute("data-index", str(index))
    where = expected_mask(answer, index)
    levels = []
    for percent in ("0", "20", "90", "55"):
        page.locator("#opacity").fill(percent)
        levels.append(mask_alpha(page)[where].mean())
    assert levels[0] == 0 < levels[1] < levels[2]
    wait_for_state(page, "done")


def check_json_download(page: Page, answer: Any, folder: Path) -> None:
    """The JSON made of the stream is the service's own, and costs no request."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    saved = download(page, "json", folder)
    assert json.loads(saved.read_text()) == answer
    assert [one.url for one in requests if "/v1/segment" in one.url] == []


def download(page: Page, file_format: str, folder: Path) -> Path:
    """Click a download button; ``file_format``: overlay, png, npz, matte or json."""
    with page.expect_download(timeout=WAIT_MS) as started:
        page.locator(f'#downloads [data-format="{file_format}"]').click()
    target = folder / started.value.suggested_filename
    started.value.save_as(target)
    expect(page.locator("#download-note")).to_contain_text(target.name)
    return target


def check_rerun(page: Page, watch: Watch) -> None:
    """Another threshold and more masks are another request, with these settings."""
    page.locator("#threshold").fill("0.7")
    page.locator("#threshold").dispatch_event("change")
    with page.expect_response(lambda answer: "masks_per_s=2" in answer.url) as answered:
        page.locator("#masks-per-s").select_option("2")
    answered.value.finished()
    wait_for_state(page, "done")
    last = [one.url for one in watch.requests if "/v1/segment" in one.url][-1]
    asked = parse_qs(urlsplit(last).query)
    assert (asked["threshold"], asked["masks_per_s"]) == (["0.7"], ["2"])


def check_refused_file(page: Page, broken: Path) -> None:
    """A file that is no video is told in words in the live region, and the page goes on."""
    page.set_input_files("#file", broken)
    wait_for_state(page, "failed")
    message = page.get_by_role("alert")
    expect(message).to_be_visible()
    expect(message).to_contain_text(re.compile(r"\w+ \w+"))
    expect(page.locator("#downloads")).to_be_hidden()
    expect(page.locator("#working")).to_be_hidden()


def check_camera(page: Page) -> None:
    """The camera's masks come with a latency, and it can be switched off. Needs a fake device."""
    page.get_by_role("button", name="Use the camera").click()
    wait_for_state(page, "live")
    expect(page.locator("#live-latency")).to_contain_text(
        re.compile(r"^\d+ ms \(service \d+ ms\)"), timeout=WAIT_MS
    )
    first = page.locator("#mask").get_attribute("data-index") or ""
    expect(page.locator("#mask")).not_to_have_attribute("data-index", first, timeout=WAIT_MS)
    assert min(mask_alpha(page).shape) > 1
    page.get_by_role("button", name="Stop the camera").click()
    wait_for_state(page, "idle")
    assert page.locator("#video").evaluate("video => video.srcObject === null")


def check_fits(page: Page, *, width_px: int, height_px: int = 844) -> None:
    """No sideways scrolling at this width, and what is touched is large enough."""
    page.set_viewport_size({"width": width_px, "height": height_px})
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert page.evaluate(_TOO_SMALL) == []


def check_names(page: Page) -> None:
    """Everything that can be used has a name for a screen reader."""
    lines = page.locator("body").aria_snapshot().splitlines()
    controls = [line for line in lines if re.match(rf"\s*- ({NAMED_ROLES})\b", line)]
    nameless = [line for line in controls if not re.match(r'\s*- \w+ ["/]', line)]
    assert controls
    assert nameless == []


def check_docs(page: Page, base_url: str) -> None:
    """The documentation shows the operations with examples for this service."""
    page.goto(base_url.rstrip("/") + "/docs")
    expect(page.locator("body")).to_have_attribute("data-state", "done")
    expect(page.locator("#operations section h2").first).to_contain_text("/v1/segment")
    expect(page.locator("#operations pre").first).to_contain_text(f"{base_url.rstrip('/')}/v1")
    check_names(page)


def screenshot(page: Page, path: Path) -> None:
    """The whole page as a PNG, at the picture that a mask was made of."""
    page.locator("#video").evaluate(_SEEK, 2.9375)
    page.screenshot(path=path, full_page=True)
