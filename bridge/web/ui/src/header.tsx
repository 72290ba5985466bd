// The header is on every page: STOP first, then how things stand.

import { useEffect, useState } from "preact/hooks";
import { give } from "./driving";
import { api, type ApiError, ask, link, onAlerts, onClock, values } from "./link";
import { Boundary, ago, clock, useChange, useTopic, useUp } from "./parts";
import { type Stop, alertOf, num, readingOf } from "./types";

const askedTwice = 700; // ms without an answer over the WebSocket after which STOP is sent by HTTP too
const stopTime = 4000; // ms after which it has failed

export function Header() {
  const [stop, look] = useStop();
  const [failed, setFailed] = useState("");
  const [sent, setSent] = useState(false);

  const engage = () => {
    let done = false;
    let posted = false;
    const post = () => {
      if (done || posted) return;
      posted = true;
      api("/api/emergency-stop", { engaged: true, reason: "STOP" }, stopTime).then(well, (e: Error) => {
        if (!done) setFailed(`STOP FAILED: ${e.message}. Use the button on the mower.`);
        setSent(false);
      });
    };
    const well = () => {
      done = true;
      setSent(false);
      setFailed("");
      look();
    };
    setFailed("");
    setSent(true);
    give("STOP was pressed");
    setTimeout(post, askedTwice);
    ask({ op: "engage", reason: "STOP" }, (a) => (a.op === "ok" ? well() : post()));
  };

  return (
    <header>
      <div class="bar">
        <button id="stop" class="stop" onClick={engage} aria-label="STOP: engage the emergency stop, the mower stops now">STOP</button>
        <div class="state">
          <Boundary name="The state of the link"><LinkState /></Boundary>
          <Boundary name="The battery"><BatteryState /></Boundary>
          <Boundary name="The alerts"><AlertState /></Boundary>
        </div>
      </div>
      {sent && <p role="status" class="note">STOP is sent</p>}
      {failed && <p role="alert" id="stop-error" class="bad">{failed}</p>}
      <Boundary name="The emergency stop"><Engaged stop={stop} look={look} /></Boundary>
    </header>
  );
}

// useStop asks how the emergency stop is, at once when something comes on its topic, else each second.
function useStop(): [Stop | undefined, () => void] {
  const [stop, set] = useState<Stop>();
  const count = useTopic("safety/emergency_stop")?.count;
  const up = useUp();
  const look = () => {
    if (link.up) api<Stop>("/api/emergency-stop").then(set, () => {});
  };
  useEffect(look, [count, up]);
  useEffect(() => {
    const t = setInterval(look, 1000);
    return () => clearInterval(t);
  }, []);
  return [stop, look];
}

function LinkState() {
  const up = useUp();
  useChange(onClock);
  const silent = link.last ? Date.now() - link.last : 0;
  if (up) return <span id="link" role="status" class="chip good"><i class="dot" />Connected</span>;
  return (
    <span id="link" role="status" class="chip bad">
      <i class="dot" />
      Link lost{link.last > 0 && `, ${ago(silent)}`}{link.reason && `: ${link.reason}`}
    </span>
  );
}

function BatteryState() {
  const battery = readingOf(useTopic("power/battery"));
  const level = num(battery.level);
  if (level === undefined) return <span class="chip" aria-label="Battery unknown">Battery –</span>;
  const low = level < 20;
  return (
    <span class={low ? "chip value bad" : "chip value"} aria-label={`Battery ${level.toFixed(0)} percent${battery.charging === true ? ", charging" : ""}`}>
      <svg class="battery" viewBox="0 0 26 14" aria-hidden="true">
        <rect class="case" x={1} y={1} width={21} height={12} rx={2.5} />
        <rect class="pole" x={23.5} y={4.5} width={2} height={5} rx={1} />
        <rect class="charge" x={3} y={3} width={17 * Math.min(1, Math.max(0, level / 100))} height={8} rx={1} />
      </svg>
      {level.toFixed(0)} %{battery.charging === true && ", charging"}
    </span>
  );
}

function AlertState() {
  useChange(onAlerts);
  let worst: ReturnType<typeof alertOf>;
  let count = 0;
  for (const v of values.values()) {
    const a = v.rel.startsWith("safety/alerts/") ? alertOf(v) : undefined;
    if (!a) continue;
    count++;
    if (!worst || a.rank > worst.rank) worst = a;
  }
  if (!worst) return <span class="chip value" role="status">No alerts</span>;
  return (
    <span class="chip value bad alert" role="status">
      <a href="#/alerts" title={worst.message}>{worst.severity}: {worst.message}{count > 1 && ` (and ${count - 1} more)`}</a>
    </span>
  );
}

// Engaged says that the emergency stop is engaged, and releases it after a question.
function Engaged({ stop, look }: { stop?: Stop; look: () => void }) {
  const [asking, setAsking] = useState(false);
  const [failed, setFailed] = useState("");
  const up = useUp();
  const engaged = stop && (stop.engaged || stop.here.engaged || !stop.known);
  useEffect(() => {
    if (engaged) return;
    setAsking(false);
    setFailed("");
  }, [engaged]);
  if (!engaged) return null;

  const release = () => {
    setFailed("");
    api("/api/emergency-stop", { engaged: false, sequence: stop.sequence }).then(() => {
      setAsking(false);
      look();
    }, (e: ApiError) => {
      setFailed(`Not released: ${e.reasons?.length ? e.reasons.join("; ") : e.message}`);
      look();
    });
  };
  const participants = stop.participants ?? [];
  return (
    <div class="engaged" id="engaged">
      <div class="what">
        <p role="alert">
          <strong>Emergency stop engaged</strong>{" "}
          <span class="value">{stop.reason}{stop.by && `, by ${stop.by}`}{stop.since && `, since ${clock(Date.parse(stop.since))}`}</span>
        </p>
        {!asking && <button id="release" disabled={!up} onClick={() => setAsking(true)}>Release…</button>}
      </div>
      {asking && <Question against={stop.against ?? []} up={up} release={release} leave={() => setAsking(false)} />}
      {failed && <p role="alert" id="release-error" class="bad">{failed}</p>}
      {participants.length > 0 && (
        <p id="participants" class="tags">
          {participants.map((p) => (
            <span key={p.service_id} class={p.confirmed ? "tag confirmed" : "tag"}>
              {p.service_id}{p.confirmed && ` stands, ${(num(p.confirmed_ms) ?? 0).toFixed(0)} ms`}
            </span>
          ))}
        </p>
      )}
    </div>
  );
}

function Question({ against, up, release, leave }: { against: string[]; up: boolean; release: () => void; leave: () => void }) {
  return (
    <div id="release-question">
      {against.length > 0 ? (
        <>
          <p>This stands against it:</p>
          <ul id="against">{against.map((a) => <li key={a}>{a}</li>)}</ul>
        </>
      ) : <p>Nothing stands against it. Is nobody near the mower? It may move again.</p>}
      <p class="buttons">
        <button id="release-confirm" class="primary" disabled={!up || against.length > 0} onClick={release}>Release now</button>
        <button onClick={leave}>Leave it engaged</button>
      </p>
    </div>
  );
}
