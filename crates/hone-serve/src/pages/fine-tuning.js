// The page to tune models. Everything that comes from a model, a file or a person becomes text nodes, never HTML.
"use strict";

const at = (id) => document.getElementById(id);
const locked = document.body.dataset.locked === "yes";
const ended = ["succeeded", "failed", "cancelled"];
// How often what changes is asked for, in milliseconds.
const EVERY = 1500;
let chosen = "";
// How long whoever fills the form rests before it is asked what the job would take, in milliseconds.
const REST = 500;
// What is shown of a file: its first rows, read from this many bytes, and the first characters of each message.
const ROWS = 2;
const READ = 1 << 18;
const CHARACTERS = 300;
// Samples of a job that are shown, and the characters of each text.
const SAMPLES = 4;
// Events that are asked for at a time, and those in words that are shown: the newest.
const PAGE = 5000;
const TOLD = 500;
// A curve of more points is thinned: of so many stretches the lowest and the highest point of each is kept.
const STRETCHES = 2000;
let polling = null;
let looking = Promise.resolve();
let resting = null;
// What was heard of the chosen job so far.
let heard = null;
// What was drawn of it, so that nothing is drawn again while nothing happens.
let drawnOf = "";
let counting = null;

// 1. Small things

function made(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawn(tag, values, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function note(text) {
  at("note").textContent = text || "";
}

async function ask(method, path, body, signal) {
  const headers = {};
  if (locked) headers.Authorization = "Bearer " + at("token").value.trim();
  if (body && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  const response = await fetch(path, { method, headers, body, signal });
  let value;
  try {
    value = await response.json();
  } catch {
    throw new Error(response.status + " " + response.statusText);
  }
  if (!response.ok) throw new Error(value.error.message);
  return value;
}

// 2. Files

function option(file) {
  return new Option(file.filename + ", " + file.rows + " rows", file.id);
}

async function upload(file) {
  note("");
  at("preview").hidden = true;
  understood("Uploading " + file.name + " ...");
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  try {
    const taken = await ask("POST", "/v1/files", form);
    const what = taken.shape === "preferences" ? "preferences" : "conversations";
    understood(taken.filename + ": ", made("b", "", taken.rows + " " + what), ", " + size(taken.bytes));
    at("training").prepend(option(taken));
    at("training").value = taken.id;
    at("validation").options[0].after(option(taken));
    if (taken.shape === "preferences") at("method").value = "dpo";
    else if (at("method").value === "dpo") at("method").value = "supervised";
    await preview(file);
    shown();
    count();
  } catch (error) {
    understood();
    note(file.name + ": " + error.message);
  }
}

function understood(...parts) {
  at("understood").replaceChildren(...parts);
}

function size(bytes) {
  const [amount, unit] = bytes < 1e3 ? [bytes, "bytes"] : bytes < 1e6 ? [bytes / 1e3, "kB"] : bytes < 1e9 ? [bytes / 1e6, "MB"] : [bytes / 1e9, "GB"];
  return (amount < 10 && unit !== "bytes" ? amount.toFixed(1) : Math.round(amount)) + "\u00a0" + unit;
}

// The first rows as the server reads them: who says what.
async function preview(file) {
  const lines = (await file.slice(0, READ).text()).split("\n").filter((line) => line.trim());
  const parts = [];
  for (const line of lines.slice(0, ROWS)) {
    let row;
    try {
      row = JSON.parse(line);
    } catch {
      // A line that is longer than what was read
      break;
    }
    parts.push(made("p", "row-of", "row " + (parts.filter((part) => part.className === "row-of").length + 1)));
    const turns = row.messages || [...((row.input || {}).messages || [])];
    for (const turn of turns) parts.push(said(turn.role, turn.content));
    for (const [name, word] of [["preferred_output", "preferred"], ["non_preferred_output", "other"]]) {
      for (const turn of row[name] || []) parts.push(said(word, turn.content));
    }
    const columns = Object.keys(row).filter((name) => !["messages", "input", "preferred_output", "non_preferred_output"].includes(name));
    for (const name of columns) parts.push(said(name, JSON.stringify(row[name])));
  }
  at("preview").replaceChildren(...parts);
  at("preview").hidden = parts.length === 0;
}

function said(role, content) {
  const line = made("p");
  const text = typeof content === "string" ? content : (content || []).map((part) => part.text || "").join("");
  line.append(made("span", "role", role), cut(text));
  return line;
}

function cut(text) {
  const all = [...text];
  return all.length > CHARACTERS ? all.slice(0, CHARACTERS).join("") + " \u2026" : text;
}

async function askForAll() {
  if (locked && !at("token").value.trim()) {
    note("This server asks for a token.");
    return;
  }
  try {
    const models = (await ask("GET", "/v1/models")).data.filter((model) => model.kind === "language");
    fill(at("model"), models.map((model) => new Option(model.id, model.id)));
    const files = (await ask("GET", "/v1/files?purpose=fine-tune")).data;
    fill(at("training"), files.map(option));
    fill(at("validation"), [new Option("none", ""), ...files.map(option)]);
    note("");
    await look();
  } catch (error) {
    note(error.message);
  }
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options);
  if (options.some((one) => one.value === before)) select.value = before;
}

// 3. A new job

function shown() {
  at("graded").hidden = at("method").value !== "reinforcement";
  at("with-beta").hidden = at("method").value !== "dpo";
}

// What the form asks for.
function asked() {
  const method = at("method").value;
  const names = ["n_epochs", "batch_size", "learning_rate_multiplier"];
  const own = { hyperparameters: hyperparameters(method === "dpo" ? [...names, "beta"] : names) };
  if (method === "reinforcement") own.grader = JSON.parse(at("grader").value);
  const body = { model: at("model").value, training_file: at("training").value, method: { type: method, [method]: own } };
  if (at("validation").value) body.validation_file = at("validation").value;
  if (at("suffix").value.trim()) body.suffix = at("suffix").value.trim();
  if (at("seed").value.trim()) body.seed = Number(at("seed").value);
  return body;
}

// Says what the job would take, once the form has rested.
function count() {
  stopCounting();
  if (!at("training").value || (locked && !at("token").value.trim())) return;
  resting = setTimeout(async () => {
    const own = new AbortController();
    resting = null;
    counting = own;
    cost("", "Counting what this will take ...");
    try {
      const plan = await ask("POST", "/v1/fine_tuning/plan", asked(), own.signal);
      if (counting === own) priced(plan);
    } catch (error) {
      // Starting says the same where it stands in the way
      if (counting === own) cost("unfit", error.message);
    }
    if (counting === own) counting = null;
  }, REST);
}

// Nobody waits for the answer any more, so the server gives it up.
function stopCounting() {
  clearTimeout(resting);
  if (counting) counting.abort();
  resting = null;
  counting = null;
  cost();
}

function cost(name, ...parts) {
  at("cost").className = name || "";
  at("cost").replaceChildren(...parts);
}

function priced(plan) {
  const parts = [made("b", "", plan.steps + (plan.steps === 1 ? " step" : " steps")), ", about ", made("b", "", size(plan.peak_bytes)), " of memory"];
  if (plan.available_bytes) parts.push(" (" + size(plan.available_bytes) + " available)");
  if (plan.seconds) parts.push(", about ", made("b", "", duration(plan.seconds)));
  if (plan.fits === false) parts.push(". It does not fit: shorten the conversations, or make the batch smaller");
  cost(plan.fits === false ? "unfit" : "", ...parts);
}

function duration(seconds) {
  if (seconds < 120) return Math.ceil(seconds) + " s";
  return seconds < 7200 ? Math.round(seconds / 60) + " min" : (seconds / 3600).toFixed(1) + " h";
}

function hyperparameters(names) {
  const all = {};
  for (const name of names) {
    const value = at(name).value.trim();
    if (value !== "") all[name] = Number(value);
  }
  return all;
}

async function start() {
  note("");
  if (!at("training").value) {
    note("Drop a file first.");
    return;
  }
  // The job's own check says what it will take
  if (resting || counting) stopCounting();
  at("start").disabled = true;
  try {
    const job = await ask("POST", "/v1/fine_tuning/jobs", asked());
    chosen = job.id;
    await look();
  } catch (error) {
    note(error.message);
  }
  at("start").disabled = false;
}

// 4. Jobs

function chip(job) {
  const chip = made("span", "status " + job.status, job.status.replaceAll("_", " "));
  if (job.error) chip.title = job.error.message;
  return chip;
}

function row(job) {
  const line = made("tr", job.id === chosen ? "chosen" : "");
  line.dataset.id = job.id;
  line.tabIndex = 0;
  const status = made("td");
  status.append(chip(job));
  const result = made("td");
  if (job.fine_tuned_model) {
    const link = made("a", "", job.fine_tuned_model);
    const query = new URLSearchParams([["model", job.fine_tuned_model], ["model", job.model]]);
    link.href = "/?" + query;
    link.title = "Talk to it, beside the model that it was made from";
    result.append(link);
  }
  const action = made("td");
  const offer = (name, what) => {
    const button = made("button", "", name);
    button.type = "button";
    button.addEventListener("click", async (event) => {
      event.stopPropagation();
      try {
        await ask("POST", "/v1/fine_tuning/jobs/" + encodeURIComponent(job.id) + "/" + what);
        await look();
      } catch (error) {
        note(error.message);
      }
    });
    action.append(button);
  };
  if (!ended.includes(job.status)) offer("Cancel", "cancel");
  if (["queued", "running"].includes(job.status)) offer("Pause", "pause");
  if (job.status === "paused") offer("Resume", "resume");
  line.append(made("td", "", job.id), made("td", "", job.model), made("td", "", job.method.type), status, result, action);
  return line;
}

// Asks for all that is new. One look at a time: who asks during one waits for the next.
function look() {
  looking = looking.then(lookOnce);
  return looking;
}

async function lookOnce() {
  clearTimeout(polling);
  let goesOn = false;
  try {
    const jobs = (await ask("GET", "/v1/fine_tuning/jobs?limit=100")).data;
    if (!chosen && jobs.length) chosen = jobs[0].id;
    const focused = document.activeElement && document.activeElement.dataset.id;
    at("jobs").replaceChildren(...jobs.map(row));
    if (jobs.length === 0) {
      const empty = made("td", "soft", "No job yet.");
      empty.colSpan = 6;
      const line = made("tr");
      line.append(empty);
      at("jobs").append(line);
    }
    if (focused) for (const line of at("jobs").children) if (line.dataset.id === focused) line.focus();
    const one = jobs.find((job) => job.id === chosen);
    if (one) await show(one);
    goesOn = jobs.some((job) => !ended.includes(job.status));
  } catch (error) {
    note(error.message);
    goesOn = true;
  }
  clearTimeout(polling);
  polling = setTimeout(look, goesOn ? EVERY : 10 * EVERY);
}

// A curve that grows, of a bounded number of points; its last point is always there.
class Curve {
  stretches = [];
  // Points of a stretch.
  width = 1;
  last = null;

  push(point) {
    this.last = point;
    const open = this.stretches.at(-1);
    if (open && open.count < this.width) {
      open.count += 1;
      if (point[1] < open.low[1]) open.low = point;
      if (point[1] > open.high[1]) open.high = point;
      return;
    }
    this.stretches.push({ count: 1, low: point, high: point });
    if (this.stretches.length <= STRETCHES) return;
    const halved = [];
    for (let i = 0; i < this.stretches.length; i += 2) {
      const [one, next] = [this.stretches[i], this.stretches[i + 1] || this.stretches[i]];
      halved.push({
        count: next === one ? one.count : one.count + next.count,
        low: next.low[1] < one.low[1] ? next.low : one.low,
        high: next.high[1] > one.high[1] ? next.high : one.high,
      });
    }
    this.stretches = halved;
    this.width *= 2;
  }

  points() {
    const of = ({ low, high }) => (low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]);
    const all = this.stretches.flatMap(of);
    return this.last && all.at(-1) !== this.last ? [...all, this.last] : all;
  }
}

// Takes an event: of a long job there are more than a page keeps.
function hear(event) {
  heard.count += 1;
  const data = event.data || {};
  if (event.type === "metrics") {
    for (const [name, value] of Object.entries(data)) {
      if (typeof value !== "number" || name === "step") continue;
      if (!heard.curves.has(name)) heard.curves.set(name, new Curve());
      heard.curves.get(name).push([data.step, value]);
    }
  } else if (data.sample) {
    if (heard.samples.length && heard.samples[0].step !== data.sample.step) heard.samples = [];
    if (heard.samples.length < SAMPLES) heard.samples.push(data.sample);
  } else {
    heard.told.push(event);
    if (heard.told.length > TOLD) {
      heard.told.shift();
      heard.earlier += 1;
    }
  }
}

// Hears what is new of a job, page by page.
async function listen(job) {
  const path = "/v1/fine_tuning/jobs/" + encodeURIComponent(job.id) + "/events?";
  try {
    for (;;) {
      const query = new URLSearchParams([["limit", PAGE], ["order", "asc"]]);
      if (heard.last) query.set("after", heard.last);
      const page = await ask("GET", path + query);
      page.data.forEach(hear);
      if (page.last_id) heard.last = page.last_id;
      if (!page.has_more || page.data.length === 0) return;
    }
  } catch (error) {
    // From the beginning the next time
    heard = null;
    throw error;
  }
}

async function show(job) {
  if (!heard || heard.job !== job.id) {
    heard = { job: job.id, last: "", count: 0, curves: new Map(), samples: [], told: [], earlier: 0 };
  }
  await listen(job);
  const key = job.id + " " + job.status + " " + heard.count;
  if (key === drawnOf) return;
  drawnOf = key;
  at("one").hidden = false;
  at("title").replaceChildren(job.id, chip(job));
  curve(heard.curves, job.method.type === "reinforcement" ? "train_mean_reward" : "train_loss");
  samples(heard.samples);
  const lines = heard.told.map((event) => {
    const line = made("li", event.level);
    line.append(made("time", "", new Date(event.created_at * 1000).toLocaleTimeString("en-GB")), made("span", "", event.message));
    return line;
  });
  if (heard.earlier) lines.unshift(made("li", "soft", heard.earlier + " earlier"));
  at("events").replaceChildren(...lines.reverse());
}

// What the model answered at the newest evaluation.
function samples(newest) {
  at("answers").hidden = newest.length === 0;
  if (newest.length === 0) return;
  at("answered").textContent = "Answers at step " + newest[0].step;
  at("samples").replaceChildren(...newest.map((sample) => {
    const card = made("article");
    card.append(made("p", "asked", cut(String(sample.prompt ?? ""))), made("p", "", cut(String(sample.response ?? ""))));
    return card;
  }));
}

function curve(curves, name) {
  const of = (key) => (curves.has(key) ? curves.get(key).points() : []);
  const lines = [["train", name.replaceAll("_", " "), of(name)], ["valid", "validation loss", of("valid_loss")]].filter(([, , points]) => points.length);
  at("chart").hidden = lines.length === 0;
  if (lines.length === 0) return;
  const all = lines.flatMap(([, , points]) => points);
  const [left, right] = extremes(all.map(([step]) => step));
  const [low, high] = extremes(all.map(([, value]) => value));
  const x = (step) => 52 + 576 * (step - left) / Math.max(right - left, 1);
  const y = (value) => (high > low ? 180 - 168 * (value - low) / (high - low) : 96);
  const parts = [];
  for (const value of high > low ? [low, (low + high) / 2, high] : [low]) {
    parts.push(drawn("line", { class: value === low ? "axis" : "rule", x1: 52, y1: y(value), x2: 628, y2: y(value) }));
    parts.push(drawn("text", { x: 46, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3)));
  }
  parts.push(drawn("text", { x: 52, y: 200 }, "step " + left));
  if (right > left) parts.push(drawn("text", { x: 628, y: 200, "text-anchor": "end" }, String(right)));
  for (const [kind, , points] of lines) {
    const path = points.map(([step, value]) => x(step).toFixed(1) + "," + y(value).toFixed(1)).join(" ");
    parts.push(drawn("polyline", { class: kind, points: path }));
    const [step, value] = points.at(-1);
    parts.push(drawn("circle", { class: kind, cx: x(step).toFixed(1), cy: y(value).toFixed(1), r: 3.5 }));
  }
  at("curve").replaceChildren(...parts);
  at("legend").replaceChildren(...lines.map(([kind, word, points]) => {
    const [step, value] = points.at(-1);
    const item = made("span");
    item.append(made("i", kind), word + " ", made("b", "", value.toPrecision(4)), " at step " + step);
    return item;
  }));
}

function extremes(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// 5. Who listens to what

function choose(target) {
  const line = target.closest("tr[data-id]");
  if (!line || target.closest("a, button")) return;
  chosen = line.dataset.id;
  look();
}

at("job").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
at("upload").addEventListener("change", () => {
  if (at("upload").files.length) upload(at("upload").files[0]);
});
at("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
});
at("jobs").addEventListener("click", (event) => choose(event.target));
at("jobs").addEventListener("keydown", (event) => {
  if (event.key === "Enter") choose(event.target);
});
at("job").addEventListener("change", (event) => {
  if (event.target === at("upload")) return;
  shown();
  count();
});
at("token").addEventListener("change", askForAll);
at("access").hidden = !locked;
shown();
if (locked) askForAll();
else look();
