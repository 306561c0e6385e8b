"use strict";
// Shows each chart, lets the controls set its parameters, follows the reader's colours, and opens
// what is folded for printing.
const dark = matchMedia("(prefers-color-scheme: dark)");
const controls = document.querySelector(".controls");
let views = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function config() {
  const words = { labelColor: colour("--ink"), titleColor: colour("--ink") };
  const axis = { ...words, gridColor: colour("--grid"), domainColor: colour("--faint"),
    tickColor: colour("--faint") };
  return { axis, legend: words, text: { color: colour("--ink") }, view: { stroke: null } };
}

function shown() {
  return [...controls.querySelectorAll("[name=setting]:checked")].map((box) => box.value);
}

function update() {
  const attack = controls.querySelector("[name=attack]");
  for (const view of views) {
    view.signal("shown", shown());
    if (attack && "attack" in view.getState().signals) view.signal("attack", attack.value);
    view.runAsync();
  }
}

async function draw() {
  const charts = [...document.querySelectorAll(".chart")];
  const made = await Promise.all(charts.map((place) => {
    const data = place.parentElement.querySelector(".chart-data").textContent;
    const options = { actions: false, renderer: "svg", config: config() };
    return vegaEmbed(place, JSON.parse(data), options);
  }));
  views = made.map((result) => result.view);
  document.body.dataset.drawn = String(views.length);
  update();
}

controls.hidden = document.querySelector(".charts").hidden = false;
controls.addEventListener("change", update);
controls.addEventListener("submit", (event) => event.preventDefault());
dark.addEventListener("change", draw);
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
draw();
