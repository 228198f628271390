// Everything that people do on the pages of `hone annotate`, by keyboard alone. README.md says how to run it.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { PICTURE, folder, leave, open, press, run, shot, start, tabTo } from "./common.mjs";

// ---- The server

const answers = (topic) => [
  `${topic} rests on three things: time, care and a second look.`,
  `I do not know much about ${topic.toLowerCase()}.`,
  `${topic}? <b>Everybody</b> knows <script>alert(1)</script> that already.`,
  `${topic} is explained well in any library, and asking there costs nothing.`,
];

function questions(name, count, shown = 4) {
  const topics = ["Good tea", "A fair game", "Baking bread", "A long walk", "Learning chess", "Mending a bicycle", "Sleeping well", "Growing beans"];
  const rows = Array.from({ length: count }, (_, i) => JSON.stringify({
    prompt: [
      { role: "user", content: `What does one need for this: ${topics[i % topics.length].toLowerCase()}?` },
      { role: "assistant", content: "Do you ask as a beginner?" },
      { role: "user", content: `Yes. (question ${i + 1})` },
    ],
    responses: answers(topics[i % topics.length]).slice(0, shown),
  }));
  writeFileSync(join(folder, name), rows.join("\n") + "\n");
}

async function serve(words) {
  const server = start(["annotate", "--port", "0", ...words]);
  const [, link] = await server.said(/^(http:\/\/127\.0\.0\.1:\d+\/join\?token=[0-9a-f]{64})$/m);
  return { ...server, link, origin: new URL(link).origin };
}

// ---- Somebody at the keyboard

async function person(link, width = 1200) {
  // A form that is not complete is answered with 422, which the console reports as an error
  const page = await open({ width, height: width < 600 ? 780 : PICTURE.height, dark: width < 600, expected: [/422 \(Unprocessable/] });
  await page.goto(link);
  // Where the link does not sign in by itself, a button does
  const join = page.locator('main form:not([action="/task/undo"]) button');
  if (await join.count()) {
    await join.first().focus();
    await leave(page, "Enter");
  }
  if (await page.locator("main a.button").count()) {
    await tabTo(page, "Start");
    await leave(page, "Enter");
  }
  return page;
}

const lease = (page) => page.inputValue('#task input[name="lease"]');
const checked = (page, name, value) => page.isChecked(`input[name="${name}"][value="${value}"]`);
const question = (page) => page.textContent(".turn:last-of-type .text");

// ---- What they do

async function ranking(page) {
  assert.equal(await page.getAttribute("#task", "data-kind"), "rank");
  assert.equal(await page.locator(".answer").count(), 4);
  assert.equal(await page.locator(".answer b, .answer script").count(), 0, "an answer became markup");

  // Ranks in the order in which the answers stand; the second two tied
  const first = await lease(page);
  const asked = await question(page);
  await press(page, "2", "1", "3", "3");
  for (const [place, rank] of [[0, 2], [1, 1], [2, 3], [3, 3]]) assert(await checked(page, `rank_${place}`, rank), `rank of ${place}`);
  assert.match(await page.textContent("#said"), /tied/);
  await page.evaluate(() => scrollTo(0, 0));
  await shot(page, "annotate-rank.png");
  // J and K move; a digit there changes that answer's rank and no other
  await press(page, "K", "K", "K", "J", "K", "1");
  assert(await checked(page, "rank_0", 1), "a tie at the top");
  await press(page, "2");
  assert(await checked(page, "rank_0", 2), "and taken back");
  // Flags of the answer in focus
  await press(page, "f", "Space");
  assert.equal(await page.locator('input[type="checkbox"][name="flag_0"]:checked').count(), 1);
  // Nothing fires in a field
  await press(page, "c");
  await page.keyboard.type("0 1 s u f = ? j");
  assert.equal(await page.inputValue("#comment"), "0 1 s u f = ? j");
  assert(!(await page.isChecked('input[name="all_bad"]')), "0 in a field");
  await press(page, "Escape");
  await leave(page, "Enter");
  assert.notEqual(await lease(page), first);

  // Undo brings it back with all that was entered; it is handed in once more
  await leave(page, "u");
  assert.equal(await question(page), asked);
  assert(await checked(page, "rank_1", 1) && await checked(page, "rank_3", 3), "undo keeps ranks");
  assert.equal(await page.inputValue("#comment"), "0 1 s u f = ? j");
  await leave(page, "Enter");
  assert.notEqual(await question(page), asked);

  // An incomplete form says what is missing and keeps what was entered
  await press(page, "1");
  await leave(page, "Enter");
  assert.match(await page.textContent("#missing"), /Not taken yet/);
  assert(await checked(page, "rank_0", 1), "what was entered stays");

  // All bad, twice is not; the digit of a rank takes it back, and so does the mouse
  const allBad = () => page.isChecked('input[name="all_bad"]');
  await press(page, "0");
  assert(await allBad());
  await press(page, "0");
  assert(!(await allBad()));
  await press(page, "0", "1");
  assert(!(await allBad()), "a rank takes it back");
  await press(page, "0");
  await page.locator('input[name="rank_2"][value="4"]').click();
  assert(!(await allBad()), "the mouse takes it back");

  // Skip with a reason, and undo of the skip
  const skipped = await question(page);
  await press(page, "s");
  await leave(page, "2");
  assert.notEqual(await question(page), skipped);
  await leave(page, "Control+z");
  assert.equal(await question(page), skipped, "undo of a skip");

  // A better answer, from the one in focus
  await page.locator("#answer-0").focus();
  await press(page, "1", "2", "2", "2");
  await page.locator("#answer-1").focus();
  await press(page, "r");
  const text = await page.textContent("#answer-1 .text");
  assert.equal(await page.inputValue("#rewrite"), text);
  await press(page, "Control+End");
  await page.keyboard.type(" And that is all: 1 2 3.");
  await leave(page, "Control+Enter");

  await rankTheRest(page);
}

/** Answers that say more rank higher, so that people agree somewhat. */
async function rankTheRest(page) {
  let judged = 0;
  while (await page.$("#task")) {
    const lengths = await page.$$eval(".answer .text", (texts) => texts.map((text) => text.textContent.length));
    await page.locator("#answer-0").focus();
    for (const length of lengths) await press(page, String(1 + lengths.filter((other) => other > length).length));
    await leave(page, "Enter");
    judged++;
    assert(judged < 50, "the queue has an end");
  }
  assert.match(await page.textContent("main"), /nothing for you to judge/);
}

async function ranks() {
  questions("rank.jsonl", 6);
  const server = await serve(["--db", "rank.db", "--prompts", "rank.jsonl", "--kind", "rank", "--k", "4", "--overlap", "2"]);
  const owner = await person(server.link);

  // Somebody is invited, by keyboard, too
  await owner.goto(`${server.origin}/people`);
  await tabTo(owner, "People");
  await owner.locator('input[name="name"]').focus();
  await owner.keyboard.type("ada");
  await leave(owner, "Enter");
  const path = await owner.textContent("code.link");
  assert.match(path, /^\/join\?token=[0-9a-f]{64}$/);
  await owner.goto(`${server.origin}/task`);
  await ranking(owner);

  // On a phone's width, in the dark
  const ada = await person(server.origin + path, 390);
  await shot(ada, "annotate-phone.png");
  const forbidden = await ada.request.get(`${server.origin}/agreement`);
  assert.equal(forbidden.status(), 403, "annotators do not see agreement");
  await rankTheRest(ada);

  await owner.goto(`${server.origin}/agreement`);
  const page = await owner.textContent("main");
  assert.match(page, /12 of 12 judgements; 6 of 6 items/);
  assert.match(page, /ada, owner/);
  assert.match(page, /preference-?\d\.\d\d \(-?\d\.\d\d to -?\d\.\d\d, n = 6\)/, "alpha with its interval");
  await shot(owner, "annotate-agreement.png");
  await owner.goto(`${server.origin}/people`);
  await owner.setViewportSize({ width: 1200, height: 360 });
  await shot(owner, "annotate-people.png");
  await owner.goto(`${server.origin}/agreement`);
  const names = await owner.$$eval('a[href^="/export/"]', (links) => links.map((link) => link.textContent));
  assert.equal(names.length, 7);
  for (const name of names) {
    const answer = await owner.request.get(`${server.origin}/export/${name}`);
    assert.equal(answer.status(), 200, name);
    const text = await answer.text();
    const rows = name === "alpaca-eval" ? JSON.parse(text) : text.trim().split("\n").filter(Boolean).map((row) => JSON.parse(row));
    console.log(`export ${name}: ${rows.length} rows`);
    // Conversations of several turns cannot be said in AlpacaEval's format
    if (name === "alpaca-eval") assert.equal(rows.length, 0);
    else assert(rows.length > 0, name);
    if (name === "records") assert.equal(rows.filter((row) => row.status === "judged" && row.live).length, 12);
    if (name === "messages") assert(rows[0].messages.at(-1).content.endsWith("And that is all: 1 2 3."));
  }
  await server.stop();
}

/** What goes wrong by accident costs nothing. */
async function mishaps() {
  questions("mishaps.jsonl", 4);
  const server = await serve(["--db", "mishaps.db", "--prompts", "mishaps.jsonl", "--kind", "rank", "--k", "4"]);
  const page = await person(server.link);
  const records = async () => {
    const answer = await page.request.get(`${server.origin}/export/records`);
    return (await answer.text()).trim().split("\n").filter(Boolean).map((row) => JSON.parse(row));
  };

  // The mode of skipping ends with any other key, with Escape, and with a click elsewhere
  const first = await question(page);
  await press(page, "s", "j", "3");
  assert(await checked(page, "rank_0", 3), "after J a digit is a rank");
  await press(page, "s", "Escape");
  assert(await page.evaluate(() => !document.getElementById("skipping").contains(document.activeElement)), "Escape leaves the reasons");
  assert.equal(await page.getAttribute("#skipping", "open"), null);
  await leave(page, "Enter");
  assert.match(await page.textContent("#missing"), /Not taken yet/, "Enter hands in, it does not skip");
  await press(page, "s");
  await page.locator("#conversation").click();
  await press(page, "4");
  assert.equal(await question(page), first);
  assert.equal((await records()).length, 0);

  // What was entered is there after the page was opened again
  await press(page, "c");
  await page.keyboard.type("half a thought");
  await page.goto(`${server.origin}/task`);
  assert.equal(await page.inputValue("#comment"), "half a thought");
  assert(await checked(page, "rank_0", 4), "ranks stay, too");

  // R and nothing written is no rewrite
  await page.locator("#answer-1").focus();
  await press(page, "r", "Escape");
  assert.notEqual(await page.inputValue("#rewrite"), "");
  const order = async () => {
    await page.locator("#answer-0").focus();
    await press(page, "4", "3", "2", "1");
    await leave(page, "Enter");
  };
  await order();
  const second = await question(page);
  await order();
  assert.equal((await records())[0].judgement.rewrite, undefined, "an answer that nobody changed");

  // A key that is held down undoes one thing
  await page.keyboard.down("u");
  await page.waitForURL(`${server.origin}/task`);
  for (let i = 0; i < 20; i++) await page.keyboard.down("u");
  await page.keyboard.up("u");
  await page.waitForTimeout(300);
  assert.equal((await records()).filter((row) => row.status === "undone").length, 1);
  assert.equal(await question(page), second);

  // Two undos: both tasks come back with what was judged
  await leave(page, "u");
  assert.equal(await question(page), first);
  assert.equal(await page.inputValue("#comment"), "half a thought");
  await leave(page, "Enter");
  assert.equal(await question(page), second);
  for (const [place, rank] of [[0, 4], [1, 3], [2, 2], [3, 1]]) assert(await checked(page, `rank_${place}`, rank), `rank of ${place}`);
  await leave(page, "Enter");

  // Keys can be turned off
  await press(page, "?");
  assert(await page.evaluate(() => document.getElementById("help").contains(document.activeElement)), "? goes to the help");
  await page.locator("#keys").click();
  await press(page, "0", "1", "u");
  assert(!(await page.isChecked('input[name="all_bad"]')));
  await page.locator("#keys").click();
  await rankTheRest(page);
  assert.equal((await records()).filter((row) => row.status === "judged" && row.live).length, 4);
  await server.stop();
}

async function pairs() {
  questions("pair.jsonl", 3, 2);
  const server = await serve(["--db", "pair.db", "--prompts", "pair.jsonl", "--kind", "pair", "--k", "2"]);
  const page = await person(server.link);
  await press(page, "Shift+ArrowLeft");
  assert(await checked(page, "choice", "left") && await checked(page, "degree", "much"), "Shift and left");
  await press(page, "ArrowRight");
  assert(await checked(page, "choice", "right") && await checked(page, "degree", "better"), "right");
  await press(page, "1");
  assert(await checked(page, "degree", "slightly"), "1");
  await shot(page, "annotate-pair.png");
  await leave(page, "Enter");
  await press(page, "=");
  assert(await checked(page, "choice", "tie"), "=");
  await leave(page, "Enter");
  await press(page, "0");
  await leave(page, "Enter");
  assert.match(await page.textContent("main"), /nothing for you to judge/);
  await server.stop();
}

async function ratings() {
  questions("rate.jsonl", 1);
  const server = await serve(["--db", "rate.db", "--prompts", "rate.jsonl", "--kind", "rate", "--k", "4"]);
  const page = await person(server.link);
  await press(page, "7", "1", "4", "2");
  for (const [place, rating] of [[0, 7], [1, 1], [2, 4], [3, 2]]) assert(await checked(page, `rating_${place}`, rating), `rating of ${place}`);
  await leave(page, "Enter");
  assert(!(await page.$("#task")));
  await server.stop();
}

async function demonstrations() {
  writeFileSync(join(folder, "write.jsonl"), JSON.stringify({ prompt: "Write a haiku about rain." }) + "\n");
  const server = await serve(["--db", "write.db", "--prompts", "write.jsonl", "--kind", "write"]);
  const page = await person(server.link);
  await page.keyboard.type("Rain on the tin roof: 0 s u");
  await leave(page, "Control+Enter");
  assert(!(await page.$("#task")));
  await leave(page, "u");
  assert.equal(await page.inputValue("#rewrite"), "Rain on the tin roof: 0 s u");
  await leave(page, "Control+Enter");
  await server.stop();
}

await run([ranks, mishaps, pairs, ratings, demonstrations]);
