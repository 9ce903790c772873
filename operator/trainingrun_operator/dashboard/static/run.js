// The run page: dialogs, curve and log.
"use strict";

(() => {
  const { namespace, name, uid, user, csrf } = document.body.dataset;
  const $ = (id) => document.getElementById(id);

  // -- dialogs ----------------------------------------------------------------------------------------------------

  const reasonOf = (form) => [form.category.value, form.text.value.trim().replace(/\s+/g, " ")].filter(Boolean).join(": ");

  /** JSON in which what is not shown as it is becomes an escape; as `commands.patch_word`. */
  const printable = (json) => json.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (odd) => odd.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""));

  /** The kubectl command equal to the button; same text as `actions.command`. */
  function command(form) {
    const spec = { stop: true, stopMode: form.mode.value };
    if (reasonOf(form)) spec.stopReason = reasonOf(form);
    if (user) spec.stoppedBy = user;
    const patch = printable(JSON.stringify({ spec })).replaceAll("'", `'"'"'`);
    return `kubectl patch trainingrun ${name} --namespace ${namespace} --type merge -p '${patch}'`;
  }

  function problem(dialog, text) {
    const told = dialog.querySelector(".problem");
    told.textContent = text;
    told.hidden = !text;
  }

  async function act(dialog) {
    const form = dialog.querySelector("form");
    const confirm = dialog.querySelector("[data-confirm]");
    const body = { uid };
    if (dialog.dataset.action === "stop") {
      Object.assign(body, { category: form.category.value, text: form.text.value, mode: form.mode.value });
    }
    const words = confirm.textContent;
    confirm.disabled = true;
    confirm.textContent = { stop: "Stopping…", suspend: "Suspending…", resume: "Resuming…" }[dialog.dataset.action] || "Working…";
    problem(dialog, "");
    try {
      const answer = await fetch(`${location.pathname}/${dialog.dataset.action}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
        body: JSON.stringify(body),
      });
      const said = await answer.json().catch(() => ({ message: `The dashboard returned status ${answer.status}.` }));
      if (!answer.ok) throw new Error(said.message);
      dialog.close();
      $("announce").textContent = said.message;
      const button = $(`${dialog.dataset.action}-button`);
      if (button) {
        button.disabled = true;
        button.textContent = said.message;
      }
    } catch (error) {
      problem(dialog, error instanceof TypeError ? "The dashboard is unreachable. Nothing was changed. Try again." : error.message);
    } finally {
      confirm.disabled = false;
      confirm.textContent = words;
    }
  }

  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.querySelector("[data-confirm]").addEventListener("click", () => act(dialog));
    dialog.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  }
  const stopForm = document.querySelector("#stop-dialog form");
  if (stopForm) {
    stopForm.addEventListener("input", () => { $("stop-dialog-command").textContent = command(stopForm); });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-dialog]");
    if (!button) return;
    const dialog = $(button.dataset.dialog);
    problem(dialog, "");
    dialog.showModal();
  });
  document.addEventListener("live:part", ({ detail }) => {
    if (detail.id !== "actions") return;
    // Close dialogs whose action is no longer possible.
    for (const dialog of document.querySelectorAll("dialog[open]")) {
      if (!$(`${dialog.dataset.action}-button`) || $(`${dialog.dataset.action}-button`).disabled) dialog.close();
    }
  });

  // -- the curve --------------------------------------------------------------------------------------------------

  const figure = $("curve");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let plot = null;
  /** All curves, and the one that is shown. */
  let curves = null;
  let drawn = null;

  const colour = (variable) => getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
  const short = (value) => (value === null ? "" : Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-4) ? value.toExponential(2) : String(+value.toPrecision(4)));

  function marks(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = 2 * ratio;
    if (drawn.threshold !== null) {
      const y = u.valToPos(drawn.threshold, "y", true);
      ctx.strokeStyle = colour("--good");
      ctx.setLineDash([7 * ratio, 5 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    if (drawn.stop) {
      const x = u.valToPos(drawn.stop.at, "x", true);
      ctx.strokeStyle = colour("--stopped");
      ctx.setLineDash([2 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    ctx.strokeStyle = colour("--good");
    ctx.fillStyle = colour("--card");
    for (const [step, loss] of drawn.deciding) {
      ctx.beginPath();
      ctx.arc(u.valToPos(step, "x", true), u.valToPos(loss, "y", true), 5 * ratio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  }

  function range(u, low, high) {
    const values = [low, high, ...drawn.deciding.map(([, loss]) => loss)].filter((value) => value !== null);
    if (drawn.threshold !== null) values.push(drawn.threshold);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const room = (most - least) * 0.06 || Math.abs(most) * 0.1 || 1;
    return [least - room, most + room];
  }

  function xRange(u, low, high) {
    const values = [low, high, ...drawn.deciding.map(([step]) => step)];
    if (drawn.stop) values.push(drawn.stop.at);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    return [least, most + ((most - least) * 0.02 || 1)];
  }

  function draw() {
    if (plot) plot.destroy();
    plot = null;
    if (!drawn || !drawn.x.length) return;
    const logarithmic = $("log-scale").checked && drawn.loss.every((loss) => loss > 0) && !(drawn.threshold <= 0 && drawn.threshold !== null);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    plot = new uPlot({
      width: figure.clientWidth,
      height: 270,
      legend: { show: false },
      cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: xRange }, y: logarithmic ? { distr: 3 } : { range } },
      axes: [
        { ...axis, size: 32, values: (u, splits) => splits.map((value) => (Number.isInteger(value) ? value.toLocaleString("en") : "")) },
        { ...axis, size: 60, values: (u, splits) => splits.map(short) },
      ],
      series: [{}, { stroke: colour("--busy"), width: 2, points: { show: drawn.x.length < 3, size: 6 } }],
      hooks: { draw: [marks], setCursor: [readOut] },
    }, [drawn.x, drawn.loss], figure);
    // The summary and the table carry the same content for screen readers.
    for (const canvas of figure.querySelectorAll("canvas")) canvas.setAttribute("aria-hidden", "true");
  }

  function readOut(u) {
    const at = u.cursor.idx;
    const summary = $("curve-summary");
    if (at === null || at === undefined) {
      summary.textContent = drawn.summary;
      return;
    }
    const [when, step, epoch, loss] = drawn.rows[at];
    summary.textContent = [`Step ${step.toLocaleString("en")}`, epoch === null ? "" : `epoch ${short(epoch)}`, `${drawn.name || "loss"} ${short(loss)}`, new Date(when).toLocaleString()].filter(Boolean).join(", ");
  }

  function fillTable() {
    const body = $("curve-rows");
    if (!$("curve-data").open || !drawn) return;
    body.replaceChildren(...drawn.rows.map(([at, step, epoch, loss]) => {
      const row = document.createElement("tr");
      for (const value of [step.toLocaleString("en"), epoch === null ? "–" : short(epoch), short(loss), at]) {
        const cell = document.createElement("td");
        cell.textContent = value;
        if (row.childElementCount < 3) cell.className = "number";
        row.append(cell);
      }
      return row;
    }));
  }

  /** Offer the values that have a curve. The choice stays as long as its value has one. */
  function offer() {
    const chosen = $("curve-value");
    const names = curves.values.map((one) => one.name);
    const known = [...chosen.options].slice(1).map((one) => one.value);
    if (names.join("\n") !== known.join("\n")) {
      const was = chosen.value;
      chosen.replaceChildren(chosen.options[0], ...names.map((name) => new Option(name, name)));
      chosen.value = names.includes(was) ? was : "";
    }
    $("curve-value-label").hidden = !names.length;
  }

  function show() {
    drawn = curves.values.find((one) => one.name === $("curve-value").value) || curves;
    const some = drawn.x.length > 0;
    for (const id of ["curve", "curve-data", "curve-legend", "log-scale-label"]) $(id).hidden = !some;
    $("curve-title").textContent = $("curve-column").textContent = drawn.name || "Loss";
    $("curve-key").textContent = drawn.name || "loss";
    document.querySelector(".key-threshold").hidden = drawn.threshold === null;
    document.querySelector(".key-deciding").hidden = !drawn.deciding.length;
    document.querySelector(".key-stop").hidden = !drawn.stop;
    if (drawn.stop) document.querySelector(".key-stop").textContent = drawn.stop.words;
    document.querySelector(".key-threshold").textContent = drawn.shadow ? "threshold (shadow)" : "threshold";
    $("curve-summary").textContent = drawn.summary;
    draw();
    fillTable();
  }

  document.addEventListener("live:curve", ({ detail }) => {
    curves = detail;
    offer();
    show();
  });
  $("curve-value").addEventListener("change", () => { if (curves) show(); });
  $("curve-data").addEventListener("toggle", fillTable);
  $("log-scale").addEventListener("change", draw);
  dark.addEventListener("change", draw);
  new ResizeObserver(() => {
    if (plot && figure.clientWidth && figure.clientWidth !== plot.width) plot.setSize({ width: figure.clientWidth, height: 270 });
  }).observe(figure);

  // -- the log ----------------------------------------------------------------------------------------------------

  const LINES = 1000;
  const log = $("log");
  let lines = [];
  document.addEventListener("live:log", ({ detail }) => {
    if (!log) return;
    // Follow the log only while it is scrolled to the end.
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    lines = (detail.reset ? [] : lines).concat(detail.lines).slice(-LINES);
    log.textContent = lines.join("\n");
    log.hidden = !lines.length;
    if (detail.note) $("log-note").textContent = detail.note;
    if (follows) log.scrollTop = log.scrollHeight;
  });
})();
