// The page to tune models. Everything that comes from a model, a file or a person becomes text nodes, never HTML.
"use strict";

const at = (id) => document.getElementById(id);
const locked = document.body.dataset.locked === "yes";
const ended = ["succeeded", "failed", "cancelled"];
// How often what changes is asked for, in milliseconds.
const EVERY = 1500;
let chosen = "";
let polling = null;

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

async function ask(method, path, body) {
  const headers = {};
  if (locked) headers.Authorization = "Bearer " + at("token").value.trim();
  if (body && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  const response = await fetch(path, { method, headers, body });
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
  at("understood").textContent = "Uploading " + file.name + " ...";
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", file);
  try {
    const taken = await ask("POST", "/v1/files", form);
    const what = taken.shape === "preferences" ? "preferences" : "conversations";
    at("understood").textContent = taken.filename + ": " + taken.rows + " " + what + ", " + taken.bytes + " bytes";
    at("training").prepend(option(taken));
    at("training").value = taken.id;
    at("validation").append(option(taken));
    if (taken.shape === "preferences") at("method").value = "dpo";
    else if (at("method").value === "dpo") at("method").value = "supervised";
    shown();
  } catch (error) {
    at("understood").textContent = "";
    note(file.name + ": " + error.message);
  }
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
  const method = at("method").value;
  const names = ["n_epochs", "batch_size", "learning_rate_multiplier"];
  const own = { hyperparameters: hyperparameters(method === "dpo" ? [...names, "beta"] : names) };
  const body = { model: at("model").value, training_file: at("training").value, method: { type: method, [method]: own } };
  if (!body.training_file) {
    note("Drop a file first.");
    return;
  }
  if (at("validation").value) body.validation_file = at("validation").value;
  if (at("suffix").value.trim()) body.suffix = at("suffix").value.trim();
  if (at("seed").value.trim()) body.seed = Number(at("seed").value);
  at("start").disabled = true;
  try {
    if (method === "reinforcement") own.grader = JSON.parse(at("grader").value);
    const job = await ask("POST", "/v1/fine_tuning/jobs", body);
    chosen = job.id;
    await look();
  } catch (error) {
    note(error.message);
  }
  at("start").disabled = false;
}

// 4. Jobs

function row(job) {
  const line = made("tr", job.id === chosen ? "chosen" : "");
  line.dataset.id = job.id;
  line.tabIndex = 0;
  const status = made("td", job.status === "failed" ? "failed" : "", job.status);
  if (job.error) status.title = job.error.message;
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

async function look() {
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
  polling = setTimeout(look, goesOn ? EVERY : 10 * EVERY);
}

async function show(job) {
  const path = "/v1/fine_tuning/jobs/" + encodeURIComponent(job.id) + "/events?limit=10000&order=asc";
  const events = (await ask("GET", path)).data;
  at("one").hidden = false;
  at("title").textContent = job.id + ": " + job.status;
  const metrics = events.filter((event) => event.type === "metrics").map((event) => event.data);
  curve(metrics, job.method.type === "reinforcement" ? "train_mean_reward" : "train_loss");
  const said = events.filter((event) => event.type !== "metrics").reverse();
  at("events").replaceChildren(...said.map((event) => {
    const time = new Date(event.created_at * 1000).toLocaleTimeString();
    return made("li", event.level, time + "  " + event.message);
  }));
}

function curve(metrics, name) {
  const of = (key) => metrics.filter((data) => typeof data[key] === "number").map((data) => [data.step, data[key]]);
  const lines = [["train", of(name)], ["valid", of("valid_loss")]];
  const all = lines.flatMap(([, points]) => points);
  at("curve").replaceChildren();
  at("curve").classList.toggle("hidden", all.length === 0);
  if (all.length === 0) {
    at("legend").textContent = "";
    return;
  }
  const steps = all.map(([step]) => step);
  const values = all.map(([, value]) => value);
  const [left, right] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (step) => 50 + 580 * (step - left) / Math.max(right - left, 1);
  const y = (value) => 180 - 170 * (value - low) / Math.max(high - low, 1e-9);
  const parts = [
    drawn("line", { class: "axis", x1: 50, y1: 10, x2: 50, y2: 180 }),
    drawn("line", { class: "axis", x1: 50, y1: 180, x2: 630, y2: 180 }),
    drawn("text", { x: 4, y: 16 }, high.toPrecision(3)),
    drawn("text", { x: 4, y: 180 }, low.toPrecision(3)),
    drawn("text", { x: 50, y: 196 }, "step " + left),
    drawn("text", { x: 630, y: 196, "text-anchor": "end" }, String(right)),
  ];
  for (const [kind, points] of lines) {
    if (points.length === 0) continue;
    const path = points.map(([step, value]) => x(step).toFixed(1) + "," + y(value).toFixed(1)).join(" ");
    parts.push(drawn("polyline", { class: kind, points: path }));
  }
  at("curve").append(...parts);
  const valid = lines[1][1];
  const last = lines[0][1].at(-1);
  const words = last ? [name.replaceAll("_", " ") + " " + last[1].toPrecision(4) + " at step " + last[0]] : [];
  if (valid.length) words.push("validation loss " + valid.at(-1)[1].toPrecision(4));
  at("legend").textContent = words.join(", ");
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
at("method").addEventListener("change", shown);
at("token").addEventListener("change", askForAll);
at("access").hidden = !locked;
shown();
if (locked) askForAll();
else look();
