import { Component, type ComponentChildren, render } from "preact";
import { useEffect, useMemo, useReducer, useState } from "preact/hooks";
import { Detail } from "./detail";
import { fates, forget, listen, look, type Row, rows, setWhere, state } from "./feed";
import { drawn, FleetMap } from "./map";
import { ago, type Key, sorted, Table } from "./table";
import "../../src/style.css";
import "./fleet.css";

const most = 50; // alerts that are listed; the table has all
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(): string {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

// A Boundary keeps what goes wrong within from the rest of the page.
class Boundary extends Component<{ name: string; children: ComponentChildren }, { error?: Error }> {
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

function Where() {
  const [text, set] = useState(state.where);
  const type = (e: Event) => {
    const v = (e.target as HTMLInputElement).value;
    set(v);
    setWhere(v);
  };
  return (
    <div class="where">
      <label for="where">Only mowers where</label>
      <input id="where" value={text} onInput={type} placeholder="battery<20 and state=mowing" spellcheck={false} autocapitalize="none" autocomplete="off" aria-invalid={!!state.problem} list="fields" />
      <datalist id="fields">{state.fields.map((f) => <option key={f.name} value={f.name}>{f.doc}</option>)}</datalist>
      {state.problem && <p id="problem" role="alert" class="bad">{state.problem}</p>}
    </div>
  );
}

function Alerts({ all, choose, now }: { all: Row[]; choose: (id: string) => void; now: number }) {
  const list = useMemo(() => sorted(all.filter((r) => r.n), "worst", false), [all]);
  return (
    <section class="card alerts" aria-label="Alerts">
      <h2>Alerts <small>{list.length ? `of ${list.length} mowers` : "none"}</small></h2>
      <ol class="rows" id="alerts">
        {list.slice(0, most).flatMap((r) => (r.al ?? []).map((a, i) => (
          <li key={`${r.id} ${i}`} data-alert={r.id} onClick={() => choose(r.id)}>
            <b class={["error", "critical"].includes(a.s) ? "bad" : ""}>{["error", "critical"].includes(a.s) ? "▲" : "△"} {a.s}</b> <button class="plain" onClick={() => choose(r.id)}>{r.id}</button> <span>{a.t}: {a.m}</span> <time>{ago(a.at, now)}</time>
          </li>
        )))}
      </ol>
      {list.length > most && <p class="note">and {list.length - most} more, in the table</p>}
    </section>
  );
}

// Fates are the STOPs that have failed, or are on their way, of mowers that are not looked at.
function Fates({ chosen, choose }: { chosen: string; choose: (id: string) => void }) {
  return (
    <>
      {[...fates].filter(([id, f]) => id !== chosen && (f.bad || f.busy)).map(([id, f]) => (
        <p key={id} role="alert" class={f.bad ? "loud fate" : "fate card"} data-fate={id}>
          <span>{id}: {f.text}</span>
          <span class="buttons"><button onClick={() => choose(id)}>Look at it</button>{f.bad && <button onClick={() => forget(id)}>I have seen it</button>}</span>
        </p>
      ))}
    </>
  );
}

function App() {
  const [n, again] = useReducer((n: number) => n + 1, 0);
  const [by, setBy] = useState<Key>("worst");
  const [down, setDown] = useState(false);
  const [chosen, choose] = useState("");
  useEffect(() => listen(() => again(undefined)), []);
  useEffect(() => {
    const t = setInterval(() => again(undefined), 1000); // times go on
    const turn = () => again(undefined);
    dark.addEventListener("change", turn);
    return () => {
      clearInterval(t);
      dark.removeEventListener("change", turn);
    };
  }, []);
  const all = useMemo(() => [...rows.values()].filter((r) => r.m), [n]);
  const list = useMemo(() => sorted(all, by, down), [all, by, down]);
  const sort = (k: Key) => {
    setDown(k === by ? !down : false);
    setBy(k);
  };
  const engine = state.engine;
  const lost = !state.up || !engine?.current;
  const now = Date.now();
  const row = rows.get(chosen);
  const count = (f: (r: Row) => boolean) => all.filter(f).length;
  const turn = () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    again(undefined);
  };
  Object.assign(document.documentElement.dataset, { rows: rows.size, matched: list.length });
  return (
    <div class={lost ? "lost" : undefined}>
      <header>
        <div class="bar">
          <div class="state">
            <span class="chip"><b>Lawnberry fleet</b></span>
            <span class="chip" id="count">{list.length === rows.size ? `${rows.size} mowers` : `${list.length} of ${rows.size} mowers`}</span>
            <span class="chip" id="online">{count((r) => r.on)} online</span>
            <span class={count((r) => !!r.n) ? "chip bad" : "chip"} id="alerting">{count((r) => !!r.n)} with alerts</span>
            <span class={count((r) => r.stop === "engaged") ? "chip bad" : "chip"}>{count((r) => r.stop === "engaged")} stopped</span>
            <span id="link" class={lost ? "chip bad" : "chip good"}><span class="dot" />{!state.up ? "The page's server is not heard: what is here is old" : !engine?.current ? `Not current: ${engine?.problem || "the fleet's state is being read"}` : "Current"}</span>
            {!!engine?.left_out && <span class="chip bad">{engine.left_out} mowers more that do not fit</span>}
          </div>
          <span class="grow" />
          <button onClick={turn} id="theme" aria-label="Dark or light">◐</button>
        </div>
      </header>
      <main class="fleet">
        <Boundary name="What became of a STOP"><Fates chosen={chosen} choose={choose} /></Boundary>
        <Where />
        <Boundary name="The list of alerts"><Alerts all={all} choose={choose} now={now} /></Boundary>
        <div class={row ? "columns three" : "columns"}>
          <Boundary name="The table"><Table rows={list} by={by} down={down} sort={sort} chosen={chosen} choose={choose} /></Boundary>
          <Boundary name="The map"><FleetMap rows={all} chosen={chosen} choose={choose} theme={theme()} /></Boundary>
          {row && <Boundary key={row.id} name="This mower"><Detail row={row} close={() => choose("")} /></Boundary>}
        </div>
      </main>
    </div>
  );
}

Object.assign(window, { lawnberryFleet: { drawn, rows, state } });
look();
render(<App />, document.getElementById("app")!);
