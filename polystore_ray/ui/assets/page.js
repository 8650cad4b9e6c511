// The page: an overview of a store that updates by itself, and a browser of its backends.
// Names and values come from anywhere: they become text nodes, never HTML.

const ROW = 28; // pixels; as in page.css
const WINDOW = 60; // entries in one request
const EVERY = 2000; // milliseconds between two looks at the store
const RATE_OVER = 30; // seconds; Ray has new numbers every ten
const KEPT = 300; // seconds of history

const $ = (id) => document.getElementById(id);

function el(tag, facts = {}, ...children) {
  const made = Object.assign(document.createElement(tag), facts);
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

function svg(tag, facts, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

async function ask(what, parameters = {}, signal = null) {
  const answer = await fetch(`api/${what}?${new URLSearchParams(parameters)}`, { signal });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Text

// Control characters, and those that turn the direction of text, are shown by their numbers.
const visible = (text) =>
  String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);

function size(bytes) {
  if (bytes == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${unit ? (bytes / 1024 ** unit).toFixed(1) : bytes} ${units[unit]}`;
}

const count = (number) => number.toLocaleString("en");
const per = (rate) => (rate == null ? "–" : `${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))}/s`);
const moment = (seconds) => (seconds == null ? "–" : new Date(seconds * 1000).toLocaleString("sv"));
const short = (node) => node.slice(0, 8);
const table = (names, rows) => [
  names && el("thead", {}, el("tr", {}, names.map((name) => el("th", {}, visible(name))))),
  el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, cell instanceof Node ? cell : visible(cell)))))),
].filter(Boolean);

// Overview

const history = [];

async function look() {
  try {
    const found = await ask("overview");
    showBackends(found.backends);
    if (found.status) showStatus(found);
    else showNoStore(found);
    $("state").textContent = `as of ${new Date(found.time * 1000).toLocaleTimeString("sv")}`;
    $("state").className = "";
  } catch (error) {
    $("state").textContent = error.message;
    $("state").className = "failed";
  }
}

async function lookAgainAndAgain() {
  if (!document.hidden && !$("overview").hidden) await look();
  setTimeout(lookAgainAndAgain, EVERY);
}

function showNoStore(found) {
  $("tiles").replaceChildren(tile("backends of this process", count(found.backends.length)));
  $("nodes").closest("section").hidden = true;
}

function showStatus({ status, lost, head, counters, time }) {
  $("store").textContent = visible(status.store);
  const sum = (counted) => counted && Object.values(counted).reduce((a, b) => a + b, 0);
  history.push({
    time,
    operations: sum(counters?.operations),
    errors: sum(counters?.errors),
    kept: counters?.reads?.kept ?? 0,
    asked: counters?.reads?.asked ?? 0,
  });
  while (history[0].time < time - KEPT) history.shift();
  const limit = status.max_bytes ? ` of ${size(status.max_bytes)}` : "";
  $("tiles").replaceChildren(
    tile("files", count(status.files)),
    tile(`bytes${limit}`, size(status.bytes)),
    tile("lost values", count(status.lost), status.lost ? "bad" : ""),
    tile("objects with too few replicas", count(status.too_few_replicas), status.too_few_replicas ? "doubtful" : ""),
    ...rateTiles(counters),
    tile("reads without a call", hitRate()),
    tile("answer of the controller", `${(1000 * status.answered_in).toFixed(1)} ms`),
    tile("second copy of the tree", status.follower ? hostOf(status, status.follower) : "none"),
    tile("nodes", count(status.nodes.length)),
  );
  $("warnings").replaceChildren(
    ...status.lost_with_head.map((reason) => el("p", {}, visible(`Losing Ray's head loses the store or a part of it: ${reason}`))),
    ...(counters === null ? [el("p", {}, "Ray exports no metrics here, so operations are not counted: install ray[default] on the nodes.")] : []),
  );
  $("nodes").replaceChildren(...table(["Host", "Memory", "Pinned", "Adopted", "Free", "Spilled", "Read cache", "Backends"], status.nodes.map((node) => nodeRow(node, head))));
  $("losses").hidden = !lost.length;
  $("lost").replaceChildren(...table(["Path", "When", "Node", "Reason"], lost.map(lostRow)));
}

function tile(name, value, kind = "", ...more) {
  return el("li", { className: kind }, el("b", {}, visible(value)), el("small", {}, visible(name)), ...more);
}

function rateTiles(counters) {
  if (!counters?.operations) return []; // nobody counts them
  return [
    tile("operations", per(rate("operations")), "", spark("operations")),
    tile("errors", per(rate("errors")), rate("errors") ? "bad" : "", spark("errors")),
  ];
}

const hostOf = (status, id) => status.nodes.find((node) => node.node === id)?.host ?? short(id);

function nodeRow(node, head) {
  const free = node.capacity && node.capacity - node.pinned_bytes - node.adopted_bytes;
  const bar = el("div", { className: "memory", title: `${size(node.capacity)} in all`, hidden: !node.capacity });
  for (const part of [node.pinned_bytes, node.adopted_bytes]) {
    const piece = el("i");
    piece.style.width = `${(100 * part) / node.capacity}%`;
    bar.append(piece);
  }
  const name = el("span", { title: node.node }, visible(`${node.host} ${short(node.node)}`));
  const badges = [node.node === head && "head", node.silent.length && `silent: ${node.silent.join(", ")}`];
  name.append(...badges.filter(Boolean).map((text) => el("span", { className: "badge" }, visible(text))));
  const cache = node.cache_hits + node.cache_misses;
  const hits = cache ? `, ${Math.round((100 * node.cache_hits) / cache)} % hits` : "";
  return [name, bar, size(node.pinned_bytes), size(node.adopted_bytes), size(free), size(node.spilled_bytes), size(node.cached_bytes) + hits, node.backends.join(", ")];
}

function lostRow(value) {
  const reason = value.fallback ? `${value.reason}; the next load restores it from ${value.fallback.join(":")}` : value.reason;
  return [el("a", { href: toValue("memory", value.path), className: "bad" }, visible(value.path)), moment(value.time), `${value.host} ${short(value.node)}`, reason];
}

// How much a counter grew each second, over the last seconds before a sample.
function rate(name, upTo = history.length - 1) {
  const last = history[upTo];
  const first = history.find((sample) => sample.time >= last.time - RATE_OVER);
  if (last[name] == null || first[name] == null || first === last) return null;
  return Math.max(0, (last[name] - first[name]) / (last.time - first.time));
}

function hitRate() {
  const last = history[history.length - 1];
  const first = history.find((sample) => sample.time >= last.time - RATE_OVER);
  const recent = last.kept + last.asked > first.kept + first.asked ? first : { kept: 0, asked: 0 };
  const reads = last.kept + last.asked - recent.kept - recent.asked;
  return reads > 0 ? `${((100 * (last.kept - recent.kept)) / reads).toFixed(0)} %` : "–";
}

function spark(name) {
  const rates = history.map((_, number) => rate(name, number) ?? 0);
  const most = Math.max(...rates, 1e-9);
  const points = rates.map((value, number) => `${number},${(1 - value / most).toFixed(3)}`);
  const box = `0 -0.1 ${Math.max(1, rates.length - 1)} 1.2`;
  return svg("svg", { class: "spark", viewBox: box, preserveAspectRatio: "none", role: "img", "aria-label": `${name} per second over the last minutes` }, svg("polyline", { points: points.join(" ") }));
}

// Browse

const entries = new Map(); // those of the directory that have been asked for, by their numbers
const asked = new Set(); // the numbers of the windows
let at = null; // the backend and the directory
let total = 0;
let chosen = 0;
let order = { sort: "name", reverse: false };
let listing = new AbortController();

const below = (path, name) => `${path.replace(/\/+$/, "")}/${name}`;
const above = (path) => path.replace(/\/+$/, "").replace(/[^/]*$/, "").replace(/(.)\/$/, "$1") || "/";
const toPlace = (view, backend, path) => `#${view}=${encodeURIComponent(JSON.stringify([backend, path]))}`;
const toDirectory = (backend, path) => toPlace("browse", backend, path);
const toValue = (backend, path) => toPlace("value", backend, path);

function showBackends(keys) {
  const select = $("backend");
  if (select.length === keys.length) return;
  select.replaceChildren(...keys.map((key) => el("option", { value: key }, visible(key))));
  if (at) select.value = at[0];
}

async function list(backend, path) {
  at = [backend, path];
  $("search").value = "";
  $("below").checked = false;
  await listAgain();
}

async function listAgain() {
  listing.abort();
  listing = new AbortController();
  entries.clear();
  asked.clear();
  total = chosen = 0;
  $("list").scrollTop = 0;
  await fill(0);
}

async function fill(number) {
  if (asked.has(number)) return;
  asked.add(number);
  try {
    const found = await ask("list", {
      place: JSON.stringify(at),
      sort: order.sort,
      reverse: order.reverse ? "1" : "",
      search: $("search").value,
      below: $("below").checked ? "1" : "",
      start: number * WINDOW,
      count: WINDOW,
    }, listing.signal);
    at[1] = found.path;
    total = found.total;
    found.entries.forEach((entry, position) => entries.set(found.start + position, entry));
    $("count").textContent = `${count(total)} ${total === 1 ? "entry" : "entries"}`;
    $("count").className = "";
    if (number === 0) showPath();
  } catch (error) {
    if (error.name === "AbortError") return;
    $("count").textContent = error.message;
    $("count").className = "failed";
  }
  draw();
}

function showPath() {
  const [backend, path] = at;
  $("backend").value = backend;
  const names = path.split("/").filter(Boolean);
  const steps = names.map((name, number) => [name, `/${names.slice(0, number + 1).join("/")}`]);
  $("crumbs").replaceChildren(...[["root", "/"], ...steps].map(([name, to]) => el("a", { href: toDirectory(backend, to) }, visible(name))));
}

// Only the rows that are seen are there: a directory may have 100,000 entries.
function draw() {
  const box = $("list");
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 5);
  const last = Math.min(total, first + Math.ceil(box.clientHeight / ROW) + 10);
  const shown = [];
  for (let number = first; number < last; number++) {
    if (!entries.has(number)) fill(Math.floor(number / WINDOW));
    shown.push(row(number, entries.get(number)));
  }
  $("rows").style.height = `${total * ROW}px`;
  $("rows").replaceChildren(...shown);
  box.setAttribute("aria-activedescendant", `row-${chosen}`);
}

function row(number, entry) {
  const kind = entry?.lost ? "lost" : entry?.evicted ? "evicted" : entry?.shape ? `${entry.dtype} ${entry.shape.join("×")}` : entry?.type;
  const name = entry ? entry.name + (entry.opens ? "/" : "") : "…";
  const made = el("div", { className: `row ${entry?.opens ? "opens" : ""} ${entry?.lost ? "lost" : ""}`, id: `row-${number}`, role: "option", ariaSelected: number === chosen },
    el("span", {}, visible(name)),
    el("span", {}, entry?.size == null ? "" : size(entry.size)),
    el("span", { className: "kind" }, visible(kind ?? "")),
    el("span", { className: "when" }, entry?.modified == null ? "" : moment(entry.modified)));
  made.style.top = `${number * ROW}px`;
  made.onclick = () => { chosen = number; open(entry); draw(); };
  return made;
}

function open(entry) {
  if (!entry) return;
  const path = below(at[1], entry.name);
  location.hash = entry.opens ? toDirectory(at[0], path) : toValue(at[0], path);
}

function choose(number) {
  chosen = Math.max(0, Math.min(total - 1, number));
  const box = $("list");
  if (chosen * ROW < box.scrollTop) box.scrollTop = chosen * ROW;
  if ((chosen + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (chosen + 1) * ROW - box.clientHeight;
  draw();
}

function press(event) {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) choose(chosen + steps[event.key]);
  else if (event.key === "Enter") open(entries.get(chosen));
  else if (event.key === "Backspace") location.hash = toDirectory(at[0], above(at[1]));
  else return;
  event.preventDefault();
}

// A value

let looking = new AbortController();

async function showValue(backend, path) {
  looking.abort();
  looking = new AbortController();
  const panel = $("value");
  const close = el("button", { ariaLabel: "Close", onclick: () => (location.hash = toDirectory(...at)) }, "✕");
  panel.replaceChildren(el("h2", {}, visible(path), close));
  try {
    const place = JSON.stringify([backend, path]);
    const { facts, shown, viewers } = await ask("value", { place }, looking.signal);
    panel.append(factList(facts));
    if (shown.note) panel.append(el("p", { className: facts.lost ? "bad" : "note" }, visible(shown.note)));
    if (shown.image) panel.append(...imageOf(place, shown.image));
    if (shown.table) panel.append(el("div", { className: "wide" }, el("table", {}, ...table(shown.table.names, shown.table.rows))));
    if (shown.text != null) panel.append(el("pre", {}, shown.text.replace(/[\p{Cf}\p{Cs}]/gu, visible)));
    if ((facts.shape && !facts.lost) || facts.type === "directory") panel.append(...viewerAddress(viewers));
  } catch (error) {
    if (error.name !== "AbortError") panel.append(el("p", { className: "bad" }, visible(error.message)));
  }
}

function factList(facts) {
  const texts = { size: size, modified: moment, shape: (s) => s.join(" × "), chunks: (s) => s.join(" × "), nodes: (ids) => ids.map(short).join(", ") };
  const hidden = ["path", "exists", "lost"];
  const rows = Object.entries(facts).filter(([name, value]) => value != null && value.length !== 0 && !hidden.includes(name));
  return el("dl", { className: "facts" }, rows.map(([name, value]) => {
    const text = texts[name]?.(value) ?? (typeof value === "object" ? JSON.stringify(value) : value);
    return el("div", {}, el("dt", {}, visible(name)), el("dd", {}, visible(text)));
  }));
}

function viewerAddress(viewers) {
  const address = `${location.origin}/${viewers}`;
  const field = el("input", { readOnly: true, value: address, ariaLabel: "Address for viewers of zarr" });
  const copy = el("button", { onclick: () => { field.select(); navigator.clipboard?.writeText(address); } }, "Copy");
  return [el("p", { className: "note" }, "For viewers of zarr on the web, such as vizarr and neuroglancer:"), el("div", { className: "address" }, field, copy)];
}

function imageOf(place, { shape, colour, labels }) {
  const further = shape.slice(0, shape.length - (colour ? 3 : 2));
  const [height, width] = shape.slice(further.length);
  const look = { index: further.map(() => 0), top: 0, left: 0, full: false, low: 1, high: 99, labels };
  const picture = el("img", { className: "picture", alt: "The values as a picture" });
  const histogram = svg("svg", { class: "histogram", viewBox: "0 0 64 1", preserveAspectRatio: "none", role: "img", "aria-label": "Histogram" });
  const ends = el("div", { className: "ends" });
  const controls = el("div", { className: "controls" });
  let running = new AbortController();

  async function redraw() {
    running.abort();
    running = new AbortController();
    const { index, full, labels: inColours, ...rest } = look;
    try {
      const found = await ask("picture", { place, index: index.join(","), full: full ? "1" : "", labels: inColours ? "1" : "", ...rest }, running.signal);
      picture.src = `data:image/png;base64,${found.png}`;
      ends.replaceChildren(...found.between.map((end) => el("span", {}, String(Number(end.toPrecision(5))))));
      ends.children[0].after(el("span", {}, `rows ${found.rows.join("–")}, columns ${found.columns.join("–")}${found.step > 1 ? `, every ${found.step}th` : ""}`));
      drawHistogram(histogram, found);
      part.hidden = found.rows[1] - found.rows[0] === height && found.columns[1] - found.columns[0] === width;
    } catch (error) {
      if (error.name !== "AbortError") ends.replaceChildren(el("span", { className: "bad" }, visible(error.message)));
    }
  }

  function slider(name, most, set) {
    const shown = el("output", {}, `0 of 0–${count(most)}`);
    const input = el("input", { type: "range", min: 0, max: most, value: 0, ariaLabel: name });
    input.oninput = () => {
      shown.textContent = `${count(Number(input.value))} of 0–${count(most)}`;
      set(Number(input.value));
      redraw();
    };
    return [el("span", {}, name), input, shown];
  }

  further.forEach((side, axis) => {
    if (side > 1) controls.append(...slider(`axis ${axis}`, side - 1, (value) => (look.index[axis] = value)));
  });
  const part = el("div", { className: "controls", hidden: true },
    slider("top", height - 1, (value) => (look.top = value)),
    slider("left", width - 1, (value) => (look.left = value)));

  const check = (name, key) => el("label", {}, el("input", { type: "checkbox", checked: look[key], onchange: (event) => { look[key] = event.target.checked; redraw(); } }), ` ${name}`);
  const number = (name, key) => el("label", {}, `${name} `, el("input", { type: "number", min: 0, max: 100, step: 0.5, value: look[key], onchange: (event) => { look[key] = Number(event.target.value); redraw(); } }), " %");
  const choices = el("div", { className: "choices" }, colour ? null : [number("black at", "low"), number("white at", "high"), check("labels in colour", "labels")], check("every pixel", "full"));
  redraw();
  return [picture, controls, part, histogram, ends, choices];
}

function drawHistogram(box, { histogram, between: [least, most], contrast }) {
  const highest = Math.log1p(Math.max(...histogram)) || 1;
  const bars = histogram.map((value, number) => `M${number},1V${1 - Math.log1p(value) / highest}h.9V1z`);
  const across = (value) => (most > least ? (64 * (value - least)) / (most - least) : 0);
  const lines = contrast.map(across).map((x) => svg("line", { x1: x, x2: x, y1: 0, y2: 1 }));
  box.replaceChildren(svg("path", { d: bars.join("") }), ...lines);
}

// Addresses: each view has one, so that "back", a reload and a bookmark work.

async function go() {
  const [view, text] = location.hash.slice(1).split("=", 2);
  const isOverview = !["browse", "value"].includes(view);
  $("overview").hidden = !isOverview;
  $("browse").hidden = isOverview;
  $("state").hidden = !isOverview;
  for (const link of document.querySelectorAll("header nav a")) {
    link.toggleAttribute("aria-current", (link.hash === "#overview") === isOverview);
  }
  if (isOverview) return look();
  const [backend, path] = text ? JSON.parse(decodeURIComponent(text)) : at ?? ["memory", ""];
  const isValue = view === "value";
  const isListed = at && at[0] === backend && (isValue ? path.startsWith(below(at[1], "")) : path === at[1]);
  $("value").hidden = !isValue;
  $("browse").classList.toggle("with-value", isValue);
  const listed = isListed ? draw() : list(backend, isValue ? above(path) : path);
  if (isValue) showValue(backend, path);
  else $("list").focus();
  await listed;
  for (const [number, entry] of entries) {
    if (isValue && below(at[1], entry.name) === path) choose(number);
  }
}

for (const head of document.querySelectorAll("[data-sort]")) {
  head.onclick = () => {
    const { sort } = head.dataset;
    order = { sort, reverse: sort === order.sort ? !order.reverse : sort !== "name" };
    showOrder();
    listAgain();
  };
}

function showOrder() {
  for (const head of document.querySelectorAll("[data-sort]")) {
    head.ariaPressed = head.dataset.sort === order.sort;
    head.classList.toggle("reverse", order.reverse);
  }
}

let typing;
$("search").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(listAgain, 200);
};
$("below").onchange = listAgain;
$("backend").onchange = (event) => (location.hash = toDirectory(event.target.value, ""));
$("list").onscroll = () => requestAnimationFrame(draw);
$("list").onkeydown = press;
window.onresize = () => at && draw();
window.onhashchange = go;
document.onkeydown = (event) => {
  if (event.key === "/" && !event.target.matches("input, select")) {
    $("search").focus();
    event.preventDefault();
  } else if (event.key === "Escape" && at) {
    location.hash = toDirectory(...at);
    $("list").focus();
  }
};

showOrder();
go();
if ($("overview").hidden) look();
setTimeout(lookAgainAndAgain, EVERY);
