import { power } from "./link";
import { LawnMap } from "./map";
import { Chart, Facts, type Field, label, show, useTopic } from "./parts";
import { num, readingOf, str } from "./types";

const cards: { rel: string; title: string; fields: Field[] }[] = [
  {
    rel: "power/battery",
    title: "Battery",
    fields: [
      { key: "level", digits: 1, unit: "%" },
      { key: "voltage", digits: 2, unit: "V" },
      { key: "power", digits: 1, unit: "W" },
      { key: "temperature", digits: 1, unit: "°C" },
      { key: "charging" },
      { key: "time_remaining", label: "Lasts", digits: 0, unit: "min", optional: true },
    ],
  },
  {
    rel: "navigation/position",
    title: "Position",
    fields: [
      { key: "x", label: "East", digits: 2, unit: "m" },
      { key: "y", label: "North", digits: 2, unit: "m" },
      { key: "heading", digits: 0, unit: "deg" },
      { key: "speed", digits: 2, unit: "m/s" },
      { key: "accuracy", digits: 3, unit: "m" },
    ],
  },
  {
    rel: "sensors/motors/data",
    title: "Motors",
    fields: [
      { key: "linear", label: "Speed", digits: 2, unit: "m/s" },
      { key: "angular", label: "Turn rate", digits: 2, unit: "rad/s" },
      { key: "blade", digits: 0, unit: "%", factor: 100 },
      { key: "driver" },
      { key: "permit", label: "May turn" },
      { key: "cause", label: "Why not", optional: true },
    ],
  },
  {
    rel: "sensors/ultrasonic/data",
    title: "Distances ahead",
    fields: [
      { key: "front_left", label: "Left", digits: 2, unit: "m" },
      { key: "front_center", label: "Centre", digits: 2, unit: "m" },
      { key: "front_right", label: "Right", digits: 2, unit: "m" },
    ],
  },
  {
    rel: "weather/current",
    title: "Weather",
    fields: [
      { key: "temperature", digits: 1, unit: "°C" },
      { key: "humidity", digits: 0, unit: "%" },
      { key: "wind_speed", label: "Wind", digits: 1, unit: "m/s" },
      { key: "precipitation", label: "Rain", digits: 1, unit: "mm/h" },
      { key: "cloud_cover", label: "Clouds", digits: 0, unit: "%" },
    ],
  },
  {
    rel: "power/solar",
    title: "Solar panel",
    fields: [
      { key: "power", digits: 1, unit: "W" },
      { key: "voltage", digits: 1, unit: "V" },
      { key: "current", digits: 2, unit: "A" },
    ],
  },
  {
    rel: "power/consumption",
    title: "Consumption",
    fields: [
      { key: "total", digits: 1, unit: "W" },
      { key: "blade", digits: 1, unit: "W" },
      { key: "drive", label: "Wheels, electronics", digits: 1, unit: "W" },
    ],
  },
  {
    rel: "vision/detections",
    title: "Cameras",
    fields: [
      { key: "count", label: "Seen", digits: 0 },
      { key: "frame", digits: 0 },
    ],
  },
];

export function Overview() {
  return (
    <>
      <h1>Overview</h1>
      <Mission />
      <div class="overview">
        <section class="card" aria-label="Lawn">
          <h2>Lawn</h2>
          <LawnMap />
        </section>
        <div class="column">{cards.slice(0, 3).map((c) => <Facts key={c.rel} {...c} />)}</div>
      </div>
      <div class="grid">{cards.slice(3).map((c) => <Facts key={c.rel} {...c} />)}</div>
      <section class="card" aria-label="Battery and power">
        <h2>Battery and power</h2>
        <Chart
          data={[power.t, power.level, power.watts]}
          series={[{ label: "Level, %", color: "--series-1" }, { label: "Power, W", color: "--series-2", scale: "w" }]}
        />
      </section>
    </>
  );
}

// Mission says in a line what the mower does.
function Mission() {
  const m = readingOf(useTopic("navigation/status"));
  const activity = str(m.activity);
  const progress = num(m.progress);
  const interrupted = str(m.interrupted);
  return (
    <section class="card mission" aria-label="Mission">
      <p class="activity value" id="activity">{activity ? label(activity) : "Activity unknown"}</p>
      {progress !== undefined && (
        <p class="progress value">
          <progress max={100} value={Math.min(100, Math.max(0, progress))} aria-label="Part of the lawn that is mown" />
          {show(progress, 1)} % mown
        </p>
      )}
      {interrupted && <p class="interrupted value">Interrupted: {show(interrupted)}</p>}
    </section>
  );
}
