// The list of what can be asked, drawn from openapi.json.

import { $, make } from "./dom.js";

/** A schema in a few words: its type, or the name of the record that it is. */
function words(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop().replace("Answer", "");
  if (schema.anyOf) return schema.anyOf.map(words).filter((one) => one !== "null").join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `list of ${words(schema.items ?? schema.prefixItems?.[0])}`;
  return schema.type ?? "any";
}

function table(head, rows) {
  const cells = (tag, row) => make("tr", {}, ...row.map((text) => make(tag, { textContent: text })));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, cells("th", head)), make("tbody", {}, ...rows.map((row) => cells("td", row)))));
}

function operation(path, verb, about) {
  const section = make("section", {}, make("h2", {}, make("span", { className: "verb", textContent: verb.toUpperCase() }), make("code", { textContent: path })), make("p", { textContent: about.description ?? "" }));
  const parameters = about.parameters ?? [];
  if (parameters.length) {
    section.append(table(["parameter", "type", ""], parameters.map((one) => [one.name + (one.required ? " (needed)" : ""), words(one.schema), one.description ?? one.schema.description ?? ""])));
  }
  if (about.requestBody) section.append(make("p", { textContent: `Body: ${Object.keys(about.requestBody.content).join(" or ")}` }));
  const answers = Object.entries(about.responses).map(([status, answer]) => [status, words(Object.values(answer.content ?? {})[0]?.schema), answer.description]);
  section.append(table(["status", "answer", ""], answers));
  return section;
}

function record(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([key, value]) => [key, words(value), value.description ?? ""]);
  return make("section", {}, make("h2", {}, make("code", { textContent: name.replace("Answer", "") })), table(["key", "type", ""], rows));
}

$("base").textContent = new URL(".", location).href.replace(/\/$/, "");
try {
  const api = await (await fetch("api/openapi.json")).json();
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, about] of Object.entries(verbs)) $("operations").append(operation(path, verb, about));
  }
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    if (name.endsWith("Answer")) $("operations").append(record(name, schema));
  }
} catch {
  $("error").textContent = "The server does not answer: is `cnncodes serve` still running?";
  $("error").hidden = false;
}
