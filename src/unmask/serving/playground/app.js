// The playground: asks this server's own API twice for the same prompt, with two samplers, and
// shows both canvases pass by pass. No libraries, no outside resources.
"use strict";

const $ = (id) => document.getElementById(id);
const SIDES = ["a", "b"];
const HEURISTICS = {
  threshold: { label: "threshold λ", min: 0, max: 1, step: 0.01, value: 0.9 },
  factor: { label: "factor f", min: 0, max: 4, step: 0.05, value: 1 },
  entropy: { label: "entropy γ", min: 0, max: 3, step: 0.05, value: 0.1 },
  confidence: { label: "confidence K", min: 1, max: 16, step: 1, value: 1 },
  "low-entropy": { label: "low entropy K", min: 1, max: 16, step: 1, value: 1 },
  margin: { label: "margin K", min: 1, max: 16, step: 1, value: 1 },
  random: { label: "random K", min: 1, max: 16, step: 1, value: 1 },
};
// Viridis at five places (with a lighter beginning on dark pages), mixed towards the page's own
// colour so that the text on it stays readable.
const SCALES = {
  light: [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
  dark: [[135, 60, 180], [70, 110, 200], [33, 145, 140], [94, 201, 98], [253, 231, 37]],
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");

let key = null; // the API key, in memory only
let models = [];
let run = null; // what was asked, and what came
let timer = null;
let stopper = null;
let asked = 0; // counts runs, so that a late answer of an older one is dropped

// ---- colours

function passColour(pass, last) {
  const scale = SCALES[dark.matches ? "dark" : "light"];
  const at = ((pass - 1) / Math.max(last - 1, 1)) * (scale.length - 1);
  const low = Math.min(Math.floor(at), scale.length - 2);
  const mixed = scale[low].map((c, i) => c + (scale[low + 1][i] - c) * (at - low));
  const [share, towards] = dark.matches ? [0.42, [36, 36, 50]] : [0.45, [255, 255, 255]];
  return mixed.map((c, i) => Math.round(c * share + towards[i] * (1 - share)));
}

const cssColour = (rgb) => `rgb(${rgb.join(", ")})`;
const textColour = () => (dark.matches ? "#ffffff" : "#101114");

// ---- small helpers

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await fetch(path, options);
  if (response.ok) return response;
  let message = `the server answered with status ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* no JSON: the status says it */ }
  throw Object.assign(new Error(message), { status: response.status });
}

function showError(text) { $("error").textContent = text; }
function say(text) { $("said").textContent = text; }

// ---- samplers

const samplerOf = (side) => document.querySelector(`.sampler[data-side="${side}"]`);

function buildSampler(side) {
  const box = samplerOf(side);
  const select = make("select", { id: `sampler-${side}` });
  const steer = make("select", { id: `steer-${side}` },
    make("option", { value: "alpha", textContent: "by α (larger is faster)" }),
    make("option", { value: "nfe", textContent: "by a target number of passes" }));
  const slider = make("input", { type: "range", id: `value-${side}` });
  const output = make("output", { id: `value-out-${side}` });
  const label = make("label", { htmlFor: slider.id });
  label.append(make("span", { className: "name" }), " ", output);
  box.append(
    make("div", { className: "field" }, make("label", { htmlFor: select.id, textContent: "Sampler" }), select),
    make("div", { className: "field steer" }, make("label", { htmlFor: steer.id, textContent: "Steer" }), steer),
    make("div", { className: "field slide" }, label, slider));
  select.addEventListener("change", () => fitSampler(side));
  steer.addEventListener("change", () => fitSampler(side));
  slider.addEventListener("input", () => { output.textContent = sliderText(side); });
}

const chosenModel = () => models.find((entry) => entry.id === $("model").value);

function learnedPolicies() {
  const model = chosenModel();
  return model ? model.unmask.policies.filter((policy) => policy.learned) : [];
}

const learnedPolicy = (name) => learnedPolicies().find((policy) => policy.name === name);

// Policies that were trained on this model come first.
function fillSamplers() {
  for (const side of SIDES) {
    const select = $(`sampler-${side}`);
    const before = select.value;
    const own = learnedPolicies().filter((policy) => policy.model === chosenModel().unmask.model);
    const others = learnedPolicies().filter((policy) => !own.includes(policy));
    const group = (label, entries) => entries.length ? [make("optgroup", { label }, ...entries)] : [];
    const entry = (policy) => make("option", { value: policy.name, textContent: policy.name });
    select.replaceChildren(
      ...group("Learned for this model", own.map(entry)),
      ...group("Heuristics", Object.entries(HEURISTICS).map(([name, h]) => make("option", { value: name, textContent: h.label }))),
      ...group("Learned for other models", others.map(entry)));
    const keeps = [...select.options].some((option) => option.value === before) && !others.some((p) => p.name === before);
    const usual = side === "b" && own.length ? own[0].name : side === "b" ? "entropy" : "threshold";
    select.value = keeps && before ? before : usual;
    fitSampler(side);
  }
}

function fitSampler(side) {
  const name = $(`sampler-${side}`).value, slider = $(`value-${side}`);
  const policy = learnedPolicy(name), conditioned = policy && policy.alphas && policy.alphas.length;
  const box = samplerOf(side);
  box.querySelector(".steer").hidden = !conditioned;
  // Where every α needs about as many passes, there is nothing to aim at.
  const [fewest, most] = conditioned ? [Math.ceil(Math.min(...policy.nfe) * 10), Math.floor(Math.max(...policy.nfe) * 10)] : [0, 0];
  $(`steer-${side}`).querySelector('[value="nfe"]').disabled = fewest >= most;
  if (fewest >= most) $(`steer-${side}`).value = "alpha";
  box.querySelector(".slide").hidden = Boolean(policy) && !conditioned;
  const kind = `${name}/${$(`steer-${side}`).value}`;
  if (slider.dataset.kind !== kind) {
    let range = HEURISTICS[name];
    if (conditioned) {
      const byNfe = $(`steer-${side}`).value === "nfe";
      const values = policy.alphas.map(Math.log10);
      const low = Math.min(...values), high = Math.max(...values);
      range = byNfe
        ? { label: "target passes", min: fewest / 10, max: most / 10, step: 0.1, value: (fewest + most) / 20 }
        : { label: "α", min: low, max: high, step: "any", value: policy.alpha ? Math.log10(policy.alpha) : (low + high) / 2 };
    }
    if (range) {
      Object.assign(slider, { min: range.min, max: range.max, step: range.step });
      slider.value = range.value;
      box.querySelector(".name").textContent = range.label;
    }
    slider.dataset.kind = kind;
  }
  $(`value-out-${side}`).textContent = sliderText(side);
}

// The slider's value as it is asked for: α runs on a logarithmic slider.
function sliderNumber(side) {
  const value = Number($(`value-${side}`).value);
  const logarithmic = learnedPolicy($(`sampler-${side}`).value) && $(`steer-${side}`).value === "alpha";
  return logarithmic ? Number((10 ** value).toPrecision(3)) : value;
}

const sliderText = (side) => String(sliderNumber(side));

// A sampler in one word, as in links: threshold:0.9, NAME, NAME@alpha=1, NAME@nfe=8.
function samplerSpec(side) {
  const name = $(`sampler-${side}`).value, policy = learnedPolicy(name);
  if (!policy) return `${name}:${sliderNumber(side)}`;
  return policy.alphas && policy.alphas.length ? `${name}@${$(`steer-${side}`).value}=${sliderNumber(side)}` : name;
}

function takeSpec(side, spec) {
  const whole = learnedPolicy(spec); // it may be served as DIR@alpha=1
  const [, learned, steer, number] = (!whole && spec.match(/^(.*)@(alpha|nfe)=([\d.e+-]+)$/)) || [];
  const [, heuristic, value] = spec.match(/^([a-z-]+):([\d.]+)$/) || [];
  const name = learned || heuristic || spec;
  const select = $(`sampler-${side}`);
  if (![...select.options].some((option) => option.value === name)) return;
  select.value = name;
  if (steer) $(`steer-${side}`).value = steer;
  fitSampler(side);
  const wanted = steer === "alpha" ? Math.log10(Number(number)) : Number(number || value);
  if (Number.isFinite(wanted)) $(`value-${side}`).value = wanted;
  $(`value-out-${side}`).textContent = sliderText(side);
}

function samplerFields(spec) {
  if (learnedPolicy(spec)) return { policy: spec }; // it may be served as DIR@alpha=1
  const [, name, steer, number] = spec.match(/^(.*)@(alpha|nfe)=([\d.e+-]+)$/) || [null, spec];
  const fields = { policy: name };
  if (steer === "alpha") fields.alpha = Number(number);
  if (steer === "nfe") fields.target_nfe = Number(number);
  return fields;
}

// ---- models and examples

async function start() {
  try {
    models = (await (await ask("/v1/models")).json()).data;
  } catch (error) {
    if (error.status === 401) { $("login").hidden = false; $("settings").hidden = true; $("key").focus(); }
    if (error.status !== 401) showError(error.message);
    else if (key !== null) showError("The server does not take this key; give another one.");
    return;
  }
  $("login").hidden = true; $("settings").hidden = false;
  $("model").replaceChildren(...models.map((model) => make("option", { value: model.id, textContent: model.id })));
  const given = new URLSearchParams(location.search);
  if (models.some((model) => model.id === given.get("model"))) $("model").value = given.get("model");
  await changeModel(given.get("prompt"));
  for (const [name, id] of [["length", "length"], ["block", "block"], ["temperature", "temperature"], ["seed", "seed"]]) {
    if (given.has(name)) $(id).value = given.get(name);
  }
  for (const side of SIDES) if (given.has(side)) takeSpec(side, given.get(side));
  if (given.get("run") === "1") runBoth();
}

async function changeModel(prompt = null) {
  const model = chosenModel();
  $("length").value = model.unmask.max_tokens;
  $("block").placeholder = model.unmask.block_length ?? "the sampler's own";
  fillSamplers();
  let examples = [];
  try {
    examples = (await (await ask(`/playground/examples?model=${encodeURIComponent(model.id)}`)).json()).examples;
  } catch { /* the page works without examples */ }
  if ($("model").value !== model.id) return;
  const short = (text) => (text.length > 90 ? `${text.slice(0, 88)} …` : text);
  $("example").replaceChildren(make("option", { value: "", textContent: "your own prompt" }),
    ...examples.map((text) => make("option", { value: text, textContent: short(text) })));
  $("prompt").value = prompt ?? examples[0] ?? "";
  $("example").value = examples.includes($("prompt").value) ? $("prompt").value : "";
}

// ---- running

function readSettings() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    model: $("model").value, prompt: $("prompt").value, length: number("length"), block: number("block"),
    temperature: number("temperature") ?? 0, seed: number("seed") ?? 0,
  };
}

// The block length that a sampler decodes with, as the server chooses it; null is the whole length.
function blockLength(settings, spec) {
  const { max_tokens, block_length } = chosenModel().unmask;
  const policy = learnedPolicy(samplerFields(spec).policy);
  const block = settings.block ?? block_length ?? policy?.block_length ?? null;
  return block === null || block >= (settings.length ?? max_tokens) ? null : block;
}

const blockText = (side) => (side.block === null ? "one block" : `block length ${side.block}`);

function pageLink(settings, specs) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) if (value !== null) given.set(name, value);
  SIDES.forEach((side, i) => given.set(side, specs[i]));
  given.set("run", "1");
  return `${location.pathname}?${given}`;
}

async function runBoth() {
  stopRun();
  const number = ++asked;
  showError(""); say("");
  const settings = readSettings(), specs = SIDES.map(samplerSpec);
  history.replaceState(null, "", pageLink(settings, specs));
  run = { settings, shown: 0, follow: true, sides: specs.map((spec) => ({ spec, block: blockLength(settings, spec), passes: [], canvas: [], text: "", done: false, judged: false, correct: null, error: null })) };
  buildPanels();
  $("result").hidden = false;
  $("run").disabled = true; $("stop").disabled = false;
  stopper = new AbortController();
  const own = run, signal = stopper.signal;
  play();
  await Promise.all(own.sides.map((side) => runSide(own, side, signal)));
  if (number !== asked) return;
  $("run").disabled = false; $("stop").disabled = true;
  const failed = [...new Set(own.sides.map((side) => side.error).filter(Boolean))];
  if (failed.length) showError(failed.join(" "));
  render();
}

async function runSide(own, side, signal) {
  const { settings } = own;
  const fields = { ...samplerFields(side.spec), canvas: true };
  if (settings.block !== null) fields.block_length = settings.block;
  const body = { model: settings.model, prompt: settings.prompt, temperature: settings.temperature, seed: settings.seed, stream: true, unmask: fields };
  if (settings.length !== null) body.max_tokens = settings.length;
  try {
    const response = await ask("/v1/completions", body, signal);
    for await (const event of readEvents(response.body)) takeEvent(own, side, event);
    side.done = side.nfe !== undefined;
    const asked = { model: settings.model, prompt: settings.prompt, text: side.text };
    side.correct = (await (await ask("/playground/verdict", asked, signal)).json()).correct;
    side.judged = true;
  } catch (error) {
    if (error.name !== "AbortError") side.error = `Sampler ${SIDES[own.sides.indexOf(side)].toUpperCase()}: ${error.message}.`;
  }
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function takeEvent(own, side, event) {
  if (event.error) throw new Error(event.error.message);
  for (const choice of event.choices) {
    side.text += choice.text;
    if (choice.unmask) { side.nfe = choice.unmask.nfe; side.rate = choice.unmask.tokens_per_pass; }
  }
  const step = event.unmask && event.unmask.canvas;
  if (step) {
    if (!side.canvas.length) side.canvas = step.canvas.map(() => null);
    side.passes.push(step.revealed.length);
    for (const token of step.revealed) side.canvas[token.position] = { ...token, pass: step.pass };
  }
  if (own === run) render();
}

function stopRun() {
  if (stopper) stopper.abort();
  stopper = null;
  asked += 1;
  clearTimeout(timer);
  $("run").disabled = false; $("stop").disabled = true;
}

const lastPass = () => Math.max(1, ...run.sides.map((side) => side.passes.length));

// Shows one pass after another, however fast they come.
function play() {
  clearTimeout(timer);
  const pause = still.matches ? 0 : Number($("delay").value);
  const have = Math.max(...run.sides.map((side) => side.passes.length));
  const over = run.sides.every((side) => side.done || side.error) && run.shown >= have;
  if (!run.follow || over) return;
  if (run.shown < have) run.shown = pause === 0 ? have : run.shown + 1;
  render();
  timer = setTimeout(play, Math.max(pause, 16));
}

function showPass(pass) {
  run.follow = false;
  clearTimeout(timer);
  run.shown = Math.min(Math.max(pass, 0), lastPass());
  render();
}

// ---- drawing

function buildPanels() {
  SIDES.forEach((name, i) => {
    const list = make("ol", { className: "canvas" });
    list.setAttribute("aria-label", `Canvas of sampler ${name.toUpperCase()}`);
    list.addEventListener("keydown", moveFocus);
    const about = make("p", { className: "about" });
    for (const kind of ["mouseover", "focusin"]) list.addEventListener(kind, (event) => {
      const chip = event.target.closest(".chip");
      if (chip) about.textContent = chip.getAttribute("aria-label");
    });
    document.querySelector(`.panel[data-side="${name}"]`).replaceChildren(
      make("h3", { textContent: `${name.toUpperCase()}: ${run.sides[i].spec}` }),
      list, make("ul", { className: "facts" }), about);
  });
}

function moveFocus(event) {
  const chips = [...event.currentTarget.querySelectorAll(".chip")];
  const at = chips.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: chips.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  const next = chips[Math.min(Math.max(to, 0), chips.length - 1)];
  chips[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵") || "⌁";

// A space before a word is a matter of course; elsewhere it is made visible.
const shownText = (token) => visible(token.text.replace(/^ (?=\S)/, ""));

// What is read out begins with what is shown.
function describeToken(token, position) {
  if (!token) return `masked, position ${position + 1}`;
  const what = token.text === "" ? "⌁ end of text" : shownText(token);
  return `${what}, pass ${token.pass}, confidence ${token.confidence.toFixed(3)}, position ${position + 1}`;
}

function renderCanvas(list, side, last) {
  while (list.children.length < side.canvas.length) {
    const chip = make("button", { type: "button", className: "chip", tabIndex: list.children.length ? -1 : 0 });
    list.append(make("li", {}, chip));
  }
  side.canvas.forEach((token, i) => {
    const chip = list.children[i].firstChild;
    const shown = token && token.pass <= run.shown ? token : null;
    const state = `${shown ? shown.pass : 0}/${last}/${run.shown}/${dark.matches}`;
    if (chip.dataset.state === state) return;
    chip.dataset.state = state;
    chip.textContent = shown ? shownText(shown) : "·";
    chip.dataset.pass = shown ? shown.pass : "\u00a0"; // the style sheet writes it under the token
    chip.classList.toggle("fresh", Boolean(shown) && shown.pass === run.shown);
    chip.style.background = shown ? cssColour(passColour(shown.pass, last)) : "";
    chip.style.color = shown ? textColour() : "";
    const described = describeToken(shown, i);
    chip.setAttribute("aria-label", described);
    chip.title = described;
  });
}

function renderFacts(list, side) {
  const shown = Math.min(run.shown, side.passes.length);
  const facts = [make("li", {}, "passes ", make("b", { textContent: shown < side.passes.length || !side.done ? `${shown} …` : side.nfe })),
    make("li", { textContent: blockText(side) })];
  if (side.done && shown >= side.passes.length) {
    facts.push(make("li", {}, "tokens per pass ", make("b", { textContent: side.rate.toFixed(2) })));
    if (side.correct !== null) facts.push(make("li", { className: side.correct ? "right" : "wrong", textContent: side.correct ? "✓ correct" : "✗ not correct" }));
  }
  const state = facts.map((fact) => fact.textContent).join("|");
  if (list.dataset.state === state) return;
  list.dataset.state = state;
  list.replaceChildren(...facts);
}

function renderLegend(last) {
  const state = `${last}/${dark.matches}`;
  if ($("legend").dataset.state === state) return;
  $("legend").dataset.state = state;
  const every = Math.ceil(last / 24);
  const passes = Array.from({ length: last }, (_, i) => i + 1).filter((pass) => (pass - 1) % every === 0);
  $("legend").replaceChildren("pass", ...passes.map((pass) => {
    const mark = make("span", { textContent: pass });
    mark.style.background = cssColour(passColour(pass, last));
    mark.style.color = textColour();
    return mark;
  }));
}

function render() {
  if (!run) return;
  const last = lastPass();
  Object.assign($("pass"), { max: last, value: run.shown });
  $("pass-out").textContent = `${run.shown} of ${last}`;
  $("back").disabled = run.shown <= 0;
  $("forth").disabled = run.shown >= last;
  SIDES.forEach((name, i) => {
    const panel = document.querySelector(`.panel[data-side="${name}"]`);
    renderCanvas(panel.querySelector(".canvas"), run.sides[i], last);
    renderFacts(panel.querySelector(".facts"), run.sides[i]);
  });
  renderLegend(last);
  if (run.sides.every((side) => side.judged) && run.shown >= last && !run.told) {
    run.told = true;
    const verdict = (side) => (side.correct === null ? "" : side.correct ? ", correct" : ", not correct");
    say(run.sides.map((side, i) => `Sampler ${SIDES[i].toUpperCase()}: ${side.nfe} passes${verdict(side)}.`).join(" "));
  }
}

// ---- saving

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function saveJson() {
  const sides = run.sides.map(({ spec, block, text, nfe, rate, correct, canvas, error }) => ({
    sampler: spec, block_length: block, text, passes: nfe, tokens_per_pass: rate, correct, error, tokens: canvas,
  }));
  save("unmask.json", new Blob([JSON.stringify({ ...run.settings, sides }, null, 1)], { type: "application/json" }));
}

// The picture is the result as it is shown, drawn again: prompt, and both canvases in a column each.
function savePng() {
  const scale = 2, width = 1200, gap = 24, column = (width - 3 * gap) / 2, line = 44;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const canvas = make("canvas"), context = canvas.getContext("2d");
  const chipFont = "15px ui-monospace, monospace", last = lastPass();
  const laid = run.sides.map((side) => {
    context.font = chipFont;
    let x = 0, y = 0;
    return side.canvas.map((token) => {
      const shown = token && token.pass <= run.shown ? token : null;
      const text = shown ? shownText(shown) : "·";
      const wide = Math.max(28, context.measureText(text).width + 14);
      if (x + wide > column) { x = 0; y += line; }
      const place = { x, y, wide, text, shown };
      x += wide + 4;
      return place;
    });
  });
  const top = 120, height = top + Math.max(...laid.map((chips) => (chips.at(-1)?.y ?? 0))) + line + gap;
  Object.assign(canvas, { width: width * scale, height: height * scale });
  context.scale(scale, scale);
  context.fillStyle = colour("--page"); context.fillRect(0, 0, width, height);
  const write = (text, x, y, font, fill, most) => { context.font = font; context.fillStyle = fill; context.fillText(text, x, y, most); };
  write(run.settings.prompt.replace(/\s+/g, " ").slice(0, 160), gap, 40, "18px ui-monospace, monospace", colour("--text"), width - 2 * gap);
  run.sides.forEach((side, i) => {
    const left = gap + i * (column + gap);
    write(side.spec, left, 80, "bold 17px system-ui, sans-serif", colour("--text"), column);
    const rate = side.done ? `, ${side.rate.toFixed(2)} tokens per pass` : "";
    const verdict = side.correct === null ? "" : side.correct ? ", correct" : ", not correct";
    write(`${Math.min(run.shown, side.passes.length)} passes, ${blockText(side)}${rate}${verdict}`, left, 102, "15px system-ui, sans-serif", colour("--quiet"), column);
    for (const { x, y, wide, text, shown } of laid[i]) {
      context.fillStyle = shown ? cssColour(passColour(shown.pass, last)) : colour("--mask");
      context.beginPath(); context.roundRect(left + x, top + y, wide, line - 6, 6); context.fill();
      const fill = shown ? textColour() : colour("--mask-text");
      context.textAlign = "center";
      write(text, left + x + wide / 2, top + y + 18, chipFont, fill);
      if (shown) write(String(shown.pass), left + x + wide / 2, top + y + 33, "11px ui-monospace, monospace", fill);
      context.textAlign = "left";
    }
  });
  canvas.toBlob((blob) => save("unmask.png", blob), "image/png");
}

async function copyLink() {
  const link = new URL(pageLink(run.settings, run.sides.map((side) => side.spec)), location.href).href;
  try { await navigator.clipboard.writeText(link); say("The link is copied."); } catch { say(link); }
}

// ---- wiring

SIDES.forEach(buildSampler);
$("settings").addEventListener("submit", (event) => { event.preventDefault(); runBoth(); });
$("login").addEventListener("submit", (event) => { event.preventDefault(); key = $("key").value; showError(""); start(); });
$("model").addEventListener("change", () => changeModel());
$("example").addEventListener("change", () => { if ($("example").value) $("prompt").value = $("example").value; });
$("prompt").addEventListener("input", () => { $("example").value = ""; });
$("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) runBoth(); });
$("stop").addEventListener("click", () => { stopRun(); });
$("pass").addEventListener("input", () => showPass(Number($("pass").value)));
$("back").addEventListener("click", () => showPass(run.shown - 1));
$("forth").addEventListener("click", () => showPass(run.shown + 1));
$("replay").addEventListener("click", () => { run.shown = 0; run.follow = true; play(); });
$("delay").addEventListener("input", () => { $("delay-out").textContent = `${$("delay").value} ms`; });
$("delay-out").textContent = `${$("delay").value} ms`;
$("png").addEventListener("click", savePng);
$("json").addEventListener("click", saveJson);
$("link").addEventListener("click", copyLink);
dark.addEventListener("change", render);
start();
