// Questions to the server. What can't be answered is an Error with one sentence. Addresses are relative to the page,
// which may lie below any path of a proxy.

let latest = null;

/** The answer to a GET. A newer question with `replaces` ends one that is still open: the page shows the last one asked. */
export async function ask(path, parameters = {}, { replaces = false } = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null));
  return answer(query.size ? `${path}?${query}` : path, {}, replaces);
}

/** Sends an image and returns its neighbours. */
export async function send(image, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined));
  const body = new FormData();
  body.append("image", image, "image");
  return answer(`api/search?${query}`, { method: "POST", body }, true);
}

async function answer(address, options, replaces) {
  if (replaces) {
    latest?.abort();
    latest = new AbortController();
    options.signal = latest.signal;
  }
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer: is `cnncodes serve` still running?");
  }
  const found = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (response.ok) return found;
  const sentence = found.error ?? `the server answered ${response.status}`;
  throw new Error(sentence.replace(/^[a-z](?=[a-z])/, (letter) => letter.toUpperCase()));
}
