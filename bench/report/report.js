"use strict";
// The report's behaviour: theme, sorting, read-outs of charts, before/after viewer.
// Values are set through the CSSOM, which the page's policy allows; it allows no style attributes.

const byId = (name) => document.getElementById(name);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function theme() {
  const root = document.documentElement, button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => {
    button.textContent = dark() ? "light" : "dark";
    button.setAttribute("aria-label", `switch to ${button.textContent} colours`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  system.addEventListener("change", name);
  button.hidden = false;
  name();
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return null; // a failed row's reason stands for its figures
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim();
    return heads[column].classList.contains("n") || text === "" ? null : text;
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      // Figures begin with the largest, names with the first; what has no value is always last.
      const numeric = head.classList.contains("n");
      const now = head.getAttribute("aria-sort");
      const up = now === "none" ? !numeric : now === "descending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = numeric ? a - b : a.localeCompare(b);
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

function readOuts(plot) {
  const line = plot.querySelector(".readout"), idle = line.textContent;
  for (const point of plot.querySelectorAll(".point")) {
    const tell = () => { line.textContent = point.getAttribute("aria-label"); };
    const stop = () => { line.textContent = idle; };
    point.addEventListener("focus", tell);
    point.addEventListener("pointerenter", tell);
    point.addEventListener("blur", stop);
    point.addEventListener("pointerleave", stop);
  }
}

function viewer(root, slices) {
  const stage = byId("v-stage"), readout = byId("v-readout");
  const view = { split: 50, zoom: 1, x: 0, y: 0, window: 100, level: 50, slice: 0 };
  const MOST = 16, GRIP = 28;
  const pixels = new Map();

  const image = (layer) => slices[view.slice].querySelector(`img[data-layer="${layer}"]`);
  const isError = (layer) => layer.endsWith("_error");

  function greys(picture) {
    if (!pixels.has(picture)) {
      const canvas = document.createElement("canvas");
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(picture, 0, 0);
      pixels.set(picture, context.getImageData(0, 0, canvas.width, canvas.height).data);
    }
    return pixels.get(picture);
  }

  function paint(canvas, layer) {
    const picture = image(layer), from = greys(picture);
    canvas.width = picture.naturalWidth;
    canvas.height = picture.naturalHeight;
    const low = view.level - view.window / 2;
    const look = Uint8ClampedArray.from({ length: 256 }, (_, grey) =>
      isError(layer) ? grey : (((grey / 255) * 100 - low) / view.window) * 255);
    const context = canvas.getContext("2d"), into = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < from.length; i += 4) {
      into.data[i] = into.data[i + 1] = into.data[i + 2] = look[from[i]];
      into.data[i + 3] = 255;
    }
    context.putImageData(into, 0, 0);
    return picture;
  }

  function pictures() {
    const left = byId("v-left").value, right = byId("v-right").value;
    const picture = paint(byId("v-canvas-left"), left);
    paint(byId("v-canvas-right"), right);
    stage.style.aspectRatio = `${picture.naturalWidth} / ${picture.naturalHeight}`;
    byId("v-name-left").textContent = byId("v-left").selectedOptions[0].text;
    byId("v-name-right").textContent = byId("v-right").selectedOptions[0].text;
    byId("v-errors").setAttribute("aria-pressed", String(isError(left) && isError(right)));
    byId("v-window").value = view.window;
    byId("v-level").value = view.level;
    const error = slices[view.slice].dataset.error;
    const scale = isError(left) || isError(right)
      ? `; differences: black 0, white ${error} % of the series' maximum` : "";
    readout.textContent = `${picture.naturalWidth} × ${picture.naturalHeight}; window ` +
      `${view.window} %, level ${view.level} % of white${scale}`;
  }

  function place() {
    const { width, height } = stage.getBoundingClientRect();
    view.x = clamp(view.x, width * (1 - view.zoom), 0);
    view.y = clamp(view.y, height * (1 - view.zoom), 0);
    for (const sheet of stage.querySelectorAll(".sheet")) {
      sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    }
    byId("v-over").style.clipPath = `inset(0 ${100 - view.split}% 0 0)`;
    byId("v-divider").style.left = `${view.split}%`;
    byId("v-split").value = view.split;
    byId("v-zoom").textContent = `${Math.round(view.zoom * 100)} %`;
    // At full size a finger that goes up or down scrolls the page; zoomed, it moves the image.
    stage.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
  }

  function zoomTo(zoom, clientX, clientY) {
    const box = stage.getBoundingClientRect();
    const x = (clientX ?? box.left + box.width / 2) - box.left;
    const y = (clientY ?? box.top + box.height / 2) - box.top;
    const next = clamp(zoom, 1, MOST), times = next / view.zoom;
    view.x = x - (x - view.x) * times;
    view.y = y - (y - view.y) * times;
    view.zoom = next;
    place();
  }

  function windowTo(window, level) {
    view.window = clamp(Math.round(window), 2, 200);
    view.level = clamp(Math.round(level), 0, 150);
    pictures();
  }

  function splitTo(percent) {
    view.split = clamp(percent, 0, 100);
    place();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: 0, y: 0, split: 50 });
    place();
    windowTo(100, 50);
  }

  const choose = (left, right) => {
    byId("v-left").value = left;
    byId("v-right").value = right;
    pictures();
  };
  byId("v-slice").addEventListener("change", (event) => {
    view.slice = Number(event.target.value);
    pictures();
    place();
  });
  byId("v-left").addEventListener("change", pictures);
  byId("v-right").addEventListener("change", pictures);
  byId("v-errors").addEventListener("click", (event) => {
    const on = event.currentTarget.getAttribute("aria-pressed") === "true";
    if (on) choose("zero_fill", "sr");
    else choose("zero_fill_error", "sr_error");
  });
  byId("v-split").addEventListener("input", (event) => splitTo(Number(event.target.value)));
  byId("v-window").addEventListener("input", (e) => windowTo(Number(e.target.value), view.level));
  byId("v-level").addEventListener("input", (e) => windowTo(view.window, Number(e.target.value)));
  byId("v-in").addEventListener("click", () => zoomTo(view.zoom * 1.5));
  byId("v-out").addEventListener("click", () => zoomTo(view.zoom / 1.5));
  byId("v-reset").addEventListener("click", reset);

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 40;
    const does = {
      "+": () => zoomTo(view.zoom * 1.5), "=": () => zoomTo(view.zoom * 1.5),
      "-": () => zoomTo(view.zoom / 1.5), "0": reset,
      ArrowLeft: () => { view.x += step; place(); }, ArrowRight: () => { view.x -= step; place(); },
      ArrowUp: () => { view.y += step; place(); }, ArrowDown: () => { view.y -= step; place(); },
    }[event.key];
    // At full size there is nothing to move: arrows scroll the page as everywhere else.
    if (!does || (event.key.startsWith("Arrow") && view.zoom === 1)) return;
    event.preventDefault();
    does();
  });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== stage) return;
    event.preventDefault();
    zoomTo(view.zoom * Math.exp(-clamp(event.deltaY, -200, 200) / 300), event.clientX, event.clientY);
  }, { passive: false });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());

  const down = new Map();
  let drag = "";
  const spread = () => {
    const [a, b] = [...down.values()];
    return {
      apart: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2,
    };
  };
  const share = (event) => {
    const box = stage.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * 100;
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const box = stage.getBoundingClientRect();
    const near = Math.abs(event.clientX - box.left - (box.width * view.split) / 100) < GRIP;
    if (down.size === 2) drag = "pinch";
    else if (event.button === 2) drag = "window";
    else if (event.button !== 0) drag = "";
    else drag = view.zoom === 1 || near ? "split" : "move";
    if (drag === "split") splitTo(share(event));
    if (event.pointerType === "mouse") event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (!last) return;
    const before = drag === "pinch" && down.size === 2 ? spread() : null;
    const across = event.clientX - last.x, below = event.clientY - last.y;
    down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const after = spread();
      view.x += after.x - before.x;
      view.y += after.y - before.y;
      zoomTo((view.zoom * after.apart) / (before.apart || 1), after.x, after.y);
    } else if (drag === "split") {
      splitTo(share(event));
    } else if (drag === "move") {
      view.x += across;
      view.y += below;
      place();
    } else if (drag === "window") {
      windowTo(view.window + across / 2, view.level - below / 2);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      // A finger left over from a pinch goes on moving the image, not the divider.
      drag = down.size === 1 ? "move" : "";
    });
  }
  new ResizeObserver(place).observe(stage);

  const all = slices.flatMap((slice) => [...slice.querySelectorAll("img")]);
  Promise.all(all.map((picture) => picture.decode())).then(() => {
    root.hidden = false;
    slices[0].parentElement.hidden = true;
    pictures();
    place();
    root.dataset.ready = "yes";
  }, () => {
    // The plain rows of pictures stay; a broken one shows its name.
    root.remove();
  });
}

theme();
document.querySelectorAll("table.rows").forEach(sortable);
document.querySelectorAll(".plot").forEach(readOuts);
const root = document.querySelector(".viewer");
if (root) viewer(root, [...document.querySelectorAll("figure.slice")]);
