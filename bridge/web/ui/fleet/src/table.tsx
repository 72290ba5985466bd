// The table: of thousands of rows only those are there that are seen.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Row } from "./feed";

export const height = 40; // px of a row, as in the style sheet

export type Key = "worst" | "id" | "on" | "s" | "b" | "stop" | "bl" | "h" | "v";

export const columns: { key: Key; title: string }[] = [
  { key: "worst", title: "Alerts" },
  { key: "id", title: "Mower" },
  { key: "on", title: "Link" },
  { key: "s", title: "State" },
  { key: "b", title: "Battery" },
  { key: "stop", title: "Stop" },
  { key: "bl", title: "Backlog" },
  { key: "h", title: "Heard" },
  { key: "v", title: "Version" },
];

// rank is how much a mower wants somebody to look.
function rank(r: Row): number {
  return (r.w ?? 0) * 1000 + Math.min(r.n ?? 0, 999);
}

export function sorted(rows: Row[], by: Key, down: boolean): Row[] {
  const order = (a: Row, b: Row): number => {
    switch (by) {
      case "worst":
        return rank(b) - rank(a) || Number(a.on) - Number(b.on);
      case "id":
        return 0;
      case "on":
        return Number(a.on) - Number(b.on);
      default: {
        const [x, y] = [a[by], b[by]];
        if (x === undefined || y === undefined) return x === y ? 0 : x === undefined ? (down ? -1 : 1) : (down ? 1 : -1); // what is not known is last
        return x < y ? -1 : x > y ? 1 : 0;
      }
    }
  };
  const sign = down ? -1 : 1;
  return [...rows].sort((a, b) => sign * order(a, b) || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0) * (by === "id" ? sign : 1));
}

const severities = ["", "info", "warning", "error", "critical"];

export function ago(ms: number | undefined, now: number): string {
  if (!ms) return "–";
  const s = Math.max(0, (now - ms) / 1000);
  if (s < 2) return "now";
  return s < 120 ? `${Math.floor(s)} s` : s < 7200 ? `${Math.floor(s / 60)} min` : s < 172_800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86_400)} d`;
}

function Cells({ r, now }: { r: Row; now: number }) {
  return (
    <>
      <span role="cell" class={(r.w ?? 0) >= 3 ? "bad" : ""}>{r.n ? `${(r.w ?? 0) >= 3 ? "▲" : "△"} ${severities[r.w ?? 0] ?? ""}${r.n > 1 ? ` ×${r.n}` : ""}` : "–"}</span>
      <b role="cell">{r.id}</b>
      <span role="cell" class={r.on ? "good" : "note"}>{r.on ? "online" : "offline"}</span>
      <span role="cell">{r.s ?? "–"}</span>
      <span role="cell" class="number">{r.b === undefined ? "–" : `${Math.round(r.b)} %${r.c ? " +" : ""}`}</span>
      <span role="cell" class={r.stop === "engaged" ? "bad" : ""}>{r.stop === "engaged" ? "ENGAGED" : r.stop ?? "–"}</span>
      <span role="cell" class="number">{r.bl || "–"}</span>
      <span role="cell" class="number">{ago(r.h, now)}</span>
      <span role="cell">{r.v ?? "–"}</span>
    </>
  );
}

export function Table({ rows, by, down, sort, chosen, choose }: {
  rows: Row[]; by: Key; down: boolean; sort: (k: Key) => void; chosen: string; choose: (id: string) => void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(600);
  useEffect(() => {
    const el = box.current!;
    const size = new ResizeObserver(() => setRoom(el.clientHeight));
    size.observe(el);
    return () => size.disconnect();
  }, []);
  const first = Math.max(0, Math.min(Math.floor(top / height) - 5, rows.length - 1));
  const some = rows.slice(first, first + Math.ceil(room / height) + 10);
  const now = Date.now();
  const key = (e: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: Math.floor(room / height), PageUp: -Math.floor(room / height), Home: -rows.length, End: rows.length }[e.key];
    if (!step || !rows.length) return;
    e.preventDefault();
    const at = Math.min(Math.max(rows.findIndex((r) => r.id === chosen) + step, 0), rows.length - 1);
    choose(rows[at]!.id);
    const el = box.current!;
    el.scrollTop = Math.min(Math.max(el.scrollTop, (at + 1) * height - el.clientHeight), at * height);
  };
  return (
    <div class="card tablecard" role="table" aria-label="Mowers" aria-rowcount={rows.length}>
      <div role="row" class="line head">
        {columns.map((c) => (
          <span key={c.key} role="columnheader" aria-sort={by === c.key ? (down ? "descending" : "ascending") : "none"}>
            <button class="plain" data-sort={c.key} onClick={() => sort(c.key)}>{c.title}{by === c.key ? (down ? " ▾" : " ▴") : ""}</button>
          </span>
        ))}
      </div>
      <div class="lines" id="rows" ref={box} tabIndex={0} role="rowgroup" onScroll={(e) => setTop((e.target as HTMLElement).scrollTop)} onKeyDown={key}>
        <div style={{ height: `${rows.length * height}px`, position: "relative" }}>
          {some.map((r, i) => (
            <div key={r.id} role="row" class={r.id === chosen ? "line chosen" : "line"} data-mower={r.id} aria-rowindex={first + i + 1} style={{ top: `${(first + i) * height}px` }} onClick={() => choose(r.id)}>
              <Cells r={r} now={now} />
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}
