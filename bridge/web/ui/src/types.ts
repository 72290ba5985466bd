// What comes from the bus and from the API. A topic may carry anything, so what is read of one goes through the guards here, which return
// nothing for what is not of the kind that is wanted. The API's answers are the bridge's own and are as openapi.json says.

export type Dict = Record<string, unknown>;

export function dict(x: unknown): Dict {
  return typeof x === "object" && x !== null && !Array.isArray(x) ? (x as Dict) : {};
}

export function list(x: unknown): unknown[] {
  return Array.isArray(x) ? x : [];
}

export function num(x: unknown): number | undefined {
  return typeof x === "number" && Number.isFinite(x) ? x : undefined;
}

export function str(x: unknown): string | undefined {
  return typeof x === "string" && x !== "" ? x : undefined;
}

// A Value is the last message of a topic.
export interface Value {
  topic: string; // full
  rel: string; // relative to the namespace
  data: unknown; // the envelope, or whatever was published without one
  at: number; // ms since 1970
  invalid?: string; // the rule that it breaks
  count: number; // messages since the page was opened
}

// payloadOf returns the payload of a message in an envelope.
export function payloadOf(v?: Value): Dict {
  return dict(dict(v?.data).payload);
}

// readingOf returns what a message tells: the data of sensor data, or the details of a status.
export function readingOf(v?: Value): Dict {
  const p = payloadOf(v);
  return "data" in p ? dict(p.data) : dict(p.details);
}

// A Line is a message in a list of messages.
export interface Line {
  n: number; // counts up
  at: number; // ms since 1970
  rel: string;
  data: unknown;
  text?: string; // of data, once it was wanted
  invalid?: string;
}

const maxText = 400;

export function textOf(l: Line): string {
  l.text ??= (JSON.stringify(dict(l.data).payload ?? l.data) ?? "").slice(0, maxText);
  return l.text;
}

export interface Point {
  x: number; // m, to the east
  y: number; // m, to the north
}

const farthest = 1e5; // m that a mower may be from its origin
const maxPoints = 2000;

export function pointOf(x: unknown): Point | undefined {
  const p = dict(x);
  const px = num(p.x);
  const py = num(p.y);
  if (px === undefined || py === undefined || Math.abs(px) > farthest || Math.abs(py) > farthest) return undefined;
  return { x: px, y: py };
}

export function pointsOf(x: unknown): Point[] {
  return list(x).slice(0, maxPoints).map(pointOf).filter((p) => p !== undefined);
}

// Severities of alerts, the worst last.
const severities = ["info", "warning", "error", "critical"];

export interface BusAlert {
  type: string;
  severity: string;
  message: string;
  rank: number;
}

// alertOf returns the alert that a topic carries, if it is one.
export function alertOf(v: Value): BusAlert | undefined {
  const p = payloadOf(v);
  const severity = str(p.severity);
  if (!severity) return undefined;
  const type = str(p.alert_type) ?? v.rel.split("/").at(-1)!;
  return { type, severity, message: str(p.message) ?? type, rank: severities.indexOf(severity) };
}

// Answers of the API.

export interface Session {
  login: boolean; // whether one has to log in
  user: string;
  role: string;
}

export interface Stop {
  engaged: boolean;
  known: boolean;
  reason: string;
  by?: string;
  since?: string;
  sequence: number;
  against: string[];
  participants: { service_id: string; confirmed: boolean; confirmed_ms: number }[];
  here: { engaged: boolean };
}

export interface Command {
  name: string;
  description?: string;
  parameters?: unknown; // JSON Schema
}

export interface Service {
  id: string;
  type: string;
  version: string;
  state: string;
  reason?: string;
  uptime_s: number;
  dependencies: string[];
  resources: { cpu_usage: number; memory_usage: number };
  commands?: Command[];
}

export interface Topic {
  topic: string;
  rate: number; // messages per second
  count: number;
  size: number; // bytes
  qos: number;
  retained: boolean;
  invalid: number;
  error?: string;
  description?: string;
  stale_after_s?: number; // 0 is never; missing from a bridge that does not say
}

export interface Alert {
  alert_type: string;
  severity: string;
  message: string;
  acknowledged: boolean;
  acknowledged_by?: string;
  sender: string;
  count: number;
  last_raised: string;
}

export interface Alerts {
  alerts: Alert[];
  history: { time: string; action: string; by?: string; alert: Alert }[];
}

export interface Stats {
  bridge: { messages: number } & Dict;
  one_way: { p99_ms: number } & Dict;
  round_trip: Dict;
  client: Dict;
  broker?: Dict;
}

export interface ConfigValue {
  key: string;
  value: unknown;
  description: string;
  unit?: string;
}
