import { useState } from "preact/hooks";
import { ask, relative, values } from "./link";
import { useChange, usePoll, useUp } from "./parts";
import type { Topic } from "./types";

export function Topics() {
  const [answer] = usePoll<{ topics: Topic[] }>("/api/topics", 1000);
  const [chosen, choose] = useState("");
  const topics = answer?.topics ?? [];
  const groups = new Map<string, Topic[]>();
  for (const t of topics) {
    const root = relative(t.topic).split("/")[0]!;
    const all = groups.get(root);
    if (all) all.push(t);
    else groups.set(root, [t]);
  }
  const topic = topics.find((t) => t.topic === chosen);
  return (
    <>
      <h1>Topics</h1>
      <div class="split">
        <div class="card">
          {[...groups].map(([k, all]) => (
            <details key={k} open>
              <summary>{k} <small>{all.length}</small></summary>
              <ul class="tree">{all.map((t) => <Branch key={t.topic} topic={t} chosen={t.topic === chosen} choose={choose} />)}</ul>
            </details>
          ))}
        </div>
        <div>
          {topic ? <Detail topic={topic} /> : <p class="hint">Choose a topic to see its last message.</p>}
          <PublishForm />
        </div>
      </div>
    </>
  );
}

function Branch({ topic, chosen, choose }: { topic: Topic; chosen: boolean; choose: (topic: string) => void }) {
  return (
    <li>
      <button class="plain" onClick={() => choose(topic.topic)} aria-pressed={chosen}>{relative(topic.topic)}</button>
      {topic.invalid > 0 && <span class="bad">{topic.invalid} invalid</span>}
      <span class="value rate">{topic.rate.toFixed(1)}/s</span>
    </li>
  );
}

function Detail({ topic }: { topic: Topic }) {
  const rel = relative(topic.topic);
  useChange(rel);
  const v = values.get(rel);
  return (
    <section class="card" aria-label={rel}>
      <h2>{rel}</h2>
      {topic.description && <p>{topic.description}</p>}
      <p class="value">
        {topic.size} bytes, QoS {topic.qos}, {topic.retained ? "retained" : "not retained"}, {topic.count} messages
      </p>
      {topic.error && <p class="bad">{topic.error}</p>}
      {v && <pre class="value">{JSON.stringify(v.data, null, 2)}</pre>}
    </section>
  );
}

function PublishForm() {
  const [said, say] = useState("");
  const [bad, setBad] = useState(false);
  const up = useUp();
  const publish = (e: Event) => {
    e.preventDefault();
    const f = new FormData(e.target as HTMLFormElement);
    const raw = String(f.get("data"));
    let data: unknown = raw;
    try {
      data = JSON.parse(raw);
    } catch { /* it is text */ }
    ask({ op: "publish", topic: f.get("topic"), data, qos: Number(f.get("qos")), retain: f.get("retain") === "on" }, (a) => {
      setBad(a.op !== "ok");
      say(a.op === "ok" ? "Published" : `${a.code}: ${a.message}`);
    });
  };
  return (
    <form class="card" id="publish" onSubmit={publish}>
      <h2>Publish</h2>
      <label>Topic <input name="topic" required autocapitalize="none" /></label>
      <label>Data, JSON or text <textarea name="data" rows={3} /></label>
      <label>QoS <select name="qos"><option>0</option><option selected>1</option><option>2</option></select></label>
      <label class="check"><input type="checkbox" name="retain" /> Retain</label>
      <p class="buttons"><button disabled={!up}>Publish</button></p>
      <output class={bad ? "bad" : ""} aria-live="polite">{said}</output>
    </form>
  );
}
