// Driving by hand: control of the motors is asked for, set points are sent while it lasts, and it is given back. Whatever is not certain ends it.

import { ask, link, lostAfter, send, touch } from "./link";

export const onDrive = "*drive"; // to be watched

export const drive = {
  phase: "idle" as "idle" | "asking" | "driving",
  driver: "", // how the machine names this page
  said: "", // how the last drive ended, or why there was none
  refused: false, // what was said is bad news
  linear: 0, // m/s that is sent
  angular: 0, // rad/s, positive turns left
  blade: false,
  limit: 0.3, // m/s
};

export const slowest = 0.1; // m/s
export const fastest = 0.6; // m/s

const period = 100; // ms between two set points
const turn = 2; // rad/s for each m/s of the limit
const sharpest = 1; // rad/s
const rest = 500; // ms after a drive before the next: a second click on the button that gave control back does not take it again

let id = "";
let timer: ReturnType<typeof setInterval> | undefined;
let ended = -rest; // when the last drive did, by performance.now()

// takeControl asks for control of the motors.
export function takeControl(service: string): void {
  if (drive.phase !== "idle" || performance.now() - ended < rest) return;
  drive.phase = "asking";
  drive.said = "";
  drive.refused = false;
  let mine = "";
  mine = ask({ op: "drive", service }, (a) => {
    if (mine !== "" && id !== mine) return; // it was given back meanwhile
    if (a.op !== "driving") {
      end(a.message || "The drive has ended.", a.op === "error" || a.op === "drive_ended");
      return;
    }
    drive.phase = "driving";
    drive.driver = a.driver ?? "";
    timer = setInterval(say, period);
    say();
    touch(onDrive);
  });
  if (drive.phase === "asking") id = mine;
  touch(onDrive);
}

// give gives control back. It does nothing without it.
export function give(why: string): void {
  if (drive.phase === "idle") return;
  ask({ op: "undrive" }, () => {});
  end(why, false);
  ended = performance.now();
}

// steer says where to: both from -1 to 1, forward and to the left.
export function steer(forward: number, left: number): void {
  if (drive.phase !== "driving") return;
  const was = drive.linear !== 0 || drive.angular !== 0;
  drive.linear = round(clamp(forward) * drive.limit);
  drive.angular = round(clamp(left) * quickest());
  if (was && drive.linear === 0 && drive.angular === 0) say(); // it stands at once
  touch(onDrive);
}

export function setBlade(on: boolean): void {
  if (drive.phase !== "driving") return;
  drive.blade = on;
  say();
  touch(onDrive);
}

// setLimit holds at once for what drives already: it may get slower by that, and never faster.
export function setLimit(limit: number): void {
  drive.limit = Math.min(fastest, Math.max(slowest, limit));
  drive.linear = within(drive.linear, drive.limit);
  drive.angular = within(drive.angular, quickest());
  touch(onDrive);
}

function quickest(): number {
  return Math.min(sharpest, turn * drive.limit);
}

// say sends a set point, unless nothing has come from the bridge for so long that nobody here can know what the mower does.
function say(): void {
  if (performance.now() - link.heard > lostAfter) {
    give("Nothing comes from the mower any more, so control is given back.");
    return;
  }
  send({ op: "setpoint", linear: drive.linear, angular: drive.angular, blade: drive.blade, time: performance.now() / 1000 });
}

function end(said: string, refused: boolean): void {
  clearInterval(timer);
  if (drive.phase === "driving") ended = performance.now();
  id = "";
  drive.phase = "idle";
  drive.driver = "";
  drive.said = said;
  drive.refused = refused;
  drive.linear = drive.angular = 0;
  drive.blade = false;
  touch(onDrive);
}

function clamp(x: number): number {
  return Number.isFinite(x) ? within(x, 1) : 0;
}

function within(x: number, most: number): number {
  return Math.min(most, Math.max(-most, x));
}

function round(x: number): number {
  return Math.round(x * 1000) / 1000 || 0;
}
