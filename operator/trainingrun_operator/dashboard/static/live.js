// Live updates: the server sends parts of the page as HTML; each replaces the element with the same id.
"use strict";

(() => {
  const trusted = window.trustedTypes
    ? window.trustedTypes.createPolicy("trainingrun", { createHTML: (html) => html })
    : { createHTML: (html) => html };
  const status = document.getElementById("live");
  const trouble = document.getElementById("trouble");
  const announce = document.getElementById("announce");
  let source = null;
  let again = 0;
  let over = false;

  // -- parts --------------------------------------------------------------------------------------------------

  function show(id, html) {
    const old = document.getElementById(id);
    if (!old) return;
    const template = document.createElement("template");
    template.innerHTML = trusted.createHTML(html);
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const fresh = template.content.firstElementChild;
    tellTimes(template.content);
    if (fresh && fresh.id === id) old.replaceWith(template.content);
    else old.replaceChildren(template.content);
    // Keep the keyboard focus.
    const target = focused && document.getElementById(focused);
    if (target) target.focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("live:part", { detail: { id } }));
  }

  function say(text, login) {
    if (!trouble) return;
    trouble.hidden = !text;
    trouble.textContent = text;
    if (login) {
      const link = document.createElement("a");
      link.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
      link.textContent = "Log in";
      trouble.append(" ", link);
    }
  }

  function state(name, words) {
    if (!status || status.dataset.state === name) return;
    status.dataset.state = name;
    status.textContent = words;
  }

  // -- the stream -----------------------------------------------------------------------------------------------

  function on(name, act) {
    source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  }

  function open() {
    const address = document.body.dataset.events;
    if (!address || source || over) return;
    clearTimeout(again);
    source = new EventSource(address);
    on("part", ({ id, html }) => show(id, html));
    on("well", () => { state("live", "Live"); say(""); });
    on("trouble", ({ text, login }) => {
      state("lost", "Not live");
      say(text, login);
      if (login) { over = true; close(); }
    });
    on("gone", ({ text }) => { state("lost", "Ended"); say(text); over = true; close(); });
    on("announce", ({ text }) => { if (announce) announce.textContent = text; });
    for (const name of ["curve", "log"]) {
      on(name, (detail) => document.dispatchEvent(new CustomEvent(`live:${name}`, { detail })));
    }
    source.onerror = () => {
      state("lost", "Reconnecting…");
      // A browser reconnects after a broken connection, but not after a response that is no event stream.
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        refused(address);
      }
    };
  }

  /** Show why there is no stream, and try again: an EventSource does not tell status and words of a response. */
  async function refused(address) {
    const asking = new AbortController();
    let seconds = 5;
    try {
      const answer = await fetch(address, { signal: asking.signal });
      if (!answer.ok && (answer.headers.get("Content-Type") || "").startsWith("text/plain")) {
        say(await answer.text(), answer.status === 401);
        seconds = Number(answer.headers.get("Retry-After")) || seconds;
      }
    } catch {
      // The dashboard is not there at all.
    } finally {
      asking.abort();
    }
    if (!document.hidden && !source) again = setTimeout(open, seconds * 1000);
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    // A hidden tab causes no load.
    if (document.hidden) { close(); clearTimeout(again); } else { open(); }
  });

  // -- relative times -------------------------------------------------------------------------------------------

  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

  function tellTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const seconds = Math.round((at - Date.now()) / 1000);
      const [unit, size] = units.find(([, each]) => Math.abs(seconds) >= each) || units[3];
      const words = Math.abs(seconds) < 10 ? "just now" : relative.format(Math.round(seconds / size), unit);
      if (time.textContent !== words) time.textContent = words;
      time.title = new Date(at).toLocaleString();
    }
  }

  // -- copying --------------------------------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const code = document.getElementById(button.dataset.copy);
    const label = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(code.textContent);
      label.textContent = "Copied";
    } catch {
      // Without https the clipboard is not available: select the text instead.
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      label.textContent = "Selected";
    }
    setTimeout(() => { label.textContent = "Copy"; }, 2000);
  });

  tellTimes(document);
  setInterval(() => tellTimes(document), 10000);
  open();
})();
