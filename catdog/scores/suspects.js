"use strict";
// A card is the <li> of a photo. Its mark is in data-mark ("wrong", "nothing" or "fine"), and the
// right class of a wrong label in data-right. The two files are made from these.

const classes = JSON.parse(document.getElementById("classes").textContent);
const cards = Array.from(document.querySelectorAll("#photos > li"));
const byName = new Map(cards.map((card) => [card.dataset.path, card]));
for (const card of cards) byName.set(card.dataset.name, card);
// Lines of loaded files about photos that are not on this page. They are kept.
const others = { exclude: new Set(), relabel: new Map() };
const saved = { exclude: "", relabel: "" };
let current = cards[0];

const element = (id) => document.getElementById(id);
const say = (text) => (element("message").textContent = text);

// --- Marks ---------------------------------------------------------------------------------------

function mark(card, kind, right) {
  card.dataset.mark = kind;
  card.dataset.right = right || card.querySelector("select")?.value || card.dataset.proposed;
  for (const button of card.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.mark === kind);
  }
  const select = card.querySelector("select");
  if (select && select.value !== card.dataset.right) {
    fill(select);
    select.value = card.dataset.right;
  }
  show();
}

// The choices of a select, once it is needed: 500 photos times 120 classes would be slow.
function fill(select) {
  if (select.length > 1) return;
  const label = select.closest("li").dataset.label;
  const first = select.value;
  const names = classes.filter((name) => name !== label);
  select.replaceChildren(...names.map((name) => new Option(name)));
  select.value = first;
}

function show() {
  const count = { wrong: 0, nothing: 0, fine: 0 };
  for (const card of cards) if (card.dataset.mark) count[card.dataset.mark]++;
  const marked = count.wrong + count.nothing + count.fine;
  const texts = [
    `${marked} of ${cards.length} marked`,
    `wrong label ${count.wrong}`,
    `none of the classes ${count.nothing}`,
    `fine ${count.fine}`,
  ];
  const elsewhere = others.exclude.size + others.relabel.size;
  if (elsewhere) texts.push(`photos not on this page ${elsewhere}`);
  element("counts").replaceChildren(
    ...texts.map((text) => Object.assign(document.createElement("span"), { textContent: text })),
  );
  element("progress").value = marked;
  element("exclude").disabled = !contentOf("exclude");
  element("relabel").disabled = !contentOf("relabel");
}

// --- Moving --------------------------------------------------------------------------------------

function moveTo(card) {
  if (!card) return;
  current.removeAttribute("aria-current");
  current.tabIndex = -1;
  current = card;
  current.setAttribute("aria-current", "true");
  current.tabIndex = 0;
  current.focus({ preventScroll: true });
  current.scrollIntoView({ block: "nearest" });
}

function columns() {
  const top = cards[0].offsetTop;
  const second = cards.findIndex((card) => card.offsetTop > top);
  return second < 0 ? cards.length : second;
}

const step = (by) => moveTo(cards[cards.indexOf(current) + by]);
const markAndGoOn = (kind) => {
  mark(current, kind);
  step(1);
};
const keys = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  ArrowDown: () => step(columns()),
  ArrowUp: () => step(-columns()),
  Home: () => moveTo(cards[0]),
  End: () => moveTo(cards.at(-1)),
  w: () => markAndGoOn("wrong"),
  n: () => markAndGoOn("nothing"),
  f: () => markAndGoOn("fine"),
  u: () => mark(current, ""),
  c: () => current.querySelector("select")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
  if (event.target.tagName === "SELECT") {
    if (event.key === "Escape" || event.key === "Enter") {
      event.preventDefault();
      if (event.key === "Enter") mark(current, "wrong");
      moveTo(current);
    }
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (Object.hasOwn(keys, key)) {
    event.preventDefault();
    keys[key]();
  }
});

for (const kind of ["pointerdown", "focusin"]) {
  element("photos").addEventListener(kind, (event) => {
    if (event.target.tagName === "SELECT") fill(event.target);
  });
}
element("photos").addEventListener("click", (event) => {
  const card = event.target.closest("li");
  if (!card || event.target.tagName === "SELECT") return;
  const kind = event.target.dataset.mark;
  if (kind && event.target.tagName === "BUTTON") mark(card, card.dataset.mark === kind ? "" : kind);
  moveTo(card);
});
element("photos").addEventListener("change", (event) => mark(event.target.closest("li"), "wrong"));

// --- Files ---------------------------------------------------------------------------------------

// Cells with tabs between them, in quotes where needed (the rules of CSV).
const lineOf = (...cells) =>
  cells.map((cell) => (/^["#\s]|[\t\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join("\t");

function cellsOf(line) {
  const cells = line.trim().matchAll(/(?:^|\t)(?:"((?:[^"]|"")*)"|([^\t]*))/g);
  return Array.from(cells, ([, inQuotes, plain]) => inQuotes?.replaceAll('""', '"') ?? plain.trim());
}

function contentOf(file) {
  const lines = [];
  for (const { dataset: { mark, name, label, right } } of cards) {
    if (file === "exclude" && mark === "nothing") lines.push(lineOf(name));
    if (file === "relabel" && mark === "wrong") lines.push(lineOf(name, right));
    if (file === "relabel" && mark === "fine") lines.push(lineOf(name, label));
  }
  for (const other of others[file]) lines.push(lineOf(...[other].flat()));
  return lines.map((line) => `${line}\n`).join("");
}

function save(file) {
  const content = contentOf(file);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/plain" }));
  link.download = `${file}.txt`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  saved[file] = content;
  say(`${file}.txt has ${content.split("\n").length - 1} lines.`);
}

// Returns false for a line of neither form.
function loadLine(line) {
  let [name, label] = cellsOf(line);
  const exclude = name;
  const words = exclude.split(/\s+/);
  const isPair = words.length === 2 && classes.includes(words[1]) && !byName.has(exclude);
  if (label === undefined && isPair) [name, label] = words;
  if (label === undefined) {
    const card = byName.get(exclude);
    if (card) mark(card, "nothing");
    else others.exclude.add(exclude);
    return true;
  }
  if (!name || !classes.includes(label)) return false;
  const card = byName.get(name);
  if (!card) others.relabel.set(name, label);
  else if (label === card.dataset.label) mark(card, "fine");
  else mark(card, "wrong", label);
  return true;
}

async function load(files) {
  const said = [];
  for (const file of files) {
    const text = (await file.text()).replace(/^\ufeff/, "");
    if (/[\0\ufffd]/.test(text)) {
      said.push(`${file.name} is not such a file.`);
      continue;
    }
    const lines = text.split("\n").filter((line) => line.trim() && !line.trim().startsWith("#"));
    const bad = lines.filter((line) => !loadLine(line));
    const problem = bad.length ? `, ${bad.length} not understood, such as: ${bad[0]}` : ".";
    said.push(`${file.name} has ${lines.length} lines${problem}`);
  }
  show();
  say(said.join(" "));
  moveTo(cards.find((card) => !card.dataset.mark) || current);
}

for (const file of ["exclude", "relabel"]) element(file).onclick = () => save(file);
element("load").onclick = () => element("files").click();
element("files").onchange = async () => {
  await load(element("files").files);
  element("files").value = "";
};
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  load(event.dataTransfer.files);
});
window.addEventListener("beforeunload", (event) => {
  const changed = ["exclude", "relabel"].some((file) => contentOf(file) !== saved[file]);
  if (changed) event.preventDefault();
});

show();
if (current) current.tabIndex = 0; // without a scroll past the text above the photos
current?.setAttribute("aria-current", "true");
current?.focus({ preventScroll: true });
