// Asks the server. What it refuses comes as an Error with `error` and `remedy`.

export class Refused extends Error {
  constructor(error, remedy = "", status = 0) {
    super(error);
    this.error = error;
    this.remedy = remedy;
    this.status = status;
  }
}

/** The JSON below /api; query values that are empty are left out. */
export async function ask(path, query = {}, signal = undefined) {
  const words = new URLSearchParams(
    Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined),
  );
  return fetched(`/api/${path}${words.size ? `?${words}` : ""}`, { signal, headers: { Accept: "application/json" } });
}

/** Changes something (`via6 web --allow-changes`); the answer says what was done. */
export const tell = (path, body) =>
  fetched(`/api/${path}`, {
    method: "POST",
    headers: { Accept: "application/json", "Content-Type": "application/json", "X-Via6-Change": "yes" },
    body: JSON.stringify(body),
  });

async function fetched(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("via6 web does not answer.", "Is it still running?");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch {
    throw new Refused(`via6 web answered with status ${answer.status} and no JSON.`, "", answer.status);
  }
  if (!answer.ok) throw new Refused(body?.error ?? `Status ${answer.status}`, body?.remedy ?? "", answer.status);
  return body;
}

export const nodePath = (id) => `nodes/${encodeURIComponent(id)}`;

/** The answer to the newest question only: an older one that is still on its way is given up. */
export function newest() {
  let last = null;
  return async (path, query) => {
    last?.abort();
    const mine = new AbortController();
    last = mine;
    try {
      return await ask(path, query, mine.signal);
    } catch (error) {
      if (error.name === "AbortError" || last !== mine) return null;
      throw error;
    }
  };
}
