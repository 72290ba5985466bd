// What the page knows of the fleet: rows by id, kept up to date over a WebSocket that is made again when it is lost.

export interface RowAlert {
  t: string;
  s: string;
  m: string;
  at: number; // ms
}

export interface Row {
  id: string;
  on: boolean;
  b?: number;
  c?: boolean;
  s?: string;
  stop?: string;
  al?: RowAlert[];
  n?: number;
  w?: number;
  bl?: number;
  l?: number;
  h?: number; // ms
  v?: string;
  x?: number;
  y?: number;
  la?: number;
  lo?: number;
  m?: boolean;
}

export interface Engine {
  connected: boolean;
  current: boolean;
  problem: string;
  server: string;
  left_out: number;
}

interface Frame {
  op: string;
  rows?: Row[];
  gone?: string[];
  first?: boolean;
  last?: boolean;
  link?: Engine;
  text?: string;
  error?: string;
  at?: number;
  yes?: string[];
  no?: string[];
  number?: number;
}

export const rows = new Map<string, Row>();

export const state = {
  up: false, // the page hears its server
  ready: false, // everything has come once
  engine: undefined as Engine | undefined,
  where: "", // as it was typed
  asked: 0,
  problem: "", // of where
  at: 0, // the character that it is about
  token: "",
  stops: false,
  fields: [] as { name: string; doc: string }[],
  frames: 0,
};

type Listener = () => void;
const listeners = new Set<Listener>();
let socket: WebSocket | undefined;
let fresh: Map<string, Row> | undefined; // what has come of a new copy of everything

// listen calls f when something has changed, a few times a second at most.
export function listen(f: Listener): () => void {
  listeners.add(f);
  return () => listeners.delete(f);
}

const gap = 250; // ms between two drawings
let timer: ReturnType<typeof setTimeout> | undefined;

export function changed(): void {
  timer ??= setTimeout(() => {
    timer = undefined;
    for (const f of [...listeners]) f();
  }, gap);
}

function ask(): void {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ op: "where", text: state.where, number: ++state.asked }));
}

export function setWhere(text: string): void {
  state.where = text;
  ask();
  changed();
}

function take(f: Frame): void {
  if (f.link) state.engine = f.link;
  switch (f.op) {
    case "all":
      if (f.first) fresh = new Map();
      for (const r of f.rows ?? []) fresh?.set(r.id, r);
      if (f.last && fresh) {
        rows.clear();
        for (const [id, r] of fresh) rows.set(id, r);
        fresh = undefined;
        state.ready = true;
        if (state.where) ask();
      }
      break;
    case "some":
      for (const r of f.rows ?? []) rows.set(r.id, r);
      for (const id of f.gone ?? []) rows.delete(id);
      break;
    case "where":
      if (f.number === state.asked) {
        state.problem = f.error ?? "";
        state.at = f.at ?? 0;
      }
      mark(f);
      break;
    case "match":
      mark(f);
  }
  state.frames++;
  changed();
}

function mark(f: Frame): void {
  for (const [ids, m] of [[f.yes, true], [f.no, false]] as const) {
    for (const id of ids ?? []) {
      const r = rows.get(id);
      if (r) rows.set(id, { ...r, m });
    }
  }
}

function connect(): void {
  const ws = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/feed`);
  socket = ws;
  ws.onopen = () => {
    state.up = true;
    changed();
  };
  ws.onmessage = (e) => {
    try {
      take(JSON.parse(String(e.data)) as Frame);
    } catch { /* not of ours */ }
  };
  ws.onclose = () => {
    state.up = false;
    changed();
    setTimeout(look, 1000);
  };
}

// look asks for the token, which another run of the server has another of, and then connects.
export function look(): void {
  fetch("/api/session").then(async (r) => {
    const s = (await r.json()) as { token?: string; stops?: boolean; fields?: { name: string; doc: string }[]; error?: string };
    if (!r.ok || !s.token) throw new Error(s.error ?? r.statusText);
    Object.assign(state, { token: s.token, stops: !!s.stops, fields: s.fields ?? [] });
    connect();
  }).catch(() => {
    changed();
    setTimeout(look, 1000);
  });
}

// A Fate is what became of a STOP, of which there is one for each mower.
export interface Fate {
  text: string;
  bad: boolean;
  busy: boolean;
}

export const fates = new Map<string, Fate>();

// press stops a mower. What becomes of it is kept, whatever is looked at meanwhile.
export function press(id: string): void {
  const say = (text: string, bad: boolean, busy: boolean) => {
    fates.set(id, { text, bad, busy });
    for (const f of [...listeners]) f();
  };
  say("STOP is on its way…", false, true);
  stop(id).then((text) => say(`${text}.`, false, false), (e: Error) => say(`NOT STOPPED, IT MAY STILL MOVE: ${e.message}`, true, false));
}

// forget has what became of a STOP not be shown any more.
export function forget(id: string): void {
  fates.delete(id);
  changed();
}

// stop engages the emergency stop of a mower. It throws what a person has to read.
async function stop(id: string): Promise<string> {
  let r: Response;
  try {
    r = await fetch(`/api/mowers/${encodeURIComponent(id)}/stop`, {
      method: "POST", headers: { "X-Lawnberry-Token": state.token, "Content-Type": "application/json" }, body: JSON.stringify({ reason: "from the fleet's page" }),
    });
  } catch (e) {
    throw new Error(`the page's server was not reached: ${String(e)}`);
  }
  const a = (await r.json().catch(() => ({}))) as { error?: string; engaged?: boolean; confirmed?: boolean; missing?: string[] | null };
  if (!r.ok) throw new Error(a.error ?? r.statusText);
  if (!a.engaged) throw new Error("the mower has not said that it is engaged");
  if (a.missing?.length) throw new Error(`engaged, but not confirmed by ${a.missing.join(", ")}`);
  return a.confirmed ? "Engaged, and confirmed" : "Engaged, not confirmed yet";
}
