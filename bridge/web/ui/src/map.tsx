// The lawn as far as the bus tells of it: its outline, the dock, the way ahead, where the mower was and is. Metres, north is up.

import { trail } from "./link";
import { useTopic } from "./parts";
import { num, type Point, pointOf, pointsOf, readingOf } from "./types";

const margin = 0.8; // m around what is shown

interface View {
  x: number;
  y: number; // of the north-west corner
  w: number;
  h: number;
}

function fit(points: Point[]): View {
  const all = points.length ? points : [{ x: 0, y: 0 }];
  const xs = all.map((p) => p.x);
  const ys = all.map((p) => p.y);
  const x0 = Math.min(...xs) - margin;
  const y1 = Math.max(...ys) + margin;
  const w = Math.max(4, Math.max(...xs) + margin - x0);
  const h = Math.max(3, y1 - Math.min(...ys) + margin);
  return { x: x0, y: y1, w, h: h + w * 0.07 }; // room for the scale below
}

// scale is the length of the scale bar: about a quarter of the width, a round number.
function scale(width: number): number {
  const most = width / 4;
  const ten = 10 ** Math.floor(Math.log10(most));
  return ten * (most >= 5 * ten ? 5 : most >= 2 * ten ? 2 : 1);
}

function coordinates(points: Point[]): string {
  return points.map((p) => `${p.x.toFixed(2)},${(-p.y).toFixed(2)}`).join(" ");
}

export function LawnMap() {
  const path = readingOf(useTopic("navigation/path"));
  const position = readingOf(useTopic("navigation/position"));
  const at = pointOf(position);
  const outline = pointsOf(path.boundary);
  const ahead = pointsOf(path.points);
  const dock = pointOf(path.dock);
  // With an outline the view stands still, unless the mower leaves it.
  const v = fit([...outline, ...(dock ? [dock] : []), ...(outline.length ? [] : ahead), ...(outline.length ? [] : trail), ...(at ? [at] : [])]);
  const bar = scale(v.w);
  const unit = v.w / 100;
  const where = at ? `The mower is at ${at.x.toFixed(1)} m east, ${at.y.toFixed(1)} m north` : "The mower's position is not known";
  return (
    <svg class="map" viewBox={`${v.x} ${-v.y} ${v.w} ${v.h}`} role="img" aria-label={`Map of the lawn, north is up. ${where}.`}>
      <polygon id="lawn" class="lawn" points={coordinates(outline)} />
      <polyline class="path" points={coordinates(ahead)} />
      <polyline class="trail" points={coordinates(trail)} />
      {dock && (
        <g id="dock" class="dock" transform={`translate(${dock.x} ${-dock.y})`}>
          <rect x={-0.5} y={-0.5} width={1} height={1} rx={0.15} />
          <path d="M.08,-.36 -.2,.06 H0 L-.08,.36 .2,-.06 H0Z" />
        </g>
      )}
      {at && <Mower at={at} heading={num(position.heading) ?? 0} size={Math.max(0.7, v.w / 28)} />}
      <g class="scale" transform={`translate(${v.x + 2 * unit} ${-v.y + v.h - 2.2 * unit})`}>
        <path d={`M0,${-unit} V0 H${bar} V${-unit}`} />
        <text x={bar + unit} y={0} font-size={3.2 * unit}>{bar} m</text>
      </g>
    </svg>
  );
}

function Mower({ at, heading, size }: { at: Point; heading: number; size: number }) {
  return (
    <g id="mower" data-x={at.x} data-y={at.y} transform={`translate(${at.x} ${-at.y}) rotate(${heading}) scale(${size})`}>
      <path class="mower" d="M0,-.8 .52,.55 0,.28 -.52,.55Z" />
    </g>
  );
}
