import { useState } from "preact/hooks";
import { ask } from "./link";
import { show, usePoll, useUp } from "./parts";
import { type Command, type Dict, type Service, dict, list, str } from "./types";

export function Services() {
  const [answer] = usePoll<{ services: Service[] }>("/api/services", 1000);
  const [chosen, choose] = useState("");
  const services = answer?.services ?? [];
  return (
    <>
      <h1>Services</h1>
      <Graph services={services} />
      <div class="scroll card">
        <table>
          <thead>
            <tr><th>Service</th><th>State</th><th>Version</th><th>Up for</th><th>CPU</th><th>Memory</th></tr>
          </thead>
          <tbody>
            {services.map((s) => (
              <tr key={s.id}>
                <td><button data-choose={s.id} aria-pressed={s.id === chosen} onClick={() => choose(s.id)}>{s.id}</button></td>
                <td class={s.state === "healthy" ? "good" : "bad"}>{s.state} {s.reason}</td>
                <td>{s.version}</td>
                <td class="number">{span(s.uptime_s)}</td>
                <td class="number">{show(s.resources.cpu_usage, 1)} %</td>
                <td class="number">{show(s.resources.memory_usage, 1)} %</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {chosen ? <Commands id={chosen} key={chosen} /> : <p class="hint">Choose a service to see its commands.</p>}
    </>
  );
}

function span(s: number): string {
  if (s < 120) return `${s.toFixed(0)} s`;
  return s < 7200 ? `${Math.floor(s / 60)} min` : `${Math.floor(s / 3600)} h`;
}

const nodeWidth = 170;
const nodeHeight = 34;
const columnGap = 44;
const rowGap = 12;

// Graph draws each service to the right of what it depends on.
function Graph({ services }: { services: Service[] }) {
  const by = new Map(services.map((s) => [s.id, s]));
  const level = new Map<string, number>();
  const depth = (id: string, above: string[]): number => {
    const s = by.get(id);
    if (!s || above.includes(id)) return 0;
    const known = level.get(id);
    if (known !== undefined) return known;
    const d = Math.max(0, ...s.dependencies.map((x) => depth(x, [...above, id]) + 1));
    level.set(id, d);
    return d;
  };
  const columns: string[][] = [];
  for (const s of services) (columns[depth(s.id, [])] ??= []).push(s.id);
  const place = new Map<string, { x: number; y: number }>();
  columns.forEach((ids, column) => ids.forEach((id, row) => {
    place.set(id, { x: 4 + column * (nodeWidth + columnGap), y: 4 + row * (nodeHeight + rowGap) });
  }));
  const height = Math.max(1, ...columns.map((c) => c?.length ?? 0)) * (nodeHeight + rowGap);
  return (
    <div class="scroll card">
      <svg class="graph" id="graph" width={columns.length * (nodeWidth + columnGap)} height={height} role="img" aria-label="Services, each to the right of what it depends on">
        {services.flatMap((s) => s.dependencies.map((d) => <Edge key={`${s.id} ${d}`} from={place.get(d)} to={place.get(s.id)!} />))}
        {services.map((s) => (
          <g key={s.id} class={`node ${s.state}`} data-service={s.id} transform={`translate(${place.get(s.id)!.x} ${place.get(s.id)!.y})`}>
            <rect width={nodeWidth} height={nodeHeight} rx={6} />
            <text x={10} y={22}>{s.id.length > 20 ? `${s.id.slice(0, 19)}…` : s.id}</text>
          </g>
        ))}
      </svg>
    </div>
  );
}

function Edge({ from, to }: { from?: { x: number; y: number }; to: { x: number; y: number } }) {
  if (!from) return null;
  const x = from.x + nodeWidth;
  const y = from.y + nodeHeight / 2;
  const end = to.y + nodeHeight / 2;
  return <path class="edge" d={`M${x},${y}C${x + columnGap / 2},${y} ${to.x - columnGap / 2},${end} ${to.x},${end}`} />;
}

function Commands({ id }: { id: string }) {
  const [s] = usePoll<Service>(`/api/services/${encodeURIComponent(id)}`, 5000);
  return (
    <>
      <h2>Commands of {id}</h2>
      <div class="grid">{(s?.commands ?? []).map((c) => <CommandForm key={c.name} service={id} command={c} />)}</div>
    </>
  );
}

// kindOf returns the type of a parameter by its schema.
function kindOf(p: Dict): string {
  const type = Array.isArray(p.type) ? p.type.find((t) => t !== "null") : p.type;
  return str(type) ?? "object";
}

interface CallState {
  id?: string; // while it is under way
  text: string;
  bad?: boolean;
}

function CommandForm({ service, command }: { service: string; command: Command }) {
  const [state, set] = useState<CallState>({ text: "" });
  const up = useUp();
  const schema = dict(command.parameters);
  const fields = Object.entries(dict(schema.properties)).map(([k, p]) => [k, dict(p)] as const);
  const required = list(schema.required);
  const send = (e: Event) => {
    e.preventDefault();
    const form = new FormData(e.target as HTMLFormElement);
    const parameters: Dict = {};
    for (const [k, p] of fields) {
      const v = String(form.get(k) ?? "");
      if (v === "") continue;
      try {
        parameters[k] = kindOf(p) === "string" || Array.isArray(p.enum) ? v : JSON.parse(v);
      } catch {
        set({ text: `${k} is not JSON`, bad: true });
        return;
      }
    }
    let over = false;
    const id = ask({ op: "call", service, command: command.name, parameters, progress: true }, (a) => {
      if (a.op === "progress") {
        set({ id, text: `Progress: ${show(a.value)}` });
        return;
      }
      over = true;
      set(a.op === "result" ? { text: `Done: ${JSON.stringify(a.result)}` } : { text: `${a.code}: ${a.message}`, bad: true });
    });
    if (!over) set({ id, text: "Sent" });
  };
  return (
    <form class="card command" data-command={command.name} onSubmit={send}>
      <h3>{command.name}</h3>
      <p>{command.description}</p>
      {fields.map(([k, p]) => <Parameter key={k} name={k} schema={p} required={required.includes(k)} />)}
      <p class="buttons">
        <button type="submit" disabled={!up}>Send</button>
        {state.id && <button type="button" class="cancel" onClick={() => ask({ op: "cancel", call: state.id }, () => {})}>Cancel</button>}
      </p>
      <output class={state.bad ? "bad" : ""} aria-live="polite">{state.text}</output>
    </form>
  );
}

function Parameter({ name, schema, required }: { name: string; schema: Dict; required: boolean }) {
  const kind = kindOf(schema);
  const choices = Array.isArray(schema.enum) ? schema.enum.map(String) : kind === "boolean" ? ["true", "false"] : undefined;
  const number = kind === "number" || kind === "integer";
  const bound = (x: unknown) => (typeof x === "number" ? x : undefined);
  return (
    <label>
      {name}{required && " (needed)"}
      {choices ? (
        <select name={name} required={required}>
          <option value="">unset</option>
          {choices.map((c) => <option key={c}>{c}</option>)}
        </select>
      ) : number ? (
        <input name={name} required={required} type="number" step={kind === "integer" ? 1 : "any"} min={bound(schema.minimum)} max={bound(schema.maximum)} />
      ) : (
        <input name={name} required={required} placeholder={kind === "string" ? "" : "JSON"} />
      )}
      {str(schema.description) && <small>{str(schema.description)}</small>}
    </label>
  );
}
