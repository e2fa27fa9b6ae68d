// Requests to the server. All addresses are relative: the page's own holds the token.

// Of this window alone: whatever is stored, a duplicated tab would have, too.
const WINDOW = crypto.randomUUID();

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new Refused("The program does not answer: was it ended? Start it again, and open the new address.", 0);
  }
  if (response.status === 404 && !response.headers.get("content-type")?.startsWith("application/json")) {
    throw new Refused("The program was started again: open the address that it printed.", 404);
  }
  const content = await response.json();
  if (!response.ok) throw new Refused(content.sentences, response.status);
  return content;
}

export function address(run, what, parameters = {}) {
  const query = new URLSearchParams({ ...parameters, window: WINDOW });
  return `api/runs${run === null ? "" : `/${run}`}${what ? `/${what}` : ""}?${query}`;
}

export const get = (run, what = "", parameters = {}) => answer(fetch(address(run, what, parameters)));

export const post = (run, what, content = {}) =>
  answer(
    fetch(`api/runs/${run}/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...content, window: WINDOW }),
    }),
  );

// Where a picture is to be had; rejects as the others do.
export async function picture(run, step, width, signal) {
  const response = await fetch(address(run, `frames/${step}.jpg`, { width }), { signal });
  if (!response.ok) return answer(Promise.resolve(response));
  return createImageBitmap(await response.blob());
}

export function leave(run) {
  fetch(`api/runs/${run}/leave`, {
    method: "POST",
    keepalive: true,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ window: WINDOW }),
  }).catch(() => {});
}
