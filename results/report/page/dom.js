"use strict";

const SVG = "http://www.w3.org/2000/svg";

// Text from the run only ever becomes a text node or the value of a harmless attribute: it cannot become an element.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== ""));
  return node;
}

function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function section(name) {
  return document.getElementById(name);
}

// 98211 -> "98 211", as in the captions.
function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, "\u00a0");
}

// A box that scrolls sideways when its table is wider than the page; focusable, so that keys scroll it too.
function scrolling(label, ...children) {
  return html("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, ...children);
}
