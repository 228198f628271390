// What the scripts here share: the program, its servers, the browser, and what no page may do.
import { chromium } from "playwright-core";
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

assert(process.argv[2], "usage: node SCRIPT.mjs PATH_OF_HONE [FOLDER_OF_A_QUICKSTART]");
export const program = resolve(process.argv[2]);
/** Everything that is written; gone at the end. */
export const folder = mkdtempSync(join(tmpdir(), "hone-pages-"));
/** What was heard that should not be: errors, warnings, dialogs, refusals of the pages' policy, requests to elsewhere. */
export const complaints = [];

let browser = null;
const running = new Set();

// ---- Programs

/** Starts the program. What it prints is kept; `said(pattern)` waits for a line on either output. */
export function start(words, options = {}) {
  const child = spawn(program, words, { cwd: folder, ...options });
  const state = { text: "", ended: null };
  const heard = (part) => { state.text += part; };
  child.stdout.setEncoding("utf8").on("data", heard);
  child.stderr.setEncoding("utf8").on("data", heard);
  child.on("exit", (code, signal) => { state.ended = code ?? signal; running.delete(child); });
  running.add(child);
  const said = async (pattern, seconds = 60) => {
    const found = () => state.text.match(pattern);
    await until(() => found() || state.ended !== null, `${words[0]} to say ${pattern}`, seconds);
    assert(found(), `${words.join(" ")} ended with ${state.ended} and did not say ${pattern}:\n${state.text}`);
    return found();
  };
  const ended = async (seconds = 300) => {
    await until(() => state.ended !== null, `the end of ${words.join(" ")}`, seconds);
    assert.equal(state.ended, 0, `${words.join(" ")}:\n${state.text}`);
    return state.text;
  };
  const stop = async () => {
    child.kill("SIGINT");
    await until(() => state.ended !== null, `${words[0]} to stop`, 30);
  };
  return { child, said, ended, stop, state };
}

/** Starts a server and gives its address. */
export async function serve(words) {
  const server = start([...words, "--port", "0"]);
  const [, origin] = await server.said(/(http:\/\/127\.0\.0\.1:\d+)/);
  return { ...server, origin };
}

/** Waits until this is so. */
export async function until(holds, what, seconds = 30) {
  const end = Date.now() + 1000 * seconds;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert(Date.now() < end, `waited ${seconds} seconds for ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** A small chat model, one after other training, and their runs: a quickstart, which is made where none is given. */
export async function quickstart() {
  let runs = process.argv[3] && resolve(process.argv[3]);
  if (!runs) {
    runs = join(folder, "quickstart");
    await start(["quickstart", "--scale", "smoke", "--out", runs]).ended();
  }
  for (const part of ["sft/model", "ppo/model", "reward/model"]) assert(existsSync(join(runs, part)), `${runs} has no ${part}`);
  return runs;
}

// ---- Pages

/** A page in a context of its own, watched. Refused requests that a test provokes are named by `expected`. */
export async function open({ width = 1200, height = 800, dark = false, expected = [] } = {}) {
  browser ??= await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"] });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", acceptDownloads: false });
  const page = await context.newPage();
  watch(page, expected);
  return page;
}

function watch(page, expected) {
  const complain = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) complaints.push(`${page.url()}: ${text}`);
  };
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complain(`${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => complain(String(error)));
  page.on("dialog", (dialog) => { complain(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("popup", () => complain("another window"));
  page.on("request", (request) => {
    const to = request.url();
    if (!/^(http:\/\/127\.0\.0\.1:\d+\/|blob:http:\/\/127\.0\.0\.1|data:image\/svg)/.test(to) && to !== "about:blank") complain(`a request to ${to}`);
  });
  page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
}

/** Nothing that a text said was run, and the page fits its window. */
export async function sound(page, where = "") {
  assert.equal(await page.evaluate(() => window.__ran), undefined, `${where} a text was run`);
  const [wide, inner, beyond] = await page.evaluate(() => {
    const name = (element) => `${element.tagName}#${element.id}.${element.className}`;
    const beyond = [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > innerWidth + 1);
    return [document.documentElement.scrollWidth, innerWidth, beyond.map(name).slice(0, 8)];
  });
  assert(wide <= inner, `${where} ${page.url()} scrolls sideways: ${wide} > ${inner}, ${beyond}`);
  assert((await page.title()).length > 0, `${where} has no title`);
}

/** The same of a page in all its forms: on a phone's width and a desk's, light and dark; it has one main heading. */
export async function sightly(address, where, prepare = async () => {}) {
  for (const [width, dark] of [[390, true], [390, false], [1200, true], [1200, false]]) {
    const page = await open({ width, dark });
    await page.goto(address);
    await prepare(page);
    const form = `${where}, ${width} wide, ${dark ? "dark" : "light"}`;
    await sound(page, form);
    await readable(page, form);
    assert.equal(await page.locator("h1").count(), 1, `${form}: one main heading`);
    const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
    assert.equal(back.reduce((sum, part) => sum + part) < 384, dark, `${form}: ${back}`);
    await page.context().close();
  }
}

/** A picture for the documents, where SHOTS names a folder. */
export async function shot(page, name) {
  if (!process.env.SHOTS) return;
  mkdirSync(process.env.SHOTS, { recursive: true });
  await page.screenshot({ path: join(process.env.SHOTS, name), animations: "disabled", caret: "hide" });
}

/** The size of pictures in documents. */
export const PICTURE = { width: 1200, height: 760 };

export async function press(page, ...keys) {
  for (const key of keys) await page.keyboard.press(key);
}

/** A key that leads to another page. */
export async function leave(page, key) {
  await Promise.all([page.waitForNavigation({ waitUntil: "load" }), page.keyboard.press(key)]);
  await sound(page);
}

/** Tab until what has the focus says `text`, or is what the selector means. */
export async function tabTo(page, text) {
  for (let i = 0; i < 80; i++) {
    const there = await page.evaluate((text) => {
      const at = document.activeElement;
      return (at.textContent || "").trim().startsWith(text) || (/^[#.\[]/.test(text) && at.matches(text));
    }, text);
    if (there) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`no way to "${text}" by Tab`);
}

/** Whether something that has the focus shows it. */
export async function focusShows(page) {
  const outline = await page.evaluate(() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  });
  assert(outline, "what has the focus does not show it");
}

/** Contrast of texts with what is behind them, as WCAG counts it: at least 4.5 for each that can be seen. */
export async function readable(page, where) {
  const faint = await page.evaluate(() => {
    const numbers = (colour) => {
      const found = colour.match(/[\d.]+/g);
      return found ? found.map(Number) : [0, 0, 0, 0];
    };
    const over = (top, below) => {
      const alpha = top[3] ?? 1;
      return [0, 1, 2].map((i) => alpha * top[i] + (1 - alpha) * below[i]);
    };
    const behind = (element) => {
      const layers = [];
      for (let at = element; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
      return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const light = (colour) => {
      const [r, g, b] = colour.map((part) => {
        const share = part / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *:not(svg *)")) {
      const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
      if (!own || !element.checkVisibility() || element.closest("[hidden], :disabled, .hidden, option")) continue;
      const back = behind(element);
      const front = over(numbers(getComputedStyle(element).color), back);
      const [a, b] = [light(front), light(back)].sort((a, b) => b - a);
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < 4.5) faint.push(`${element.tagName}.${element.className} "${element.textContent.trim().slice(0, 30)}" ${contrast.toFixed(2)}`);
    }
    return faint;
  });
  assert.deepEqual(faint, [], `${where}: texts that can hardly be read`);
}

// ---- The end

/** Runs the parts in order, or those that PARTS names; each ends with nothing to complain of. */
export async function run(parts) {
  try {
    const only = process.env.PARTS?.split(",");
    for (const part of parts.filter((part) => !only || only.includes(part.name))) {
      const begun = Date.now();
      await part();
      assert.deepEqual(complaints, [], part.name);
      console.log(`${part.name}: as it should be (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
    }
  } catch (error) {
    // What there was to see says more than what was waited for
    for (const page of (browser?.contexts() ?? []).flatMap((context) => context.pages())) {
      const seen = await page.evaluate(() => document.body.innerText).catch(String);
      console.error(`---- ${page.url()}\n${seen.slice(0, 3000)}\n----`);
    }
    if (complaints.length) console.error(complaints);
    throw error;
  } finally {
    if (browser) await browser.close();
    for (const child of running) child.kill("SIGKILL");
  }
}

// Ended from outside it leaves neither programs nor files
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) process.on(signal, () => process.exit(code));
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  if (process.env.KEEP) console.log(`kept: ${folder}`);
  else rmSync(folder, { recursive: true, force: true });
});
