// Keeps the page up to date. Without this file the page reads the same and is loaded again every now and then.
const EVERY = 2000;
const pause = document.getElementById("pause");
const news = document.getElementById("news");
let tag = null;
let paused = false;

// How long ago, beside the times that the page has
function ages() {
  for (const time of document.querySelectorAll("time[data-seconds]")) {
    const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(time.dataset.seconds)));
    const [amount, unit] = seconds < 90 ? [seconds, "s"] : seconds < 5400 ? [Math.round(seconds / 60), "min"]
      : seconds < 129600 ? [Math.round(seconds / 3600), "h"] : [Math.round(seconds / 86400), "d"];
    if (!time.title) time.title = time.textContent;
    time.textContent = `${amount} ${unit} ago`;
  }
}

const alertsOf = root => [...root.querySelectorAll("[data-alert]")].map(item => item.textContent.trim());

// What a person has done to the page stays as it is
function keep(main) {
  const focus = document.activeElement;
  return {
    checked: [...main.querySelectorAll("input[type=checkbox]:checked")].map(box => box.value),
    open: [...main.querySelectorAll("details[open][id]")].map(details => details.id),
    href: focus && focus.getAttribute && focus.getAttribute("href"),
    value: focus && focus.type === "checkbox" ? focus.value : null,
    id: focus && focus.id,
  };
}

function restore(main, kept) {
  for (const box of main.querySelectorAll("input[type=checkbox]")) {
    box.checked = kept.checked.includes(box.value);
    if (kept.value !== null && box.value === kept.value) box.focus({ preventScroll: true });
  }
  for (const id of kept.open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  if (kept.href) {
    const link = [...main.querySelectorAll("a")].find(link => link.getAttribute("href") === kept.href);
    if (link) link.focus({ preventScroll: true });
  } else if (kept.id && main.querySelector(`#${CSS.escape(kept.id)}`)) {
    document.getElementById(kept.id).focus({ preventScroll: true });
  }
}

// Nothing is replaced under a person's hands: while typing, or with text selected
function busy(main) {
  const focus = document.activeElement;
  const typing = focus && main.contains(focus) && (focus.tagName === "SELECT" || (focus.tagName === "INPUT" && focus.type !== "checkbox"));
  const selection = document.getSelection();
  return typing || (selection && !selection.isCollapsed && main.contains(selection.anchorNode));
}

async function look() {
  const main = document.querySelector("main");
  if (paused || document.hidden || busy(main)) return;
  const headers = tag ? { "If-None-Match": tag } : {};
  const answer = await fetch(location.href, { headers, credentials: "same-origin" });
  if (answer.status === 304) return ages();
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector("main");
  if (!fresh || busy(main)) return;
  tag = answer.headers.get("ETag");
  const before = new Set(alertsOf(main));
  const kept = keep(main);
  main.replaceChildren(...fresh.childNodes);
  document.title = page.title;
  restore(main, kept);
  readOut();
  ages();
  const more = alertsOf(main).filter(text => !before.has(text));
  if (more.length) news.textContent = more.join("; ");
}

readOut();
ages();
if (document.body.dataset.live === "yes") {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) look().catch(() => {});
  });
  setInterval(() => look().catch(() => {}), EVERY);
  document.addEventListener("keydown", event => {
    const field = event.target.closest && event.target.closest("input, select, textarea");
    const search = document.querySelector("input[type=search]");
    if (event.key === "/" && !field && search && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    }
  });
}
