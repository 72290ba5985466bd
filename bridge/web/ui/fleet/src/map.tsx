// Where the mowers are, on a plain grid: by latitude and longitude, or in their own frames. Nothing is loaded from elsewhere.

import { useEffect, useRef, useState } from "preact/hooks";
import { listen, type Row } from "./feed";

export type Frame = "earth" | "own";

interface View {
  x: number; // of the middle
  y: number;
  s: number; // pixels per unit
}

const radius = 6_371_000; // m

// place is where a mower is, in metres; of the earth on a plane that is right in its middle.
function place(r: Row, frame: Frame, lat0: number): [number, number] | undefined {
  if (frame === "own") return r.x === undefined || r.y === undefined ? undefined : [r.x, r.y];
  if (r.la === undefined || r.lo === undefined) return undefined;
  const rad = Math.PI / 180;
  return [r.lo * rad * radius * Math.cos(lat0 * rad), r.la * rad * radius];
}

function middle(rows: Row[]): number {
  const all = rows.flatMap((r) => (r.la === undefined ? [] : [r.la])).sort((a, b) => a - b);
  return all[all.length >> 1] ?? 0;
}

function nice(most: number): number {
  const ten = 10 ** Math.floor(Math.log10(most));
  return ten * (most >= 5 * ten ? 5 : most >= 2 * ten ? 2 : 1);
}

function metres(n: number): string {
  return n >= 1000 ? `${n / 1000} km` : `${n} m`;
}

// fitted shows all but what is far from the others.
function fitted(at: [number, number][], w: number, h: number): View {
  if (!at.length) return { x: 0, y: 0, s: 20 };
  const span = (k: 0 | 1) => {
    const v = at.map((p) => p[k]).sort((a, b) => a - b);
    const cut = Math.floor(v.length / 100);
    return [v[cut]!, v[v.length - 1 - cut]!] as const;
  };
  const [x0, x1] = span(0);
  const [y0, y1] = span(1);
  return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, s: Math.min(w / Math.max(x1 - x0, 5), h / Math.max(y1 - y0, 5)) * 0.9 };
}

export const drawn = { count: 0, last: 0, slowest: 0, shown: 0 }; // how often, and ms

export function FleetMap({ rows, chosen, choose, theme }: { rows: Row[]; chosen: string; choose: (id: string) => void; theme: string }) {
  const box = useRef<HTMLCanvasElement>(null);
  const earthly = rows.filter((r) => r.la !== undefined).length * 2 >= rows.filter((r) => r.x !== undefined || r.la !== undefined).length;
  const [wanted, want] = useState<Frame>();
  const frame = wanted ?? (earthly ? "earth" : "own");
  const view = useRef<View | undefined>(undefined);
  const now = useRef({ rows, chosen, frame });
  now.current = { rows, chosen, frame };
  const spots = useRef<[number, number, string][]>([]);
  const due = useRef(0);

  const draw = () => {
    due.current = 0;
    const el = box.current;
    const g = el?.getContext("2d");
    if (!el || !g) return;
    const began = performance.now();
    const ratio = devicePixelRatio || 1;
    const w = el.clientWidth;
    const h = el.clientHeight;
    if (el.width !== Math.round(w * ratio) || el.height !== Math.round(h * ratio)) {
      el.width = Math.round(w * ratio);
      el.height = Math.round(h * ratio);
    }
    const css = getComputedStyle(el);
    const color = (name: string) => css.getPropertyValue(name).trim();
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    const { rows, chosen, frame } = now.current;
    const lat0 = middle(rows);
    const at = rows.flatMap((r) => {
      const p = place(r, frame, lat0);
      return p ? [[p, r] as const] : [];
    });
    if (!view.current && at.length) view.current = fitted(at.map((a) => a[0]), w, h);
    const v = view.current ?? { x: 0, y: 0, s: 20 };
    const px = (x: number) => w / 2 + (x - v.x) * v.s;
    const py = (y: number) => h / 2 - (y - v.y) * v.s;

    // The grid, a line each bar.
    const bar = nice(Math.max(w, 100) / 4 / v.s);
    g.strokeStyle = color("--line");
    g.lineWidth = 1;
    g.beginPath();
    for (let x = Math.ceil((v.x - w / 2 / v.s) / bar) * bar; px(x) <= w; x += bar) {
      g.moveTo(Math.round(px(x)) + 0.5, 0);
      g.lineTo(Math.round(px(x)) + 0.5, h);
    }
    for (let y = Math.ceil((v.y - h / 2 / v.s) / bar) * bar; py(y) >= 0; y += bar) {
      g.moveTo(0, Math.round(py(y)) + 0.5);
      g.lineTo(w, Math.round(py(y)) + 0.5);
    }
    g.stroke();

    // The worst are drawn last, on top; alerts have another shape, not only another colour.
    spots.current = [];
    const kinds = [
      { is: (r: Row) => !(r.w || r.stop === "engaged") && !r.on, color: color("--edge"), shape: 0 },
      { is: (r: Row) => !(r.w || r.stop === "engaged") && r.on, color: color("--accent"), shape: 0 },
      { is: (r: Row) => (r.w ?? 0) > 0 && (r.w ?? 0) < 3 && r.stop !== "engaged", color: color("--series-2"), shape: 1 },
      { is: (r: Row) => (r.w ?? 0) >= 3 || r.stop === "engaged", color: color("--bad"), shape: 1 },
    ];
    for (const k of kinds) {
      g.fillStyle = k.color;
      g.beginPath();
      for (const [p, r] of at) {
        if (!k.is(r)) continue;
        const x = px(p[0]);
        const y = py(p[1]);
        if (x < -10 || y < -10 || x > w + 10 || y > h + 10) continue;
        spots.current.push([x, y, r.id]);
        if (k.shape) {
          g.moveTo(x, y - 7);
          g.lineTo(x + 6.5, y + 5);
          g.lineTo(x - 6.5, y + 5);
          g.closePath();
        } else {
          g.moveTo(x + 3.5, y);
          g.arc(x, y, 3.5, 0, 7);
        }
      }
      g.fill();
    }
    const c = at.find((a) => a[1].id === chosen);
    if (c) {
      g.strokeStyle = color("--text");
      g.lineWidth = 2.5;
      g.beginPath();
      g.arc(px(c[0][0]), py(c[0][1]), 11, 0, 7);
      g.stroke();
    }
    g.fillStyle = color("--card");
    g.fillRect(6, h - 30, Math.max(bar * v.s, 40) + 70, 24);
    g.strokeStyle = color("--text");
    g.lineWidth = 2;
    g.beginPath();
    g.moveTo(12, h - 18);
    g.lineTo(12, h - 12);
    g.lineTo(12 + bar * v.s, h - 12);
    g.lineTo(12 + bar * v.s, h - 18);
    g.stroke();
    g.fillStyle = color("--text");
    g.font = "13px system-ui, sans-serif";
    g.fillText(metres(bar), 18 + bar * v.s, h - 11);
    el.dataset.shown = String(spots.current.length);
    drawn.count++;
    drawn.last = performance.now() - began;
    drawn.slowest = Math.max(drawn.slowest, drawn.last);
    drawn.shown = spots.current.length;
  };
  const soon = () => { due.current ||= requestAnimationFrame(draw); };

  useEffect(() => {
    const el = box.current!;
    const end = listen(soon);
    const size = new ResizeObserver(soon);
    size.observe(el);
    let down: { x: number; y: number; moved: boolean } | undefined;
    const zoom = (by: number, x: number, y: number) => {
      const v = view.current;
      if (!v) return;
      const dx = (x - el.clientWidth / 2) / v.s;
      const dy = (el.clientHeight / 2 - y) / v.s;
      const s = Math.min(Math.max(v.s * by, 1e-6), 500);
      view.current = { x: v.x + dx - dx * v.s / s, y: v.y + dy - dy * v.s / s, s };
      soon();
    };
    const wheel = (e: WheelEvent) => {
      e.preventDefault();
      zoom(e.deltaY < 0 ? 1.25 : 0.8, e.offsetX, e.offsetY);
    };
    const press = (e: PointerEvent) => {
      down = { x: e.offsetX, y: e.offsetY, moved: false };
      el.setPointerCapture(e.pointerId);
    };
    const move = (e: PointerEvent) => {
      const v = view.current;
      if (!down || !v) return;
      if (!down.moved && Math.hypot(e.offsetX - down.x, e.offsetY - down.y) < 4) return;
      view.current = { ...v, x: v.x - (e.offsetX - down.x) / v.s, y: v.y + (e.offsetY - down.y) / v.s };
      down = { x: e.offsetX, y: e.offsetY, moved: true };
      soon();
    };
    const release = (e: PointerEvent) => {
      if (down && !down.moved) {
        let best = 20;
        let id = "";
        for (const [x, y, of] of spots.current) {
          const far = Math.hypot(x - e.offsetX, y - e.offsetY);
          if (far <= best) [best, id] = [far, of];
        }
        if (id) choose(id);
      }
      down = undefined;
    };
    const step = (e: Event) => zoom((e as CustomEvent<number>).detail, el.clientWidth / 2, el.clientHeight / 2);
    el.addEventListener("wheel", wheel, { passive: false });
    el.addEventListener("pointerdown", press);
    el.addEventListener("pointermove", move);
    el.addEventListener("pointerup", release);
    el.addEventListener("zoom", step);
    return () => {
      end();
      size.disconnect();
      cancelAnimationFrame(due.current);
      el.removeEventListener("wheel", wheel);
      el.removeEventListener("pointerdown", press);
      el.removeEventListener("pointermove", move);
      el.removeEventListener("pointerup", release);
      el.removeEventListener("zoom", step);
    };
  }, []);
  useEffect(soon, [rows, chosen, frame, theme]);

  const by = (n: number) => box.current?.dispatchEvent(new CustomEvent("zoom", { detail: n }));
  const fit = () => {
    view.current = undefined;
    soon();
  };
  const known = rows.filter((r) => (frame === "own" ? r.x !== undefined : r.la !== undefined)).length;
  return (
    <section class="card mapcard" aria-label="Map">
      <div class="tools">
        <h2>Map <small>{known} of {rows.length}</small></h2>
        <span class="grow" />
        <button aria-pressed={frame === "earth"} onClick={() => { want("earth"); fit(); }}>Earth</button>
        <button aria-pressed={frame === "own"} onClick={() => { want("own"); fit(); }}>Own frames</button>
        <button onClick={() => by(1.5)} aria-label="Nearer">+</button>
        <button onClick={() => by(1 / 1.5)} aria-label="Farther">−</button>
        <button onClick={fit}>All</button>
      </div>
      <canvas id="map" ref={box} role="img" aria-label={`Map of ${known} mowers, north is up; the table has the same`} />
    </section>
  );
}
