// Elements without markup: text is set as text, so that no name or label of an image is ever read as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties, attributes (`aria-*`, `data-*`, `role`) and children (elements or text). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const count = (number) => number.toLocaleString("en");
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** Milliseconds as people read them. */
export const ms = (value) => (value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`);

export const pictureOf = (id, size = "tile") => `api/images/${encodeURIComponent(id)}/picture?size=${size}`;

/** The last part of a path, which is what people look for in a long name. */
export const fileName = (path) => path.split("/").pop();
