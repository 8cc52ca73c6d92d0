// The page of a live run. Text from outside (labels, names) is only ever set as text, never as markup.
"use strict";

const LOST_MS = 8000; // without a message for so long, the server has gone
const STREAMED = 2; // browsers open six connections to a server: with more sources, pictures are fetched one by one
const SHOWN = 160; // results in the plot
const SLOWED_MS = 500; // refreshed less often than this, the page says why

const main = document.getElementById("sources");
const link = document.getElementById("link");
const template = document.getElementById("card");
const cards = new Map();
let events = null;
let heard = 0;
let skipped = 0;
const wanted = new Set(); // cards whose picture has changed
let fetching = null; // the one whose picture is on its way: of many cards, one at a time
const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
  cards.get(Number(entry.target.dataset.number)).onScreen = entry.isIntersecting;
}));

class Card {
  constructor(source, exitNames) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.number = source.number;
    this.picture = this.find(".picture");
    this.canvas = this.find(".plot");
    this.points = [];
    this.onScreen = true;
    this.frame = null;
    this.element.dataset.number = source.number;
    this.rungs = exitNames.map((name) => {
      const rung = document.createElement("li");
      rung.append(make("i"), make("span", "exit", name), make("span", "bar"), make("span", "p"), make("span", "t"));
      rung.querySelector(".bar").append(make("u"));
      return rung;
    });
    this.find(".ladder").append(...this.rungs);
    this.picture.addEventListener("load", () => this.loaded());
    this.picture.addEventListener("error", () => this.loaded());
    main.append(this.element);
    seen.observe(this.element);
  }

  loaded() {
    if (fetching === this) {
      fetching = null;
      fetchNext();
    }
    if (this.picture.naturalWidth) {
      this.element.classList.add("has-picture");
      if (!main.classList.contains("one") || innerWidth < 1000) {
        this.find(".stage").style.aspectRatio = `${this.picture.naturalWidth} / ${this.picture.naturalHeight}`;
      }
    }
  }

  stream(on) {
    if (on) this.picture.src = `sources/${this.number}/stream.mjpg?${Date.now()}`;
    else this.picture.removeAttribute("src");
  }

  fetch() {
    this.frame = this.source.frame;
    this.picture.src = `sources/${this.number}/picture.jpg?${this.frame}`;
  }

  show(source, whole) {
    this.source = source;
    this.received = performance.now();
    const last = whole || !this.points.length ? 0 : this.points[this.points.length - 1][0];
    if (whole) this.points = [];
    this.points = this.points.concat(source.points.filter((point) => point[0] > last)).slice(-SHOWN);
    setText(this.find(".name"), source.source);
    this.find(".name").title = source.source;
    setText(this.find(".label"), source.label);
    this.find(".label").title = source.label;
    this.element.classList.toggle("long", source.label.length > 24);
    setText(this.find(".percent"), source.label ? percent(source.confidence) : "");
    setText(this.find(".carried"), source.carried);
    this.showTop(source.top);
    this.showLadder(source.exits);
    const point = this.points[this.points.length - 1];
    legend(this.find(".first"), point && point[1], source.first);
    legend(this.find(".final"), point && point[2], source.final);
    legend(this.find(".budget"), point && point[3], null);
    const figures = [...source.counts.map(String), source.per_s.toFixed(1)];
    this.element.querySelectorAll("dd").forEach((dd, i) => setText(dd, figures[i]));
    this.draw();
    this.age();
  }

  showTop(top) {
    const list = this.find(".top");
    while (list.children.length > Math.min(top.length, 5)) list.lastElementChild.remove();
    top.slice(0, 5).forEach(([name, probability], i) => {
      if (!list.children[i]) {
        const item = document.createElement("li");
        item.append(make("i"), make("span"), make("b"));
        list.append(item);
      }
      const [bar, text, value] = list.children[i].children;
      bar.style.transform = `scaleX(${share(probability)})`;
      setText(text, name);
      setText(value, percent(probability));
    });
  }

  showLadder(exits) {
    const reached = new Map(exits.map((exit) => [exit[0], exit]));
    const deepest = exits.length ? exits[exits.length - 1][0] : -1;
    this.rungs.forEach((rung, i) => {
      const exit = reached.get(i);
      rung.classList.toggle("reached", exit !== undefined);
      rung.classList.toggle("deepest", i === deepest);
      rung.querySelector("u").style.transform = `scaleX(${exit ? share(exit[1]) : 0})`;
      setText(rung.querySelector(".p"), exit ? percent(exit[1]) : "");
      setText(rung.querySelector(".t"), exit ? `${ms(exit[2])} ms` : "");
    });
  }

  // How old the picture is by now, and what is wrong with the source. Also called between two messages.
  age() {
    const source = this.source;
    const passed = performance.now() - this.received;
    const age = source.age_ms === null ? null : source.age_ms + passed;
    const gone = link.dataset.state === "lost";
    const stale = age !== null && (source.troubled || gone);
    this.element.dataset.state = gone ? "gone" : source.state;
    this.element.classList.toggle("stale", stale);
    this.element.classList.toggle("suspect", source.suspect);
    setText(this.find(".state"), gone ? "no connection" : source.state);
    setText(this.find(".age"), age === null ? "" : duration(age));
    const banner = this.find(".banner");
    const text = gone ? "" : bannerOf(source, age);
    banner.hidden = !text;
    setText(banner, text);
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const left = 34;
    const foot = 5;
    // One frame that took very long must not flatten all others: it leaves the plot at the top.
    const heights = this.points.map((p) => Math.max(p[1], p[2], p[3] || 0)).sort((a, b) => a - b);
    const most = Math.max(10, heights.length ? 1.15 * heights[Math.floor((heights.length - 1) * 0.95)] : 0);
    const step = niceStep(most / 4);
    const limit = Math.ceil((most * 1.04) / step) * step;
    const x = (i) => width - 4 - ((this.points.length - 1 - i) * (width - left - 8)) / (SHOWN - 1);
    const y = (value) => height - foot - (value / limit) * (height - foot - 8);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.lineWidth = 1;
    for (let value = 0; value <= limit + step / 2; value += step) {
      context.strokeStyle = colour("line");
      context.beginPath();
      context.moveTo(left, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
      context.fillStyle = colour("soft");
      context.fillText(String(Math.round(value)), left - 6, Math.max(6, y(value)));
    }
    context.save();
    context.beginPath();
    context.rect(left, 0, width - left, height);
    context.clip();
    const line = (column, name, dash, thick) => {
      context.strokeStyle = colour(name);
      context.lineWidth = thick;
      context.setLineDash(dash);
      context.beginPath();
      let down = false;
      this.points.forEach((point, i) => {
        if (point[column] === null) down = false;
        else if (down) context.lineTo(x(i), y(point[column]));
        else context.moveTo(x(i), y(point[column]));
        if (point[column] !== null) down = true;
      });
      context.stroke();
      context.setLineDash([]);
    };
    context.lineJoin = "round";
    line(3, "soft", [4, 3], 1.2);
    line(2, "orange", [], 2.2);
    line(1, "sky", [], 1.6);
    const point = this.points[this.points.length - 1];
    (point ? [[2, "orange", 3.4], [1, "sky", 2.8]] : []).forEach(([column, name, radius]) => {
      context.fillStyle = colour(name);
      context.beginPath();
      context.arc(x(this.points.length - 1), y(point[column]), radius, 0, 2 * Math.PI);
      context.fill();
    });
    context.restore();
  }
}

function bannerOf(source, age) {
  if (source.state === "live") return source.suspect ? "Parts of the picture may be wrong: data were lost on the way." : "";
  const line = source.line[0].toUpperCase() + source.line.slice(1);
  return age === null ? line : `${line}. The picture is ${duration(age)} old.`;
}

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function legend(item, value, percentiles) {
  setText(item.querySelector("b"), value === undefined || value === null ? "–" : ms(value));
  const small = item.querySelector("small");
  if (small) setText(small, percentiles ? `p50 ${ms(percentiles[0])}  p99 ${ms(percentiles[1])}` : "");
}

function share(probability) {
  return Math.min(1, Math.max(0, probability || 0));
}

function percent(probability) {
  if (probability === null) return "– %";
  return probability >= 0.995 && probability < 1 ? "99 %" : `${Math.round(probability * 100)} %`;
}

function ms(value) {
  if (value === null) return "–";
  return value < 99.95 ? value.toFixed(1) : String(Math.round(value));
}

function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.round(milliseconds / 10) * 10} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

function niceStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  const factor = [1, 2, 5, 10].find((f) => f * power >= step);
  return Math.max(1, factor * power);
}

function setLink(state, text) {
  link.dataset.state = state;
  setText(link, text);
}

function take(message) {
  const slowed = message.page.skipped > skipped && performance.now() - heard > SLOWED_MS;
  skipped = message.page.skipped;
  heard = performance.now();
  const others = message.page.watching > 1 ? `, ${message.page.watching} are watching` : "";
  setLink("connected", `connected${others}${slowed ? ", refreshed less often to lose no frame" : ""}`);
  main.className = message.sources.length === 1 ? "one" : "";
  const streamed = message.sources.length <= STREAMED;
  message.sources.forEach((source) => {
    let card = cards.get(source.number);
    if (!card) {
      card = new Card(source, message.exit_names);
      cards.set(source.number, card);
    }
    if (streamed && message.whole) card.stream(true);
    card.show(source, message.whole);
    if (!streamed && card.onScreen && source.frame !== null && source.frame !== card.frame) wanted.add(card);
  });
  if (message.whole) fetching = null;
  fetchNext();
  const labels = message.sources.map((source) => source.label).filter(Boolean);
  document.title = labels.length ? `${labels.join(", ")} · stream_ann` : "stream_ann";
}

function fetchNext() {
  if (fetching) return;
  const [card] = wanted;
  if (!card) return;
  wanted.delete(card);
  fetching = card;
  card.fetch();
}

function watch() {
  heard = performance.now();
  events = new EventSource("events");
  events.addEventListener("message", (event) => take(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    setLink("lost", "no connection to the run");
    if (events.readyState === EventSource.CLOSED) setTimeout(again, 2000);
  });
}

function again() {
  events.close();
  if (!document.hidden) watch();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    again();
    return;
  }
  events.close(); // nothing is encoded for a page that nobody sees
  cards.forEach((card) => card.stream(false));
  wanted.clear();
  fetching = null;
});
addEventListener("resize", () => cards.forEach((card) => card.source && card.draw()));
setInterval(() => {
  if (!document.hidden && performance.now() - heard > LOST_MS && link.dataset.state === "connected") {
    setLink("lost", "no connection to the run");
    again();
  }
  cards.forEach((card) => card.source && card.age());
}, 250);
watch();
