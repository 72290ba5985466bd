// The link to the bridge, and what has come over it. Nothing is drawn for each message: who watches something is told once in a frame that
// it has changed, and nobody else is.

import { type Line, type Point, type Topic, type Value, num, pointOf, readingOf } from "./types";

export interface Answer {
  op: string;
  id?: string;
  code?: string;
  message?: string;
  result?: unknown;
  value?: unknown;
  driver?: string; // of driving: how the machine names this page
}

export const values = new Map<string, Value>(); // by relative topic, the latest last
export const tail: Line[] = [];
export const logs: Line[] = [];
export const trail: Point[] = [];
export const power: { t: number[]; level: (number | null)[]; watts: (number | null)[] } = { t: [], level: [], watts: [] };
export const staleAfter = new Map<string, number>(); // s, by relative topic; 0 is never
export const link = {
  up: false,
  last: 0, // when something came, by Date.now()
  heard: 0, // by performance.now(), which nobody sets
  reason: "",
  received: 0,
  dropped: 0,
  paused: false,
};

const maxValues = 3000;
const maxTail = 500;
const maxTrail = 600;
const maxPower = 600;

const beatGap = 150; // ms between two looks whether the link is alive
const pingGap = 300; // ms between two pings
export const lostAfter = 1300; // ms of silence after which it is not
const firstRetry = 250; // ms
const lastRetry = 2000; // ms
const apiTime = 15_000; // ms

// What can be watched beside relative topics.
export const onLink = "*link"; // up or down
export const onClock = "*clock"; // twice a second
export const onTail = "*tail";
export const onLogs = "*logs";
export const onAlerts = "*alerts";
export const onStale = "*stale";

const watchers = new Map<string, Set<() => void>>();
const changed = new Set<string>();
let asked = false;

// watch has f called in the frame after something has changed, once for all of it.
export function watch(keys: string[], f: () => void): () => void {
  for (const k of keys) {
    const all = watchers.get(k) ?? new Set();
    watchers.set(k, all.add(f));
  }
  return () => {
    for (const k of keys) {
      const all = watchers.get(k);
      all?.delete(f);
      if (all?.size === 0) watchers.delete(k);
    }
  };
}

export function touch(...keys: string[]): void {
  for (const k of keys) if (watchers.has(k)) changed.add(k);
  if (asked || changed.size === 0) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const due = new Set<() => void>();
    for (const k of changed) watchers.get(k)?.forEach((f) => due.add(f));
    changed.clear();
    for (const f of due) f();
  });
}

setInterval(() => touch(onClock), 500);

const roots = /(?:^|\/)((?:sensors|responses|navigation|safety|power|vision|weather|system|commands)(?:\/.*)?)$/;

export function relative(topic: string): string {
  return roots.exec(topic)?.[1] ?? topic;
}

function push<T>(all: T[], x: T, max: number): void {
  all.push(x);
  if (all.length > max) all.splice(0, all.length - max);
}

interface Incoming {
  topic: string;
  data: unknown;
  invalid?: string;
  history?: boolean;
  age_s?: number;
}

// take takes in a message.
function take(m: Incoming): void {
  const rel = relative(m.topic);
  const at = Date.now() - (num(m.age_s) ?? 0) * 1000;
  const was = values.get(rel);
  values.delete(rel);
  if (m.data !== null) {
    const v: Value = { topic: m.topic, rel, data: m.data, at, invalid: m.invalid, count: (was?.count ?? 0) + 1 };
    values.set(rel, v);
    if (values.size > maxValues) values.delete(values.keys().next().value!);
    remember(v);
  }
  touch(rel);
  if (rel.startsWith("safety/alerts/")) touch(onAlerts);
  if (m.history) return;
  link.received++;
  const line: Line = { n: link.received, at, rel, data: m.data, invalid: m.invalid };
  if (!link.paused) {
    push(tail, line, maxTail);
    touch(onTail);
  }
  if (rel.startsWith("system/logs/") || rel.startsWith("system/events/")) {
    push(logs, line, maxTail);
    touch(onLogs);
  }
}

// remember keeps what is drawn over time.
function remember(v: Value): void {
  const d = readingOf(v);
  if (v.rel === "navigation/position") {
    const p = pointOf(d);
    if (p) push(trail, p, maxTrail);
  }
  const last = power.t.at(-1);
  if (v.rel === "power/battery" && (last === undefined || v.at / 1000 > last)) {
    push(power.t, v.at / 1000, maxPower);
    push(power.level, num(d.level) ?? null, maxPower);
    push(power.watts, num(d.power) ?? null, maxPower);
  }
}

const waiting = new Map<string, (a: Answer) => void>();
let ws: WebSocket | undefined;
let retry = firstRetry;
let number = 0;
let wanted = false;

export function start(): void {
  if (wanted) return;
  wanted = true;
  connect();
  learn();
  setInterval(learn, 10_000);
}

// learn asks after how long the value of each topic is stale.
function learn(): void {
  if (!link.up) return;
  api<{ topics: Topic[] }>("/api/topics").then(({ topics }) => {
    staleAfter.clear();
    for (const t of topics) {
      const s = num(t.stale_after_s);
      if (s !== undefined) staleAfter.set(relative(t.topic), s);
    }
    touch(onStale);
  }, () => {});
}

function connect(): void {
  const s = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`, "lawnberry.v1");
  ws = s;
  let heard = performance.now();
  let looked = heard;
  let pinged = heard;
  let over = false;
  const end = (reason: string) => {
    if (over) return;
    over = true;
    clearInterval(beat);
    s.close();
    link.up = false;
    if (reason) link.reason = reason;
    const open = [...waiting.values()];
    waiting.clear();
    for (const f of open) f({ op: "error", code: "offline", message: "the link to the mower is lost" });
    touch(onLink);
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, lastRetry);
  };
  const beat = setInterval(() => {
    const now = performance.now();
    // A page that did not run for a while has not read what came meanwhile.
    if (now - looked > 4 * beatGap) heard = Math.max(heard, now - lostAfter / 3);
    looked = now;
    if (now - heard > lostAfter) {
      end("");
    } else if (s.readyState === WebSocket.OPEN && now - pinged >= pingGap) {
      pinged = now;
      s.send('{"op":"ping"}');
    }
  }, beatGap);
  s.onopen = () => s.send(JSON.stringify({ op: "subscribe", filter: "#", history: true, id: "all" }));
  s.onclose = (e) => end(e.reason);
  s.onerror = () => end("");
  s.onmessage = (e) => {
    if (over) return;
    heard = link.heard = performance.now();
    link.last = Date.now();
    if (!link.up) {
      link.up = true;
      link.reason = "";
      retry = firstRetry;
      touch(onLink);
      learn();
    }
    hear(JSON.parse(e.data as string));
  };
}

function hear(m: Partial<Incoming> & Answer & { dropped?: number }): void {
  if (typeof m.topic === "string") {
    take(m as Incoming);
  } else if (m.op === "dropped") {
    link.dropped += m.dropped ?? 0;
    touch(onTail);
  } else if (m.id !== undefined) {
    const f = waiting.get(m.id);
    if (m.op !== "progress" && m.op !== "driving") waiting.delete(m.id);
    f?.(m);
  }
}

// send sends what has no answer. It returns false without a link.
export function send(request: object): boolean {
  if (!ws || ws.readyState !== WebSocket.OPEN) return false;
  ws.send(JSON.stringify(request));
  return true;
}

// ask sends a request; f gets progress and, at the end, the answer. It returns the id, for cancel.
export function ask(request: object, f: (a: Answer) => void): string {
  const id = `r${++number}`;
  waiting.set(id, f);
  if (!send({ ...request, id })) {
    waiting.delete(id);
    f({ op: "error", code: "offline", message: "the link to the mower is lost" });
  }
  return id;
}

// An ApiError is an answer of the API that is a problem; the reasons are those against a release.
export class ApiError extends Error {
  reasons?: string[];
}

export async function api<T>(path: string, body?: object, within = apiTime): Promise<T> {
  const post = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let r: Response;
  let text: string;
  try {
    r = await fetch(path, { ...post, signal: AbortSignal.timeout(within) });
    text = await r.text();
  } catch (e) {
    throw new ApiError((e as Error).name === "TimeoutError" ? `no answer within ${within / 1000} s` : "the bridge cannot be reached");
  }
  let v: { detail?: string; title?: string; reasons?: string[] };
  try {
    v = text ? JSON.parse(text) : {};
  } catch {
    v = { detail: `the answer is not from the bridge (${r.status})` };
  }
  if (!r.ok) throw Object.assign(new ApiError(v.detail || v.title || r.statusText), { reasons: v.reasons });
  return v as T;
}
