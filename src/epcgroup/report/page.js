"use strict";
// Values under the pointer (or the arrow keys), runs that can be hidden, pods that can be picked out.
for (const figure of document.querySelectorAll("figure.run")) {
  const charts = figure.querySelector(".charts"), plot = charts.querySelector(".plot");
  const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  if (!data.t.length) continue;
  const cursor = charts.appendChild(document.createElement("div"));
  const tip = charts.appendChild(document.createElement("div"));
  cursor.className = "cursor"; tip.className = "tip";
  const end = Number(charts.dataset.end);
  let at = -1;

  const hide = () => { at = -1; cursor.hidden = tip.hidden = true; };
  const show = (i) => {
    at = Math.max(0, Math.min(data.t.length - 1, i));
    const box = plot.getBoundingClientRect(), outer = charts.getBoundingClientRect();
    const x = box.left - outer.left + box.width * Math.min(1, data.t[at] / end);
    const table = document.createElement("table");
    const line = (cells) => {
      const row = table.insertRow();
      for (const cell of cells) row.insertCell().textContent = cell;
      return row.cells[0];
    };
    line([data.t[at] + " s", data.unit, "in/s", "lost"]);
    for (const pod of data.pods) {
      const lost = pod.s[at];
      const name = line([pod.n, pod.u[at], pod.i[at].toLocaleString("en"), lost === null ? "-" : lost + " %"]);
      const dot = document.createElement("i");
      dot.className = "dot " + pod.k;
      name.prepend(dot);
    }
    tip.replaceChildren(table);
    cursor.hidden = tip.hidden = false;
    cursor.style.left = x + "px";
    const left = x + 12 + tip.offsetWidth > outer.width ? x - 12 - tip.offsetWidth : x + 12;
    tip.style.left = Math.max(0, Math.min(left, outer.width - tip.offsetWidth)) + "px";
  };
  const move = (event) => {
    const box = plot.getBoundingClientRect(), t = (event.clientX - box.left) / box.width * end;
    let near = 0;
    data.t.forEach((time, i) => { if (Math.abs(time - t) < Math.abs(data.t[near] - t)) near = i; });
    show(near);
  };
  charts.addEventListener("pointermove", move);
  charts.addEventListener("pointerdown", move);
  charts.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  charts.addEventListener("blur", hide);
  charts.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (step) { event.preventDefault(); show(at < 0 ? 0 : at + step); }
  });
  hide();
}
for (const key of document.querySelectorAll("button.key")) {
  key.setAttribute("aria-pressed", "false");
  key.addEventListener("click", () => {
    const on = key.getAttribute("aria-pressed") !== "true", pod = key.dataset.k;
    document.body.classList.toggle("picked", on);
    for (const other of document.querySelectorAll("button.key"))
      other.setAttribute("aria-pressed", String(on && other.dataset.k === pod));
    for (const layer of document.querySelectorAll(".a")) layer.classList.toggle("on", layer.classList.contains(pod));
  });
}
const nav = document.querySelector("nav.runs");
const runs = nav ? nav.parentElement.querySelectorAll("figure.run") : [];
if (runs.length > 1) {
  nav.hidden = false;
  for (const run of runs) {
    const button = nav.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = run.dataset.name;
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      run.hidden = !run.hidden;
      button.setAttribute("aria-pressed", String(!run.hidden));
    });
  }
}
