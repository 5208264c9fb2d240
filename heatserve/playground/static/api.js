// Requests to the playground. What fails is a Problem, whose message is a sentence for the reader.

export class Problem extends Error {}

const UNREACHED = "The playground does not answer. Is it still running?";

async function reached(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(UNREACHED);
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Problem(answer.error ?? `The playground answered ${response.status}.`);
  }
  return response;
}

export async function get(path) {
  return (await reached(path, {})).json();
}

export async function ask(path, question, signal) {
  return (await posted(path, question, signal)).json();
}

function posted(path, question, signal) {
  const headers = { "Content-Type": "application/json" };
  return reached(path, { method: "POST", headers, body: JSON.stringify(question), signal });
}

export async function upload(path, content, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  return (await reached(path, { method: "POST", headers, body: content, signal })).json();
}

/** The events of a stream, as [name, record]; leaving the loop, or the signal, gives the request up. */
export async function* events(path, question, signal) {
  const response = await posted(path, question, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        if (signal?.aborted) return; // what had come with the last event that was wanted
        const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        if (field("data") === undefined) continue;
        const record = JSON.parse(field("data"));
        if (field("event") === "failed") throw new Problem(record.error);
        yield [field("event"), record];
      }
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem(UNREACHED);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Runs one task at a time: a new one gives the former up, whose end is not told. */
export function latest() {
  let running = null;
  return {
    stop: () => running?.abort(),
    async run(task, failed) {
      running?.abort();
      const mine = new AbortController();
      running = mine;
      try {
        await task(mine.signal);
      } catch (error) {
        if (mine.signal.aborted) return;
        if (!(error instanceof Problem)) throw error;
        failed(error.message);
      } finally {
        if (running === mine) running = null;
      }
    },
  };
}
