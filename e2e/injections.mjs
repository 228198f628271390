// Texts that pretend to be programs, typed and uploaded wherever the pages take a text from somebody: none may be more than text.
// README.md says how to run it.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder, open, press, quickstart, run, serve, sound, start, until } from "./common.mjs";
import { strings } from "./strings.mjs";

assert(strings.length >= 100 && new Set(strings).size === strings.length);
const runs = await quickstart();

/** What a field of one line keeps of a text. */
const oneLine = (text) => text.replaceAll(/[\r\n]+/g, "");
const turn = (role, content) => ({ role, content });
const lines = (rows) => rows.map((row) => JSON.stringify(row)).join("\n") + "\n";

/** Nothing of a text became an element. */
async function onlyText(page, where, inside) {
  const became = await page.locator(inside).locator("script, img, svg, iframe, object, embed, style, link, base, meta, video, audio, form, marquee, math, input:not([type])").count();
  assert.equal(became, 0, `${where}: a text became markup`);
}

async function chat() {
  // The model's name is one of them, too
  const named = `"><b>model<b>`;
  const server = await serve(["serve", "--model", `${named}=${join(runs, "sft/model")}`, "--model", `sft=${join(runs, "sft/model")}`]);
  const page = await open();
  await page.goto(server.origin);
  const done = async (count) => until(async () => (await page.locator(".turn.assistant:not(.running)").count()) === count, "an answer");
  assert.deepEqual(await page.$$eval(".pane:first-child select option", (options) => options.map((option) => option.textContent)), [named, "sft"]);

  // Said to a model, which answers as it will
  await page.fill("#max_tokens", "1");
  for (const text of strings.slice(0, 10)) {
    await page.fill("#system", text);
    await page.locator("#message").focus();
    await page.keyboard.insertText(text);
    await press(page, "Enter");
    await done(1);
    assert.equal(await page.textContent(".turn.user"), text);
    await press(page, "Control+Shift+Backspace");
  }

  // Said by a model, with the same as its tokens and as what it nearly said
  let says = "";
  await page.route("**/v1/chat/completions", (route) => {
    const top = [{ token: says, logprob: -1, bytes: [] }, { token: `${says}${says}`, logprob: -2, bytes: [] }];
    const logprobs = { content: [{ token: says, logprob: -1, bytes: [], top_logprobs: top }] };
    const choices = [{ index: 0, delta: { content: says }, logprobs, finish_reason: null }];
    return route.fulfill({ contentType: "text/event-stream", body: `data: ${JSON.stringify({ choices })}\n\ndata: [DONE]\n\n` });
  });
  for (const [i, text] of strings.entries()) {
    says = text;
    await page.fill("#message", text);
    await press(page, "Enter");
    await done(i + 1);
    assert.equal(await page.locator(".turn.user").nth(i).textContent(), text);
    assert.equal(await page.locator(".turn.assistant").nth(i).textContent(), text);
    await page.locator(".turn.assistant").nth(i).focus();
    await press(page, "ArrowRight");
    assert((await page.textContent("#tip")).includes(JSON.stringify(text)), text);
    await page.locator("#message").focus();
  }
  await onlyText(page, "chat", "#panes, #tip");

  // Said by a server that refuses
  await page.unroute("**/v1/chat/completions");
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: `data: ${JSON.stringify({ error: { message: says } })}\n\n` }));
  await page.fill("#message", "x");
  await press(page, "Enter");
  await done(strings.length + 1);
  assert.equal(await page.textContent(".foot.error"), says);
  await sound(page, "chat");
  await page.context().close();
  await server.stop();
}

async function jobs() {
  const server = await serve(["serve", "--model", `chat=${join(runs, "sft/model")}`, "--jobs", "injected", "--job-threads", "1"]);
  const page = await open({ expected: [/400 \(Bad Request\)/] });
  await page.goto(`${server.origin}/fine-tuning`);
  const upload = (name, rows) => page.setInputFiles("#upload", { name, mimeType: "application/jsonl", buffer: Buffer.from(lines(rows)) });
  const conversation = (text) => ({ messages: [turn("system", text), turn("user", `${text}?`), turn("assistant", text)] });

  // Names of files, what is in them, and what is said of those that cannot be used
  for (const text of strings) {
    const name = oneLine(text).replaceAll(/[/\\]/g, "|");
    await upload(name, [conversation(text)]);
    await until(async () => (await page.textContent("#preview")).includes(text) && (await page.textContent("#understood")).length > 0, `${text} to be understood`);
    const bad = { messages: [turn(text, "x")] };
    await upload(name, [bad]);
    await until(async () => /line 1/.test(await page.textContent("#note")), `${text} to be refused`);
  }
  await onlyText(page, "a file", "#understood, #preview, #note, #training");

  // A job that learns them, and is asked them while it runs
  await page.setInputFiles("#upload", { name: "held-out.jsonl", mimeType: "application/jsonl", buffer: Buffer.from(lines(strings.slice(0, 6).map((text) => ({ messages: [turn("user", `Repeat: ${text}`), turn("assistant", text)] })))) });
  await until(async () => /held-out/.test(await page.textContent("#understood")), "the file");
  await page.selectOption("#validation", { label: "held-out.jsonl, 6 rows" });
  await upload("all.jsonl", strings.map((text) => ({ messages: [turn("user", text), turn("assistant", text)] })));
  await until(async () => /^all/.test(await page.textContent("#understood")), "the file");
  await page.fill("#n_epochs", "1");
  // A name that a model cannot have is refused in words
  await page.fill("#suffix", strings[0].slice(0, 60));
  await page.click("#start");
  await until(async () => /suffix/.test(await page.textContent("#note")), "the refusal");
  await page.fill("#suffix", "");
  await page.click("#start");
  await until(async () => /succeeded/.test(await page.textContent("#jobs")), "the job", 120);
  await until(async () => (await page.locator("#samples article").count()) > 0, "samples");
  assert.match(await page.textContent("#samples"), /Repeat: <script>/i);
  await onlyText(page, "a job", "#jobs, #samples, #events, #title, #legend");
  // Wherever the page has them from the start
  await page.reload();
  await until(async () => (await page.locator("#samples article").count()) > 0, "samples");
  assert.equal(await page.locator("#training option").count(), strings.length + 2);
  await sound(page, "jobs");
  await page.context().close();
  await server.stop();
}

async function dashboard() {
  const root = join(folder, "injected-runs");
  const named = (text) => oneLine(text).replaceAll("/", "|").replace(/^\./, "_");
  const names = strings.map((text, i) => `${named(text)} ${i}`);
  for (const [i, text] of strings.entries()) {
    const run = join(root, names[i]);
    mkdirSync(run, { recursive: true });
    writeFileSync(join(run, "run.toml"), `[train]\nsteps = 9\n[data]\nturns = ${JSON.stringify(text)}\n${JSON.stringify(text)} = ${JSON.stringify(text)}\n`);
    writeFileSync(join(run, "metrics.jsonl"), lines([1, 2, 3].map((step) => ({ step, "train/loss": 3 - step / 9 + i, [text]: step, [`${text}/of a group`]: -step, [`${text} never changed`]: 1 }))));
    writeFileSync(join(run, "samples.jsonl"), lines([1, 2].map((step) => ({ step, prompt: text, response: `${step} ${text}`, score: 1, [text]: text }))));
    writeFileSync(join(run, "environment.json"), JSON.stringify({ [text]: text, hone: text }));
  }
  const server = await serve(["dashboard", root]);
  // What is looked for is kept in the field and means nothing else; a parameter that is none is refused in words
  const page = await open({ expected: [/40[04] \(/] });
  const inside = "main .sample, main th, main td, main dl, main h1, main h2, main pre, main caption, main .note";
  await page.goto(server.origin);
  assert((await page.locator("tbody tr").count()) >= 100);
  await onlyText(page, "runs", inside);
  // Names go back as they are: what is chosen is what is compared
  const boxes = await page.$$eval('input[name="runs"]', (all) => all.map((box) => box.value));
  assert.deepEqual(boxes.filter((name) => !names.includes(name)), []);
  for (const [i, text] of strings.entries()) {
    await page.goto(`${server.origin}/run/${encodeURIComponent(names[i])}`);
    assert.equal(await page.locator("h1").count(), 1);
    assert.equal(await page.locator("article.sample").count() > 0, true, text);
    await onlyText(page, `the run of ${text}`, inside);
    if (i % 4 === 0) {
      await page.goto(`${server.origin}/run/${encodeURIComponent(names[i])}/samples?q=${encodeURIComponent(text)}`);
      assert.equal(await page.inputValue("#q"), oneLine(text));
      await onlyText(page, `the samples of ${text}`, inside);
      await sound(page, `the dashboard, ${text}`);
      await page.goto(`${server.origin}/?${encodeURIComponent(text)}=1`);
      await page.goto(`${server.origin}/run/${encodeURIComponent(text)}`);
      await sound(page, `the dashboard's refusals, ${text}`);
    }
  }
  for (let i = 0; i + 8 <= strings.length; i += 8) {
    const query = names.slice(i, i + 8).map((name) => `runs=${encodeURIComponent(name)}`).join("&");
    await page.goto(`${server.origin}/compare?${query}&all=1`);
    await onlyText(page, "a comparison", inside);
    await sound(page, "a comparison");
  }
  await page.context().close();
  await server.stop();
}

async function annotation() {
  writeFileSync(join(folder, "injected.jsonl"), lines(strings.map((text, i) => ({
    prompt: [turn("system", text), turn("user", `${i} ${text}`)],
    responses: [{ text, model: text }, { text: `${text} ${text}`, model: text }],
  }))));
  writeFileSync(join(folder, "injected.toml"), `name = ${JSON.stringify(strings[0])}\nstore = "injected.db"\nkind = "comment"\nanswers = 2\nprompts = ["injected.jsonl"]\n[samples]\n[settings]\nguideline = ${JSON.stringify(strings.join("\n"))}\n`);
  const server = start(["annotate", "--port", "0", "--project", "injected.toml"]);
  const [, link] = await server.said(/^(http:\/\/127\.0\.0\.1:\d+\/join\?token=[0-9a-f]{64})$/m);
  const origin = new URL(link).origin;
  const page = await open({ expected: [/422 \(/] });
  await page.goto(link);
  const join_ = page.locator('main form:not([action="/task/undo"]) button');
  if (await join_.count()) {
    await join_.first().focus();
    await Promise.all([page.waitForNavigation(), press(page, "Enter")]);
  }
  const inside = ".conversation, .answer .text, .guideline, header nav, header .user, .people";
  await page.goto(`${origin}/task`);
  for (let i = 0; i < strings.length; i++) {
    const [system, asked] = await page.$$eval(".turn .text", (texts) => texts.map((text) => text.textContent));
    assert(strings.includes(system) && asked.endsWith(system), system);
    const answers = await page.$$eval(".answer .text", (texts) => texts.map((text) => text.textContent));
    assert.deepEqual(answers.sort(), [system, `${system} ${system}`].sort());
    await onlyText(page, `the task of ${system}`, inside);
    // Typed as a comment and as a better answer; handed in, undone, found again as it was, and handed in for good
    await page.fill("#comment", system);
    await page.evaluate(() => { document.getElementById("write").open = true; });
    await page.fill("#rewrite", `${system} better`);
    await page.locator("#comment").focus();
    await Promise.all([page.waitForNavigation(), press(page, "Control+Enter")]);
    if (i % 10 === 0) {
      const undo = page.locator("#undo");
      await undo.focus();
      await Promise.all([page.waitForNavigation(), press(page, "Enter")]);
      assert.equal(await page.inputValue("#comment"), system);
      assert.equal(await page.inputValue("#rewrite"), `${system} better`);
      await sound(page, "a task");
      await page.locator("#comment").focus();
      await Promise.all([page.waitForNavigation(), press(page, "Control+Enter")]);
    }
  }
  assert.match(await page.textContent("main"), /nothing for you to judge/);
  // Names of people
  for (const text of strings.filter((_, i) => i % 8 === 0)) {
    const name = oneLine(text).slice(0, 100).trim();
    await page.goto(`${origin}/people`);
    await page.fill('input[name="name"]', name);
    await page.locator('input[name="name"]').focus();
    await Promise.all([page.waitForNavigation(), press(page, "Enter")]);
    await onlyText(page, "people", "main table, main p");
    await sound(page, "people");
  }
  await page.goto(`${origin}/agreement`);
  await onlyText(page, "agreement", "main table, header nav");
  await sound(page, "agreement");
  // What was typed is in the export as it was typed
  const records = (await (await page.request.get(`${origin}/export/records`)).text()).trim().split("\n").map((row) => JSON.parse(row));
  const kept = records.filter((row) => row.status === "judged" && row.live).map((row) => row.judgement.comment).sort();
  assert.deepEqual(kept, [...strings].sort());
  await page.context().close();
  await server.stop();
}

await run([chat, jobs, dashboard, annotation]);
