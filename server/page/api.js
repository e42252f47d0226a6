// What the page asks of the board. The token lives in this tab's session storage and nowhere else.

const key = "hypnos-token";

export const token = {
  get: () => sessionStorage.getItem(key) ?? "",
  set: (text) => sessionStorage.setItem(key, text),
  forget: () => sessionStorage.removeItem(key),
};

// Refusal is an error that the board explains.
export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token.get()) headers.set("Authorization", `Bearer ${token.get()}`);
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new Refusal(answer.status, body?.error?.code ?? "unknown", body?.error?.message ?? `the board answers ${answer.status}`);
}

export const get = async (path) => (await send(path)).json();

export const post = async (path, reason) => (await send(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ reason }),
})).json();

// silence is after how long without a sign of life a stream counts as lost, in ms: the board sends a comment more often.
const silence = 40_000;

// events calls on(kind, event) for what happens until the stream breaks, after the event with the id `last`. It returns the
// id of the last event. (EventSource cannot send a token.)
export async function events(last, on) {
  const cut = new AbortController();
  let timer = setTimeout(() => cut.abort(), silence);
  try {
    const answer = await send("/v1/events", { headers: last ? { "Last-Event-ID": last } : {}, signal: cut.signal });
    on("open");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return last;
      clearTimeout(timer);
      timer = setTimeout(() => cut.abort(), silence);
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => {
          const colon = line.indexOf(": ");
          return [line.slice(0, colon), line.slice(colon + 2)];
        }));
        last = fields.id ?? last;
        if (fields.data) on(fields.event, JSON.parse(fields.data));
      }
    }
  } catch (err) {
    if (err instanceof Refusal) throw err;
    return last; // the connection broke
  } finally {
    clearTimeout(timer);
  }
}
