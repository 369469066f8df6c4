// The one way this page makes elements: text goes in as text, never as markup, so a listing cannot inject anything.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("a", {class: "x", href: "#", onclick: f}, "text", child)`; null, false and "" are skipped. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

/** A button that submits nothing. */
export const button = (properties, ...children) => h("button", { type: "button", ...properties }, ...children);

/** An SVG element, for what `h` cannot make. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An icon of the sprite in index.html. */
export const icon = (name) => s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));

export const byId = (id) => document.getElementById(id);
