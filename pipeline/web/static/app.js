// The page: draws what its address says, and nothing else decides what is shown.

import { ask, send } from "./api.js";
import * as bring from "./bring.js";
import * as controls from "./controls.js";
import { $, count, fileName, make, ms, pictureOf, plural } from "./dom.js";
import { grid, view } from "./grid.js";
import { map } from "./map.js";
import { go, onChange, read } from "./state.js";

let about = null;
let turn = 0;

const VIEWS = { browse, search, map: plane, duplicates };

/** Draws a state; an answer that comes when another state was asked for is dropped. */
async function draw(state, sent = null) {
  const mine = ++turn;
  document.querySelectorAll("nav [data-view]").forEach((link) => {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  $("error").hidden = true;
  $("content").classList.add("busy");
  try {
    if (about === null) await start();
    controls.show(state);
    const drawn = await VIEWS[state.view](state, sent);
    if (mine !== turn) return;
    const focused = $("content").contains(document.activeElement);
    $("title").textContent = drawn.title;
    $("summary").textContent = drawn.summary;
    $("content").replaceChildren(drawn.content);
    pager(drawn.page, drawn.pages);
    query(drawn.query);
    document.title = drawn.query ? `${drawn.title} · ${about.name}` : `${about.name}: what looks like this?`;
    if (focused) $("content").querySelector("a[tabindex='0']")?.focus({ preventScroll: true });
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    tell(error.message, state);
  } finally {
    if (mine === turn) $("content").classList.remove("busy");
  }
}

async function start() {
  about = await ask("api/collection");
  controls.offer(about);
}

/** An error in words, in the place of what could not be drawn. */
function tell(sentence, state) {
  $("error").textContent = sentence;
  $("error").hidden = false;
  if (!$("content").childElementCount || state.view !== "search") $("content").replaceChildren();
  if ($("title").textContent === "…") $("title").textContent = about?.name ?? "No answer";
  $("summary").textContent = "";
  $("pager").hidden = true;
}

async function browse(state) {
  const found = await ask("api/images", { page: state.page, label: state.label, split: state.split }, { replaces: true });
  const content = found.images.length
    ? grid(found.images, { label: "Images of the collection" })
    : make("p", { className: "empty", textContent: "The collection is empty: `cnncodes index add` puts images into it." });
  const which = [state.label, state.split].filter((value) => value).join(", ");
  const last = (found.page - 1) * 60 + found.images.length;
  const summary = found.pages > 1 ? `${count((found.page - 1) * 60 + 1)} to ${count(last)}; click one to search from it` : found.total ? "Click one to search from it" : "";
  return { title: `${plural(found.total, "image")}${which ? ` of ${which}` : ""}`, summary, content, page: found.page, pages: found.pages };
}

async function search(state, sent) {
  const found = sent ?? (await ask("api/search", { image: state.image, ...controls.wanted(state) }, { replaces: true }));
  const { query: asked, neighbours } = found;
  let content = grid(neighbours, { ranked: true, label: "Neighbours, the nearest first" });
  let title = `Most like ${fileName(asked.name)}`;
  if (!neighbours.length) {
    const nearest = found.nearest === null ? "There are no other images." : `No image is within the radius: the nearest is at ${found.nearest}.`;
    content = make("p", { className: "empty", textContent: nearest });
    title = found.nearest === null ? "No other images" : "Nothing so near";
  }
  const times = [found.network_ms === null ? null : `network ${ms(found.network_ms)}`, `search ${ms(found.search_ms)}`].filter(Boolean);
  const summary = `${count(neighbours.length)} of ${count(found.images)} by ${found.method}, ${found.layer}${found.index === "exact" ? "" : `, ${found.index}`} · ${times.join(", ")}`;
  return { title, summary, content, query: asked };
}

async function plane(state) {
  const layers = about.methods.find((method) => method.kind === "cosine").layers;
  const found = await ask("api/map", { layer: layers.includes(state.layer) ? state.layer : undefined }, { replaces: true });
  const content = found.points.length ? map(found) : make("p", { className: "empty", textContent: "The collection is empty." });
  return { title: "Map of the collection", summary: `${plural(found.points.length, "image")}, ${found.layer}`, content };
}

async function duplicates(state) {
  const hamming = controls.methodOf(state).kind === "hamming";
  const asked = hamming ? { method: state.method, radius: state.radius } : {};
  const found = await ask("api/duplicates", asked, { replaces: true });
  const content = make("div", { className: "groups" });
  found.listed.forEach((group, i) => {
    const shown = group.length < found.sizes[i] ? `, ${count(group.length)} shown` : "";
    const title = `Group ${i + 1}: ${plural(found.sizes[i], "image")}${shown}`;
    content.append(make("section", {}, make("h2", { textContent: title }), grid(group, { label: `Group ${i + 1}` })));
  });
  if (!found.groups) content.append(make("p", { className: "empty", textContent: "No two images are so alike." }));
  const listed = found.listed.length < found.groups ? `, the ${count(found.listed.length)} largest listed` : "";
  return {
    title: found.groups ? `${plural(found.groups, "group")} of near-identical images` : "No near-identical images",
    summary: `${plural(found.images, "image")} within ${plural(found.radius, "bit")} of one another by ${found.method}${listed}`,
    content,
  };
}

/** The query beside its neighbours, or the invitation to bring one. */
function query(asked) {
  $("drop").classList.toggle("full", Boolean(asked));
  $("preview").hidden = !asked;
  if (!asked) return;
  const img = make("img", { alt: "", src: pictureOf(asked.id, "large") });
  img.addEventListener("error", () => img.remove());
  const note = asked.uploaded ? `${asked.width} × ${asked.height} pixels${asked.reduced ? ", read at a reduced size" : ""}` : asked.name;
  const clear = make("button", { type: "button", textContent: "✕", title: "Back to all images", "aria-label": "Back to all images" });
  clear.addEventListener("click", () => go({ view: "browse", image: undefined }));
  const name = make("p", { className: "name", textContent: asked.uploaded ? "Your image" : asked.label || fileName(asked.name) });
  $("preview").replaceChildren(img, make("div", {}, make("div", { className: "row" }, name, clear), make("p", { className: "fine name", textContent: note, title: note })));
}

function pager(page, pages) {
  $("pager").hidden = !pages || pages < 2;
  if ($("pager").hidden) return;
  const step = (words, key, target) => {
    const button = make("button", { type: "button", textContent: words, title: `${key}`, disabled: target < 1 || target > pages });
    button.addEventListener("click", () => turnTo(target));
    return button;
  };
  const number = make("input", { type: "number", min: 1, max: pages, value: page, "aria-label": "Page" });
  number.style.width = "5.5rem";
  number.addEventListener("change", () => turnTo(Math.min(pages, Math.max(1, Number(number.value) || 1))));
  $("pager").replaceChildren(step("← Previous", "p", page - 1), number, make("span", { textContent: `of ${count(pages)}` }), step("Next →", "n", page + 1));
}

function turnTo(page) {
  go({ page });
  scrollTo({ top: 0 });
}

async function bringImage(file) {
  if (about && file.size > about.largest_upload_bytes) {
    tell(`That file has ${(file.size / 1e6).toFixed(0)} MB; up to ${(about.largest_upload_bytes / 1e6).toFixed(0)} MB are allowed.`, read());
    return;
  }
  const mine = ++turn;
  $("error").hidden = true;
  $("content").classList.add("busy");
  $("summary").textContent = about?.ready ? "Looking…" : "Loading the network…";
  try {
    if (about === null) await start();
    const state = read();
    const found = await send(file, controls.wanted(state));
    about.ready = true;
    if (mine !== turn) return;
    history.pushState(null, "", addressOf(state, found.query.id));
    await draw(read(), found);
    scrollTo({ top: 0 });
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    tell(error.message, { view: "search" });
    $("content").classList.remove("busy");
  }
}

function addressOf(state, image) {
  const query = new URLSearchParams(Object.entries({ ...state, image }).filter(([key, value]) => value !== undefined && key !== "view" && key !== "page"));
  return `./?${query}`;
}

async function random() {
  try {
    const shown = read().image;
    let found = await ask("api/images/random");
    // Another one than is there; a collection may hold no other.
    for (let again = 0; found.id === shown && again < 5; again++) found = await ask("api/images/random");
    go({ view: "search", image: found.id, page: undefined });
  } catch (error) {
    tell(error.message, read());
  }
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // It holds for this page then.
  }
  pressTheme();
  document.dispatchEvent(new Event("themechange"));
}

function pressTheme() {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").setAttribute("aria-pressed", String(dark));
}

const KEYS = {
  r: random,
  o: () => $("file").click(),
  b: () => go({ view: "browse", image: undefined }),
  m: () => go({ view: "map", image: undefined }),
  d: () => go({ view: "duplicates", image: undefined }),
  t: toggleTheme,
  n: () => $("pager").hidden || $("pager").lastElementChild.click(),
  p: () => $("pager").hidden || $("pager").firstElementChild.click(),
  "?": () => $("keys").showModal(),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  } else if (event.key.startsWith("Arrow") && event.target === document.body) {
    event.preventDefault();
    $("content").querySelector("a[tabindex='0'], canvas")?.focus();
  }
});
document.querySelectorAll("[data-view]").forEach((link) => link.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go({ view: link.dataset.view, image: undefined, page: undefined });
}));
document.querySelectorAll("dialog").forEach((dialog) => dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.classList.contains("close")) dialog.close();
}));
$("preview").addEventListener("dblclick", () => view({ id: read().image, name: "The query" }));
$("random").addEventListener("click", random);
$("theme").addEventListener("click", toggleTheme);
$("help").addEventListener("click", () => $("keys").showModal());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", pressTheme);

addEventListener("focus", async () => {
  const now = await ask("api/status").catch(() => null);
  if (!now || !about || now.fingerprint === about.fingerprint) return;
  about = null;
  draw(read());
});
$("options").open = matchMedia("(min-width: 761px)").matches;
pressTheme();
bring.listen(bringImage, (sentence) => tell(sentence, read()));
controls.listen();
onChange((state) => draw(state));
draw(read());
