// A grid of images: links, so that they can be opened in a new tab, with arrow keys to move among them.

import { $, fileName, make, pictureOf, svg } from "./dom.js";
import { address, go, read } from "./state.js";

/** Images that a click searches from. `ranked`: with rank and distance, and a bar of the distance's share of the largest. */
export function grid(images, { ranked = false, label } = {}) {
  const largest = ranked ? Math.max(...images.map((image) => image.distance), 1e-9) : 0;
  const list = make("ol", { className: "grid", "aria-label": label });
  images.forEach((image, position) => list.append(tile(image, position === 0, ranked ? image.distance / largest : null)));
  list.addEventListener("keydown", move);
  list.addEventListener("focusin", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    list.querySelectorAll("a").forEach((other) => { other.tabIndex = other === link ? 0 : -1; });
  });
  return list;
}

function tile(image, first, share) {
  const ranked = share !== null;
  const words = make("span", { className: "words" });
  if (ranked) {
    const same = image.distance === 0 ? { className: "same", title: "The same code" } : {};
    words.append(make("span", { className: "rank" }, make("b", { textContent: image.rank }), make("span", { textContent: image.shown, ...same })));
  }
  if (image.label) words.append(make("span", { className: "label", textContent: image.label }));
  words.append(make("span", { className: "file", textContent: fileName(image.name) }));
  const target = { ...kept(), image: image.id };
  const link = make(
    "a",
    { href: address(target), tabIndex: first ? 0 : -1, title: image.name, "aria-label": spoken(image, ranked) },
    picture(image, share),
    words,
  );
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go({ ...kept(), view: "search", image: image.id, page: undefined });
    scrollTo({ top: 0 });
  });
  link.viewed = image;
  const zoom = make("button", { type: "button", className: "zoom", textContent: "⤢", tabIndex: -1, title: "View larger (v)", "aria-label": `View ${fileName(image.name)} larger` });
  zoom.addEventListener("click", () => view(image));
  return make("li", { className: "tile" }, link, zoom);
}

/** What a new search keeps of the state. */
function kept() {
  const { method, layer, k, radius, label, split } = read();
  return { method, layer, k, radius, label, split };
}

function spoken(image, ranked) {
  const where = ranked ? `${image.rank}, distance ${image.shown}, ` : "";
  return `${where}${image.label ? `${image.label}, ` : ""}${fileName(image.name)}`;
}

/** The picture, or words in its place if the server has none. */
export function picture(image, share = null) {
  const frame = make("span", { className: "picture" });
  const img = make("img", { alt: "", loading: "lazy", decoding: "async", src: pictureOf(image.id) });
  img.addEventListener("error", () => { frame.classList.add("gone"); img.remove(); });
  frame.append(img);
  if (share !== null) {
    const width = Math.max(1, Math.round(100 * share));
    frame.append(svg("svg", { class: "bar-track", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width, height: 4 })));
  }
  return frame;
}

function move(event) {
  const links = [...event.currentTarget.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "v") {
    event.preventDefault();
    view(links[at].viewed);
    return;
  }
  const top = links[0].getBoundingClientRect().top;
  const columns = links.findIndex((link) => link.getBoundingClientRect().top > top + 1);
  const row = columns < 0 ? links.length : columns;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -at, End: links.length - 1 - at };
  if (!(event.key in steps)) return;
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, at + steps[event.key]))].focus();
}

/** Shows an image larger. */
export function view(image) {
  const dialog = $("viewer");
  const shown = $("viewer-picture");
  shown.hidden = false;
  shown.onerror = () => { shown.hidden = true; };
  shown.src = pictureOf(image.id, "large");
  shown.alt = image.label || fileName(image.name);
  $("viewer-title").textContent = image.name;
  $("viewer-note").textContent = [image.label, image.split, image.shown && `rank ${image.rank}, distance ${image.shown}`, image.id].filter(Boolean).join(" · ");
  $("viewer-search").onclick = () => {
    dialog.close();
    go({ ...kept(), view: "search", image: image.id, page: undefined });
  };
  dialog.showModal();
}
