// `hone dashboard` while runs are made: a curve that grows, comparisons, samples, hints. README.md says how to run it.
import assert from "node:assert/strict";
import { appendFileSync, cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PICTURE, focusShows, folder, leave, open, press, quickstart, run, serve, shot, sightly, sound, start, tabTo, until } from "./common.mjs";

const made = await quickstart();
const runs = join(folder, "runs");
/** What the dashboard reads of a run. */
const copy = (from, to) => cpSync(from, to, { recursive: true, preserveTimestamps: true, filter: (path) => !/\/(checkpoints|model)$/.test(path) });
for (const name of ["sft", "ppo", "ppo-ptx"]) copy(join(made, name), join(runs, name));
const server = await serve(["dashboard", runs]);

/** A run that is being made: demonstrations, again and again. */
function train(name, steps, settings = [], into = runs) {
  const text = `[model]\npath = ${JSON.stringify(join(made, "pretrain/model"))}\n[data]\nmax_length = 192\nheld_out = 0.1\n`
    + `[[data.train]]\npath = ${JSON.stringify(join(made, "world/demonstrations.jsonl"))}\n`
    + `[train]\nsteps = ${steps}\nbatch = 8\nlearning_rate = 0.0003\n[eval]\nevery = 20\nsamples = 4\nmax_new_tokens = 24\n`;
  writeFileSync(join(folder, `${name}.toml`), text);
  return start(["sft", `${name}.toml`, "--runs", into, "--name", name, "--threads", "1", ...settings.flatMap((set) => ["--set", set])]);
}

/** A run whose files are written here, so that it does what a test wants. */
function forge(name, lines, into = runs) {
  mkdirSync(join(into, name), { recursive: true });
  writeFileSync(join(into, name, "run.toml"), "[train]\nsteps = 400\n[data]\nturns = \"all\"\n");
  writeFileSync(join(into, name, "metrics.jsonl"), "");
  tell(name, lines, into);
}

function tell(name, lines, into = runs) {
  appendFileSync(join(into, name, "metrics.jsonl"), lines.map((line) => JSON.stringify(line) + "\n").join(""));
}

async function liveRun() {
  const live = train("live", 4000);
  const page = await open();
  await page.goto(server.origin);
  // It appears by itself
  await until(async () => /live/.test(await page.textContent("main")) && /running/.test(await page.locator("tr", { hasText: "live" }).textContent()), "the run in the list");
  await tabTo(page, "live");
  await focusShows(page);
  await leave(page, "Enter");
  assert.equal(await page.textContent("h1"), "live");
  await page.evaluate(() => { window.__same = true; });
  const step = () => page.evaluate(() => Number(document.querySelector("main > p").textContent.match(/(\d[\d,]*) of 4,?000/)?.[1].replace(",", "")) || 0);
  const curve = () => page.evaluate(() => document.querySelector("figure path.line, figure polyline.line, figure .line")?.outerHTML || "");
  const [before, drawn] = [await until(step, "steps"), await until(curve, "a curve", 60)];
  await until(async () => (await step()) > before + 5, "more steps", 60);
  await until(async () => (await curve()) !== drawn, "a curve that goes on");
  assert(await page.evaluate(() => window.__same), "without being loaded again");
  assert.match(await page.textContent("main"), /left/, "it says how long it takes");
  // Samples of its evaluations
  await until(async () => page.locator("article.sample").count(), "samples", 60);
  // Paused, nothing moves; what is open stays open
  await page.locator("#pause").focus();
  await press(page, "Enter");
  assert.equal(await page.getAttribute("#pause", "aria-pressed"), "true");
  await page.waitForTimeout(300);
  const held = await curve();
  await page.waitForTimeout(2500);
  assert.equal(await curve(), held, "paused");
  await press(page, "Enter");
  await page.locator("#configuration summary").click();
  await until(async () => (await curve()) !== held, "a curve that goes on again");
  assert(await page.evaluate(() => document.getElementById("configuration").open), "what was opened stays open");
  // Over tokens instead of steps
  await Promise.all([page.waitForNavigation(), page.click('nav[aria-label="Horizontal axis"] a:has-text("tokens")')]);
  assert.match(await page.textContent("main"), /tokens read or sampled/);
  await sound(page);
  // Stopped by its owner it saves, and the page says so in time
  live.child.kill("SIGINT");
  await until(() => live.state.ended !== null, "the end of the run");
  await page.context().close();
}

async function twoRunsCompared() {
  await train("slow", 60, ["train.learning_rate=1e-5", "train.seed=2"]).ended();
  await train("fast", 60, ["train.learning_rate=1e-3"]).ended();
  const page = await open();
  await page.goto(server.origin);
  for (const name of ["slow", "fast"]) {
    await page.locator(`input[value="${name}"]`).focus();
    await press(page, "Space");
    assert(await page.isChecked(`input[value="${name}"]`));
  }
  await tabTo(page, "Compare the chosen");
  await leave(page, "Enter");
  const rows = await page.$$eval(".differences tbody tr", (rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent.trim())));
  const difference = Object.fromEntries(rows.map(([key, ...values]) => [key, values]));
  const names = await page.$$eval(".differences thead th", (heads) => heads.slice(1).map((head) => head.textContent.trim()));
  const [slow, fast] = [names.indexOf("slow"), names.indexOf("fast")];
  assert.deepEqual([difference["train.learning_rate"][slow], difference["train.learning_rate"][fast]].map(Number), [1e-5, 1e-3]);
  assert.deepEqual([difference["train.seed"][slow], difference["train.seed"][fast]], ["2", "1"]);
  assert.match(await page.textContent(".differences caption"), /\d+ other keys are the same/);
  const lines = await page.locator('figure[aria-label*="train/loss"], figure:has-text("train/loss")').first().locator(".line").count();
  assert(lines >= 2, `both curves in one picture: ${lines}`);
  await sound(page);
  await page.context().close();
}

async function samplesAreSearched() {
  const page = await open();
  await page.goto(`${server.origin}/run/ppo`);
  await Promise.all([page.waitForNavigation(), page.click("a:has-text('samples')")]);
  const all = Number((await page.textContent("main > .soft")).match(/of (\d+) samples/)[1]);
  assert(all > 20);
  // "/" goes to the search
  await press(page, "/");
  assert(await page.evaluate(() => document.activeElement.id === "q"));
  await page.keyboard.type("KAREN");
  await leave(page, "Enter");
  const found = Number((await page.textContent("main > .soft")).match(/^(\d+) of/)[1]);
  assert(found > 0 && found < all, `${found} of ${all}`);
  for (const text of await page.$$eval("article.sample", (articles) => articles.map((article) => article.textContent))) assert.match(text, /karen/i);
  await page.fill("#q", "no such word anywhere");
  await press(page, "Enter");
  await page.waitForURL(/no\+such/);
  assert.match(await page.textContent("main > .soft"), /^0 of/);
  await page.selectOption("#step", "1");
  await page.fill("#q", "");
  await page.locator("#q").focus();
  await leave(page, "Enter");
  assert.deepEqual([...new Set(await page.$$eval("article.sample .facts-line span:first-child", (all) => all.map((one) => one.textContent)))], ["step 1"]);
  // The same prompt, later: what changed is marked in words, not by colour alone
  await page.goto(`${server.origin}/run/live/samples`);
  const [kind, mark] = await page.evaluate(() => {
    const part = document.querySelector(".changes ins, .changes del");
    return [part?.tagName, part && getComputedStyle(part, "::before").content];
  });
  assert.equal(mark, kind === "INS" ? '" [added: "' : '" [removed: "');
  await page.context().close();
}

async function hintsAreRaised() {
  const falls = Array.from({ length: 60 }, (_, i) => ({ step: i + 1, "train/loss": 4 - i / 30 }));
  forge("forged", falls);
  const page = await open();
  await until(async () => (await page.request.get(`${server.origin}/run/forged`)).ok(), "the run to be found");
  await page.goto(`${server.origin}/run/forged`);
  assert.equal(await page.locator("main [data-alert]").count(), 0);
  tell("forged", Array.from({ length: 30 }, (_, i) => ({ step: 61 + i, "train/loss": 3 + i / 10, "train/skipped_steps": 1 })));
  await until(() => page.locator('[data-alert="loss-rose"]').count(), "the hint that the loss rose");
  await until(() => page.locator('[data-alert="skipped-steps"]').count(), "the hint that steps were skipped");
  assert.match(await page.textContent("#news"), /train\/loss/, "it is read out");
  await page.goto(server.origin);
  assert.match(await page.locator('tr:has-text("forged") + tr.hints').textContent(), /loss-rose/);
  await page.context().close();
}

async function forms() {
  await sightly(server.origin, "runs");
  await sightly(`${server.origin}/run/ppo`, "a run");
  await sightly(`${server.origin}/run/ppo/samples?q=karen`, "samples");
  await sightly(`${server.origin}/compare?runs=ppo,ppo-ptx`, "a comparison");
  const page = await open({ expected: [/404/] });
  await page.goto(`${server.origin}/run/absent`);
  assert.match(await page.textContent("main"), /absent/);
  await page.context().close();
}

async function lockedPages() {
  const token = "0123456789abcdef0123456789abcdef";
  writeFileSync(join(folder, "token"), `${token}\n`);
  const locked = await serve(["dashboard", runs, "--token", "token"]);
  const page = await open({ expected: [/401 \(Unauthorized\)/] });
  await page.goto(locked.origin);
  assert(!(await page.content()).includes("ppo"), "no run is named to strangers");
  await page.locator("#token").focus();
  await page.keyboard.type(token);
  await leave(page, "Enter");
  assert.match(await page.textContent("main"), /ppo/);
  const cookies = await page.context().cookies();
  assert(cookies.length && cookies.every((cookie) => cookie.httpOnly && cookie.sameSite === "Strict" && !cookie.value.includes(token)));
  await page.context().close();
  await locked.stop();
}

async function pictures() {
  if (!process.env.SHOTS) return;
  const root = join(folder, "shown");
  for (const name of ["pretrain", "sft", "reward", "ppo", "ppo-ptx"]) copy(join(process.env.SHOW || made, name), join(root, name));
  const falls = (step) => ({ step, "train/loss": step < 200 ? 4 - step / 80 : 1.5 + (step - 200) / 90 });
  forge("sft-too-fast", Array.from({ length: 320 }, (_, i) => falls(i + 1)), root);
  const live = train("sft-longer", 3000, [`model.path=${JSON.stringify(join(process.env.SHOW || made, "pretrain/model"))}`], root);
  const shown = await serve(["dashboard", root]);
  await until(async () => /"step":([3-9]\d\d|\d{4})/.test(await (await fetch(`${shown.origin}/run/sft-longer?format=json`)).text()), "a curve to look at", 120);
  for (const [name, path, dark] of [
    ["dashboard-runs.png", "/", false],
    ["dashboard-live.png", "/run/sft-longer", false],
    ["dashboard-run.png", "/run/ppo", true],
    ["dashboard-compare.png", "/compare?runs=ppo,ppo-ptx", false],
    ["dashboard-samples.png", "/run/ppo/samples?q=tina", false],
  ]) {
    const page = await open({ ...PICTURE, dark });
    await page.goto(shown.origin + path);
    await page.waitForTimeout(500);
    await shot(page, name);
    await page.context().close();
  }
  live.child.kill("SIGINT");
}

await run([liveRun, twoRunsCompared, samplesAreSearched, hintsAreRaised, forms, lockedPages, pictures]);
