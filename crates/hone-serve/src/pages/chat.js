// The chat page. Everything that comes from a model or a person becomes text nodes, never HTML.
"use strict";

const at = (id) => document.getElementById(id);
const panes = [...document.querySelectorAll(".pane")].map((pane) => ({
  pane,
  select: pane.querySelector("select"),
  turns: pane.querySelector(".turns"),
  messages: [],
}));
const locked = document.body.dataset.locked === "yes";
const prefers = document.body.dataset.prefers === "yes";
let running = [];
// Two answers of which one may be preferred
let choice = null;

// 1. Small things

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function note(text) {
  at("note").textContent = text || "";
}

function headers() {
  const all = { "Content-Type": "application/json" };
  if (locked) all.Authorization = "Bearer " + at("token").value.trim();
  return all;
}

// What a failed answer says, whatever it is.
async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return response.status + " " + response.statusText;
  }
}

// 2. Models

async function askForModels() {
  if (locked && !at("token").value.trim()) {
    note("This server asks for a token.");
    return;
  }
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) {
    note(await reason(response));
    return;
  }
  note("");
  const names = (await response.json()).data.filter((model) => model.chat).map((model) => model.id);
  for (const { select } of panes) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  ready(names.length);
}

function ready(count) {
  if (count > 1 && panes[1].select.selectedIndex === 0) panes[1].select.selectedIndex = 1;
  // A link may name one model, or two to be seen side by side
  for (const [i, name] of new URLSearchParams(location.search).getAll("model").slice(0, 2).entries()) {
    if (![...panes[i].select.options].some((option) => option.value === name)) continue;
    panes[i].select.value = name;
    if (i === 1 && panes[1].pane.hidden) beside();
  }
  if (count === 0) note("No model here has a chat template.");
}

// 3. Asking

function number(id) {
  const value = at(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function body(pane) {
  const system = at("system").value.trim();
  const messages = system ? [{ role: "system", content: system }, ...pane.messages] : pane.messages;
  const asked = {
    model: pane.select.value,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    temperature: number("temperature"),
    top_p: number("top_p"),
    min_p: number("min_p"),
    repetition_penalty: number("repetition_penalty"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
  };
  if (number("top_k") > 0) asked.top_k = number("top_k");
  if (at("logprobs").checked) {
    asked.logprobs = true;
    asked.top_logprobs = 5;
  }
  return JSON.stringify(asked);
}

// The events of an answer, one JSON value each.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(pane, abort) {
  const turn = made("div", "turn assistant running");
  turn.tabIndex = 0;
  const text = made("span");
  turn.append(text);
  pane.turns.append(turn);
  const start = performance.now();
  // A new conversation may begin while this one is being answered
  const conversation = pane.messages;
  const asked = body(pane);
  let said = "";
  let foot = "";
  let cut = "";
  let broken = false;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), body: asked, signal: abort.signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) foot = speed(event.usage, start);
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.delta.content || "";
      said += piece;
      write(text, piece, choice.logprobs && choice.logprobs.content);
      if (choice.finish_reason === "length") cut = "cut off at the most tokens";
      const end = pane.turns.scrollHeight - pane.turns.scrollTop - pane.turns.clientHeight < 120;
      if (end) pane.turns.scrollTop = pane.turns.scrollHeight;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      foot = "stopped";
      broken = true;
    } else {
      broken = true;
      turn.append(made("span", "foot error", error.message));
    }
  }
  turn.classList.remove("running");
  const below = [cut, foot].filter(Boolean).join("; ");
  if (below) turn.append(made("span", "foot", below));
  // A question without an answer is asked again by whoever wants to
  if (broken && !said) conversation.pop();
  else conversation.push({ role: "assistant", content: said });
  return { pane, turn, said, broken, asked: JSON.parse(asked) };
}

function speed(usage, start) {
  const seconds = (performance.now() - start) / 1000;
  const rate = usage.completion_tokens / Math.max(seconds, 1e-3);
  return usage.completion_tokens + " tokens, " + rate.toFixed(1) + " a second";
}

// Tokens whose text is the piece become elements of their own; where a character took several, the piece is one element.
function write(into, piece, tokens) {
  if (!tokens || tokens.length === 0) {
    into.append(document.createTextNode(piece));
    return;
  }
  const whole = tokens.map((token) => token.token).join("") === piece;
  const shown = whole ? tokens.map((token) => [token.token, [token]]) : [[piece, tokens]];
  for (const [text, of] of shown) {
    const sum = of.reduce((total, token) => total + token.logprob, 0);
    const doubt = [-0.36, -1.2, -2.3, -4.6].filter((edge) => sum < edge).length;
    const element = made("span", "token" + (doubt ? " d" + doubt : ""), text);
    element.tokens = of;
    into.append(element);
  }
}

async function send() {
  const text = at("message").value;
  if (!text.trim() || running.length) return;
  const asked = panes.filter(({ pane }) => !pane.hidden);
  if (asked.some(({ select }) => !select.value)) {
    note("Choose a model first.");
    return;
  }
  note("");
  withdraw();
  at("message").value = "";
  for (const pane of asked) {
    pane.messages.push({ role: "user", content: text });
    pane.turns.append(made("div", "turn user", text));
    pane.turns.scrollTop = pane.turns.scrollHeight;
  }
  running = asked.map(() => new AbortController());
  busy(true);
  const given = await Promise.all(asked.map((pane, i) => answer(pane, running[i])));
  running = [];
  busy(false);
  offer(given);
  at("message").focus();
}

function busy(is) {
  at("stop").hidden = !is;
  at("send").hidden = is;
}

function stop() {
  for (const abort of running) abort.abort();
}

function reset() {
  stop();
  withdraw();
  for (const pane of panes) {
    pane.messages = [];
    pane.turns.replaceChildren();
  }
  at("message").focus();
}

function beside() {
  withdraw();
  const second = panes[1];
  second.pane.hidden = !second.pane.hidden;
  at("beside").setAttribute("aria-pressed", String(!second.pane.hidden));
  if (!second.pane.hidden && second.messages.length !== panes[0].messages.length) {
    // The second model begins anew: what the first was told is not its conversation
    second.messages = [];
    second.turns.replaceChildren();
  }
}

function help() {
  at("keys").hidden = !at("keys").hidden;
  at("help").setAttribute("aria-expanded", String(!at("keys").hidden));
}

// 4. Which of two answers is better

// Two answers to the same conversation can be compared; a button under each says that it is the better one.
function offer(given) {
  if (!prefers || given.length !== 2 || given.some(({ said, broken }) => broken || !said.trim())) return;
  const [first, second] = given;
  const same = JSON.stringify(first.asked.messages) === JSON.stringify(second.asked.messages);
  if (!same || first.said.trim() === second.said.trim()) return;
  // A new conversation has begun meanwhile
  if (given.some(({ pane }) => pane.messages.length === 0)) return;
  const buttons = given.map(({ turn }, i) => {
    const button = made("button", "prefer", "Prefer this one");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => prefer(i));
    turn.append(button);
    return button;
  });
  choice = { given, buttons, since: performance.now(), waits: false };
}

function withdraw() {
  if (choice) for (const button of choice.buttons) if (button.getAttribute("aria-pressed") === "false") button.remove();
  choice = null;
}

function how(asked) {
  const names = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
  return Object.fromEntries(names.filter((name) => asked[name] !== undefined).map((name) => [name, asked[name]]));
}

async function prefer(index) {
  const offered = choice;
  if (!offered || offered.waits) return;
  offered.waits = true;
  const { given, buttons, since } = offered;
  const preference = {
    messages: given[0].asked.messages,
    responses: given.map(({ asked, said }) => ({ model: asked.model, text: said, sampling: how(asked) })),
    preferred: index,
    annotator: at("annotator").value.trim() || undefined,
    seconds: Math.min((performance.now() - since) / 1000, 86400),
  };
  try {
    const response = await fetch("/preferences", { method: "POST", headers: headers(), body: JSON.stringify(preference) });
    if (!response.ok) throw new Error(await reason(response));
    note("");
  } catch (error) {
    note(error.message);
    return;
  } finally {
    offered.waits = false;
  }
  for (const [i, { turn, pane }] of given.entries()) {
    turn.classList.toggle("preferred", i === index);
    buttons[i].setAttribute("aria-pressed", String(i === index));
    buttons[i].textContent = i === index ? "Preferred: both go on from here" : "Prefer this one";
    // Else the next answers would be to different conversations
    if (choice === offered) pane.messages[pane.messages.length - 1] = { role: "assistant", content: given[index].said };
  }
}

// 5. What a token's probability was

function show(element) {
  const lines = [];
  for (const token of element.tokens) {
    lines.push(JSON.stringify(token.token) + "  ln p " + token.logprob.toFixed(4) + "  " + percent(token.logprob));
    for (const other of token.top_logprobs) {
      const mark = other.token === token.token ? "\u2022 " : "  ";
      lines.push(mark + percent(other.logprob).padStart(7) + "  " + JSON.stringify(other.token));
    }
  }
  const tip = at("tip");
  tip.textContent = lines.join("\n");
  tip.hidden = false;
  const box = element.getBoundingClientRect();
  const left = Math.min(box.left, window.innerWidth - tip.offsetWidth - 8);
  const below = box.bottom + 6;
  const fits = below + tip.offsetHeight < window.innerHeight - 8;
  tip.style.setProperty("left", Math.max(8, left) + "px");
  tip.style.setProperty("top", (fits ? below : Math.max(8, box.top - tip.offsetHeight - 6)) + "px");
}

function percent(logprob) {
  return (100 * Math.exp(logprob)).toFixed(2) + "%";
}

function hide() {
  at("tip").hidden = true;
  for (const element of document.querySelectorAll(".token.at")) element.classList.remove("at");
}

// From token to token in the answer that has the focus.
function walk(turn, by) {
  const tokens = [...turn.querySelectorAll(".token")];
  if (tokens.length === 0) return;
  const now = tokens.findIndex((token) => token.classList.contains("at"));
  hide();
  const next = tokens[Math.min(Math.max(now + by, 0), tokens.length - 1)];
  next.classList.add("at");
  show(next);
}

// 6. Who listens to what

document.addEventListener("mouseover", (event) => {
  const token = event.target.closest && event.target.closest(".token");
  if (token) show(token);
  else hide();
});
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    stop();
    hide();
  } else if (event.ctrlKey && event.key.toLowerCase() === "b") {
    event.preventDefault();
    beside();
  } else if (event.ctrlKey && event.shiftKey && event.key === "Backspace") {
    event.preventDefault();
    reset();
  } else if (!typing && event.key === "?") {
    help();
  } else if (!typing && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const turn = event.target.closest(".turn.assistant");
    if (turn) {
      event.preventDefault();
      walk(turn, event.key === "ArrowRight" ? 1 : -1);
    }
  }
});
at("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", stop);
at("reset").addEventListener("click", reset);
at("beside").addEventListener("click", beside);
at("help").addEventListener("click", help);
at("token").addEventListener("change", askForModels);
at("access").hidden = !locked;
if (locked) askForModels();
else ready(panes[0].select.options.length);
