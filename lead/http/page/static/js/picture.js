// The last minutes as a picture: the speed with and without backs, and for each back what it did and what was accepted.

import { BINS, MINUTES } from "./speeds.js";

const WIDTH = 360, CHART = 84, TOP = 14, LANE = 46, BAR = 18, BAND = 8;
const STEP = WIDTH / BINS;
const MAX_LANES = 8;

function draw(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

// bins: of Speeds.bins. Null where there is nothing to show.
export function picture({ withBacks, alone, backs }) {
  const speeds = [...withBacks, ...alone].filter((speed) => speed !== null);
  if (!speeds.length && !backs.length) return null;
  const chart = speeds.length ? TOP + CHART + 6 : 0;
  const lanes = backs.slice(0, MAX_LANES);
  const height = chart + lanes.length * LANE + 14;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": inWords(withBacks, alone, backs) });
  if (speeds.length) svg.append(...lines(withBacks, alone, Math.max(...speeds) || 1));
  const most = Math.max(1, ...lanes.flatMap(({ accepted }) => accepted));
  lanes.forEach((back, i) => svg.append(...lane(back, chart + i * LANE, most)));
  svg.append(
    draw("text", { x: 0, y: height - 2 }, `${MINUTES} minutes ago`),
    draw("text", { x: WIDTH, y: height - 2, "text-anchor": "end" }, "now"),
  );
  return svg;
}

function lines(withBacks, alone, most) {
  const y = (speed) => TOP + CHART * (1 - speed / most);
  const line = (values, name) => {
    // A gap where nothing was heard.
    const path = values.map((speed, i) =>
      speed === null ? "" : `${values[i - 1] == null ? "M" : "L"}${((i + 0.5) * STEP).toFixed(1)} ${y(speed).toFixed(1)}`);
    return draw("path", { d: path.join("") || "M0 0", class: name });
  };
  const now = (values) => values.filter((speed) => speed !== null).at(-1);
  return [
    draw("path", { d: `M0 ${TOP + CHART}H${WIDTH}M0 ${TOP}H${WIDTH}`, class: "axis" }),
    line(alone, "alone"),
    line(withBacks, "with"),
    draw("text", { x: 0, y: TOP - 4 }, `${most.toFixed(0)} tokens/s`),
    draw("text", { x: WIDTH, y: TOP - 4, "text-anchor": "end" },
      `— with backs ${(now(withBacks) ?? 0).toFixed(1)}   ┄ alone ${(now(alone) ?? 0).toFixed(1)}`),
  ];
}

function lane({ name, states, accepted }, top, most) {
  const marks = [];
  const sum = accepted.reduce((total, count) => total + (count ?? 0), 0);
  marks.push(
    draw("text", { x: 0, y: top + 11, class: "name" }, name.length > 24 ? `${name.slice(0, 24)}…` : name),
    draw("text", { x: WIDTH, y: top + 11, "text-anchor": "end" }, `${states.at(-1) ?? "gone"} · ${sum} accepted`),
  );
  for (let from = 0; from < BINS; from++) {
    const x = from * STEP;
    if (accepted[from]) {
      const height = Math.max(1, (BAR * accepted[from]) / most);
      marks.push(draw("rect", { x: x + 0.5, y: top + 14 + BAR - height, width: STEP - 1, height, class: "accepted" }));
    }
    if (states[from] === null) continue;
    let to = from;
    while (states[to + 1] === states[from] && !accepted[to + 1]) to++;
    const shade = states[from] === "drafting" || states[from] === "resting" ? states[from] : "waiting";
    marks.push(draw("rect", { x, y: top + 15 + BAR, width: (to - from + 1) * STEP, height: BAND, class: `band ${shade}` }));
    from = to;
  }
  return marks;
}

// The same for those who do not see it.
function inWords(withBacks, alone, backs) {
  const last = (values) => values.filter((value) => value !== null).at(-1);
  const speed = last(withBacks) === undefined
    ? []
    : [`${last(withBacks).toFixed(1)} tokens per second with backs, ${(last(alone) ?? 0).toFixed(1)} without`];
  const each = backs.map(({ name, states, accepted }) =>
    `${name}: ${states.at(-1) ?? "gone"}, ${accepted.reduce((total, count) => total + (count ?? 0), 0)} guesses accepted`);
  return `The last ${MINUTES} minutes. ${[...speed, ...each].join("; ")}.`;
}
