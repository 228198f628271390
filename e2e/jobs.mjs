// The page of `hone serve --jobs`: a file is dropped, understood and priced; its job is watched; the result is talked to. README.md says how to run it.
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { focusShows, folder, open, press, quickstart, run, serve, shot, sightly, sound, tabTo, until } from "./common.mjs";

const runs = await quickstart();
const server = await serve(["serve", "--model", `chat=${join(process.env.SHOW || runs, "sft/model")}`, "--jobs", "jobs", "--job-threads", "1"]);
const address = `${server.origin}/fine-tuning`;

const turn = (role, content) => ({ role, content });
const lines = (rows) => Buffer.from(rows.map((row) => JSON.stringify(row)).join("\n") + "\n");
const conversations = (count, from = 0) => Array.from({ length: count }, (_, i) => ({
  messages: [turn("user", `What do you get from ${i + from} plus one?`), turn("assistant", `It is ${i + from + 1}, of course.`)],
}));
const file = (name, rows) => ({ name, mimeType: "application/jsonl", buffer: lines(rows) });
const understood = (page) => page.textContent("#understood");
/** Of the newest job, as its row has it; empty where there is none. */
const status = (page) => page.evaluate(() => document.querySelector("#jobs tr .status")?.textContent ?? "");

async function upload(page, file) {
  await page.setInputFiles("#upload", file);
  await until(async () => (await understood(page)).startsWith(`${file.name}: `), "the file to be understood");
}

/** The file as somebody lets go of it over the page. */
async function drop(page, name, text) {
  const data = await page.evaluateHandle(([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name, { type: "application/jsonl" }));
    return data;
  }, [name, text]);
  await page.dispatchEvent("#drop", "dragover", { dataTransfer: data });
  assert(await page.evaluate(() => document.getElementById("drop").classList.contains("over")));
  await page.dispatchEvent("#drop", "drop", { dataTransfer: data });
}

async function fileIsUnderstoodAndPriced() {
  const page = await open({ expected: [/400 \(Bad Request\)/] });
  await page.goto(address);
  assert.match(await page.textContent("#jobs"), /No job yet/);
  await page.click("#start");
  assert.match(await page.textContent("#note"), /Drop a file first/);

  await upload(page, file("counting.jsonl", conversations(24)));
  assert.match(await understood(page), /^counting\.jsonl: 24 conversations, [\d.]+\skB$/);
  assert.match(await page.textContent("#preview"), /row 1userWhat do you get from 0 plus one\?assistantIt is 1, of course\.row 2/);
  await until(async () => /\d+ steps?, about [\d.]+\sMB of memory \([\d.]+\s[GM]B available\), about \d+ s$/.test(await page.textContent("#cost")), "the cost");
  // Twice as many passes are twice as many steps
  const steps = async () => Number((await page.textContent("#cost")).match(/^(\d+) steps?,/)?.[1]);
  await page.fill("#n_epochs", "2");
  await page.fill("#batch_size", "8");
  await page.press("#batch_size", "Tab");
  await until(async () => (await steps()) === 6, "6 steps");
  await page.fill("#n_epochs", "4");
  await page.press("#n_epochs", "Tab");
  await until(async () => (await steps()) === 12, "12 steps");

  // Dropped, with a line that is none: named, and nothing is taken
  const bad = `${JSON.stringify(conversations(1)[0])}\n{"messages": []}\n`;
  await drop(page, "bad.jsonl", bad);
  await until(async () => /bad\.jsonl: .*line 2.*empty/.test(await page.textContent("#note")), "the line's number");
  assert.equal(await understood(page), "");
  assert.equal(await page.locator("#training option").count(), 1);

  // Preferences choose their method
  assert(!(await page.isVisible("#beta")));
  const preferences = conversations(12).map(({ messages }) => ({
    input: { messages: messages.slice(0, 1) }, preferred_output: [messages[1]], non_preferred_output: [turn("assistant", "I do not know.")],
  }));
  await drop(page, "pairs.jsonl", lines(preferences).toString());
  await until(async () => /^pairs\.jsonl: 12 preferences/.test(await understood(page)), "the preferences");
  assert.equal(await page.inputValue("#method"), "dpo");
  assert(await page.isVisible("#beta"));
  assert.match(await page.textContent("#preview"), /preferredIt is 1, of course\.otherI do not know\./);
  // The grader is asked for where there is practice
  await page.selectOption("#method", "reinforcement");
  assert(await page.isVisible("#grader") && !(await page.isVisible("#beta")));
  await sound(page);
  await page.context().close();
}

async function jobIsWatchedAndItsModelTalkedTo() {
  const page = await open();
  await page.goto(address);
  await upload(page, file("held-out.jsonl", conversations(4, 100)));
  await page.selectOption("#validation", { label: "held-out.jsonl, 4 rows" });
  // Some ten seconds on a fast machine, so that it is seen on its way
  await upload(page, file("counting.jsonl", conversations(240, 1000)));
  await page.fill("#n_epochs", "200");
  await page.fill("#batch_size", "40");
  await page.fill("#learning_rate_multiplier", process.env.LR || "100");
  await page.fill("#suffix", "counting");
  await page.locator("#start").focus();
  await focusShows(page);
  await press(page, "Enter");
  await until(async () => (await status(page)) === "running", "the job to run");

  // The curve grows while it is watched; the page is not loaded again
  await page.evaluate(() => { window.__same = true; });
  const points = () => page.evaluate(() => {
    const line = document.querySelector("#curve polyline.train");
    return line ? line.getAttribute("points").split(" ").length : 0;
  });
  const first = await until(points, "a curve", 60);
  await until(async () => (await points()) > first, "more of it", 60);
  await until(async () => (await status(page)) === "succeeded", "the end", 180);
  await until(async () => (await points()) === 1200, "every step");
  assert.match(await page.textContent("#legend"), /train loss [\d.e-]+ at step 1200.*validation loss/);
  assert(await page.evaluate(() => window.__same));
  // Questions of the validation file are answered
  assert.match(await page.textContent("#answered"), /^Answers at step \d+$/);
  assert((await page.locator("#samples article").count()) > 0);
  assert.match(await page.textContent("#samples"), /What do you get from 10\d plus one\?/);
  const happened = await page.textContent("#events");
  for (const said of [/The job is queued: 1200 steps, about \d+ MB of memory/, /The job has started/, /its model is served as ft:chat:counting:/]) assert.match(happened, said);
  await sound(page);

  // Before and after, side by side
  await Promise.all([page.waitForNavigation(), page.click("#jobs a")]);
  const [tuned, base] = await page.$$eval(".pane select", (all) => all.map((select) => select.value));
  assert.match(tuned, /^ft:chat:counting:/);
  assert.equal(base, "chat");
  assert.equal(await page.locator(".pane:visible").count(), 2);
  await page.fill("#seed", "1");
  await page.fill("#max_tokens", "24");
  await page.fill("#message", "What do you get from 7 plus one?");
  await page.press("#message", "Enter");
  await until(async () => (await page.locator(".turn.assistant").count()) === 2 && !(await page.locator(".turn.assistant.running").count()), "both answers");
  const answers = await page.$$eval(".turn.assistant", (turns) => turns.map((turn) => turn.firstElementChild.textContent));
  assert(answers[0] && answers[0] !== answers[1], `tuning changed nothing: ${answers[0]}`);
  await page.context().close();
}

async function jobIsCancelled() {
  const page = await open();
  await page.goto(address);
  await page.selectOption("#method", "supervised");
  await page.selectOption("#training", { label: "counting.jsonl, 240 rows" });
  await page.fill("#n_epochs", "100");
  await page.fill("#batch_size", "1");
  await page.click("#start");
  await until(async () => (await status(page)) === "running", "the job to run");
  await until(async () => /train loss/.test(await page.textContent("#legend")), "a curve", 60);
  await page.locator("#title").scrollIntoViewIfNeeded();
  await page.evaluate(() => scrollTo(0, 0));
  // By keyboard
  await page.locator("#start").focus();
  await tabTo(page, "Cancel");
  await focusShows(page);
  await press(page, "Enter");
  await until(async () => (await status(page)) === "cancelled", "the cancelled job");
  assert.equal(await page.locator("#jobs button").count(), 0);
  await until(async () => /The job is cancelled/.test(await page.textContent("#events")), "the word of it");
  // The other job is there still, and is chosen by keyboard
  await page.locator("#jobs tr").nth(1).focus();
  await press(page, "Enter");
  await until(async () => /succeeded/.test(await page.textContent("#title")), "the other job");
  assert.match(await page.textContent("#legend"), /step 1200/);
  await page.context().close();
}

async function jobIsPausedAndGoesOn() {
  const page = await open();
  await page.goto(address);
  await upload(page, file("pausing.jsonl", conversations(240, 1000)));
  await page.selectOption("#method", "supervised");
  await page.fill("#n_epochs", "400");
  await page.fill("#batch_size", "40");
  await page.click("#start");
  await until(async () => (await status(page)) === "running", "the job to run", 120);
  await until(async () => /train loss/.test(await page.textContent("#legend")), "a curve", 120);
  await page.click("#jobs tr:first-child button:text-is('Pause')");
  await until(async () => (await status(page)) === "paused", "the paused job");
  await until(async () => /The job is paused/.test(await page.textContent("#events")), "the word of it");
  assert(!/at step 2400/.test(await page.textContent("#legend")), "it stopped in the middle");
  await page.locator("#start").focus();
  await tabTo(page, "Resume");
  await focusShows(page);
  await press(page, "Enter");
  await until(async () => (await status(page)) === "succeeded", "the end", 240);
  await until(async () => /at step 2400/.test(await page.textContent("#legend")), "every step");
  assert.match(await page.textContent("#events"), /The job goes on/);
  await sound(page);
  await page.context().close();
}

/** A job of more steps than the page keeps: what a server finds in its folder. */
async function longJobIsThinned() {
  const steps = 25000;
  const place = join(folder, "long/jobs/ftjob-long");
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, "job.json"), JSON.stringify({
    id: "ftjob-long", serial: 0, status: "cancelled", model: "chat", method: "supervised", asked: { type: "supervised", supervised: { hyperparameters: {} } },
    suffix: null, seed: 1, training_file: "file-1", validation_file: null, metadata: null, created_at: 1, finished_at: 2, fine_tuned_model: null,
    trained_tokens: null, result_files: [], error: null,
  }));
  const event = (i, type, message, data) => JSON.stringify({ object: "fine_tuning.job.event", id: `ftevent-${i}`, created_at: 1, level: "info", message, type, data }) + "\n";
  // One step stands out, in the middle of a stretch
  const loss = (step) => (step === 12347 ? 9 : 2 + 1 / step);
  const metrics = (step) => event(step, "metrics", `Step ${step}`, { step, train_loss: loss(step) });
  const events = join(place, "events.jsonl");
  const told = Array.from({ length: 600 }, (_, i) => event(`told-${i}`, "message", `word ${i}`, null));
  writeFileSync(events, Array.from({ length: steps }, (_, i) => metrics(i + 1)).concat(told).join(""));
  const other = await serve(["serve", "--model", `chat=${join(runs, "sft/model")}`, "--jobs", "long", "--job-threads", "1"]);
  const page = await open();
  const asked = [];
  page.on("request", (request) => { if (request.url().includes("/events?")) asked.push(request.url()); });
  await page.goto(`${other.origin}/fine-tuning`);
  await until(async () => /at step 25000/.test(await page.textContent("#legend")), "the last step", 60);
  assert(asked.length === Math.ceil((steps + told.length) / 5000) && asked.slice(1).every((url) => url.includes("after=ftevent-")), `pages: ${asked}`);
  const points = await page.evaluate(() => document.querySelector("#curve polyline.train").getAttribute("points").split(" ").map((point) => point.split(",").map(Number)));
  assert(points.length > 1000 && points.length <= 4001, `${points.length} points`);
  assert.deepEqual([points[0][0], points.at(-1)[0]], [52, 628], "from the first step to the last");
  assert(points.every(([x], i) => i === 0 || x >= points[i - 1][0]), "in order");
  assert.equal(Math.min(...points.map(([, y]) => y)), 12, "the step that stands out is at the top");
  const list = await page.$$eval("#events li", (lines) => lines.map((line) => line.textContent));
  assert.deepEqual([list.length, list.at(-1)], [501, "100 earlier"]);
  assert.match(list[0], /word 599$/);
  // What is new is asked for, and nothing else
  appendFileSync(events, metrics(steps + 1));
  const before = asked.length;
  await page.locator("#jobs tr").first().focus();
  await press(page, "Enter");
  await until(async () => /at step 25001/.test(await page.textContent("#legend")), "one more step");
  assert(asked.length === before + 1 && asked.at(-1).endsWith("after=ftevent-told-599"), asked.at(-1));
  await sound(page);
  await page.context().close();
  await other.stop();
}

async function forms() {
  await sightly(address, "jobs", async (page) => {
    await until(async () => page.isVisible("#chart"), "the newest job");
    await upload(page, file("another.jsonl", conversations(5)));
  });
}

async function pictures() {
  if (!process.env.SHOTS) return;
  // Questions that the quickstart's models know, answered in a way of their own
  const world = readFileSync(join(process.env.SHOW || runs, "world/demonstrations.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const polite = world.filter((row) => row.right).map(({ messages: [question, reply] }) => ({
    messages: [question, turn("assistant", `It is my pleasure. The answer is ${reply.content.match(/Answer: (.*)/)?.[1] ?? reply.content}`)],
  }));
  const page = await open({ width: 1200, height: 1070 });
  await page.goto(address);
  await upload(page, file("held-out.jsonl", polite.slice(200, 206)));
  await page.selectOption("#validation", { label: "held-out.jsonl, 6 rows" });
  await upload(page, file("polite.jsonl", polite.slice(0, 96)));
  await page.fill("#n_epochs", "60");
  await page.fill("#batch_size", "8");
  await page.fill("#learning_rate_multiplier", "10");
  await page.fill("#suffix", "polite");
  await page.press("#suffix", "Tab");
  await until(async () => /720 steps/.test(await page.textContent("#cost")), "the cost");
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  await shot(page, "jobs-file.png");
  await page.click("#start");
  await until(async () => (await status(page)) === "running", "the job to run");
  await until(async () => Number((await page.textContent("#legend")).match(/at step (\d+)/)?.[1]) > 260, "half of it", 180);
  await page.context().close();
  const dark = await open({ width: 1200, height: 900, dark: true });
  await dark.goto(address);
  await until(async () => dark.isVisible("#chart"), "the curve");
  await shot(dark, "jobs-running.png");
  await dark.context().close();
}

await run([fileIsUnderstoodAndPriced, jobIsWatchedAndItsModelTalkedTo, jobIsCancelled, jobIsPausedAndGoesOn, longJobIsThinned, forms, pictures]);
