// The collection as a map: a dot an image, small pictures where there is room, a click or Enter to search.

import { count, fileName, make, pictureOf, plural, svg } from "./dom.js";
import { go } from "./state.js";

const COLOURS = 10;
const MARGIN = 26;
const PICTURE = 44;
const MOST_PICTURES = 140;

/** The figure for an answer of /api/map. */
export function map(answer) {
  const canvas = make("canvas", { tabIndex: 0, role: "application", "aria-label": `Map of ${plural(answer.points.length, "image")}: arrow keys move, Enter searches` });
  const card = make("div", { className: "card", hidden: true });
  const spoken = make("p", { className: "spoken", role: "status" });
  const labels = colours(answer.points);
  const legend = make("ul", { className: "legend" }, ...[...labels].map(([label, colour]) => entry(label, colour)));
  const part = answer.points.length < answer.images ? ` A random ${count(answer.points.length)} of ${count(answer.images)} images.` : "";
  const share = (100 * (answer.explained[0] + answer.explained[1])).toFixed(0);
  const caption = make("figcaption", {}, make("p", { className: "fine", textContent: `The first two principal components of ${answer.layer}, which hold ${share} % of its variance: images that are near here may be far apart in the other dimensions.${part}` }), legend);
  const figure = make("figure", { className: "map" }, canvas, card, spoken, caption);
  figure.style.margin = "0";
  const chart = new Chart(canvas, answer.points, labels, legend, (point) => show(card, canvas, spoken, point));
  chart.start();
  return figure;
}

/** Label -> colour number; the rarer labels of many share the last one. */
function colours(points) {
  const times = new Map();
  points.forEach((point) => times.set(point.label, (times.get(point.label) ?? 0) + 1));
  const sorted = [...times].sort((a, b) => b[1] - a[1]).map(([label]) => label);
  return new Map(sorted.slice(0, sorted.length > COLOURS ? COLOURS - 1 : COLOURS).map((label, i) => [label, i]));
}

function entry(label, colour) {
  return make("li", {}, svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, svg("circle", { cx: 6, cy: 6, r: 5, class: `k${colour}` })), label || "no label");
}

function show(card, canvas, spoken, point) {
  card.hidden = !point;
  if (!point) return;
  const words = point.image.label ? `${point.image.label} · ${fileName(point.image.name)}` : fileName(point.image.name);
  card.replaceChildren(make("img", { alt: "", src: pictureOf(point.image.id) }), make("p", { textContent: words }));
  spoken.textContent = words;
  card.style.left = `${Math.min(canvas.clientWidth - 156, Math.max(0, point.x + 14))}px`;
  card.style.top = `${Math.min(canvas.clientHeight - 186, Math.max(0, point.y + 14))}px`;
}

class Chart {
  constructor(canvas, images, labels, legend, onPoint) {
    Object.assign(this, { canvas, images, labels, legend, onPoint, points: [], pictures: new Map(), current: null });
  }

  start() {
    new ResizeObserver(() => this.place()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    document.addEventListener("themechange", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.point(this.nearest(event.offsetX, event.offsetY, 30)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("click", (event) => this.search(this.nearest(event.offsetX, event.offsetY, 30)));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => this.canvas.matches(":focus-visible") && this.point(this.current ?? this.points[0]));
  }

  /** Points in pixels of the canvas, and which of them have room for a picture. */
  place() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    this.points = this.images.map((image) => ({
      image,
      x: MARGIN + image.x * (width - 2 * MARGIN),
      y: MARGIN + (1 - image.y) * (height - 2 * MARGIN),
      pictured: false,
    }));
    const taken = [];
    for (const point of this.points) {
      if (taken.length >= MOST_PICTURES) break;
      if (taken.some((other) => Math.max(Math.abs(other.x - point.x), Math.abs(other.y - point.y)) < PICTURE + 4)) continue;
      point.pictured = true;
      taken.push(point);
      this.load(point.image.id);
    }
    this.draw();
  }

  load(id) {
    if (this.pictures.has(id)) return;
    const img = new Image();
    this.pictures.set(id, img);
    img.addEventListener("load", () => requestAnimationFrame(() => this.draw()));
    img.src = pictureOf(id);
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    const scale = devicePixelRatio || 1;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    const fills = [...this.legend.querySelectorAll("circle")].map((circle) => getComputedStyle(circle).fill);
    const other = getComputedStyle(this.canvas).borderTopColor;
    for (const point of this.points) {
      point.fill = fills[this.labels.get(point.image.label)] ?? other;
      if (!point.pictured) dot(pen, point, 3.5);
    }
    for (const point of this.points) {
      const img = this.pictures.get(point.image.id);
      if (!point.pictured) continue;
      if (!img.complete || !img.naturalWidth) dot(pen, point, 4.5);
      else framed(pen, point, img);
    }
    if (this.current) {
      pen.lineWidth = 3;
      pen.strokeStyle = getComputedStyle(this.canvas).color;
      pen.beginPath();
      pen.arc(this.current.x, this.current.y, this.current.pictured ? PICTURE / 2 + 7 : 8, 0, 7);
      pen.stroke();
    }
  }

  nearest(x, y, within) {
    let best = null;
    let least = within ** 2;
    for (const point of this.points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  point(point) {
    if (point === this.current) return;
    this.current = point;
    this.onPoint(point);
    this.draw();
  }

  search(point) {
    if (point) go({ view: "search", image: point.image.id, page: undefined });
  }

  /** An arrow goes to the point that is nearest in its direction: what lies aside counts double. */
  key(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter") this.search(this.current);
    if (!(event.key in directions)) return;
    event.preventDefault();
    const from = this.current ?? this.points[0];
    const [dx, dy] = directions[event.key];
    let best = null;
    let least = Infinity;
    for (const point of this.points) {
      const ahead = (point.x - from.x) * dx + (point.y - from.y) * dy;
      const aside = Math.abs((point.x - from.x) * dy) + Math.abs((point.y - from.y) * dx);
      if (ahead > 1 && ahead + 2 * aside < least) [best, least] = [point, ahead + 2 * aside];
    }
    if (best) this.point(best);
  }
}

function dot(pen, point, radius) {
  pen.fillStyle = point.fill;
  pen.beginPath();
  pen.arc(point.x, point.y, radius, 0, 7);
  pen.fill();
}

function framed(pen, point, img) {
  const shrink = PICTURE / Math.max(img.naturalWidth, img.naturalHeight);
  const [width, height] = [img.naturalWidth * shrink, img.naturalHeight * shrink];
  pen.fillStyle = point.fill;
  pen.fillRect(point.x - width / 2 - 2, point.y - height / 2 - 2, width + 4, height + 4);
  pen.drawImage(img, point.x - width / 2, point.y - height / 2, width, height);
}
