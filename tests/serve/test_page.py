"""The page, in a real browser against a real server: what people do on it reaches the log, and nothing else loads."""

import os
import shutil
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import uvicorn

from rec.data.events import open_events
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.committer import Committer
from serve.config import PolicyConfig, ServeConfig
from serve.gateway import Gateway, Stages
from serve.metrics import SharedMetrics
from serve.page import FOLDER, HEADERS
from serve.request_log import RequestLog, spool_folder
from serve.sessions import MemorySessions, Sessions

CHROMIUM = shutil.which("chromium")
# As root its sandbox does not start; without the rest it asks its makers for news all the time.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# What Chromium itself notes of an answer that is an error.
REFUSED = "Failed to load resource"
# Where to put pictures of the page, if anywhere.
SCREENSHOTS = os.environ.get("TANDEM_SCREENSHOTS")
PICTURES = {("desk", "light"), ("phone", "dark")}
WIDTHS = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def service(recommender: Recommender, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server on the loopback with a log of its own."""
    folder = tmp_path_factory.mktemp("page")
    config = ServeConfig(home=home, policy=PolicyConfig(epsilon=0.2, temperature=0.3))
    config = config.model_copy(update={"log": config.log.model_copy(update={"spool": str(folder / "spool")})})
    log = RequestLog.open(config, [recommender.version])
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    sessions = Sessions(MemorySessions(config.sessions), config.sessions.timeout_s)
    shared = SharedMetrics(None)
    gateway = Gateway(arms, Registry(Home(home)), log, sessions=sessions, metrics=shared.own)
    api = Api(gateway, config, metrics=shared)
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = monotonic() + 60
    while not server.started and monotonic() < deadline:
        sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield {"address": f"http://127.0.0.1:{port}/", "config": config, "events": open_events(str(folder)), "log": log}
    server.should_exit = True
    thread.join(30)
    log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: make system-deps")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, service: dict[str, Any]) -> Iterator[Any]:
    """The page; afterwards it must not have asked anybody else, nor said anything to the console."""
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: None if message.text.startswith(REFUSED) else said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(service["address"])
    page.locator("#health", has_text="answers").wait_for()
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(service["address"])] == []
    assert said == []


def committed(service: dict[str, Any]) -> list[dict[str, Any]]:
    committer = Committer(spool_folder(service["config"]), service["events"])
    committer.commit()
    committer.close()
    return service["events"].read("feedback").to_pylist()


def test_a_known_user_sees_a_feed_and_how_it_came_about(page: Any, user_id: str):
    page.get_by_label("User").fill(user_id)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#slate > li").first.wait_for()
    assert page.locator("#slate > li").count() == 10
    stages = page.locator("#stages th").all_inner_texts()
    assert stages == ["hydrate", "retrieve", "filter", "rank", "select"]
    n_candidates = int(page.locator("#stages tr").nth(3).locator("td").first.inner_text())
    n_explored = page.locator("#slate p", has_text="from explore").count()
    assert page.locator("#candidates tr").count() == n_candidates + n_explored
    assert page.locator("#candidates tr.shown").count() == 10
    propensities = page.locator("#candidates tr.shown td:last-child").all_inner_texts()
    assert all(0 < float(text) <= 1 for text in propensities)


def test_reactions_reach_the_log_and_their_items_do_not_come_again(page: Any, service: dict[str, Any]):
    page.get_by_role("button", name="Start as somebody new").click()
    page.locator("#slate > li").first.wait_for()
    before = len(committed(service))
    done = {}
    for place, action in enumerate(["liked", "watched", "skipped"]):
        card = page.locator("#slate > li").nth(place)
        done[card.get_attribute("data-item")] = action
        button = card.get_by_role("button", name=action)
        button.click()
        page.locator("#events tr").nth(place).wait_for()
        assert button.get_attribute("aria-pressed") == "true"
    rows = committed(service)[before:]
    assert {row["item_id"]: row["action"] for row in rows} == done
    page.get_by_role("button", name="Show what comes next").click()
    page.locator("#more:disabled").wait_for()
    again = {card.get_attribute("data-item") for card in page.locator("#slate > li").all()}
    assert len(again) == 10 and not again & set(done)
    known = page.locator("#answer dt", has_text="Session").locator("xpath=following-sibling::dd[1]").inner_text()
    assert sorted(known.split(", ")) == ["1 liked", "1 skipped", "1 watched"]


def test_the_service_tells_what_it_counts(page: Any, user_id: str):
    def told(term: str) -> str:
        return page.locator("#service dt", has_text=term).locator("xpath=following-sibling::dd[1]").inner_text()

    page.get_by_label("User").fill(user_id)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#slate > li").first.wait_for()
    before = int(told("Requests").split(",")[0])
    assert told("Processes") == "1" and told("Without the ranker") in ("–", "0.0%")
    count = "Number(document.querySelector('#service dt:nth-of-type(2) + dd').textContent.split(',')[0])"
    page.wait_for_function(f"before => {count} > before", arg=before, timeout=120_000)
    assert told("Requests").endswith("a second") and told("Half of the slates within").endswith("ms")
    assert (told("Failed"), told("Without the ranker"), told("Answers not logged")) == ("0", "0.0%", "0")
    assert told("Explored items").endswith("%") and told("Tables behind by") == "–"


def test_all_of_it_can_be_done_with_the_keyboard(page: Any, user_id: str):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the feed"
    while page.evaluate("document.activeElement.id") != "user":
        page.keyboard.press("Tab")
    page.keyboard.type(user_id)
    page.keyboard.press("Enter")
    page.locator("#slate > li").first.wait_for()
    presses = 0
    while page.evaluate("document.activeElement.closest('#slate') === null"):
        page.keyboard.press("Tab")
        presses += 1
        assert presses < 20
    page.keyboard.press("Space")
    page.locator("#events tr").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true", "the focus stays"


def test_a_screen_reader_finds_names_for_all(page: Any, user_id: str):
    page.get_by_label("User").fill(user_id)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#slate > li").first.wait_for()
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, a, table')].filter((each) =>
        !(each.ariaLabel || each.textContent.trim() || each.labels?.length)).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("#message").get_attribute("role") == "status"


CONTRAST = """() => {
  const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.map(channel); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (each) => {
    for (; each; each = each.parentElement) {
      const found = numbers(getComputedStyle(each).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter((each) =>
    !each.disabled && each.offsetParent
    && [...each.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return texts.map((each) => {
    const [a, b] = [light(numbers(getComputedStyle(each).color).slice(0, 3)), light(ground(each))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_is_readable_in_light_and_dark_on_phone_and_desk(page: Any, scheme: Any, width: str, user_id: str):
    """Contrast of WCAG 2.1 AA, nothing wider than the screen, and buttons as large as a finger."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS[width], strict=True)))
    page.get_by_label("User").fill(user_id)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#slate > li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert page.evaluate(CONTRAST) == []
    heights = page.evaluate("[...document.querySelectorAll('button')].map((each) => each.offsetHeight)")
    assert min(height for height in heights if height) >= 44
    if SCREENSHOTS and (width, scheme) in PICTURES:
        page.screenshot(path=Path(SCREENSHOTS) / f"page-{width}-{scheme}.png")


def test_an_error_is_told_in_words(page: Any):
    page.get_by_role("button", name="Start as somebody new").click()
    page.locator("#slate > li").first.wait_for()
    page.evaluate("document.querySelector('#user').removeAttribute('maxlength')")
    page.get_by_label("User").fill("x" * 2000)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#message.alarm").wait_for()
    assert "user_id" in page.locator("#message").inner_text()


def test_files_come_with_headers_that_let_nothing_else_in(service: dict[str, Any]):
    import httpx

    for path in ("", *(f"page/{file.name}" for file in FOLDER.iterdir())):
        answer = httpx.get(service["address"] + path)
        assert answer.status_code == 200
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    for path in ("page/../page.py", "page/%2e%2e%2fpage.py", "page/none.js"):
        assert httpx.get(service["address"] + path).status_code == 404
