"use strict";

// In the head of the page, before anything that could fail: no error passes in silence.
function report(message) {
  const bar = document.getElementById("errors");
  if (!bar) {
    document.addEventListener("DOMContentLoaded", () => report(message));
    return;
  }
  bar.hidden = false;
  const line = document.createElement("p");
  line.textContent = `This page has a fault, and what it shows may be incomplete: ${message}`;
  bar.append(line);
}
window.addEventListener("error", (event) => report(event.message));
window.addEventListener("unhandledrejection", (event) => report(String(event.reason)));

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();
});
