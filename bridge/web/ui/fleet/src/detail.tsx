// One mower: what it says, and STOP.

import { useEffect, useRef, useState } from "preact/hooks";
import { fates, press, type Row, state } from "./feed";
import { ago } from "./table";

interface Report {
  alerts?: { type: string; severity: string; message: string; acknowledged: boolean; time: string }[];
  presence?: { commands?: string[] | null; lost?: Record<string, { count: number }> | null } | null;
  topics?: Record<string, { time: string; bytes: number; message: unknown }>;
  topics_left_out?: number;
  oldest?: string | null;
}

function said(message: unknown): string {
  const m = message as { metadata?: unknown; payload?: { data?: unknown } } | null;
  const inner = m && typeof m === "object" && m.metadata && m.payload ? m.payload.data ?? m.payload : message;
  return (typeof inner === "string" ? inner : JSON.stringify(inner) ?? "").slice(0, 2000);
}

export function Detail({ row, close }: { row: Row; close: () => void }) {
  const [report, set] = useState<Report>();
  const box = useRef<HTMLElement>(null);
  const id = row.id;
  const fate = fates.get(id);
  useEffect(() => box.current?.scrollIntoView({ block: "nearest" }), [id]); // on a phone it is above what was touched
  useEffect(() => {
    set(undefined);
    let over = false;
    const look = () => {
      fetch(`/api/mowers/${encodeURIComponent(id)}`).then(async (r) => {
        const a = (await r.json()) as Report;
        if (!over && r.ok) set(a);
      }).catch(() => {});
    };
    look();
    const t = setInterval(look, 1000);
    return () => {
      over = true;
      clearInterval(t);
    };
  }, [id]);
  const now = Date.now();
  const lost = Object.entries(report?.presence?.lost ?? {}).filter(([, l]) => l?.count > 0);
  return (
    <section ref={box} class="card detail" id="detail" data-of={id} aria-label={`Mower ${id}`}>
      <div class="tools">
        <h2>{id}</h2>
        <span class="grow" />
        <button onClick={close}>Close</button>
      </div>
      {state.stops && (
        <div class="stopbox">
          <button class="stop" id="stop" onClick={() => press(id)}>STOP {id}</button>
          <small>Engages its emergency stop. It is released beside the mower, not from here.</small>
        </div>
      )}
      {fate && <p id="fate" role="alert" class={fate.bad ? "loud" : fate.busy ? "" : "good"}>{fate.text}</p>}
      <dl>
        <dt>Link</dt><dd>{row.on ? "online" : "offline"}, heard {ago(row.h, now)}{row.h && now - row.h > 2000 ? " ago" : ""}</dd>
        <dt>State</dt><dd>{row.s ?? "–"}</dd>
        <dt>Battery</dt><dd>{row.b === undefined ? "–" : `${Math.round(row.b)} %${row.c ? ", charging" : ""}`}</dd>
        <dt>Emergency stop</dt><dd class={row.stop === "engaged" ? "bad" : ""}>{row.stop ?? "–"}</dd>
        <dt>Version</dt><dd>{row.v ?? "–"}</dd>
        <dt>Waits in its outbox</dt><dd>{row.bl ?? 0} messages</dd>
        {lost.map(([c, l]) => <><dt>Lost, {c}</dt><dd class="bad">{l.count}</dd></>)}
        {row.x !== undefined && row.y !== undefined && <><dt>Position</dt><dd>x {row.x.toFixed(2)} m, y {row.y.toFixed(2)} m</dd></>}
        {row.la !== undefined && row.lo !== undefined && <><dt>On earth</dt><dd>{row.la.toFixed(6)}, {row.lo.toFixed(6)}</dd></>}
        <dt>Commands</dt><dd>{report?.presence?.commands?.join(", ") || "none"}</dd>
      </dl>
      {(report?.alerts ?? []).map((a) => (
        <p key={a.type} class="one"><b class={["error", "critical"].includes(a.severity) ? "bad" : ""}>{a.severity} {a.type}</b> {a.message}{a.acknowledged && " (acknowledged)"} <small>{ago(Date.parse(a.time), now)}</small></p>
      ))}
      {Object.entries(report?.topics ?? {}).map(([topic, m]) => (
        <details key={topic}>
          <summary>{topic} <small>{ago(Date.parse(m.time), now)}, {m.bytes} bytes</small></summary>
          <pre>{said(m.message)}</pre>
        </details>
      ))}
      {!!report?.topics_left_out && <p class="note">and {report.topics_left_out} topics more that are not kept</p>}
    </section>
  );
}
