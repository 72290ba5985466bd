// What several pages are made of.

import { Component, type ComponentChildren, type VNode } from "preact";
import { useEffect, useReducer, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { api, link, onClock, onLink, onStale, staleAfter, values, watch } from "./link";
import { type Dict, type Line, type Value, dict, payloadOf, readingOf, textOf } from "./types";

// useChange draws the component anew when one of these has changed: relative topics, or what link.ts lists beside them.
export function useChange(...keys: string[]): void {
  const [, again] = useReducer((n: number) => n + 1, 0);
  useEffect(() => watch(keys, () => again(undefined)), [keys.join("\n")]);
}

// useSomeChanges is useChange at most each gap ms: for what is more to draw than anybody can read.
export function useSomeChanges(gap: number, ...keys: string[]): void {
  const [, again] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const end = watch(keys, () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        again(undefined);
      }, gap);
    });
    return () => {
      end();
      clearTimeout(timer);
    };
  }, [gap, keys.join("\n")]);
}

// useTopic returns the last message of a topic, and has the component drawn anew with each.
export function useTopic(rel: string): Value | undefined {
  useChange(rel);
  return values.get(rel);
}

export function useUp(): boolean {
  useChange(onLink);
  return link.up;
}

// usePoll asks the API again and again while the page is shown and the link is up.
export function usePoll<T>(path: string, every: number): [T | undefined, () => void] {
  const [v, set] = useState<T>();
  const up = useUp();
  const look = () => {
    if (link.up) api<T>(path).then(set, () => {});
  };
  useEffect(() => {
    look();
    const t = setInterval(look, every);
    return () => clearInterval(t);
  }, [path, up]);
  return [v, look];
}

// A Boundary keeps what goes wrong within from the rest of the page.
export class Boundary extends Component<{ name: string; children: ComponentChildren }, { error?: Error }> {
  state: { error?: Error } = {};

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    return (
      <section class="card" role="alert">
        <h2>{this.props.name} cannot be shown</h2>
        <p>{String(error.message)}</p>
        <button onClick={() => this.setState({ error: undefined })}>Try again</button>
      </section>
    );
  }
}

// show writes a value for people.
export function show(x: unknown, digits?: number): string {
  if (typeof x === "number") return digits === undefined ? String(Math.round(x * 1000) / 1000) : x.toFixed(digits);
  if (typeof x === "boolean") return x ? "yes" : "no";
  if (x === null || x === undefined || x === "") return "–";
  return (typeof x === "object" ? JSON.stringify(x) : String(x)).slice(0, 300);
}

export function label(key: string): string {
  const words = key.replaceAll("_", " ").trim();
  return words ? words[0]!.toUpperCase() + words.slice(1) : key;
}

export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString();
}

// ago is a time span for people.
export function ago(ms: number): string {
  const s = Math.max(0, ms / 1000);
  if (s < 2) return "now";
  if (s < 120) return `${Math.floor(s)} s ago`;
  return s < 7200 ? `${Math.floor(s / 60)} min ago` : `${Math.floor(s / 3600)} h ago`;
}

// isStale reports whether a value is older than its topic allows; nobody knows before the bridge has said how old that is.
export function isStale(v: Value): boolean {
  const after = staleAfter.get(v.rel);
  return !!after && Date.now() - v.at > after * 1000;
}

export interface Field {
  key: string;
  label?: string;
  digits?: number;
  unit?: string; // where the message says none
  factor?: number;
  optional?: boolean; // not shown while it is empty
}

// Facts shows readings of a topic with their units and their age.
export function Facts({ rel, title, fields }: { rel: string; title: string; fields: Field[] }) {
  const v = useTopic(rel);
  useChange(onClock, onStale);
  const reading = readingOf(v);
  const units = dict(payloadOf(v).units);
  const stale = v && isStale(v);
  return (
    <section class={stale ? "card stale" : "card"} aria-label={title}>
      <h2>
        {title} <small>{v ? (stale ? `stale, ${ago(Date.now() - v.at)}` : ago(Date.now() - v.at)) : "nothing yet"}</small>
      </h2>
      {v && <dl>
        {fields.filter((f) => !f.optional || reading[f.key]).map((f) => (
          <Fact key={f.key} id={`${rel}/${f.key}`.replaceAll("/", "-")} field={f} value={reading[f.key]} unit={units[f.key] ?? f.unit} />
        ))}
      </dl>}
    </section>
  );
}

function Fact({ id, field, value, unit }: { id: string; field: Field; value: unknown; unit: unknown }) {
  if (typeof value === "number" && field.factor) value *= field.factor;
  const withUnit = typeof value === "number" && typeof unit === "string";
  return (
    <>
      <dt>{field.label ?? label(field.key)}</dt>
      <dd class="value" id={id}>
        {show(value, field.digits)}
        {withUnit && <span class="unit">{unit === "deg" ? "°" : ` ${unit.slice(0, 12)}`}</span>}
      </dd>
    </>
  );
}

// Figures shows all numbers and words of an object.
export function Figures({ title, of }: { title: string; of?: Dict }) {
  if (!of) return null;
  return (
    <section class="card" aria-label={title}>
      <h2>{title}</h2>
      <dl>
        {Object.entries(of).filter(([, x]) => typeof x !== "object").map(([k, x]) => (
          <Fact key={k} id="" field={{ key: k, label: label(k.replace(/_(ms|s)$/, "")) }} value={x} unit={/_(ms|s)$/.exec(k)?.[1]} />
        ))}
      </dl>
    </section>
  );
}

// A Series is a line of a chart. Its colour is a variable of the style sheet.
export interface Series {
  label: string;
  color: string;
  scale?: string; // on an axis of its own
}

// Chart draws figures that grow, once a second. data is changed in place by who owns it.
export function Chart({ data, series, height = 200 }: { data: (number | null)[][]; series: Series[]; height?: number }) {
  const box = useRef<HTMLDivElement>(null);
  const theme = useTheme();
  useEffect(() => {
    const el = box.current!;
    const css = getComputedStyle(el);
    const color = (name: string) => css.getPropertyValue(name).trim();
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { stroke: color("--line"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const copy = () => data.map((x) => x.slice()) as uPlot.AlignedData;
    const plot = new uPlot({
      width: el.clientWidth,
      height,
      series: [{}, ...series.map((s) => ({ label: s.label, stroke: color(s.color), width: 2, spanGaps: true, ...(s.scale ? { scale: s.scale } : {}) }))],
      axes: [{ ...axis }, { ...axis }, ...series.filter((s) => s.scale).map((s) => ({ ...axis, grid: { show: false }, scale: s.scale, side: 1 as const }))],
    }, copy(), el);
    const resize = new ResizeObserver(() => plot.setSize({ width: el.clientWidth, height }));
    resize.observe(el);
    const t = setInterval(() => plot.setData(copy()), 1000);
    return () => {
      clearInterval(t);
      resize.disconnect();
      plot.destroy();
    };
  }, [theme]);
  return <div ref={box} class="chart" role="img" aria-label={series.map((s) => s.label).join(", ")} />;
}

const themeChanged = "theme-changed";
const dark = matchMedia("(prefers-color-scheme: dark)");

export function theme(): "dark" | "light" {
  const chosen = document.documentElement.dataset.theme;
  return chosen === "dark" || chosen === "light" ? chosen : dark.matches ? "dark" : "light";
}

export function setTheme(to: "dark" | "light"): void {
  document.documentElement.dataset.theme = to;
  try {
    localStorage.setItem("theme", to);
  } catch { /* it is forgotten then */ }
  dispatchEvent(new Event(themeChanged));
}

export function restoreTheme(): void {
  let kept: string | null = null;
  try {
    kept = localStorage.getItem("theme");
  } catch { /* none is kept */ }
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}

export function useTheme(): "dark" | "light" {
  const [t, set] = useState(theme());
  useEffect(() => {
    const look = () => set(theme());
    addEventListener(themeChanged, look);
    dark.addEventListener("change", look);
    return () => {
      removeEventListener(themeChanged, look);
      dark.removeEventListener("change", look);
    };
  }, []);
  return t;
}

const rows = new WeakMap<Line, VNode>();
const maxRows = 100;

// A line that is shown already is not compared again.
function row(l: Line): VNode {
  let r = rows.get(l);
  if (!r) {
    r = (
      <li key={l.n} class={l.invalid ? "invalid" : undefined} title={l.invalid}>
        <time>{clock(l.at)}</time> <b>{l.rel}</b> <span>{textOf(l)}</span>
      </li>
    );
    rows.set(l, r);
  }
  return r;
}

// Rows shows lines, the latest first.
export function Rows({ lines }: { lines: Line[] }) {
  return <ol class="rows">{lines.slice(-maxRows).reverse().map(row)}</ol>;
}
