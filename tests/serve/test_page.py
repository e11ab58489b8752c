"""The page, in a real browser against a real server: what people do on it reaches the log, and nothing else loads."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
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
from serve.gateway import Gateway
from serve.guard import Guard
from serve.keys import KeyStore
from serve.metrics import SharedMetrics
from serve.page import FOLDER, HEADERS
from serve.request_log import RequestLog, spool_folder
from serve.sessions import MemorySessions, Sessions
from serve.stages import Stages

CHROMIUM = shutil.which("chromium")
# As root its sandbox does not start; without the rest it asks its makers for news all the time.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# What Chromium itself notes of an answer that is an error.
REFUSED = "Failed to load resource"
# Where to put pictures of the page, if anywhere.
SCREENSHOTS = os.environ.get("TANDEM_SCREENSHOTS")
PICTURES = {"page-desk-light", "page-phone-dark", "page-adaptation", "page-inspector"}
WIDTHS = {"phone": (360, 740), "desk": (1280, 900)}
REWARDS = {"watched": 1.0, "skipped": -2.0, "liked": 2.0, "other": -0.5}


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """The address of an interface on the loopback."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = monotonic() + 60
    while not server.started and monotonic() < deadline:
        sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def service(recommender: Recommender, home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server on the loopback with a log of its own."""
    folder = tmp_path_factory.mktemp("page")
    config = ServeConfig(home=home, policy=PolicyConfig(epsilon=0.2, temperature=0.3), rewards=REWARDS)
    config = config.model_copy(update={"log": config.log.model_copy(update={"spool": str(folder / "spool")})})
    log = RequestLog.open(config, [recommender.version])
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    sessions = Sessions(MemorySessions(config.sessions), config.sessions.timeout_s)
    shared = SharedMetrics(None)
    # As the process that commits tells it before it has.
    shared.own.set("tandem_log_commit_timestamp_seconds", value=0)
    gateway = Gateway(arms, Registry(Home(home)), log, sessions=sessions, metrics=shared.own)
    events = open_events(str(folder))
    with closing(log), closing(Committer(spool_folder(config), events)) as committer:
        committer.commit()
        with serving(Api(gateway, config, metrics=shared)) as address:
            yield {"address": address, "committer": committer, "events": events}


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
    service["committer"].commit()
    return service["events"].read("feedback").to_pylist()


def show_feed(page: Any, user_id: str) -> None:
    page.get_by_label("User").fill(user_id)
    page.get_by_role("button", name="Show the feed").click()
    page.locator("#slate > li").first.wait_for()


def told(page: Any, listed: str, term: str) -> str:
    return page.locator(f"{listed} dt", has_text=term).locator("xpath=following-sibling::dd[1]").inner_text()


def test_a_known_user_sees_a_feed_and_how_it_came_about(page: Any, user_id: str):
    show_feed(page, user_id)
    assert page.locator("#slate > li").count() == 10
    stages = page.locator("#stages th").all_inner_texts()
    assert stages == ["hydrate", "retrieve", "filter", "rank", "select"]
    n_candidates = int(page.locator("#stages tr").nth(3).locator("td").first.inner_text())
    n_explored = page.locator("#slate p", has_text="from explore").count()
    assert page.locator("#candidates tr").count() == n_candidates + n_explored
    assert page.locator("#candidates tr.shown").count() == 10
    propensities = page.locator("#candidates tr.shown td:nth-child(2)").all_inner_texts()
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
        assert told(page, "#live", "Events noted") == str(place + 1)
    rows = committed(service)[before:]
    assert {row["item_id"]: row["action"] for row in rows} == done
    request_id = told(page, "#answer", "Request")
    page.get_by_role("button", name="Show what comes next").click()
    page.wait_for_function("before => document.querySelector('#answer dd').textContent !== before", arg=request_id)
    again = {card.get_attribute("data-item") for card in page.locator("#slate > li").all()}
    assert len(again) == 10 and not again & set(done)
    assert sorted(told(page, "#answer", "Session").split(", ")) == ["1 liked", "1 skipped", "1 watched"]


def test_the_service_tells_what_it_counts(page: Any, user_id: str):
    service = partial(told, page, "#service")
    show_feed(page, user_id)
    before = int(service("Requests").split(",")[0])
    assert service("Processes") == "1" and service("Without the ranker") in ("–", "0.0%")
    count = "Number(document.querySelector('#service dt:nth-of-type(2) + dd').textContent.split(',')[0])"
    page.wait_for_function(f"before => {count} > before", arg=before, timeout=120_000)
    assert service("Requests").endswith("a second") and service("Half of the slates within").endswith("ms")
    assert (service("Failed"), service("Without the ranker"), service("Answers not logged")) == ("0", "0.0%", "0")
    assert service("Explored items").endswith("%") and service("Tables behind by") == "–"


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
    show_feed(page, user_id)
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
  // A colour that was mixed comes as shares of one.
  const colour = (text) => numbers(text).slice(0, 3).map((value) => text.startsWith('color(') ? 255 * value : value);
  const hints = [...document.querySelectorAll('[placeholder]')];
  const pairs = [...texts.map((each) => [each, null]), ...hints.map((each) => [each, '::placeholder'])];
  return pairs.map(([each, part]) => {
    const [a, b] = [light(colour(getComputedStyle(each, part).color)), light(ground(each))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_is_readable_in_light_and_dark_on_phone_and_desk(page: Any, scheme: Any, width: str, user_id: str):
    """Contrast of WCAG 2.1 AA, nothing wider than the screen, and buttons as large as a finger."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS[width], strict=True)))
    show_feed(page, user_id)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert page.evaluate(CONTRAST) == []
    heights = page.evaluate("[...document.querySelectorAll('button')].map((each) => each.offsetHeight)")
    assert min(height for height in heights if height) >= 44
    take_picture(page, f"page-{width}-{scheme}")


def take_picture(page: Any, name: str) -> None:
    if SCREENSHOTS and name in PICTURES:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def test_what_comes_next_begins_at_its_top_without_a_reaction(page: Any, user_id: str):
    page.emulate_media(reduced_motion="reduce")
    page.set_viewport_size({"width": 360, "height": 740})
    show_feed(page, user_id)
    request_id = told(page, "#answer", "Request")
    page.get_by_role("button", name="Show what comes next").click()
    page.wait_for_function("() => document.activeElement.id === 'feed-title'")
    assert told(page, "#answer", "Request") != request_id
    page.wait_for_function("() => Math.abs(document.querySelector('#feed').getBoundingClientRect().top) < 2")


def test_actions_come_in_the_order_of_the_config(page: Any, user_id: str):
    show_feed(page, user_id)
    buttons = page.locator("#slate > li").first.locator("button")
    assert buttons.all_inner_texts() == list(REWARDS)
    assert "leaving" in page.get_by_role("button", name="other").first.get_attribute("title")


def test_what_became_of_a_reaction_is_told_on_its_card(page: Any, user_id: str):
    show_feed(page, user_id)
    card = page.locator("#slate > li").nth(7)
    said, button = card.get_by_role("status"), card.get_by_role("button", name="liked")
    page.route("**/v1/feedback", lambda route: route.abort())
    button.click()
    card.locator(".said.alarm").wait_for()
    assert "not noted" in said.inner_text() and button.get_attribute("aria-pressed") == "false"
    assert button.is_enabled() and told(page, "#live", "Events noted") == "0"
    page.unroute("**/v1/feedback")
    button.click()
    card.locator(".said:not(.alarm)", has_text="Noted: liked").wait_for()
    assert button.get_attribute("aria-pressed") == "true" and told(page, "#live", "Events noted") == "1"
    assert page.locator("#slate .said:not(:empty)").count() == 1
    said.evaluate("each => each.scrollIntoView({block: 'center'})")
    take_picture(page, "page-adaptation")


def test_on_a_phone_the_candidates_are_a_table_one_can_read(page: Any, user_id: str):
    page.set_viewport_size({"width": 360, "height": 740})
    show_feed(page, user_id)
    page.get_by_role("link", name="How this feed came about").click()
    page.wait_for_function("() => Math.abs(document.querySelector('#inspector').getBoundingClientRect().top) < 2")
    found = page.evaluate(
        """() => {
      const line = parseFloat(getComputedStyle(document.querySelector('#candidates')).lineHeight);
      const rows = [...document.querySelectorAll('#candidates tr')].map((each) => each.offsetHeight / line);
      const box = document.querySelector('#candidates').closest('.scroll').getBoundingClientRect();
      const propensity = document.querySelector('#candidates td:nth-child(2)').getBoundingClientRect();
      return {lines: Math.max(...rows), over: propensity.right - box.right};
    }"""
    )
    assert found["lines"] <= 4 and found["over"] <= 0
    page.locator("#candidates").scroll_into_view_if_needed()
    take_picture(page, "page-inspector")


def test_a_key_without_the_role_admin_is_told_so_and_sent_no_more(
    browser: Any, gateway: Gateway, tmp_path: Path, user_id: str
):
    store = KeyStore(Home(tmp_path))
    keys = {role: store.create(role, (role,), now_ms=1)[1] for role in ("recommend", "admin")}
    config = ServeConfig.model_validate({"home": str(tmp_path), "keys": "required"})
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    asked: list[str] = []
    page.on("response", lambda response: asked.append(f"{response.status} {response.url.rsplit('/', 1)[1]}"))

    def look_again() -> None:
        n = asked.count("200 ready")
        page.clock.run_for(6_000)
        while asked.count("200 ready") == n:
            page.wait_for_timeout(10)

    with serving(Api(gateway, ServeConfig(home="."), Guard(config))) as address:
        page.goto(address)
        page.locator("#access[open]").wait_for()
        assert page.locator("#message").inner_text() == "Enter an API key above."
        page.locator("#key").fill(keys["recommend"])
        page.locator("#key").press("Enter")
        page.locator("#operation", has_text="need a key with the role admin").wait_for()
        page.wait_for_function("() => document.querySelector('#user').placeholder")
        for _ in range(3):
            look_again()
        assert asked.count("403 models") == 1 and page.locator(".alarm").count() == 0
        assert "answers" in page.locator("#health").inner_text()
        show_feed(page, user_id)
        page.locator("#key").fill(keys["admin"])
        page.locator("#key").press("Tab")
        page.locator("#models tr").wait_for()
        assert page.locator("#operation").inner_text() == ""
        context.close()


def test_the_95_percent_are_not_less_than_that(page: Any, user_id: str):
    show_feed(page, user_id)
    page.route("**/v1/recommend", lambda route: (sleep(1), route.continue_()))
    page.get_by_role("button", name="Show what comes next").click()
    page.locator("#live dd", has_text="2, 0 failed").wait_for()
    half, most = (float(told(page, "#live", term).removesuffix(" ms")) for term in ("Half of them", "95% of them"))
    assert most >= 1000 > half


def test_a_propensity_is_told_however_small_it_is(page: Any, user_id: str):
    with page.expect_response("**/v1/recommend") as answered:
        show_feed(page, user_id)
    items = answered.value.json()["items"]
    shown = [float(text.split()[-1]) for text in page.locator("#slate > li > p:nth-of-type(1)").all_inner_texts()]
    assert shown == pytest.approx([item["propensity"] for item in items], rel=0.005)
    cells = page.locator("#candidates tr.shown td:nth-child(2)").all_inner_texts()
    assert sorted(map(float, cells)) == sorted(shown)


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
