import { useEffect, useRef } from "preact/hooks";
import { Chart, Figures, usePoll } from "./parts";
import { num, type Stats } from "./types";

// The figures of the last minutes; they outlive the page.
const rates: (number | null)[][] = [[], [], []];
const maxRates = 300;

export function Performance() {
  const [s] = usePoll<Stats>("/api/stats", 1000);
  const last = useRef<{ n: number; at: number }>(undefined);
  useEffect(() => {
    if (!s) return;
    const was = last.current;
    const at = Date.now() / 1000;
    last.current = { n: s.bridge.messages, at };
    if (!was || at <= was.at || s.bridge.messages < was.n) return;
    const row = [at, (s.bridge.messages - was.n) / (at - was.at), num(s.one_way.p99_ms) ?? null];
    row.forEach((x, i) => {
      rates[i]!.push(x);
      if (rates[i]!.length > maxRates) rates[i]!.shift();
    });
  }, [s]);
  return (
    <>
      <h1>Performance</h1>
      <section class="card" aria-label="Throughput and latency">
        <h2>Throughput and latency</h2>
        <Chart
          data={rates}
          series={[{ label: "Messages per second", color: "--series-1" }, { label: "One way p99, ms", color: "--series-2", scale: "ms" }]}
        />
      </section>
      {s && (
        <div class="grid">
          <Figures title="One way" of={s.one_way} />
          <Figures title="Round trip" of={s.round_trip} />
          <Figures title="Bridge" of={s.bridge} />
          <Figures title="Client" of={s.client} />
          <Figures title="Broker" of={s.broker} />
        </div>
      )}
    </>
  );
}
