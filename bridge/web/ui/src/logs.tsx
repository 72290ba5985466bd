import { logs, onLogs } from "./link";
import { Rows, useChange } from "./parts";

export function Logs() {
  useChange(onLogs);
  return (
    <>
      <h1>Logs</h1>
      <p class="hint">Events and logs of the services, since the page was opened.</p>
      {logs.length === 0 ? <p class="card">Nothing has come yet.</p> : <Rows lines={logs} />}
    </>
  );
}
