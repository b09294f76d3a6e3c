// The explorer of a window. Positions are in pixels of the clip, until `place` turns them into pixels of the canvas.
"use strict";

const BLUE = "#0072b2", ORANGE = "#d55e00", GREY = "#8a939d", DARK = "#14181d";
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const TRAIL = 12, CROPS = 6, MAX_FPS = 15;
const DOUBTFUL = "doubtful"; // beside the reasons: a twin that the page marks

const $ = (id) => document.getElementById(id);
const make = (tag, text = "", into = null) => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (into) into.append(element);
  return element;
};

async function unpacked() {
  const bytes = Uint8Array.from(atob($("data").textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

function start(data, images) {
  const count = data.twin.length, length = data.frames.length;
  const path = data.x.map((steps, n) => {
    const y = summed(data.y[n]);
    return summed(steps).map((x, t) => [x / data.step, y[t] / data.step]);
  });
  const column = new Map(data.estimated.map((patch, at) => [patch, at])); // of the matrix
  const kind = data.reason.map((reason, n) => (data.doubt[n] ? DOUBTFUL : reason));
  const strongest = Math.max(0, ...data.strength.map((value) => value ?? 0));
  const state = { time: 0, pinned: best(), hovered: null, peeked: null, hidden: new Set(), least: 0, lines: true };
  const view = $("view"), row = $("row");
  let timer = null, bars = [];

  function summed(steps) {
    let at = 0;
    return steps.map((step) => (at += step));
  }

  function best() {
    const ranked = data.twin.map((_, n) => n).filter((n) => data.twin[n] >= 0);
    ranked.sort((a, b) => !!data.doubt[a] - !!data.doubt[b] || (data.strength[b] ?? 0) - (data.strength[a] ?? 0));
    return ranked[0] ?? null;
  }

  const chosen = () => state.hovered ?? state.pinned;
  const seen = (n, t) => data.state[n][t] !== "0";
  const strong = (n) => state.least === 0 || (data.strength[n] ?? 0) >= state.least;
  const isShown = (n) => !state.hidden.has(kind[n]) && (data.twin[n] < 0 || strong(n));
  const twinOf = (n) => (n === null || data.twin[n] < 0 ? null : data.twin[n]);

  // ---- the matrix: its upper triangle, row by row; null where it would be too large ----
  function pair(values, a, b) {
    const [i, j] = [column.get(a), column.get(b)].sort((one, other) => one - other);
    if (!values || i === undefined || j === undefined || i === j) return null;
    const m = data.estimated.length;
    return values[i * m - (i * (i + 1)) / 2 + (j - i - 1)];
  }
  const mi = (a, b) => scaled(pair(data.matrix?.mi, a, b), (value) => value / data.miStep);
  const p = (a, b) => scaled(pair(data.matrix?.p, a, b), (value) => 10 ** (-value / data.decade));
  const scaled = (value, by) => (value === null || value === undefined ? null : by(value));
  const significant = (a, b) => !!data.matrix?.significant[column.get(a)]?.includes(column.get(b));
  const inWords = (value) => (value < 0.001 ? value.toExponential(0).replace("e-", "·10⁻").replace(/\d+$/, raised)
    : Number(value.toPrecision(2)).toString());
  const raised = (digits) => [...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  const about = (a, b) => `MI ${mi(a, b)?.toFixed(2) ?? "not estimated"}` +
    (p(a, b) === null ? "" : `, p ${inWords(p(a, b))}`);

  // ---- the picture ----
  function fitted(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    return pen;
  }

  function scale() {
    return view.clientWidth / data.size[0];
  }
  const place = (n, t) => path[n][t].map((value) => (value + 0.5) * scale());

  function drawView() {
    const upright = data.size[1] / data.size[0], t = state.time; // tall clips stay within the window
    const width = Math.min($("picture").clientWidth, (0.8 * innerHeight) / upright), height = width * upright;
    [view.style.width, view.style.height] = [`${width}px`, `${height}px`];
    const pen = fitted(view, width, height), focus = chosen(), twin = twinOf(focus);
    pen.drawImage(images[t], 0, 0, width, height);
    pen.fillStyle = focus === null ? "#ffffff30" : "#ffffff48";
    pen.fillRect(0, 0, width, height);
    pen.lineCap = pen.lineJoin = "round";
    const shown = data.twin.map((_, n) => n).filter((n) => isShown(n) && seen(n, t));
    if (state.lines && focus === null) for (const n of shown) lineToTwin(pen, n, t);
    for (const n of shown) if (column.has(n) && focus === null) trail(pen, n, Math.max(0, t - TRAIL), t, 1.5, colour(n));
    if (focus !== null) drawFocus(pen, focus, twin, t, shown);
    // Beside a chosen patch, those that were not compared with it are pale.
    const top = focus === null ? 1 : topOf(focus);
    const rank = (n) => (n === focus ? 3 : n === twin ? 2 : focus === null || column.has(n) ? 1 : 0);
    for (const n of shown.sort((a, b) => rank(a) - rank(b))) {
      pen.globalAlpha = rank(n) ? 1 : 0.4;
      dot(pen, n, t, focus, twin, top);
    }
    pen.globalAlpha = 1;
    for (const n of [state.peeked, focus]) if (n !== null && seen(n, t)) ring(pen, place(n, t), 10);
    drawTip(t);
    $("time").value = t;
    $("clock").value = `frame ${t + 1}/${length}`;
    $("picture").setAttribute("aria-label", `${shown.length} patches on frame ${t + 1} of ${length}` +
      (focus === null ? "" : `; patch ${focus} chosen`));
  }

  function lineToTwin(pen, n, t) {
    const other = data.twin[n];
    if (other < 0 || other === n || !seen(other, t)) return;
    stroke(pen, [place(n, t), place(other, t)], 1.2, data.doubt[n] ? ORANGE : DARK, data.doubt[n] ? [4, 3] : []);
  }

  function drawFocus(pen, focus, twin, t, shown) {
    for (const n of shown) {
      if (n !== focus && n !== twin && significant(focus, n)) stroke(pen, [place(focus, t), place(n, t)], 1.2, BLUE);
    }
    if (twin !== null) trail(pen, twin, 0, length - 1, 2, ORANGE);
    trail(pen, focus, 0, length - 1, 2, BLUE);
    if (twin !== null && twin !== focus && seen(twin, t)) {
      stroke(pen, [place(focus, t), place(twin, t)], 2.6, ORANGE, data.doubt[focus] ? [6, 4] : []);
    }
    for (const [n, shade] of [[twin, ORANGE], [focus, BLUE]]) {
      if (n === null || !seen(n, t)) continue;
      const side = data.patchSize * scale(), [x, y] = place(n, t);
      pen.lineWidth = 1.5;
      pen.strokeStyle = shade;
      pen.strokeRect(x - side / 2, y - side / 2, side, side);
    }
  }

  function stroke(pen, points, width, shade, dashes = []) {
    for (const [thick, line] of [[width + 1.6, "#ffffffb0"], [width, shade]]) {
      pen.beginPath();
      points.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.setLineDash(line === shade ? dashes : []);
      pen.lineWidth = thick;
      pen.strokeStyle = line;
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  // A track from frame a to frame b, dashed where the patch is hidden.
  function trail(pen, n, a, b, width, shade) {
    for (let t = a; t < b; ) {
      const hides = (at) => data.state[n][at] !== "1" || data.state[n][at + 1] !== "1";
      let end = t;
      while (end < b && seen(n, end) && seen(n, end + 1) && hides(end) === hides(t)) end++;
      if (end > t) stroke(pen, Array.from({ length: end - t + 1 }, (_, k) => place(n, t + k)), width, shade,
        hides(t) ? [2, 4] : []);
      t = Math.max(end, t + 1);
    }
  }

  function colour(n) {
    return { twin: BLUE, [DOUBTFUL]: ORANGE }[kind[n]] ?? (column.has(n) ? BLUE : GREY);
  }

  function viridis(share) {
    const at = Math.min(Math.max(share, 0), 0.999) * (VIRIDIS.length - 1), low = Math.floor(at);
    return `rgb(${VIRIDIS[low].map((value, k) => value + (VIRIDIS[low + 1][k] - value) * (at - low)).join()})`;
  }

  function dot(pen, n, t, focus, twin, top) {
    const [x, y] = place(n, t), size = Math.min(5, Math.max(2.5, scale() * data.patchSize * 0.1));
    let fill = null;
    if (focus !== null && n !== focus && column.has(n) && mi(focus, n) !== null) fill = viridis(mi(focus, n) / top);
    if (n === focus) fill = BLUE;
    if (n === twin) fill = ORANGE;
    mark(pen, kind[n], x, y, size, fill, data.state[n][t] === "2");
  }

  // The mark of a kind of patch: as a dot, and in the legend.
  function mark(pen, name, x, y, size, fill = null, hides = false) {
    pen.beginPath();
    if (["lost", "textureless"].includes(name)) {
      const s = size * 0.75, cross = name === "lost" ? [[-s, -s, s, s], [-s, s, s, -s]] : [[-s, 0, s, 0], [0, -s, 0, s]];
      for (const [a, b, c, d] of cross) [pen.moveTo(x + a, y + b), pen.lineTo(x + c, y + d)];
      for (const [width, shade] of [[3.5, "#ffffffc0"], [1.6, "#4c5661"]]) {
        [pen.lineWidth, pen.strokeStyle] = [width, shade];
        pen.stroke();
      }
      return;
    }
    const small = name === "static", edge = { twin: BLUE, [DOUBTFUL]: ORANGE }[name] ?? (small ? "#4c5661" : BLUE);
    pen.arc(x, y, small ? size * 0.5 : size, 0, 7);
    pen.lineWidth = 3.2;
    pen.strokeStyle = "#ffffffc0";
    pen.stroke();
    pen.fillStyle = fill ?? (name === "twin" || small ? edge : "#ffffff");
    if (hides) pen.fillStyle = "#ffffff90";
    pen.fill();
    [pen.lineWidth, pen.strokeStyle] = [1.6, edge];
    pen.stroke();
  }

  function ring(pen, [x, y], size) {
    for (const [width, shade] of [[4, "#ffffff"], [2, DARK]]) {
      pen.beginPath();
      pen.arc(x, y, size, 0, 7);
      [pen.lineWidth, pen.strokeStyle] = [width, shade];
      pen.stroke();
    }
  }

  function drawTip(t) {
    const n = state.peeked ?? state.hovered, tip = $("tip");
    tip.hidden = n === null || !seen(n, t);
    if (tip.hidden) return;
    const against = state.peeked === null ? null : chosen();
    tip.textContent = `patch ${n}` + (against === null || against === n ? "" : `: ${about(against, n)}`);
    const [x, y] = place(n, t), room = view.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${view.offsetLeft + Math.max(4, Math.min(x + 14, room))}px`;
    tip.style.top = `${Math.max(4, y - 34)}px`;
  }

  // ---- the chosen patch ----
  function drawPatch() {
    const n = chosen(), twin = twinOf(n);
    $("twin").disabled = twin === null;
    if (document.activeElement !== $("number")) $("number").value = n ?? "";
    drawAbout(n, twin);
    drawCrops(n, twin);
    drawRow();
    drawPartners(n);
  }

  function drawAbout(n, twin) {
    $("about").textContent = n === null ? "No patch is chosen: point at one. Lines join patches to their twins, dashed and orange where doubtful." : "";
    if (n === null) return;
    const word = data.words[data.reason[n]] ?? data.reason[n];
    const strength = scaled(data.strength[n], (value) => `, ${value.toFixed(2)} nats strong`) ?? "";
    const whose = twin === n ? "its own track at another time" : `patch ${twin}`;
    make("b", twin === null ? `No twin: ${word}. ` : `Twin: ${whose}${strength}. `, $("about"));
    if (data.doubt[n]) make("span", `Doubtful: ${data.doubt[n]}. `, $("about")).className = "mark";
    const frames = [...data.state[n]].filter((each) => each === "1").length;
    const facts = [`Visible in ${frames} of ${length} frames`];
    if (data.spread[n] !== null) facts.push(`its residual motion has a spread of ${data.spread[n]} px`);
    if (data.texture[n] !== null) facts.push(`texture ${data.texture[n]}`);
    make("span", `${facts.join("; ")}.`, $("about"));
  }

  function drawCrops(n, twin) {
    $("crops").replaceChildren();
    if (n === null) return;
    const there = Array.from({ length }, (_, t) => t).filter((t) => data.state[n][t] === "1");
    const many = Math.min(CROPS, there.length);
    const times = Array.from({ length: many }, (_, k) => there[Math.round((k * (there.length - 1)) / Math.max(many - 1, 1))]);
    // The current frame takes the place of the nearest one, so that the crops follow the player.
    const now = times.reduce((a, b) => (Math.abs(b - state.time) < Math.abs(a - state.time) ? b : a), Infinity);
    if (there.includes(state.time)) times[times.indexOf(now)] = state.time;
    for (const patch of twin === null || twin === n ? [n] : [n, twin]) {
      make("b", String(patch), $("crops"));
      for (const t of times) drawCrop(patch, t);
      $("crops").append(...Array.from({ length: CROPS - many }, () => make("i")));
    }
    make("span", "frame", $("crops"));
    for (const t of times) make("span", String(t + 1), $("crops"));
  }

  function drawCrop(n, t) {
    const canvas = make("canvas", "", $("crops")), pen = fitted(canvas, 60, 60), to = data.shown[0] / data.size[0];
    const side = data.patchSize * to, [x, y] = path[n][t].map((value) => (value + 0.5) * to - side / 2);
    if (seen(n, t)) pen.drawImage(images[t], x, y, side, side, 0, 0, 60, 60);
    canvas.className = (t === state.time ? "now" : "") + (data.state[n][t] === "1" ? "" : " unseen");
    canvas.title = `patch ${n}, frame ${t + 1}`;
    canvas.addEventListener("click", () => show(t));
  }

  const topOf = (n) => Math.max(0.3, ...data.estimated.map((other) => mi(n, other) ?? 0));

  function drawRow() {
    const n = chosen(), width = row.clientWidth, height = row.clientHeight, pen = fitted(row, width, height);
    bars = [];
    if (n !== null && !data.matrix) {
      $("bar").textContent = "The matrix is too large for this page; the best partners are below.";
      return;
    }
    if (n === null || !column.has(n)) {
      $("bar").textContent = n === null ? "" : `Patch ${n} was not compared: ${data.words[data.reason[n]] ?? data.reason[n]}.`;
      return;
    }
    const m = data.estimated.length, top = topOf(n), wide = width / m, twin = twinOf(n);
    bars = data.estimated;
    // Bars of significant partners and of the twin last: they stay visible where bars are thinner than a pixel.
    const order = bars.map((other, at) => [other, at, other === twin ? 2 : significant(n, other) ? 1 : 0]);
    for (const [other, at, rank] of order.sort((a, b) => a[2] - b[2])) {
      const value = mi(n, other);
      if (value === null) continue;
      const tall = Math.max(1, (Math.max(0, value) / top) * (height - 8));
      pen.fillStyle = [GREY, BLUE, ORANGE][rank];
      pen.fillRect(at * wide, height - tall, Math.max(rank ? 2 : 1, wide * 0.8), tall);
    }
    if (state.peeked !== null && column.has(state.peeked)) {
      pen.fillStyle = getComputedStyle(document.body).color;
      pen.fillRect(column.get(state.peeked) * wide - 1, 0, 1.5, height);
    }
    const peeked = state.peeked;
    $("bar").textContent = peeked !== null && peeked !== n ? `Patch ${n} with ${peeked}: ${about(n, peeked)}` +
      `${significant(n, peeked) ? ", significant" : ""}.`
      : `${m - 1} patches by number, up to ${top.toFixed(2)} nats; orange the twin, blue significant, grey the others.`;
  }

  function drawPartners(n) {
    const table = $("partners"), head = ["patch", "MI", "strength", "p", "distance", data.tested ? "sig." : ""];
    table.replaceChildren();
    if (n === null || !data.partners[n].length) return;
    const line = make("tr", "", make("thead", "", table)), body = make("tbody", "", table);
    head.forEach((text, at) => (make("th", text, line).className = at && at < 5 ? "number" : ""));
    for (const [other, value, strength, chance, distance, passed] of data.partners[n]) {
      const cells = make("tr", "", body);
      make("button", String(other), make("td", "", cells)).type = "button";
      for (const text of [value?.toFixed(2), strength?.toFixed(2), scaled(chance, inWords), `${distance} px`]) {
        make("td", text ?? "–", cells).className = "number";
      }
      make("td", data.tested && passed ? "✓" : "", cells);
      if (other === data.twin[n]) cells.className = "chosen";
      cells.addEventListener("pointerenter", () => peek(other));
      cells.addEventListener("pointerleave", () => peek(null));
      cells.addEventListener("click", () => pin(other));
    }
  }

  // ---- what the user does ----
  function draw() {
    drawView();
    drawPatch();
  }

  function show(t) {
    state.time = Math.min(Math.max(Math.round(t), 0), length - 1);
    drawView();
    drawCrops(chosen(), twinOf(chosen()));
  }

  function peek(n) {
    if (n === state.peeked) return;
    state.peeked = n;
    drawView();
    drawRow();
  }

  function pin(n) {
    [state.pinned, state.hovered, state.peeked] = [n, null, null];
    draw();
  }

  function hover(n) {
    if (n === state.hovered) return;
    state.hovered = n;
    draw();
  }

  function nearest(event, reach) {
    const box = view.getBoundingClientRect(), at = [event.clientX - box.left, event.clientY - box.top];
    let found = null, least = reach;
    data.twin.forEach((_, n) => {
      if (!isShown(n) || !seen(n, state.time)) return;
      const [x, y] = place(n, state.time), far = Math.hypot(x - at[0], y - at[1]);
      if (far < least) [found, least] = [n, far];
    });
    return found;
  }

  function next(step) {
    const shown = data.twin.map((_, n) => n).filter(isShown), at = state.pinned ?? (step > 0 ? -1 : count);
    const ahead = step > 0 ? shown.find((n) => n > at) : shown.findLast((n) => n < at);
    pin(ahead ?? (step > 0 ? shown[0] : shown.at(-1)) ?? null);
  }

  function play(on) {
    clearInterval(timer);
    timer = null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "pause" : "play");
    if (on) timer = setInterval(() => show((state.time + 1) % length), 1000 / Math.min(data.fps || MAX_FPS, MAX_FPS));
  }

  const KEYS = {
    ArrowLeft: () => show(state.time - 1),
    ArrowRight: () => show(state.time + 1),
    ArrowUp: () => next(-1),
    ArrowDown: () => next(1),
    t: () => twinOf(state.pinned) !== null && pin(twinOf(state.pinned)),
    Escape: () => pin(null),
    " ": () => play(timer === null),
  };

  document.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, at = document.activeElement;
    // Up and down turn pages, and a space presses buttons, unless the picture has the focus.
    const onPicture = at === $("picture"), free = at === document.body && !["ArrowUp", "ArrowDown", " "].includes(key);
    if (!KEYS[key] || event.ctrlKey || event.metaKey || event.altKey || !(onPicture || free)) return;
    event.preventDefault();
    KEYS[key]();
  });
  view.addEventListener("pointermove", (event) => event.pointerType === "mouse" && hover(nearest(event, 16)));
  view.addEventListener("pointerleave", () => hover(null));
  view.addEventListener("click", (event) => pin(nearest(event, event.pointerType === "mouse" ? 16 : 26)));
  row.addEventListener("pointermove", (event) => bars.length && peek(barAt(event)));
  row.addEventListener("pointerleave", () => peek(null));
  row.addEventListener("click", (event) => bars.length && pin(barAt(event)));
  const barAt = (event) => {
    const share = (event.clientX - row.getBoundingClientRect().left) / row.clientWidth;
    return bars[Math.min(Math.max(Math.floor(share * bars.length), 0), bars.length - 1)];
  };
  $("time").addEventListener("input", () => show(Number($("time").value)));
  $("play").addEventListener("click", () => play(timer === null));
  $("twin").addEventListener("click", () => pin(twinOf(chosen())));
  $("number").addEventListener("change", () => {
    const n = $("number").valueAsNumber;
    pin(Number.isInteger(n) && n >= 0 && n < count ? n : null);
  });
  $("lines").addEventListener("change", () => [(state.lines = $("lines").checked), drawView()]);
  $("least").addEventListener("input", () => {
    state.least = ($("least").value / 100) * strongest;
    filtered();
  });

  function filtered() {
    const twins = data.twin.map((_, n) => n).filter((n) => data.twin[n] >= 0);
    const kept = twins.filter(strong).length;
    $("level").value = `${state.least.toFixed(2)} nats: ${kept} of ${twins.length}`;
    drawView();
  }

  function legend() {
    const names = [...Object.keys(data.words)];
    names.splice(1, 0, DOUBTFUL);
    for (const name of names) {
      const many = kind.filter((each) => each === name).length;
      if (!many) continue;
      const words = name === DOUBTFUL ? "has a doubtful twin" : data.words[name];
      const label = make("label", "", $("reasons")), box = make("input", "", label);
      [box.type, box.checked, box.value] = ["checkbox", true, name];
      mark(fitted(Object.assign(make("canvas", "", label), { style: "width:18px;height:18px" }), 18, 18), name, 9, 9, 5);
      make("span", `${words} (${many})`, label);
      box.addEventListener("change", () => {
        state.hidden[box.checked ? "delete" : "add"](name);
        drawView();
      });
    }
    if (strongest === 0) [$("least").disabled, $("lines").disabled] = [true, true];
    const swatch = make("span", "", $("legend")), pen = fitted(make("canvas", "", swatch), 90, 12);
    Object.assign(swatch.firstChild.style, { width: "90px", height: "12px" });
    for (let x = 0; x < 90; x++) [pen.fillStyle = viridis(x / 90), pen.fillRect(x, 0, 1.5, 12)];
    make("span", "other patches by their MI with the chosen one, from 0 up", swatch);
  }

  $("time").max = length - 1;
  $("number").max = count - 1;
  legend();
  filtered();
  draw();
  new ResizeObserver(() => draw()).observe($("picture"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

async function begin() {
  const data = await unpacked();
  const images = await Promise.all(data.frames.map(async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    return image;
  }));
  start(data, images);
  document.documentElement.dataset.ready = "true";
}

begin().catch((error) => {
  $("sentence").textContent = `This page cannot be shown: ${error.message}. A browser of 2023 or later is needed.`;
});
