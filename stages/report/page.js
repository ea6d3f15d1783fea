// The interactive part of the page: reads the JSON block, draws with Vega-Lite, keeps the view in the address.
"use strict";
/** Resolved where nothing may wait: the address names a part of the page, or it is being printed. */
const hurried = new Promise((hurry) => {
  if (location.hash.length > 1) hurry();
  window.addEventListener("beforeprint", hurry);
});
/** Until the browser has nothing more urgent to do: to show the rest of the page, to answer a click. */
const idle = () => Promise.race([hurried, new Promise((resolve) => (window.requestIdleCallback ? requestIdleCallback(resolve, { timeout: 100 }) : setTimeout(resolve)))]);

async function explore() {
await idle();
const data = JSON.parse(document.getElementById("x-data").textContent);
const get = (id) => document.getElementById(id);
const findings = new Map(data.findings.map((row) => {
  const finding = Object.fromEntries(data.columns.map((name, index) => [name, row[index]]));
  return [finding.key, finding];
}));
const metrics = [...data.rewards, ...data.diversities];
const base = data.places[data.base];
const narrow = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
/** Three digits, of a tiny number as 2.02e−5: what stands beside it has no room for its noughts. */
const number = (value) => (value == null ? "–" : (value && Math.abs(value) < 1e-4 ? value.toExponential(2) : narrow.format(value)).replaceAll("-", "−"));
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const keyOf = (place, metric, against) => [place.method, place.strategy, place.setting, metric, against].filter(Boolean).join("/");

/** An element with attributes and children; text children are never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") made.style.cssText = value;
    else if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined));
  return made;
}
/** The head of a column; the corner above the heads of rows is no head of anything. */
const header = (text) => (text ? make("th", { scope: "col" }, text) : make("td"));
const fill = (id, ...children) => get(id).replaceChildren(...children);
const option = (value, text) => make("option", { value }, text);
/** A prompt in quotation marks: the direction of its script ends with the closing mark. */
const cited = (text) => ["“", make("bdi", {}, text), "”"];
const dot = (colour) => make("i", { style: `background:${colour}` });

// --- the view, and its address ---------------------------------------------------------------------------------------
const hidden = new Set();
/** Orders of the prompts: as they stand in an address, in words, and what is said where no prompt is a case of it. */
const orders = [
  ["", "as in the study"], ...data.diversities.map((one) => [`lost:${one.name}`, `most ${one.label} lost`, `none lost ${one.label}`]),
  ["disagreement", "judges disagree most", "the judges disagree on none"],
  ["turned", "training reward up, another down", "on none did the training reward rise while another fell"],
];
const settingOf = (place) => `${place.strategy}:${place.setting}`;
const first = data.lines[0];
const start = { reward: data.main[0], diversity: data.main[1], place: first.places[Math.floor((first.places.length - 1) / 2)],
  line: 0, run: 0, rival: -1, order: "", filter: "", prompt: "" };
const view = { ...start };

function choose(place, line = view.line) {
  const on = data.lines[line].places.includes(place) ? line : data.lines.findIndex((one) => one.places.includes(place));
  const seed = data.places[view.place].runs.length === data.places[place].runs.length ? view.run : 0;
  Object.assign(view, { place, line: on, run: seed });
}

/** The address of the view, or of the view with something changed in it. */
function address(changed = {}) {
  const place = data.places[view.place];
  const rival = view.rival < 0 ? "" : `${data.places[view.rival].method}:${settingOf(data.places[view.rival])}`;
  const parts = { prompt: view.prompt, run: place.runs[view.run], setting: settingOf(place), curve: data.lines[view.line].label,
    reward: view.reward, diversity: view.diversity, rival, order: view.order, filter: view.filter, hidden: [...hidden].join(" "), ...changed };
  return "#" + new URLSearchParams(Object.entries(parts).filter(([, value]) => value));
}

/** Parts of an address, but for settings (`k=10`), which are short for the place with the setting of that name. */
const PARTS = ["prompt", "run", "setting", "curve", "reward", "diversity", "rival", "order", "filter", "hidden"];

/** Takes the view from the address, and says which parts of it this page does not have; false where it names no view. */
function restore() {
  const parts = new Map([...new URLSearchParams(location.hash.slice(1))].filter(([name, value]) => name && value));
  fill("x-strange");
  if (!parts.size) return false;
  const strange = [], said = (...names) => strange.push(...names.filter((name) => parts.has(name)).map((name) => `${name}=${parts.get(name)}`));
  /** The place of what a part names in a list, -1 where there is none. */
  const at = (name, list, spelled) => {
    const found = parts.has(name) ? list.findIndex((one) => spelled(one) === parts.get(name)) : -1;
    if (found < 0) said(name);
    return found;
  };
  const settings = [...parts.keys()].filter((name) => !PARTS.includes(name)), run = parts.get("run");
  const written = settings.map((name) => `${name}=${parts.get(name)}`);
  const fits = (one) => (parts.has("setting") ? settingOf(one) === parts.get("setting") : !written.length || written.includes(one.setting));
  const places = [...data.lines.flatMap((one) => one.places), ...data.places.keys()];
  const named = run || parts.has("setting") || written.length;
  const place = named ? places.find((index) => fits(data.places[index]) && (!run || data.places[index].runs.includes(run))) : undefined;
  if (named && place === undefined) said("run", "setting", ...settings);
  const name = (list, found, other) => (found < 0 ? other : list[found].name);
  const filter = parts.get("filter") || "";
  const rewards = at("reward", data.rewards, (one) => one.name), diversities = at("diversity", data.diversities, (one) => one.name);
  const order = at("order", orders, ([one]) => one), prompt = at("prompt", data.prompts, (one) => one.id);
  Object.assign(view, start, { filter, order: order < 0 ? "" : orders[order][0], prompt: prompt < 0 ? "" : data.prompts[prompt].id,
    reward: name(data.rewards, rewards, start.reward), diversity: name(data.diversities, diversities, start.diversity),
    rival: at("rival", data.places, (one) => `${one.method}:${settingOf(one)}`) });
  const line = Math.max(0, at("curve", data.lines, (one) => one.label));
  hidden.clear();
  for (const one of (parts.get("hidden") || "").split(" ").filter(Boolean)) {
    if (Object.hasOwn(data.methods, one)) hidden.add(one);
    else strange.push(`hidden=${one}`);
  }
  if (place !== undefined) {
    choose(place, line);
    view.run = Math.max(0, data.places[place].runs.indexOf(run));
  }
  if (strange.length) fill("x-strange", `The address names what this page does not have: ${strange.join(", ")}. Shown instead is what stands below.`);
  return true;
}

// --- frontier --------------------------------------------------------------------------------------------------------
let chart;

function ends(place, metric) {
  const found = findings.get(keyOf(place, metric));
  const away = findings.get(keyOf(place, metric, "base"));
  if (!found) return null;
  const known = away && away.low != null && place !== base;
  return [found.mean, known ? found.mean + away.low - away.mean : found.mean, known ? found.mean + away.high - away.mean : found.mean];
}

function spoken(place, metric) {
  const found = findings.get(keyOf(place, metric));
  return found ? `${number(found.mean)}${found.low == null ? "" : ` (${number(found.low)} to ${number(found.high)})`}` : "–";
}

function marks() {
  const label = (name) => metrics.find((one) => one.name === name).label;
  return data.places.flatMap((place, index) => {
    const x = ends(place, view.diversity), y = ends(place, view.reward);
    if (!x || !y || hidden.has(place.method)) return [];
    const reward = spoken(place, view.reward), diversity = spoken(place, view.diversity);
    return [{ index, x: x[0], x_low: x[1], x_high: x[2], y: y[0], y_low: y[1], y_high: y[2], colour: place.colour, shape: place.shape,
      fill: place.filled ? place.colour : "transparent", point: place.label, reward, diversity,
      words: `${place.label}: ${label(view.reward)} ${reward}, ${label(view.diversity)} ${diversity}` }];
  });
}

/** The stops of every curve; where there is none, a line of one stop, which is not seen, for the same reason as a ring of none. */
function joined() {
  const stops = allJoined();
  return stops.length ? stops : marks().slice(0, 1).map((one) => ({ line: -1, order: 0, x: one.x, y: one.y, colour: one.colour, dash: [1, 0] }));
}

function allJoined() {
  return data.lines.flatMap((line, index) => (line.drawn && !hidden.has(line.method) ? line.places : []).flatMap((place, order) => {
    const x = ends(data.places[place], view.diversity), y = ends(data.places[place], view.reward);
    return x && y ? [{ line: index, order, x: x[0], y: y[0], colour: line.colour, dash: line.dash }] : [];
  }));
}

/** What a ring is drawn around; where that is hidden, some marker without a ring, since Vega warns of a layer without data. */
function chosen() {
  const all = marks(), found = all.filter((one) => one.index === view.place || one.index === view.rival);
  return found.length ? found.map((one) => ({ ...one, ring: 1 })) : all.slice(0, 1).map((one) => ({ ...one, ring: 0 }));
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, muted, rule] = ["--ink", "--muted", "--rule"].map((name) => style.getPropertyValue(name).trim());
  return { background: null, font: "system-ui, sans-serif", view: { stroke: rule },
    axis: { labelColor: muted, titleColor: ink, gridColor: rule, domainColor: rule, tickColor: rule, labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal" },
    header: { titleColor: ink, labelColor: ink }, title: { color: ink }, legend: { labelColor: ink, titleColor: ink } };
}
function embed(id, spec) {
  if (!window.vegaEmbed) document.head.append(make("script", {}, get("x-library").textContent)); // compiled when first needed
  return vegaEmbed(get(id), spec, { mode: "vega-lite", renderer: "svg", actions: false, config: theme() });
}

async function drawFrontier() {
  if (!marks().length) {
    chart = undefined;
    return fill("x-frontier", make("p", { class: "note" }, "Every method that was measured by both axes is hidden."));
  }
  const spec = structuredClone(data.specs.frontier);
  spec.encoding.x.axis.title = data.diversities.find((one) => one.name === view.diversity).axis;
  spec.encoding.y.axis.title = data.rewards.find((one) => one.name === view.reward).axis;
  spec.datasets = { lines: joined(), points: marks(), chosen: chosen() };
  chart = (await embed("x-frontier", spec)).view;
  const at = (item) => (item && item.datum ? item.datum.index : undefined);
  chart.addEventListener("click", (event, item) => at(item) !== undefined && open(at(item), event.shiftKey));
  chart.addEventListener("mouseover", (event, item) => at(item) !== undefined && showNumbers(at(item)));
  chart.addEventListener("mouseout", () => showNumbers(view.place));
  keyboard();
}

/** One marker takes the focus by Tab; arrow keys move it among the markers from left to right, Enter and Space choose. */
function keyboard() {
  const paths = [...get("x-frontier").querySelectorAll("path")]
    .filter((path) => path.__data__ && path.__data__.mark.name === "points_marks")
    .sort((one, other) => one.__data__.datum.x - other.__data__.datum.x);
  const at = Math.max(0, paths.findIndex((path) => path.__data__.datum.index === view.place));
  paths.forEach((path, index) => {
    path.setAttribute("tabindex", index === at ? 0 : -1);
    path.setAttribute("role", "button");
    path.dataset.place = path.__data__.datum.index;
    path.addEventListener("focus", () => showNumbers(path.__data__.datum.index));
    path.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) {
        const next = paths[(index + step + paths.length) % paths.length];
        paths.forEach((one) => one.setAttribute("tabindex", one === next ? 0 : -1));
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        open(path.__data__.datum.index, event.shiftKey);
        get("x-images").focus({ preventScroll: true });
      }
      else return;
      event.preventDefault();
    });
  });
}

/** Chooses a marker, or with Shift the rival, and goes to its images. */
function open(place, asRival = false) {
  if (asRival) view.rival = place;
  else choose(place);
  update();
  get("x-images").scrollIntoView({ block: "start" });
}

// --- numbers ---------------------------------------------------------------------------------------------------------
function cell(place, metric, against, show) {
  const found = findings.get(keyOf(place, metric, against));
  if (!found) return make("td", {}, "–");
  const between = found.low == null ? "" : `${show(found.low)} to ${show(found.high)}`;
  return make("td", { "data-number": found.key }, show(found.mean), make("small", {}, between));
}

const shownMetrics = () => metrics.filter((one) => one.shown || one.name === view.diversity);

function numbersTable(place) {
  const head = ["", "value", "less base"].map(header);
  const rows = shownMetrics().map((metric) => make("tr", {}, make("th", { scope: "row" }, metric.label, make("small", {}, metric.role)),
    cell(place, metric.name, undefined, number), cell(place, metric.name, "base", signed)));
  return table(head, rows);
}

/** The chosen setting's numbers in a line or two, for under the slider. */
function liveTable(places) {
  const head = ["", ...shownMetrics().map((metric) => metric.label)].map(header);
  const line = (title, place, against, form) => make("tr", {}, make("th", { scope: "row" }, title),
    ...shownMetrics().map((metric) => cell(place, metric.name, against, form)));
  const rows = places.flatMap((place) => [line(place.label, place, undefined, number), line("less base", place, "base", signed)]);
  return table(head, rows, "wide");
}

function table(head, rows, kind) {
  return make("div", { class: "scroll" }, make("table", { class: kind }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

function showNumbers(index) {
  const place = data.places[index];
  const found = findings.get(keyOf(place, view.reward)) || {};
  fill("x-numbers", make("h3", {}, dot(place.colour), place.label), numbersTable(place),
    make("p", { class: "note" }, `${found.seeds} training seed${found.seeds > 1 ? "s" : ""}, ${found.n_prompts} prompts, ${number(found.nfe)} network evaluations per image.`));
  pressable(get("x-numbers"));
}

// --- images ----------------------------------------------------------------------------------------------------------
const sheet = document.head.appendChild(make("style")).sheet;
const known = new Set();

/** The class of a sheet of pictures, which is decoded when it is first shown and then shared. */
const picture = (index) => styled(`s${index}`, () => data.sheets[index]);

function styled(name, source) {
  if (!known.has(name)) {
    sheet.insertRule(`.${name} { background-image: url(${source()}) }`);
    known.add(name);
  }
  return name;
}

function strip(place, run, prompt, title) {
  if (prompt.row == null) return undefined;
  const name = picture(place.sheets[Math.min(run, place.sheets.length - 1)]);
  const cells = Array.from({ length: data.layout.samples }, (_, sample) => make("i", { class: name, style: `--x:${sample};--y:${prompt.row}` }));
  return make("figure", {}, make("figcaption", {}, title), make("div", { class: "strip", role: "img",
    "aria-label": `${data.layout.samples} images of “${prompt.text}”: ${title}` }, ...cells));
}

function cases() {
  const place = data.places[view.place];
  return data.prompts.map((prompt, index) => {
    const of = (grid) => grid[view.run][index];
    const lost = Object.fromEntries(Object.entries(place.lost).map(([name, grid]) => [name, of(grid)]));
    return { prompt, index, lost, disagreement: of(place.disagreement), turned: of(place.turned) };
  });
}

function listed() {
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = cases().filter((one) => words.every((word) => one.prompt.text.toLowerCase().includes(word)));
  return view.order ? found.sort((one, other) => size(other) - size(one)) : found;
}

/** By what the prompts are ordered. */
function size(one) {
  const [kind, name] = view.order.split(":");
  return (kind === "lost" ? one.lost[name] : one[kind]) ?? -Infinity;
}

/** The places and runs that a column of a prompt's table is about; the change is that of the second from the first. */
function sides() {
  const of = (place) => ({ place, run: Math.min(view.run, place.runs.length - 1) });
  const before = { place: base, run: 0 }, after = of(data.places[view.place]), rival = data.places[view.rival];
  return { base: [before], chosen: [after], change: [before, after], ...(rival && { rival: [of(rival)] }) };
}

/** The score of a prompt in a column, or its change; null where an image has none. */
function score(side, metric, index) {
  const found = sides()[side].map((one) => one.place.scores[metric][one.run][index]);
  return found.includes(null) ? null : found.length > 1 ? found[1] - found[0] : found[0];
}

function promptTable(index) {
  const columns = Object.keys(sides());
  const shown = (side, metric) => {
    const value = score(side, metric, index), text = (side === "change" ? signed : number)(value);
    if (value == null) return make("td", {}, text);
    return make("td", {}, make("button", { type: "button", class: "figures", "aria-haspopup": "dialog", "data-side": side, "data-metric": metric }, text));
  };
  const rows = shownMetrics().map((metric) =>
    make("tr", {}, make("th", { scope: "row" }, metric.label), ...columns.map((side) => shown(side, metric.name))));
  return table(["", ...columns].map(header), rows);
}

function showPrompts() {
  const place = data.places[view.place], rival = data.places[view.rival];
  const found = listed();
  const none = view.order && found.length && size(found[0]) <= 0 ? `; ${orders.find(([name]) => name === view.order)[2]}` : "";
  get("x-count").textContent = `${found.length} of ${data.prompts.length} prompts${none}`;
  fill("x-prompts", ...found.map((one) => {
    const link = make("a", { href: address({ prompt: one.prompt.id }) }, ...cited(one.prompt.text));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      view.prompt = one.prompt.id;
      remember();
      mark();
    });
    return make("li", { "data-prompt": one.prompt.id }, make("div", {}, make("h4", {}, link),
      one.turned > 0 ? make("p", { class: "flag" }, "▲ training reward up, another reward down") : undefined,
      make("p", { class: "note" }, `judges disagree by ${number(one.disagreement)} standard deviations`), promptTable(one.index)),
    make("div", {}, strip(base, 0, one.prompt, `base: ${base.label}`), strip(place, view.run, one.prompt, `chosen: ${place.label}`),
      rival ? strip(rival, view.run, one.prompt, `rival: ${rival.label}`) : undefined,
      one.prompt.row == null ? make("p", { class: "note" }, "Its images are not on this page, which has those of fewer prompts; they stand in the sample tables under Files.") : undefined));
  }));
  mark();
}

function mark() {
  for (const item of get("x-prompts").children) {
    if (item.dataset.prompt === view.prompt) item.setAttribute("aria-current", "true"); // an empty value means that it is not
    else item.removeAttribute("aria-current");
  }
}

/** The listed prompts with their scores, worst cases first where they are so ordered. */
function csv() {
  const place = data.places[view.place];
  const [, evaluation] = data.provenance.facts.find(([name]) => name === "evaluation id");
  const head = ["study", "evaluation", "prompt_id", "prompt", "run", "strategy", "setting", ...metrics.flatMap((one) => [`base_${one.name}`, one.name]),
    ...data.diversities.map((one) => `lost_${one.name}`), "disagreement", "turned"];
  const rows = listed().map((one) => [data.study, evaluation, one.prompt.id, one.prompt.text, place.runs[view.run], place.strategy, place.setting,
    ...metrics.flatMap((metric) => [base.scores[metric.name][0][one.index], place.scores[metric.name][view.run][one.index]]),
    ...data.diversities.map((metric) => one.lost[metric.name]), one.disagreement, one.turned]);
  const quoted = (value) => (value == null ? "" : /[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return [head, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function download() {
  const link = make("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: `${data.study}-prompts.csv` });
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- tape ------------------------------------------------------------------------------------------------------------
let tapeChart;

async function drawTape() {
  const run = get("x-tape-run").value, tape = data.tapes[run];
  if (!tape) return;
  const spec = structuredClone(data.specs.tape);
  const across = get("x-tape").clientWidth, columns = Math.max(1, Math.min(3, Math.floor(across / 300)));
  spec.facet.sort = [...new Set(tape.shots.map((shot) => shot.panel))];
  const steps = tape.strip ? tape.strip.steps : [tape.shots[0].step], best = tape.mark == null ? steps.at(-1) : tape.mark;
  const row = nearest(steps, best), known = [tape.mark != null, tape.strip != null];
  known.forEach((one, layer) => (spec.spec.layer[layer].mark.opacity *= one)); // a rule without a step would warn of its scale
  Object.assign(spec, { columns, datasets: { shots: tape.shots, peak: [{ step: best }], at: [{ step: steps[row] }] } });
  spec.spec.width = across / columns - spec.spacing.column;
  get("x-peak").textContent = tape.words;
  tapeChart = (await embed("x-tape", spec)).view;
  get("x-probed").hidden = !tape.strip;
  if (!tape.strip) return;
  get("x-probed-step").max = tape.strip.steps.length - 1;
  tapeChart.addDataListener("near_store", (name, found) => found.length && showProbed(nearest(tape.strip.steps, found[0].values[0])));
  showProbed(row);
}

/** The place of the step nearest to this one. */
const nearest = (steps, wanted) => steps.reduce((best, step, place) => (Math.abs(step - wanted) < Math.abs(steps[best] - wanted) ? place : best), 0);

/** The pictures of one probed step of the run on the tape, prompt after prompt. */
function showProbed(row) {
  const run = get("x-tape-run").value, strip = data.tapes[run].strip;
  const name = styled(`probed-${run}`, () => get(`probed-${run}`).src);
  get("x-probed-step").value = row;
  get("x-probed-step").setAttribute("aria-valuetext", `step ${strip.steps[row]}`);
  get("x-probed-at").textContent = strip.steps[row];
  const images = get("x-probed-images");
  images.style.cssText = `--across:${strip.prompts.length * strip.samples};--samples:${strip.samples};--ratio:${strip.width / strip.height}`;
  fill("x-probed-images", ...strip.prompts.map((prompt, place) => make("figure", {}, make("figcaption", {}, ...cited(prompt)),
    make("div", { class: "strip", role: "img", "aria-label": `${strip.samples} images of “${prompt}” at step ${strip.steps[row]}` },
      ...Array.from({ length: strip.samples }, (_, sample) => make("i", { class: name, style: `--x:${place * strip.samples + sample};--y:${row}` }))))));
  tapeChart.data("at", [{ step: strip.steps[row] }]).runAsync();
}

// --- where a number comes from ---------------------------------------------------------------------------------------
/** Makes the number in every cell that names a finding a button. */
function pressable(within) {
  for (const one of within.querySelectorAll(":is([data-number], [data-source]):not([data-pressed])")) {
    if (one.closest("details:not([open])")) continue;
    const text = [...one.childNodes].find((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const { number: finding, source } = one.dataset, key = beforeHash(finding ?? source);
    if (!text || !(finding ? findings.has(key) : key in data.sources)) continue;
    one.dataset.pressed = "";
    const button = make("button", { type: "button", class: "figures", "aria-haspopup": "dialog" }, text.data.trim());
    button.addEventListener("click", () => (finding ? origin(key) : originOfSource(data.sources[key])));
    text.replaceWith(button);
  }
}

/** The key of a finding or source, without which part of it a cell shows; a key may have a # itself. */
const beforeHash = (name) => name.replace(/#[a-z0-9]+$/, "");

/** Where a number comes from that is no finding: a cost, a count, a pair accuracy. */
function originOfSource(source) {
  tell(source.title, [...source.facts, ...(source.evaluated ? data.provenance.facts : [])], source.targets);
}

function origin(key) {
  const found = findings.get(key), source = data.provenance;
  const methods = [...new Set([found.method, found.against].filter((name) => source.targets[name]))];
  const spell = (name) => data.methods[name] || name;
  const past = data.earlier, before = past && past.values[key];
  const facts = [
    ["value", `${number(found.mean)}${found.low == null ? "" : `, ${(100 * data.level).toFixed(0)}% interval ${number(found.low)} to ${number(found.high)}`}`],
    ["in full", String(found.mean)],
    ["in the earlier report", past && (before == null ? "not there" : String(before))],
    ["difference to it", before != null && found.mean != null ? String(found.mean - before) : ""],
    ["single training seeds", found.per_seed.map(number).join(", ")],
    ["could have seen", found.detectable == null ? "" : number(found.detectable)],
    ["method", spell(found.method)], ["strategy, setting", [found.strategy, found.setting].filter(Boolean).join(", ")],
    ["against", found.against && spell(found.against)], ["at equal", found.at_equal],
    ["training seeds", found.seeds || ""], ["guidance", source.guidance[found.strategy]],
    ["judge", source.judges[found.metric]], ["judge of diversity", found.at_equal && source.judges[found.at_equal]],
    ["network evaluations per image", found.nfe == null ? "" : number(found.nfe)], ...source.facts,
  ].filter(([, value]) => value);
  tell(`${labelOf(found.metric)} (${found.about})`, facts, methods.flatMap((name) => source.targets[name]));
}

/** Where the score of one prompt comes from: as `origin`, of the single runs that it is of. */
function originOfScore(index, metric, side) {
  const source = data.provenance, prompt = data.prompts[index], value = score(side, metric, index);
  const of = sides()[side].map((one) => ({ ...one.place, run: one.place.runs[one.run] }));
  const facts = [
    ["value", number(value)], ["six digits", String(Number(value.toPrecision(6)))], ["prompt", [...cited(prompt.text), ` (${prompt.id})`]],
    ...of.map((one) => ["run", `${one.run}: ${one.label}`]), ...of.map((one) => ["guidance", source.guidance[one.strategy]]),
    ["judge", source.judges[metric]], ...source.facts,
  ].filter(([, text]) => text);
  const files = of.flatMap((one) => source.targets[one.method].filter((file) => file.includes(`/${one.run}.parquet`)));
  tell(`${labelOf(metric)} of one prompt${side === "change" ? ", less the base's" : ""}`, facts, files);
}

const labelOf = (metric) => (metrics.find((one) => one.name === metric) || { label: metric }).label;

/** Opens the window with facts and the command that makes these files of samples and measures, and the page. */
function tell(title, facts, targets) {
  const source = data.provenance;
  fill("x-origin", make("h3", { id: "x-what" }, title),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, ...[value].flat().map((part) => (part instanceof Node ? part : String(part))))])),
    make("p", {}, targets.length ? "What this rests on and the report are made anew by" : "The report is made anew by"),
    make("pre", { tabindex: "0" }, [source.command, ...new Set(targets), source.report].join(" ")));
  get("x-dialog").showModal();
}

// --- controls --------------------------------------------------------------------------------------------------------
function controls() {
  const line = data.lines[view.line], place = data.places[view.place];
  get("x-reward").value = view.reward;
  get("x-diversity").value = view.diversity;
  get("x-curve").value = view.line;
  get("x-slider").max = line.places.length - 1;
  get("x-slider").value = line.places.indexOf(view.place);
  get("x-slider").setAttribute("aria-valuetext", line.stops[line.places.indexOf(view.place)]);
  if (data.tapes[place.runs[view.run]] && get("x-tape-run").value !== place.runs[view.run]) {
    get("x-tape-run").value = place.runs[view.run];
    if (chart) drawTape();
  }
  get("x-setting").textContent = line.stops[line.places.indexOf(view.place)];
  fill("x-run", ...place.runs.map((run, index) => option(index, run)));
  get("x-run").value = view.run;
  get("x-rival").value = view.rival;
  get("x-order").value = view.order;
  get("x-filter").value = view.filter;
  for (const box of get("x-methods").querySelectorAll("input")) box.checked = !hidden.has(box.value);
}

const remember = () => history.replaceState(null, "", address());

function show() {
  controls();
  showNumbers(view.place);
  fill("x-live", liveTable([data.places[view.place], ...(view.rival < 0 ? [] : [data.places[view.rival]])]));
  showPrompts();
  pressable(get("x-live"));
  clear();
  const ringed = chosen();
  if (chart && ringed.length) chart.data("chosen", ringed).run();
}

function update() {
  show();
  remember();
}

function listen() {
  const on = (id, event, act) => get(id).addEventListener(event, (found) => act(found.target.value));
  const axes = (change) => { Object.assign(view, change); update(); drawFrontier(); };
  on("x-reward", "change", (reward) => axes({ reward }));
  on("x-diversity", "change", (diversity) => axes({ diversity }));
  on("x-curve", "change", (line) => {
    const places = data.lines[line].places;
    choose(places.includes(view.place) ? view.place : places[Math.floor((places.length - 1) / 2)], Number(line));
    update();
  });
  on("x-slider", "input", (stop) => { choose(data.lines[view.line].places[stop]); update(); });
  on("x-run", "change", (run) => { view.run = Number(run); update(); });
  on("x-rival", "change", (rival) => { view.rival = Number(rival); update(); });
  on("x-order", "change", (order) => { view.order = order; update(); });
  on("x-tape-run", "change", drawTape);
  on("x-probed-step", "input", (row) => showProbed(Number(row)));
  document.addEventListener("toggle", (event) => pressable(event.target), true);
  on("x-filter", "input", (filter) => { view.filter = filter; update(); });
  get("x-csv").addEventListener("click", download);
  get("x-prompts").addEventListener("click", ({ target }) => {
    const { side, metric } = target.closest("button[data-side]")?.dataset || {};
    if (side) originOfScore(data.prompts.findIndex((one) => one.id === target.closest("li").dataset.prompt), metric, side);
  });
  window.addEventListener("hashchange", () => { if (restore()) { show(); drawFrontier(); go(); } });
  window.addEventListener("resize", clear);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawFrontier(); drawTape(); });
}

/** The bar that stays in sight while one scrolls must not cover what is scrolled to. */
function clear() {
  const above = document.querySelector("#explore .sticky"), stays = getComputedStyle(above).position === "sticky";
  get("explore").style.setProperty("--above", `${stays ? above.offsetHeight : 0}px`);
}

/** To the prompt of the view; twice, since the heights of prompts on the way are known only when they have been in sight. */
async function go() {
  const item = [...get("x-prompts").children].find((one) => one.dataset.prompt === view.prompt) || get("explore");
  for (let times = 0; times < 2; times += 1) {
    item.scrollIntoView({ block: "start", behavior: "instant" });
    await new Promise(requestAnimationFrame);
  }
}

fill("x-reward", ...data.rewards.map((one) => option(one.name, one.label)));
fill("x-diversity", ...data.diversities.map((one) => option(one.name, one.label)));
fill("x-curve", ...data.lines.map((line, index) => option(index, line.label)));
fill("x-rival", option(-1, "none"), ...data.places.map((place, index) => option(index, place.label)));
fill("x-tape-run", ...Object.keys(data.tapes).map((run) => option(run, run)));
get("x-tape-part").hidden = Object.keys(data.tapes).length === 0;
fill("x-order", ...orders.map(([name, text]) => option(name, text)));
for (const [name, label] of Object.entries(data.methods)) {
  const box = make("input", { type: "checkbox", checked: "", value: name });
  box.addEventListener("change", () => { hidden[box.checked ? "delete" : "add"](name); update(); drawFrontier(); });
  const colour = (data.places.find((place) => place.method === name) || {}).colour;
  get("x-methods").append(make("label", {}, box, dot(colour), label));
}
get("explore").style.setProperty("--across", data.layout.samples);
get("explore").style.setProperty("--ratio", data.layout.width / data.layout.height);
for (const one of document.querySelectorAll("#explore, #x-link")) one.hidden = false;
const restored = restore();
listen();
show();
for (const one of document.querySelectorAll("main > section")) pressable(one);
await idle();
await drawFrontier();
if (restored) go();
await idle();
await drawTape();
performance.mark("explored");
}
explore();
