// What the server is asked for. Every address is of this server.

async function problem(response) {
  try {
    return (await response.json()).error || response.statusText;
  } catch {
    return response.statusText || `the server answered ${response.status}`;
  }
}

async function got(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer. Is `radvqa serve` still running?");
  }
  if (!response.ok) throw new Error(await problem(response));
  return response;
}

const at = (series, key) => `${encodeURIComponent(series)}/${encodeURIComponent(key)}`;

/** The address of a case's page; `query` keeps the list that it was opened from. */
export const caseAddress = ({ series, key, query = "" }) => `/case/${at(series, key)}${query}`;

/** The manifest of one case. `query` names the list whose cases are its neighbours. */
export async function readCase(series, key, query = "") {
  return (await got(`/api/case/${at(series, key)}${query}`)).json();
}

/** The bytes of one view's array: `attention`, `scales`, `maps` or `image_to_prompt`. The browser keeps them. */
export async function readArray({ series, key, version }, view, name) {
  const address = `/api/case/${at(series, key)}/${encodeURIComponent(view)}/${name}`;
  return (await got(`${address}?v=${encodeURIComponent(version)}`)).arrayBuffer();
}

/** The address of a picture; `window` chooses centre and width in Hounsfield units. */
export function pictureAddress({ series, key, version }, window = null) {
  const query = new URLSearchParams({ v: version, ...(window && { center: window.center, width: window.width }) });
  return `/image/${at(series, key)}.png?${query}`;
}

/** What the live model is doing: a sentence. */
export async function liveWords() {
  return (await (await got("/api/live")).json()).words;
}

/** Asks the live model. Returns the manifest of a new, temporary case. */
export async function ask(series, key, question, answer) {
  const body = { series, key, question };
  if (answer) body.answer = answer;
  const headers = { "Content-Type": "application/json" };
  return (await got("/api/ask", { method: "POST", headers, body: JSON.stringify(body) })).json();
}
