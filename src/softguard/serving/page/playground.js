"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { columns, judge } = JSON.parse(byId("columns").dataset.settings);
  const form = byId("form"), question = byId("question"), ask = byId("ask"), stop = byId("stop"), status = byId("status");
  const titles = Object.fromEntries(columns.map((name) => [name, byId(`${name}-title`).textContent]));
  let running = null;

  const part = (name, which) => byId(name).querySelector(`[data-part="${which}"]`);
  const show = (name, which, text) => { part(name, which).textContent = text; };
  const state = (name, text, bad = false) => {
    show(name, "state", text);
    part(name, "state").classList.toggle("error", bad);
  };
  const odds = (value) => (value > 1e8 ? "∞" : value < -1e8 ? "−∞" : value.toFixed(2).replace("-", "−"));

  function clear(name) {
    for (const which of ["first", "rate", "score", "odds"]) show(name, which, "–");
    show(name, "answer", "");
    state(name, name === "guarded" ? "Drafting; the guard waits for the whole draft" : "Reading the question");
    byId(name).setAttribute("aria-busy", "true");
  }

  function figures(name, found, reason) {
    const seconds = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(0)} ms`);
    show(name, "first", seconds(found.first_token_ms));
    show(name, "rate", found.tokens_per_second === null ? "none made" : found.tokens_per_second.toFixed(1));
    show(name, "score", found.ungraded ? "ungraded" : found.p_safe === null ? "–" : found.p_safe.toFixed(3));
    if (found.refusal_log_odds !== null && found.replaced === null) { // a guarded system's are its score again
      const limit = found.threshold === null ? "" : `, refuses above ${odds(found.threshold)}`;
      show(name, "odds", odds(found.refusal_log_odds) + limit);
    }
    const draft = found.ungraded ? "Draft withheld: the guard could not grade it" : "Draft withheld by the guard";
    const text = found.replaced ? draft : found.refused ? "Refused" : reason === "length" ? "Cut at the longest answer" : "Answered";
    state(name, text);
    return text.toLowerCase();
  }

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const whole = held.split("\n\n");
      held = whole.pop();
      for (const one of whole) {
        const data = one.replace(/^data: /, "");
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  }

  async function answer(name, text, signal) {
    const headers = { "content-type": "application/json" };
    const key = byId("key");
    if (key) headers.authorization = `Bearer ${key.value}`;
    const body = { model: name, messages: [{ role: "user", content: text }], stream: true, max_tokens: Number(byId("longest").value) };
    if (judge) body.judge = true;
    const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    let told = null;
    for await (const chunk of events(response)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      if (choice && choice.delta.content) {
        if (part(name, "answer").textContent === "") state(name, "Answering");
        part(name, "answer").append(choice.delta.content);
      }
      if (chunk.softguard) told = figures(name, chunk.softguard, choice.finish_reason);
    }
    if (told === null) throw new Error("the connection ended before the answer did");
    return told;
  }

  async function column(name, text, signal) {
    clear(name);
    try {
      return `${titles[name]}: ${await answer(name, text, signal)}`;
    } catch (error) {
      const stopped = signal.aborted;
      state(name, stopped ? "Stopped" : `Error: ${error.message}`, !stopped);
      return `${titles[name]}: ${stopped ? "stopped" : "error"}`;
    } finally {
      byId(name).removeAttribute("aria-busy");
    }
  }

  async function submit(event) {
    event.preventDefault();
    const text = question.value.trim();
    if (running || !text) return;
    running = new AbortController();
    ask.disabled = true;
    stop.disabled = false;
    status.textContent = `Asking ${columns.length} systems.`;
    const told = await Promise.all(columns.map((name) => column(name, text, running.signal)));
    const held = document.activeElement;
    status.textContent = `${told.join(". ")}.`;
    running = null;
    ask.disabled = false;
    stop.disabled = true;
    if (held === stop || held === document.body) question.focus();
  }

  form.addEventListener("submit", submit);
  stop.addEventListener("click", () => running && running.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) running.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && document.activeElement === question) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
})();
