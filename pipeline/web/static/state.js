// What the page shows is in its address, so that Back works and a link can be shared.

const KEYS = ["view", "image", "page", "method", "layer", "k", "radius", "label", "split", "exact"];
const listeners = [];

export function read() {
  const query = new URLSearchParams(location.search);
  const state = Object.fromEntries(KEYS.filter((key) => query.has(key)).map((key) => [key, query.get(key)]));
  if (!["browse", "map", "duplicates", "search"].includes(state.view)) state.view = state.image ? "search" : "browse";
  return state;
}

/** The address of a state, relative to the page. */
export function address(state) {
  const query = new URLSearchParams();
  for (const key of KEYS) {
    const value = state[key];
    const implied = (key === "view" && (value === "search" || value === "browse")) || (key === "page" && String(value) === "1");
    if (value !== undefined && value !== null && !implied) query.set(key, value);
  }
  return query.size ? `./?${query}` : "./";
}

/** Changes the state, as a step that Back takes back unless `replace`. */
export function go(changes, { replace = false } = {}) {
  const state = { ...read(), ...changes };
  const target = new URL(address(state), location);
  if (target.pathname + target.search !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", target);
  listeners.forEach((listener) => listener(read()));
}

export function onChange(listener) {
  listeners.push(listener);
  addEventListener("popstate", () => listener(read()));
}
