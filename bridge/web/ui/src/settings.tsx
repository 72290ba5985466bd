import { useEffect, useState } from "preact/hooks";
import { api } from "./link";
import { show } from "./parts";
import type { ConfigValue } from "./types";

export function Settings() {
  const [values, set] = useState<ConfigValue[]>([]);
  const [error, say] = useState("");
  useEffect(() => {
    api<{ values: ConfigValue[] }>("/api/config").then((a) => set(a.values), (e: Error) => say(e.message));
  }, []);
  return (
    <>
      <h1>Settings</h1>
      <p class="hint">What applies, read only. The configuration file and the environment change it.</p>
      {error && <p role="alert" class="bad">{error}</p>}
      <dl class="settings card">
        {values.map((v) => (
          <div key={v.key}>
            <dt>{v.key}</dt>
            <dd><code>{show(v.value)}</code> {v.unit}</dd>
            <dd class="about">{v.description}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}
