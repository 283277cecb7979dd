"use strict";
// Makes a result file of claims in the browser; nothing is sent anywhere.
const form = document.getElementById("claim");
const claims = document.getElementById("claims");
const refused = form.querySelector(".refused");
const empty = claims.querySelector(".claim").cloneNode(true);

document.getElementById("another").addEventListener("click", () => {
  const fresh = empty.cloneNode(true);
  claims.append(fresh);
  fresh.querySelector("input").focus();
});

const value = (group, name) => group.querySelector(`[name="${name}"]`).value.trim();

// "jpeg quality=75" → {name: "jpeg", with: {quality: "75"}}
const component = (text) => {
  const [name, ...pairs] = text.split(/\s+/);
  return { name, with: Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf("=");
    return [pair.slice(0, at), pair.slice(at + 1)];
  })) };
};

// Percent in the form, shares in [0, 1] in the file; the ends are plus and minus one deviation.
const printed = (group, name) => {
  const text = value(group, name), spread = value(group, `${name}_std`);
  if (text === "") return null;
  const share = Number(text) / 100;
  if (spread === "") return { value: share, low: null, high: null, spread: "none" };
  const std = Number(spread) / 100;
  return { value: share, low: Math.max(0, share - std), high: Math.min(1, share + std), spread: "std" };
};

const claim = (group) => ({
  dataset: value(group, "dataset"), scenario: value(group, "scenario"),
  classifier: component(value(group, "classifier")), attack: component(value(group, "attack")),
  defense: component(value(group, "defense")),
  trials: value(group, "trials") === "" ? null : Number(value(group, "trials")),
  success: printed(group, "success"), accuracy: printed(group, "accuracy"),
  source: value(group, "source"),
});

// Returns the first field that cannot be used, and why; null where all can.
const wrong = () => {
  for (const field of form.querySelectorAll("input, textarea")) {
    const label = field.closest("label").firstChild.textContent.trim();
    if (field.required && field.value.trim() === "") return [field, `${label} is needed.`];
    if (!field.checkValidity()) return [field, `${label}: ${field.validationMessage}`];
    const parts = ["classifier", "attack", "defense"].includes(field.name)
      ? field.value.trim().split(/\s+/).slice(1) : [];
    if (parts.some((part) => !/^[^=]+=.+$/.test(part))) {
      return [field, `${label}: after the name comes parameter=value, as often as needed.`];
    }
  }
  for (const group of claims.querySelectorAll(".claim")) {
    const success = group.querySelector('[name="success"]');
    if (!value(group, "success") && !value(group, "accuracy")) {
      return [success, "A claim needs poison success or natural accuracy."];
    }
  }
  return null;
};

const forget = () => {
  form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  refused.textContent = "";
};
form.addEventListener("input", forget);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  forget();
  const found = wrong();
  if (found) {
    refused.textContent = found[1];
    found[0].setAttribute("aria-invalid", "true");
    found[0].focus();
    return;
  }
  const text = JSON.stringify({
    schema: "puregen-bench/result/1",
    submission: {
      name: value(form, "name"), who: value(form, "who"), url: value(form, "url"),
      notes: value(form, "notes"),
    },
    measured: null,
    claims: [...claims.querySelectorAll(".claim")].map(claim),
  }, null, 1) + "\n";
  const shown = document.getElementById("made");
  shown.textContent = text;
  shown.hidden = false;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "result.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
