// The form: what it offers comes from the collection, what it shows from the page's address.

import { $, count, make } from "./dom.js";
import { go } from "./state.js";

const FIRST_K = 24;
let about = null;

/** Fills the form for a collection, an answer of /api/collection. */
export function offer(collection) {
  about = collection;
  const methods = collection.methods.map((method, i) => make("option", { value: method.name, textContent: method.name + (i ? "" : " (default)") }));
  $("method").replaceChildren(...methods);
  filters("label", "Any label", collection.labels, collection.more_labels);
  filters("split", "Any split", collection.splits, 0);
  $("k").max = collection.largest_k;
  const { kind, recall_at_10: recall } = collection.index;
  const finds = recall === null ? "" : ` (finds ${(100 * recall).toFixed(1)} % of the 10 nearest)`;
  const ways = [["", `${kind}${finds}`], ["true", "exact (compares every image)"]];
  $("exact").replaceChildren(...ways.map(([value, textContent]) => make("option", { value, textContent })));
}

function filters(name, any, values, more) {
  const options = values.map((value) => make("option", { value: `=${value.name}`, textContent: `${value.name || "none"} (${count(value.images)})` }));
  if (more) options.push(make("option", { disabled: true, textContent: `and ${count(more)} more` }));
  $(name).replaceChildren(make("option", { value: "", textContent: any }), ...options);
  $(`${name}-field`).hidden = values.length < 2;
}

/** The method of a state: its own, or the first that can take its layer. */
export const methodOf = (state) => about.methods.find((method) => method.name === state.method) ?? taker(state.layer) ?? about.methods[0];

const taker = (layer) => about.methods.find((method) => method.layers.includes(layer));

/** Shows a state in the form. */
export function show(state) {
  const method = methodOf(state);
  $("method").value = method.name;
  const layers = [...new Set([...method.layers, ...about.methods.flatMap((one) => one.layers)])];
  const words = (layer) => (method.layers.includes(layer) ? layer : `${layer} (${taker(layer).name})`);
  $("layer").replaceChildren(...layers.map((layer) => make("option", { value: layer, textContent: words(layer) })));
  $("layer").value = method.layers.includes(state.layer) ? state.layer : method.layers[0];
  $("exact-field").hidden = method.index === "exact";
  $("exact").value = state.exact === "true" ? "true" : "";
  $("k").value = state.k ?? (state.radius === undefined ? Math.min(FIRST_K, about.largest_k) || 1 : "");
  $("radius").value = state.radius ?? "";
  $("radius").disabled = method.largest_radius === null;
  if (method.largest_radius === null) $("radius").removeAttribute("max");
  else $("radius").max = method.largest_radius;
  $("radius").step = method.kind === "hamming" ? 1 : "any";
  $("radius-unit").textContent = method.kind === "hamming" ? "bits" : "distance";
  $("label").value = state.label === undefined ? "" : `=${state.label}`;
  $("split").value = state.split === undefined ? "" : `=${state.split}`;
  const bytes = `${count(method.bytes_per_image)} bytes an image`;
  $("method-note").textContent = `Distance: ${method.unit}. ${bytes}.${method.largest_radius === null ? " Takes no radius." : ""}`;
}

/** What the server is asked: a state's values, and the page's own k where the state has none. */
export function wanted(state) {
  const { method, layer, radius, label, split, exact } = state;
  const k = state.k ?? (radius === undefined ? Math.min(FIRST_K, about.largest_k) || undefined : undefined);
  return { method, layer, k, radius, label, split, exact };
}

/** A layer that the chosen method can't take chooses a method that can. */
function chooseLayer(layer) {
  const able = about.methods.find((method) => method.name === $("method").value).layers.includes(layer);
  go(able ? { layer } : { layer, method: taker(layer).name, radius: undefined });
}

/** A change of the form is a change of the address. */
export function listen() {
  const value = (name) => $(name).value.trim() || undefined;
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("change", (event) => {
    const name = event.target.id;
    if (name === "method") go({ method: value("method"), layer: undefined, radius: undefined, page: undefined });
    else if (name === "layer") chooseLayer(value("layer"));
    else if (name === "label" || name === "split") go({ [name]: value(name)?.slice(1), page: undefined });
    else go({ [name]: value(name) });
  });
}
