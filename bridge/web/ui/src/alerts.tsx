import { useState } from "preact/hooks";
import { api, ask } from "./link";
import { clock, usePoll, useUp } from "./parts";
import type { Alert, Alerts as Answer } from "./types";

export function Alerts() {
  const [answer, look] = usePoll<Answer>("/api/alerts", 1000);
  const [failed, say] = useState("");
  const alerts = answer?.alerts ?? [];
  const history = [...(answer?.history ?? [])].reverse();
  return (
    <>
      <h1>Alerts</h1>
      {failed && <p role="alert" class="bad">{failed}</p>}
      {answer && alerts.length === 0 && <p class="card">No alerts.</p>}
      <div class="grid">{alerts.map((a) => <Card key={a.alert_type} alert={a} look={look} say={say} />)}</div>
      <h2>History</h2>
      <ol class="rows card">
        {history.map((h, i) => (
          <li key={history.length - i}>
            <time>{clock(Date.parse(h.time))}</time> <b>{h.alert.alert_type}</b> <span>{h.action}{h.by && ` by ${h.by}`}: {h.alert.message}</span>
          </li>
        ))}
      </ol>
    </>
  );
}

function Card({ alert, look, say }: { alert: Alert; look: () => void; say: (failed: string) => void }) {
  const up = useUp();
  const acknowledge = () => {
    api(`/api/alerts/${encodeURIComponent(alert.alert_type)}/ack`, {}).then(() => {
      say("");
      look();
    }, (e: Error) => say(e.message));
  };
  const clear = () => {
    ask({ op: "publish", topic: `safety/alerts/${alert.alert_type}`, data: null, qos: 1, retain: true }, (a) => {
      say(a.op === "ok" ? "" : a.message ?? "The alert was not cleared.");
      look();
    });
  };
  return (
    <section class={`card alert ${alert.severity}`} data-alert={alert.alert_type} aria-label={alert.alert_type}>
      <h2>{alert.alert_type} <span class="tag">{alert.severity}</span></h2>
      <p>{alert.message}</p>
      <p><small>From {alert.sender}, {alert.count === 1 ? "once" : `${alert.count} times`}, last at {clock(Date.parse(alert.last_raised))}</small></p>
      <p class="buttons">
        {alert.acknowledged
          ? <span class="good">Acknowledged{alert.acknowledged_by && ` by ${alert.acknowledged_by}`}</span>
          : <button class="ack" disabled={!up} onClick={acknowledge}>Acknowledge</button>}
        <button class="clear" disabled={!up} onClick={clear}>Clear</button>
      </p>
    </section>
  );
}
