// The chat page of `hone serve`: answers as they come, stopped, side by side, token by token. README.md says how to run it.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder, focusShows, open, press, quickstart, run, serve, shot, sightly, sound, start, tabTo, until } from "./common.mjs";

const runs = await quickstart();
const models = ["--model", `sft=${join(runs, "sft/model")}`, "--model", `ppo=${join(runs, "ppo/model")}`];
const server = await serve(["serve", ...models]);

const lastText = (page, pane = 0) => page.evaluate((pane) => {
  const turn = [...document.querySelectorAll(".pane")[pane].querySelectorAll(".turn.assistant")].at(-1);
  return turn ? turn.firstElementChild.textContent : "";
}, pane);
const isRunning = (page) => page.locator(".turn.assistant.running").count();

/** Requests for answers, as they are sent. */
function bodies(page) {
  const all = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) all.push(request.postDataJSON());
  });
  return all;
}

async function ask(page, text) {
  const before = await page.locator(".turn.assistant").count();
  await page.fill("#message", text);
  await page.press("#message", "Enter");
  await until(async () => (await page.locator(".turn.assistant").count()) > before && !(await isRunning(page)), "an answer");
}

/** Few bytes a second, so that an answer takes as long as a large model's. */
async function slow(page, bytes) {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  const speed = (throughput) => session.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: throughput, uploadThroughput: -1 });
  await speed(bytes);
  return () => speed(-1);
}

async function answersGrow() {
  const page = await open();
  await page.goto(server.origin);
  await page.fill("#temperature", "2");
  await page.fill("#max_tokens", "60");
  const fast = await slow(page, 6000);
  await page.locator("#message").focus();
  await page.keyboard.type("Name a colour.");
  await press(page, "Enter");
  assert.equal(await page.inputValue("#message"), "", "what was said leaves the field");
  assert.equal(await page.textContent(".turn.user"), "Name a colour.");
  const first = await until(async () => (await isRunning(page)) && (await lastText(page)).length, "the first tokens");
  const more = await until(async () => (await isRunning(page)) && (await lastText(page)).length > first, "more of them");
  assert(more);

  // Stop: what came stays, nothing more comes, and it can be asked again
  assert(await page.isVisible("#stop") && !(await page.isVisible("#send")));
  await page.click("#stop");
  await until(async () => !(await isRunning(page)), "the end", 5);
  const stopped = await lastText(page);
  assert(stopped.length > first);
  assert.match(await page.textContent(".turn.assistant .foot"), /stopped/);
  await page.waitForTimeout(400);
  assert.equal(await lastText(page), stopped, "nothing comes after Stop");
  assert(await page.evaluate(() => document.activeElement.id === "message"), "the focus is back in the field");
  // By keyboard
  await page.keyboard.type("And another.");
  await press(page, "Enter");
  await until(async () => (await isRunning(page)) && (await lastText(page)).length, "tokens");
  await press(page, "Escape");
  await until(async () => !(await isRunning(page)), "the end", 5);
  // The server gave the places back
  await until(async () => /\nhone_sequences_running 0\n/.test(await (await page.request.get(`${server.origin}/metrics`)).text()), "free places");
  await fast();
  await ask(page, "Name a town.");
  assert.match(await page.locator(".foot").last().textContent(), /\d+ tokens, [\d.]+ a second/);
  await sound(page);
  await page.context().close();
}

async function settingsAreSent() {
  const page = await open();
  const sent = bodies(page);
  await page.goto(server.origin);
  await page.fill("#system", "Be short.");
  const values = { temperature: 0.7, top_p: 0.9, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, max_tokens: 12, seed: 7 };
  for (const [id, value] of Object.entries(values)) await page.fill(`#${id}`, String(value));
  await ask(page, "Name the town where Karen lives.");
  const { messages, ...rest } = sent[0];
  assert.deepEqual(messages, [{ role: "system", content: "Be short." }, { role: "user", content: "Name the town where Karen lives." }]);
  for (const [id, value] of Object.entries(values)) assert.equal(rest[id], value, id);
  assert.equal(rest.logprobs, true);
  const first = await lastText(page);
  // The next turn holds the first; a new conversation does not, and the same seed says the same again
  await ask(page, "And Anna?");
  assert.deepEqual(sent[1].messages.map((message) => message.role), ["system", "user", "assistant", "user"]);
  await press(page, "Control+Shift+Backspace");
  assert.equal(await page.locator(".turn").count(), 0);
  await ask(page, "Name the town where Karen lives.");
  assert.equal(sent[2].messages.length, 2);
  assert.equal(await lastText(page), first);
  // Without log-probabilities there are none
  await page.uncheck("#logprobs");
  await ask(page, "Again.");
  assert.equal(sent[3].logprobs, undefined);
  assert.equal(await page.locator(".turn.assistant").last().locator(".token").count(), 0);
  await page.context().close();

  // What the server refuses is said where the answer would be, and the question can be asked again
  const other = await open({ expected: [/400 \(Bad Request\)/] });
  await other.goto(server.origin);
  await other.fill("#temperature", "9");
  await ask(other, "Name a colour.");
  assert.match(await other.textContent(".foot.error"), /temperature/);
  await other.fill("#temperature", "1");
  await ask(other, "Name a colour.");
  assert.equal(await other.locator(".foot.error").count(), 1);
  await other.context().close();
}

async function tokensTellTheirProbability() {
  const page = await open();
  await page.goto(server.origin);
  await page.fill("#seed", "3");
  await page.fill("#max_tokens", "40");
  await page.fill("#temperature", "2");
  await ask(page, "Name a colour.");
  const tokens = page.locator(".turn.assistant .token");
  const count = await tokens.count();
  assert(count >= 3, `${count} tokens`);
  await tokens.nth(1).hover();
  const told = await page.textContent("#tip");
  const text = await tokens.nth(1).textContent();
  assert(told.startsWith(`${JSON.stringify(text)}  ln p -`), told);
  assert(told.trim().split("\n").length >= 6, "five others");
  const [, number, share] = told.match(/ln p (-?[\d.]+)  ([\d.]+)%/);
  assert(Math.abs(100 * Math.exp(Number(number)) - Number(share)) < 0.02, told);
  await page.hover("header");
  assert(!(await page.isVisible("#tip")));
  // By keyboard: to the answer, and from token to token
  await page.locator(".turns").first().focus();
  await tabTo(page, ".turn");
  await focusShows(page);
  await press(page, "ArrowRight", "ArrowRight");
  assert.equal(await page.textContent("#tip"), told);
  await press(page, "ArrowLeft");
  assert.notEqual(await page.textContent("#tip"), told);
  await press(page, "Escape");
  assert(!(await page.isVisible("#tip")));
  await page.context().close();
}

async function twoSideBySide() {
  const page = await open();
  const sent = bodies(page);
  await page.goto(server.origin);
  await page.fill("#max_tokens", "30");
  await page.fill("#seed", "1");
  await ask(page, "Name a colour.");
  await press(page, "Control+b");
  assert.equal(await page.locator(".pane:visible").count(), 2);
  assert.deepEqual(await page.$$eval(".pane select", (all) => all.map((select) => select.value)), ["sft", "ppo"]);
  await ask(page, "Name a town.");
  await until(async () => !(await isRunning(page)), "both");
  assert.deepEqual(sent.slice(1).map((body) => body.model).sort(), ["ppo", "sft"]);
  assert.deepEqual(sent.slice(1).map((body) => body.messages.length).sort(), [1, 3], "each has its own conversation");
  await press(page, "Control+b");
  assert.equal(await page.locator(".pane:visible").count(), 1);
  // A link names both
  await page.goto(`${server.origin}/?model=ppo&model=sft`);
  assert.deepEqual(await page.$$eval(".pane select", (all) => all.map((select) => select.value)), ["ppo", "sft"]);
  assert.equal(await page.locator(".pane:visible").count(), 2);
  // Help
  await page.locator("#help").focus();
  await press(page, "?");
  assert(await page.isVisible("#keys"));
  await sound(page);
  await page.context().close();
}

/** The better of two answers becomes a record, and a change of mind another that replaces it. */
async function betterIsKept() {
  const prefers = await serve(["serve", ...models, "--annotations", "prefer.db"]);
  const records = async () => {
    await start(["annotate", "--db", "prefer.db", "--export", "records", "--out", "records.jsonl"]).ended();
    return readFileSync(join(folder, "records.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  };
  const ranked = ({ responses, judgement }) => judgement.ranking.flat().map((place) => responses[place].text);
  const page = await open();
  const sent = bodies(page);
  await page.goto(`${prefers.origin}/?model=sft&model=ppo`);
  await page.fill("#annotator", "Ann");
  await page.fill("#temperature", "2");
  await page.fill("#seed", "5");
  await page.fill("#max_tokens", "20");
  await ask(page, "Name a town.");
  const button = (pane) => page.locator(".pane").nth(pane).locator("button.prefer").last();
  await until(async () => (await page.locator("button.prefer").count()) === 2, "a button under each");
  const said = [await lastText(page, 0), await lastText(page, 1)];
  assert.notEqual(said[0], said[1]);
  const choose = async (pane) => {
    await until(async () => (await button(pane).getAttribute("aria-pressed")) === "true", "the choice to be kept");
    assert.equal(await button(1 - pane).getAttribute("aria-pressed"), "false");
  };
  await button(1).focus();
  await focusShows(page);
  await press(page, "Enter");
  await choose(1);
  const [first] = await records();
  assert.deepEqual([first.annotator, first.live, first.shown], ["Ann", true, [0, 1]]);
  assert.deepEqual(ranked(first), [said[1], said[0]]);
  assert.deepEqual(first.responses.map((response) => response.model), ["sft", "ppo"]);
  assert(first.responses.every((response) => response.weights && response.sampling.seed === 5));
  await button(0).click();
  await choose(0);
  const all = await records();
  assert.deepEqual(all.map((record) => record.live), [false, true]);
  assert.equal(all[1].supersedes, first.event);
  assert.deepEqual(ranked(all[1]), said);
  // Both go on from it
  await ask(page, "And another?");
  await until(async () => !(await isRunning(page)), "both");
  assert.deepEqual(sent.slice(2).map(({ messages }) => messages.map((message) => message.content)), Array(2).fill(["Name a town.", said[0], "And another?"]));
  await sound(page);
  await page.context().close();
  await prefers.stop();
}

/** What a model says is text, whatever it looks like. A model that says it is forged; the page is not. */
async function markupIsText() {
  const page = await open();
  const says = "<b>bold</b> <script>window.__ran = 1</script><img src=x onerror='window.__ran = 1'> &amp; **stars**";
  await page.route("**/v1/chat/completions", (route) => {
    const event = (delta) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, logprobs: null, finish_reason: null }] })}\n\n`;
    const body = event({ role: "assistant", content: "" }) + [...says].map((letter) => event({ content: letter })).join("") + "data: [DONE]\n\n";
    return route.fulfill({ contentType: "text/event-stream", body });
  });
  await page.goto(server.origin);
  await ask(page, says);
  assert.equal(await lastText(page), says);
  assert.equal(await page.textContent(".turn.user"), says);
  assert.equal(await page.locator(".turn b, .turn script, .turn img").count(), 0);
  await sound(page);
  await page.context().close();
}

async function lockedPage() {
  const token = "0123456789abcdef0123456789abcdef";
  writeFileSync(join(folder, "token"), `${token}\n`);
  const locked = await serve(["serve", ...models, "--token", "token"]);
  const page = await open({ expected: [/401 \(Unauthorized\)/] });
  await page.goto(locked.origin);
  assert.match(await page.textContent("#note"), /asks for a token/);
  assert(!(await page.content()).includes("ppo"), "no model is named to strangers");
  await page.fill("#token", "wrong-wrong-wrong-wrong");
  await page.press("#token", "Tab");
  await until(async () => /token/.test(await page.textContent("#note")), "a refusal");
  await page.fill("#token", token);
  await page.press("#token", "Tab");
  await until(() => page.evaluate(() => document.querySelector(".pane select").options.length === 2), "the models");
  await page.fill("#max_tokens", "5");
  await ask(page, "Name a colour.");
  assert.equal(await page.locator(".foot.error").count(), 0);
  await page.context().close();
  await locked.stop();
}

async function forms() {
  await sightly(server.origin, "chat", async (page) => {
    await page.fill("#max_tokens", "40");
    await ask(page, "Name a colour.");
  });
  await sightly(`${server.origin}/?model=sft&model=ppo`, "two models", async (page) => {
    await page.fill("#max_tokens", "40");
    await ask(page, "Name a town.");
  });
}

const LOW = { width: 1200, height: 600 };

async function pictures() {
  if (!process.env.SHOTS) return;
  // Models that have learned something have something to say: those of the quickstart that SHOW names
  const of = (name) => ["--model", `${name}=${join(process.env.SHOW || runs, name, "model")}`];
  const shown = await serve(["serve", ...of("sft"), ...of("ppo")]);
  const page = await open(LOW);
  await page.goto(shown.origin);
  await page.fill("#system", "Answer in one sentence.");
  await page.fill("#temperature", "0.8");
  await page.fill("#seed", "4");
  await page.fill("#max_tokens", "60");
  await ask(page, "Name the favourite colour of Anna.");
  await ask(page, "What do you get from three plus five?");
  // The token of which the model was least sure
  const tokens = page.locator(".turn.assistant").last().locator(".token");
  const sure = await tokens.evaluateAll((all) => all.map((token) => token.tokens[0].logprob));
  await tokens.nth(sure.indexOf(Math.min(...sure))).hover();
  await shot(page, "chat.png");
  await page.context().close();
  const dark = await open({ ...LOW, dark: true });
  await dark.goto(shown.origin);
  await press(dark, "Control+b");
  await dark.fill("#seed", "11");
  await dark.fill("#max_tokens", "60");
  await ask(dark, "Name the favourite colour of Anna.");
  await until(async () => !(await isRunning(dark)), "both");
  await dark.hover("header");
  await shot(dark, "chat-two.png");
  await dark.context().close();
}

await run([answersGrow, settingsAreSent, tokensTellTheirProbability, twoSideBySide, betterIsKept, markupIsText, lockedPage, forms, pictures]);
