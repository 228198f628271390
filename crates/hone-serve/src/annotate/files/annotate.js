// The keyboard of the task page, and how long somebody was at it. Pages work without this file.
"use strict";
(() => {
  const form = document.getElementById("task");
  const undo = document.getElementById("undo");
  const said = document.getElementById("said");
  const answers = [...document.querySelectorAll(".answer")];
  const kind = form ? form.dataset.kind : "";
  let skipping = false, from = null;

  const say = (text) => { if (said) said.textContent = text; };
  const letter = (place) => String.fromCharCode(65 + place);
  const focused = () => answers.findIndex((answer) => answer.contains(document.activeElement));
  const top = document.getElementById("conversation");
  const focus = (place) => { if (answers[place]) answers[place].focus(); };

  // Only while the page is in front and was used within the last half minute
  // What was counted before a refusal or an undo goes on
  let active = form ? Number(document.getElementById("active").value) || 0 : 0, before = performance.now(), used = before;
  const count = () => {
    const now = performance.now();
    if (!document.hidden && now - used < 30000) active += now - before;
    before = now;
  };
  if (form) {
    for (const event of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart", "scroll"]) {
      addEventListener(event, () => { count(); used = performance.now(); }, { passive: true });
    }
    document.addEventListener("visibilitychange", count);
    setInterval(count, 1000);
    form.addEventListener("submit", () => {
      count();
      document.getElementById("active").value = String(Math.max(1, Math.round(active)));
    });
  }

  // What was entered stays in this tab until it is handed in, whatever becomes of the page
  const draft = () => `draft ${form.elements.lease.value}`;
  const fixed = ["lease", "active"];
  const keep = () => {
    const fields = [...new FormData(form)].filter(([name]) => !fixed.includes(name));
    try { sessionStorage.setItem(draft(), JSON.stringify(fields)); } catch { /* no room, or not allowed */ }
  };
  const restore = () => {
    const fields = JSON.parse(sessionStorage.getItem(draft()) || "null");
    if (!fields) return;
    for (const input of form.querySelectorAll('input[type="radio"], input[type="checkbox"]')) {
      input.checked = fields.some(([name, value]) => name === input.name && value === input.value);
    }
    for (const input of form.querySelectorAll("textarea, select")) {
      const found = fields.find(([name]) => name === input.name);
      if (found) input.value = found[1];
    }
    for (const details of form.querySelectorAll("details")) {
      details.open ||= [...details.querySelectorAll("textarea, input")].some((input) => input.tagName === "TEXTAREA" ? input.value : input.checked);
    }
  };
  try {
    const handed = sessionStorage.getItem("handed in");
    const refused = document.querySelector('[role="alert"]');
    if (handed && !refused && (!form || handed !== draft())) sessionStorage.removeItem(handed);
    if (!refused) sessionStorage.removeItem("handed in");
    if (form && !refused) restore();
  } catch { /* not allowed: no drafts */ }
  if (form) {
    form.addEventListener("input", keep);
    form.addEventListener("change", (event) => {
      // Who ranks after all no longer finds all of them bad
      const bad = form.querySelector('input[name="all_bad"]');
      if (bad && /^(rank_|choice)/.test(event.target.name)) bad.checked = false;
      keep();
    });
    form.addEventListener("submit", () => {
      keep();
      try { sessionStorage.setItem("handed in", draft()); } catch { /* as above */ }
    });
  }

  const pick = (name, value) => {
    const input = form.querySelector(`input[name="${name}"][value="${value}"]`);
    if (!input) return false;
    input.checked = true;
    const bad = form.querySelector('input[name="all_bad"]');
    if (bad) bad.checked = false;
    keep();
    return true;
  };

  // The rank of the answer in focus, then on to the next answer without one
  const digit = (number) => {
    const place = Math.max(focused(), 0);
    if (kind === "pair") {
      const degree = ["slightly", "better", "much"][number - 1];
      if (degree && pick("degree", degree)) say(degree);
      return;
    }
    const name = kind === "rank" ? "rank" : kind === "rate" ? "rating" : "";
    if (!name || !pick(`${name}_${place}`, number)) return;
    const tied = answers.filter((_, p) => form.querySelector(`input[name="${name}_${p}"][value="${number}"]`).checked);
    say(`answer ${letter(place)}: ${name} ${number}${kind === "rank" && tied.length > 1 ? ", tied" : ""}`);
    const next = answers.findIndex((_, p) => !form.querySelector(`input[name="${name}_${p}"]:checked`));
    focus(next < 0 ? place : next);
  };

  const choose = (side, much) => {
    pick("choice", side);
    if (side !== "tie") pick("degree", much ? "much" : "better");
    say(side === "tie" ? "equal" : `answer ${side === "left" ? "A" : "B"}: ${much ? "much better" : "better"}`);
  };

  const open = (id, field) => {
    const details = document.getElementById(id);
    if (!details) return;
    details.open = true;
    document.getElementById(field).focus();
  };

  const flags = () => {
    const place = Math.max(focused(), 0);
    const details = answers[place] && answers[place].querySelector(".flags");
    if (!details) return;
    details.open = true;
    details.querySelector("input").focus();
  };

  const startSkipping = () => {
    const details = document.getElementById("skipping");
    if (!details) return;
    if (!skipping) from = document.activeElement;
    skipping = details.open = true;
    details.querySelector("button").focus();
    say("skip: choose a reason by its digit, Escape goes back");
  };

  const stopSkipping = () => {
    skipping = false;
    document.getElementById("skipping").open = false;
    (from && from !== document.body ? from : top).focus({ preventScroll: true });
    say("");
  };
  const reasons = document.getElementById("skipping");
  // Who goes elsewhere does not skip
  if (reasons) reasons.addEventListener("focusout", (event) => { if (!reasons.contains(event.relatedTarget)) skipping = false; });
  addEventListener("pointerdown", (event) => { if (reasons && !reasons.contains(event.target)) skipping = false; });

  const keys = {
    j: () => focus(Math.min(focused() + 1, answers.length - 1)),
    k: () => focus(Math.max(focused() - 1, 0)),
    f: flags,
    r: () => {
      const place = focused(), of = document.getElementById("rewrite-of"), text = document.getElementById("rewrite");
      if (place >= 0 && of && !text.value) {
        of.value = String(place);
        text.value = answers[place].querySelector(".text").textContent;
        keep();
      }
      open("write", "rewrite");
    },
    c: () => open("remark", "comment"),
    s: startSkipping,
    u: () => undo && undo.click(),
    "?": () => {
      const help = document.getElementById("help");
      if (!help) return;
      help.open = !help.open;
      if (help.open) { help.scrollIntoView(); help.querySelector("summary").focus(); }
    },
    "0": () => {
      const bad = form && form.querySelector('input[name="all_bad"]');
      if (bad) { bad.checked = !bad.checked; keep(); say(bad.checked ? "all of them are bad" : "not all of them are bad"); }
    },
    "=": () => kind === "pair" && choose("tie", false),
    arrowleft: (event) => kind === "pair" && choose("left", event.shiftKey),
    arrowright: (event) => kind === "pair" && choose("right", event.shiftKey),
  };

  const typing = (element) => element && (element.isContentEditable || element.tagName === "TEXTAREA" || element.tagName === "SELECT" ||
    (element.tagName === "INPUT" && !["radio", "checkbox", "hidden"].includes(element.type)));

  // Keys of one letter can be turned off, for who speaks to the browser or hears it
  const toggle = document.getElementById("keys");
  let off = false;
  const turn = (to) => {
    off = to;
    if (toggle) { toggle.setAttribute("aria-pressed", String(off)); toggle.textContent = off ? "Keys on" : "Keys off"; }
    try { localStorage.setItem("keys off", off ? "1" : ""); } catch { /* for this page, then */ }
  };
  try { off = localStorage.getItem("keys off") === "1"; } catch { /* not allowed */ }
  if (toggle) {
    toggle.hidden = false;
    turn(off);
    toggle.addEventListener("click", () => { turn(!off); say(off ? "keys are off" : "keys are on"); });
  }

  addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    // A key that is held down does once what it does; only moving goes on
    if (event.repeat && !/^[jk]$/i.test(event.key)) {
      if (event.key === "Enter" && !typing(document.activeElement)) event.preventDefault();
      return;
    }
    const control = event.ctrlKey || event.metaKey;
    if (typing(document.activeElement)) {
      // Nothing fires while typing, except leaving the field and handing in
      if (event.key === "Escape") document.activeElement.blur();
      if (event.key === "Enter" && control && form) { event.preventDefault(); form.requestSubmit(); }
      return;
    }
    if (control && event.key.toLowerCase() === "z" && !event.shiftKey) {
      if (undo) { event.preventDefault(); undo.click(); }
      return;
    }
    if (control || event.altKey) return;
    if (event.key === "Escape") {
      if (skipping || reasons && reasons.contains(document.activeElement)) stopSkipping();
      else say("");
      return;
    }
    if (off && event.key !== "Enter") return;
    if (skipping) {
      const button = document.querySelector(`[data-reason="${event.key}"]`);
      if (button) { event.preventDefault(); button.click(); return; }
      // Tab walks along the reasons, and Enter takes the one in focus
      if (!["Tab", "Shift", "Enter", " "].includes(event.key)) stopSkipping();
    }
    if (event.key === "Enter") {
      // A button, link or summary in focus does what it does
      if (form && !["BUTTON", "A", "SUMMARY"].includes(document.activeElement.tagName)) {
        event.preventDefault();
        form.requestSubmit();
      }
      return;
    }
    if (!form && event.key.toLowerCase() !== "u") return;
    // Among choices arrows do what they do everywhere
    if (event.key.startsWith("Arrow") && document.activeElement.type === "radio") return;
    if (/^[1-9]$/.test(event.key)) { event.preventDefault(); digit(Number(event.key)); return; }
    const act = keys[event.key.toLowerCase()];
    // Outside a comparison of two, arrows move within a group of choices as they do everywhere
    if (act && !(event.key.startsWith("Arrow") && kind !== "pair")) { event.preventDefault(); act(event); }
  });

  const missing = document.getElementById("missing");
  if (missing) missing.focus();
  else if (form && kind !== "write") top.focus({ preventScroll: true });
  else if (kind === "write") document.getElementById("rewrite").focus();
})();
