// The page: who watches, their feed, and how each answer came about. No library, nothing from elsewhere.

const SLATE = 10;
const KEPT_TIMES = 100;
const REFRESH_MS = 5000;
const EXPLAINED = { other: "other: none of the rest, such as leaving in the middle" };

const find = (id) => document.getElementById(id);
const state = { user: null, session: null, times: [], events: [], actions: [], failures: 0, requests: 0, refusedKey: null };

/** An element with attributes and children; text is never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const cell = (text) => element("td", {}, text);
const number = (value, digits) =>
  element("td", { class: "number" }, value === null || value === undefined ? "–" : value.toFixed(digits));

/** Three significant digits: a probability of exploration is as small as epsilon over the items there are. */
const probability = (value) => value.toPrecision(3);

function pairs(list, entries) {
  list.replaceChildren(...entries.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, String(text))]));
}

function say(text, isError = false) {
  sayOn(find("message"), text, isError);
}

function sayOn(place, text, isError) {
  place.textContent = text;
  place.classList.toggle("alarm", isError);
}

const keyOfTab = () => sessionStorage.getItem("key") ?? "";

/** The answer of the service; an error says what the service said. */
async function ask(path, { body, headers = {}, text = false } = {}) {
  const key = keyOfTab();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The service does not answer; is it running?");
  }
  if (answer.ok && text) return answer.text();
  const parsed = await answer.json().catch(() => ({}));
  if (answer.ok) return parsed;
  if (answer.status === 401) find("access").open = true;
  const wanted = key ? "The API key opens nothing here; enter another one above." : "Enter an API key above.";
  const said = parsed.detail ?? `The service answered ${answer.status}.`;
  const error = new Error(answer.status === 401 ? wanted : said);
  throw Object.assign(error, { status: answer.status });
}

async function showFeed() {
  find("feed").setAttribute("aria-busy", "true");
  const before = performance.now();
  state.requests += 1;
  try {
    const body = { user_id: state.user, n: SLATE, session_id: state.session, explain: true };
    const answer = await ask("v1/recommend", { body, headers: { "idempotency-key": crypto.randomUUID() } });
    state.times = [...state.times, performance.now() - before].slice(-KEPT_TIMES);
    draw(answer);
  } catch (error) {
    state.failures += 1;
    say(error.message, true);
  } finally {
    find("feed").removeAttribute("aria-busy");
    drawLive();
  }
}

function draw(answer) {
  const shown = new Map(answer.items.map((item) => [item.item_id, item]));
  find("slate").replaceChildren(...answer.items.map((item) => card(answer.request_id, item)));
  find("more").hidden = answer.items.length === 0;
  say(
    answer.items.length === 0
      ? "There is nothing left to show."
      : `${answer.items.length} items for ${answer.user_known ? state.user : "somebody new"}.`,
  );
  pairs(find("answer"), [
    ["Request", answer.request_id],
    ["Model", answer.policy_version],
    ["User", answer.user_known ? "known to the model" : "new to the model"],
    ["Session", Object.entries(answer.session.counts).map(([action, n]) => `${n} ${action}`).join(", ") || "nothing yet"],
    ["Answer", answer.degraded ? "degraded: by retrieval alone" : answer.short ? "short: items ran out" : "complete"],
  ]);
  find("stages").replaceChildren(
    ...answer.stages.map((stage) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, stage.name),
        number(stage.n_in, 0),
        number(stage.n_out, 0),
        element("td", { class: "number" }, `${stage.ms.toFixed(2)} ms`),
      ),
    ),
  );
  const candidates = answer.candidates ?? [];
  const explored = answer.items.filter((item) => item.score === null);
  find("candidates").replaceChildren(
    ...[...explored.map((item) => ({ ...item, sources: [item.source] })), ...candidates].map((candidate) =>
      element(
        "tr",
        { class: shown.has(candidate.item_id) ? "shown" : null },
        cell(candidate.title ?? candidate.item_id),
        element("td", { class: "number" }, shown.has(candidate.item_id) ? probability(shown.get(candidate.item_id).propensity) : "–"),
        number(candidate.score, 3),
        number(candidate.retrieval_score, 3),
        cell(candidate.sources.join(", ")),
      ),
    ),
  );
}

function card(requestId, item) {
  const name = item.title ?? item.item_id;
  const said = element("p", { class: "said", role: "status" });
  const buttons = state.actions.map((action) =>
    element(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        "aria-label": `${action}: ${name}`,
        title: EXPLAINED[action] ?? null,
        onclick: (event) => react(event.currentTarget, said, requestId, item, action),
      },
      action,
    ),
  );
  return element(
    "li",
    { "data-item": item.item_id },
    element("h3", {}, name),
    element("p", {}, `from ${item.source}, shown here with probability ${probability(item.propensity)}`),
    element("div", { class: "actions", role: "group", "aria-label": `What do you do with ${name}?` }, ...buttons),
    said,
  );
}

/** Sends a reaction, and says on its card what became of it; only what was taken is shown as pressed. */
async function react(button, said, requestId, item, action) {
  const before = performance.now();
  const buttons = [...button.parentElement.children];
  for (const each of buttons) each.disabled = true;
  try {
    const event = { request_id: requestId, item_id: item.item_id, action, event_id: crypto.randomUUID() };
    await ask("v1/feedback", { body: event });
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    const after = `${(performance.now() - before).toFixed(0)} ms`;
    state.events = [{ action, name: item.title ?? item.item_id, after }, ...state.events];
    find("events").replaceChildren(
      ...state.events.map((each) => element("tr", {}, cell(each.action), cell(each.name), element("td", { class: "number" }, each.after))),
    );
    sayOn(said, `Noted: ${action}.`, false);
    drawLive();
  } catch (error) {
    sayOn(said, `${action} was not noted: ${error.message}`, true);
  } finally {
    for (const each of buttons) each.disabled = false;
    if (document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

function startAs(user) {
  Object.assign(state, { user, session: crypto.randomUUID(), events: [] });
  find("events").replaceChildren();
  return showFeed();
}

function drawLive() {
  const sorted = [...state.times].sort((a, b) => a - b);
  const at = (share) => (sorted.length ? `${sorted[Math.ceil(share * sorted.length) - 1].toFixed(0)} ms` : "–");
  pairs(find("live"), [
    ["Requests of this page", `${state.requests}, ${state.failures} failed`],
    ["Half of them within", at(0.5)],
    ["95% of them within", at(0.95)],
    ["Events noted", state.events.length],
  ]);
}

/** Samples of Prometheus' text format: name, labels and value of each. */
function samples(text) {
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  return lines.map((line) => {
    const [, name, labels, value] = line.match(/^(\w+)(?:\{(.*)\})? (\S+)/);
    const told = [...(labels ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, of]) => [label, of]);
    return { name, labels: Object.fromEntries(told), value: Number(value) };
  });
}

/** The least bound of a histogram's buckets below which there is such a share of what was observed. */
function bound(buckets, share) {
  const total = new Map();
  for (const { labels, value } of buckets) total.set(labels.le, (total.get(labels.le) ?? 0) + value);
  const sorted = [...total].map(([le, n]) => [le === "+Inf" ? Infinity : Number(le), n]).sort(([a], [b]) => a - b);
  const [most] = sorted.find(([, n]) => n >= share * sorted.at(-1)[1]);
  return most === Infinity ? "longer" : `${most * 1000} ms`;
}

/** What all processes of the service tell together, since they started, and since this page last looked. */
function drawService(found) {
  const of = (name, wanted = {}) =>
    found.filter(
      (each) => each.name === name && Object.entries(wanted).every(([label, value]) => each.labels[label] === value),
    );
  const sum = (...which) => of(...which).reduce((all, { value }) => all + value, 0);
  const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)}%` : "–");
  const now = performance.now();
  const requests = sum("tandem_requests_total");
  const before = state.service;
  state.service = { now, requests };
  const rate = before && Math.max(0, ((requests - before.requests) * 1000) / (now - before.now));
  const failed = of("tandem_requests_total").filter(({ labels }) => labels.status >= "500");
  const slates = sum("tandem_recommendations_total");
  const buckets = of("tandem_request_seconds_bucket", { route: "/v1/recommend" });
  // Of a process that has not committed yet it is 0.
  const committed = of("tandem_log_commit_timestamp_seconds").map(({ value }) => value).filter((value) => value > 0);
  pairs(find("service"), [
    ["Processes", new Set(found.map(({ labels }) => labels.process)).size],
    ["Requests", `${requests}${before ? `, ${rate.toFixed(1)} a second` : ""}`],
    ["Failed", failed.reduce((all, { value }) => all + value, 0)],
    ["Half of the slates within", buckets.length ? bound(buckets, 0.5) : "–"],
    ["95% of the slates within", buckets.length ? bound(buckets, 0.95) : "–"],
    ["Without the ranker", percent(sum("tandem_degraded_total"), slates)],
    ["Explored items", percent(sum("tandem_items_total", { source: "explore" }), sum("tandem_items_total"))],
    ["Tables behind by", committed.length ? `${Math.max(0, Date.now() / 1000 - Math.max(...committed)).toFixed(0)} s` : "–"],
    ["Answers not logged", sum("tandem_unlogged_total")],
  ]);
}

async function drawHealth() {
  try {
    const { version, degraded } = await ask("health/ready");
    sayOn(find("health"), `Model ${version} answers${degraded ? `, without: ${degraded.join(", ")}` : ""}.`, false);
  } catch (error) {
    sayOn(find("health"), error.message, true);
  }
}

/** Models and metrics, which not every key opens: one that was refused is not sent again. */
async function drawOperation() {
  const key = keyOfTab();
  if (key === state.refusedKey) return;
  try {
    const { models } = await ask("v1/models");
    find("models").replaceChildren(
      ...models.map((model) => {
        const facts = [model.is_serving && "answers", model.is_current && "current", model.problem].filter(Boolean);
        return element("tr", {}, element("th", { scope: "row" }, model.version), cell(facts.join(", ") || "published"));
      }),
    );
    drawService(samples(await ask("metrics", { text: true })));
    sayOn(find("operation"), "", false);
  } catch (error) {
    const isRefused = error.status === 401 || error.status === 403;
    if (isRefused) state.refusedKey = key;
    sayOn(find("operation"), isRefused ? "Models and metrics need a key with the role admin." : error.message, !isRefused);
  }
}

/** One at a time, so that a key that is refused is sent once. */
let refreshing = null;
function refresh() {
  refreshing ??= Promise.all([drawHealth(), drawOperation()]).finally(() => {
    refreshing = null;
  });
  return refreshing;
}

async function setUp() {
  try {
    const { users, actions } = await ask("page/setup.json");
    state.actions = actions;
    find("users").replaceChildren(...users.map((user) => element("option", { value: user })));
    find("user").placeholder = users.length ? `such as ${users[0]}` : "";
  } catch (error) {
    say(error.message, true);
  }
}

find("person").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!state.actions.length) await setUp();
  await startAs(find("user").value);
});
find("newcomer").addEventListener("click", async () => {
  if (!state.actions.length) await setUp();
  await startAs(`guest-${crypto.randomUUID()}`);
});
find("more").addEventListener("click", async () => {
  await showFeed();
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("feed-title").focus({ preventScroll: true });
  find("feed").scrollIntoView({ behavior: isCalm ? "instant" : "smooth", block: "start" });
});
find("key").value = keyOfTab();
find("key").addEventListener("change", async () => {
  sessionStorage.setItem("key", find("key").value.trim());
  state.refusedKey = null;
  say("");
  await setUp();
  await refreshing;
  await refresh();
});
drawLive();
await setUp();
await refresh();
setInterval(refresh, REFRESH_MS);
