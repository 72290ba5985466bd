// The page to drive the mower by hand: with a finger or a mouse, with keys, or with a gamepad.

import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { drive, fastest, give, onDrive, setBlade, setLimit, slowest, steer, takeControl } from "./driving";
import { api } from "./link";
import { LawnMap } from "./map";
import { Boundary, show, useChange, usePoll, useTopic, useUp } from "./parts";
import { num, readingOf, type Service, str } from "./types";

// Where to, both from -1 to 1.
interface Stick {
  forward: number;
  left: number;
}

const still: Stick = { forward: 0, left: 0 };
const deadZone = 0.15; // of a gamepad's axes
const padPeriod = 50; // ms between two looks at it
const bladeHold = 1000; // ms for which the button is held to start the blade

export function Drive() {
  useChange(onDrive);
  const up = useUp();
  const [service, problem] = useMotors();
  const [stick, setStick] = useState(still);
  const pad = useRef<HTMLDivElement>(null);
  const driving = drive.phase === "driving";

  // One hand at a time: what moved last counts.
  const move = (s: Stick) => {
    setStick(s);
    steer(s.forward, s.left);
  };
  useEffect(() => {
    if (driving) pad.current?.focus();
    else setStick(still);
  }, [driving]);
  useLeaving();
  useKeys(driving, move);
  const gamepad = useGamepad(driving, move);

  return (
    <>
      <h1>Drive</h1>
      <div class="drive">
        <section class="card controls" aria-label="Controls">
          <div class="take">
            {drive.phase === "idle"
              ? <button id="take" class="primary big" disabled={!up || !service} onClick={() => takeControl(service)}>Take control</button>
              : <button id="give" class="big" onClick={() => give("Control is given back.")}>{driving ? "Give back" : "Asking…"}</button>}
            <p id="drive-said" role="status" class={drive.refused ? "bad" : "said"}>
              {driving ? "You drive. Stay where you see the mower." : drive.said || problem}
            </p>
          </div>
          <Joystick box={pad} stick={stick} enabled={driving} move={move} />
          <p id="commanded" class="commanded">
            <b>{Math.abs(drive.linear).toFixed(2)} m/s</b>
            <span>{drive.linear < 0 ? "backwards, " : drive.linear > 0 ? "forward, " : ""}{turning(drive.angular)}</span>
          </p>
          <label class="limit">
            Fastest <output>{drive.limit.toFixed(2)} m/s</output>
            <input
              id="limit" type="range" min={slowest} max={fastest} step={0.05} value={drive.limit}
              aria-valuetext={`${drive.limit.toFixed(2)} metres per second`}
              onInput={(e) => setLimit(Number(e.currentTarget.value))}
            />
          </label>
          <Blade enabled={driving} />
          <p class="hint">
            Arrow keys or W A S D while held; Escape or space gives back. {gamepad ? `Gamepad: ${gamepad}.` : "A gamepad works too."}
          </p>
        </section>
        <section class="card" aria-label="Lawn">
          <h2>Lawn</h2>
          <Boundary name="The map"><LawnMap /></Boundary>
          <Boundary name="The motors"><Motors /></Boundary>
        </section>
      </div>
    </>
  );
}

function turning(angular: number): string {
  if (angular === 0) return "no turn";
  return `turning ${angular > 0 ? "left" : "right"}, ${Math.abs(angular).toFixed(2)} rad/s`;
}

// Motors says what they do, and why they may not.
function Motors() {
  const m = readingOf(useTopic("sensors/motors/data"));
  const linear = num(m.linear);
  const blade = num(m.blade) ?? 0;
  const driver = str(m.driver) ?? "nobody";
  return (
    <dl>
      <dt>Speed</dt>
      <dd class="value">{linear === undefined ? "–" : `${linear.toFixed(2)} m/s`}</dd>
      <dt>Blade</dt>
      <dd class="value">{blade > 0 ? `turns, ${(blade * 100).toFixed(0)} %` : "stands"}</dd>
      <dt>Driver</dt>
      <dd class="value" id="driver">{driver === drive.driver ? "you" : driver.replace(/^web_bridge-.*/, "another page")}</dd>
      <dt>May turn</dt>
      <dd class="value">{m.permit === true ? "yes" : m.permit === false ? `no: ${show(m.cause)}` : "–"}</dd>
    </dl>
  );
}

// useMotors finds the service whose motors can be driven: one that has the command take_control.
function useMotors(): [string, string] {
  const [answer] = usePoll<{ services: Service[] }>("/api/services", 5000);
  const [found, set] = useState<string>(); // "" is none, undefined is not known yet
  const first = (s: Service) => (s.type === "hardware" ? 0 : 1);
  const ids = (answer?.services ?? []).filter((s) => s.state !== "offline").sort((a, b) => first(a) - first(b)).map((s) => s.id);
  useEffect(() => {
    if (!answer) return;
    let over = false;
    const find = async () => {
      for (const id of ids) {
        const s = await api<Service>(`/api/services/${encodeURIComponent(id)}`);
        if (over) return;
        if (s.commands?.some((c) => c.name === "take_control")) {
          set(id);
          return;
        }
      }
      set("");
    };
    find().catch(() => {});
    return () => { over = true; };
  }, [ids.join("\n")]);
  return [found ?? "", found === "" ? "No service here lets itself be driven." : ""];
}

// useLeaving gives control back when the page can no longer be trusted to be looked at.
function useLeaving(): void {
  useEffect(() => {
    const hidden = () => { if (document.hidden) give("The page was hidden, so control is given back."); };
    const blur = () => give("Another window was chosen, so control is given back.");
    const gone = () => give("The page was left, so control is given back.");
    document.addEventListener("visibilitychange", hidden);
    addEventListener("blur", blur);
    addEventListener("pagehide", gone);
    return () => {
      document.removeEventListener("visibilitychange", hidden);
      removeEventListener("blur", blur);
      removeEventListener("pagehide", gone);
      gone();
    };
  }, []);
}

const keys: Record<string, Stick> = {
  ArrowUp: { forward: 1, left: 0 },
  ArrowDown: { forward: -1, left: 0 },
  ArrowLeft: { forward: 0, left: 1 },
  ArrowRight: { forward: 0, left: -1 },
  KeyW: { forward: 1, left: 0 },
  KeyS: { forward: -1, left: 0 },
  KeyA: { forward: 0, left: 1 },
  KeyD: { forward: 0, left: -1 },
};

function useKeys(driving: boolean, move: (s: Stick) => void): void {
  useEffect(() => {
    if (!driving) return;
    const held = new Set<string>();
    const say = () => {
      let forward = 0;
      let left = 0;
      for (const k of held) {
        forward += keys[k]!.forward;
        left += keys[k]!.left;
      }
      move({ forward: Math.max(-1, Math.min(1, forward)), left: Math.max(-1, Math.min(1, left)) });
    };
    const drop = () => {
      if (held.size === 0) return;
      held.clear();
      say();
    };
    // While a menu is open, keys that are let go are its own.
    const menu = (e: Event) => {
      e.preventDefault();
      drop();
    };
    const down = (e: KeyboardEvent) => {
      const at = e.target as HTMLElement;
      if (e.code === "Escape" || e.code === "Space" && !at.closest("header")) { // there it is for STOP
        e.preventDefault();
        give("Control is given back.");
        return;
      }
      if (e.ctrlKey || e.altKey || e.metaKey) { // nor is it said by every system which keys are let go while one of these is held
        drop();
        return;
      }
      if (!(e.code in keys) || at.closest("input, select, textarea")) return;
      e.preventDefault();
      if (e.repeat) return;
      held.add(e.code);
      say();
    };
    const up = (e: KeyboardEvent) => {
      if (held.delete(e.code)) say();
    };
    addEventListener("keydown", down, true);
    addEventListener("keyup", up, true);
    addEventListener("contextmenu", menu, true);
    return () => {
      removeEventListener("contextmenu", menu, true);
      removeEventListener("keydown", down, true);
      removeEventListener("keyup", up, true);
    };
  }, [driving]);
}

// useGamepad drives by the first gamepad, and returns its name. It has to be seen at rest first, in each drive: one that lies on its stick does not
// drive. When the one that drove is taken away the drive ends.
function useGamepad(driving: boolean, move: (s: Stick) => void): string {
  const [name, setName] = useState("");
  useEffect(() => {
    const first = () => navigator.getGamepads?.().find((g) => g?.connected) ?? undefined;
    const named = () => setName(first()?.id.slice(0, 60) ?? "");
    named();
    let rested = -1; // index of the gamepad that was at rest, and so may drive
    let used = -1; // of the one that has driven
    let moving = false; // by it
    const lost = (e: GamepadEvent) => {
      named();
      if (e.gamepad.index === rested) rested = -1;
      if (driving && e.gamepad.index === used) give("The gamepad is gone, so control is given back.");
    };
    addEventListener("gamepadconnected", named);
    addEventListener("gamepaddisconnected", lost);
    const far = (x?: number) => (x !== undefined && Math.abs(x) > deadZone ? (x - Math.sign(x) * deadZone) / (1 - deadZone) : 0);
    const look = setInterval(() => {
      if (!driving) return;
      const pad = first();
      if (!pad) {
        if (used >= 0) give("The gamepad is gone, so control is given back.");
        return;
      }
      const s = { forward: -far(pad.axes[1]), left: -far(pad.axes[0]) };
      const away = s.forward !== 0 || s.left !== 0;
      if (!away) rested = pad.index;
      const drives = away && rested === pad.index;
      if (drives) used = pad.index;
      if (drives || moving) move(drives ? s : still);
      moving = drives;
    }, padPeriod);
    return () => {
      clearInterval(look);
      removeEventListener("gamepadconnected", named);
      removeEventListener("gamepaddisconnected", lost);
    };
  }, [driving]);
  return name;
}

interface JoystickProps {
  box: RefObject<HTMLDivElement | null>;
  stick: Stick;
  enabled: boolean;
  move: (s: Stick) => void;
}

function Joystick({ box, stick, enabled, move }: JoystickProps) {
  const finger = useRef(-1); // the pointer that holds the knob
  const drag = (e: PointerEvent) => {
    if (e.pointerId !== finger.current) return;
    if (!(e.buttons & 1)) { // it was let go where nobody told us
      release(e);
      return;
    }
    const r = box.current!.getBoundingClientRect();
    const reach = r.width * 0.36;
    let x = (e.clientX - r.left - r.width / 2) / reach;
    let y = (e.clientY - r.top - r.height / 2) / reach;
    const far = Math.hypot(x, y);
    if (far > 1) {
      x /= far;
      y /= far;
    }
    const dead = (v: number) => (Math.abs(v) < 0.08 ? 0 : v);
    move({ forward: -dead(y), left: -dead(x) });
  };
  const grab = (e: PointerEvent) => {
    if (!enabled || finger.current >= 0 || e.button !== 0) return;
    finger.current = e.pointerId;
    box.current!.setPointerCapture(e.pointerId);
    drag(e);
  };
  const release = (e: PointerEvent) => {
    if (e.pointerId !== finger.current) return;
    finger.current = -1;
    move(still);
  };
  useEffect(() => { if (!enabled) finger.current = -1; }, [enabled]);
  return (
    <div
      ref={box} id="joystick" class={enabled ? "joystick" : "joystick off"} role="application" aria-roledescription="joystick" tabIndex={enabled ? 0 : -1}
      aria-disabled={!enabled} aria-label="Joystick: drag the knob, or hold arrow keys. Up drives forward, left and right turn. Escape or space gives back."
      onPointerDown={grab} onPointerMove={drag} onPointerUp={release} onPointerCancel={release} onLostPointerCapture={release}
    >
      <svg viewBox="-50 -50 100 100" aria-hidden="true">
        <circle class="rim" r={48} />
        <path class="arrow" d="M0,-43 5,-36 H-5Z M0,43 5,36 H-5Z M-43,0 -36,5 V-5Z M43,0 36,5 V-5Z" />
        <circle id="knob" class="knob" cx={-stick.left * 30} cy={-stick.forward * 30} r={16} />
      </svg>
    </div>
  );
}

// Blade starts the blade when it is held for a while, and stops it at once.
function Blade({ enabled }: { enabled: boolean }) {
  const [holding, setHolding] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const drop = () => {
    clearTimeout(timer.current);
    setHolding(false);
  };
  const hold = () => {
    if (!enabled || drive.blade || holding) return;
    setHolding(true);
    timer.current = setTimeout(() => {
      setHolding(false);
      setBlade(true);
    }, bladeHold);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  useEffect(() => { if (!enabled) drop(); }, [enabled]);
  if (drive.blade) {
    // A new press stops it, not the end of the hold that has started it, which is a click as well. That of a program that helps has no pointer.
    const stop = () => setBlade(false);
    return (
      <button
        id="blade-off" class="danger wide" onPointerDown={stop} onClick={(e) => { if (e.detail === 0) stop(); }}
        onKeyDown={(e) => {
          if (e.key !== "Enter") return;
          e.preventDefault();
          if (!e.repeat) stop();
        }}
      >
        Stop the blade
      </button>
    );
  }
  return (
    <button
      id="blade" class={holding ? "hold holding wide" : "hold wide"} disabled={!enabled} aria-label="Hold for a second to start the blade"
      onPointerDown={hold} onPointerUp={drop} onPointerLeave={drop} onPointerCancel={drop} onBlur={drop}
      onKeyDown={(e) => {
        if (e.key !== "Enter") return;
        e.preventDefault();
        if (!e.repeat) hold();
      }}
      onKeyUp={drop}
      onContextMenu={(e) => e.preventDefault()}
    >
      Hold to start the blade
    </button>
  );
}
