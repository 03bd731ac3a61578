// What the lead said about its backs over the last minutes, in bins of a few seconds. It sees no page and no clock.

export const MINUTES = 5;
export const BINS = 60;
const SPAN_MS = MINUTES * 60_000;

export class Speeds {
  constructor() {
    this.samples = [];
  }

  // answer: of GET /backs.
  push(now, { data, speedup }) {
    const backs = data.map(({ name, state, drafted, accepted }) => ({ name, state, drafted, accepted }));
    this.samples.push({ now, backs, withBacks: speedup?.with_backs ?? null, alone: speedup?.alone ?? null });
    while (this.samples[0].now < now - SPAN_MS) this.samples.shift();
  }

  // {withBacks: [...], alone: [...], backs: [{name, states: [...], accepted: [...]}, ...]}, the oldest bin first. Null
  // stands for bins in which nothing was heard.
  bins(now) {
    const bin = (sample) => Math.min(BINS - 1, Math.floor((BINS * (sample.now - (now - SPAN_MS))) / SPAN_MS));
    const none = () => new Array(BINS).fill(null);
    const found = { withBacks: none(), alone: none(), backs: [] };
    const lanes = new Map(), before = new Map();
    for (const sample of this.samples) {
      const at = bin(sample);
      if (at < 0) continue;
      found.withBacks[at] = sample.withBacks ?? found.withBacks[at];
      found.alone[at] = sample.alone ?? found.alone[at];
      for (const { name, state, accepted } of sample.backs) {
        if (!lanes.has(name)) lanes.set(name, { name, states: none(), accepted: none() });
        const lane = lanes.get(name);
        lane.states[at] = state;
        // A back that comes again counts from zero.
        const more = accepted - (before.get(name) ?? accepted);
        lane.accepted[at] = (lane.accepted[at] ?? 0) + (more < 0 ? accepted : more);
        before.set(name, accepted);
      }
    }
    // Those that are gone leave with their last bin.
    found.backs = [...lanes.values()];
    return found;
  }
}
