import { useState } from "preact/hooks";
import { link, onTail, tail, touch } from "./link";
import { Rows, useSomeChanges } from "./parts";
import { textOf } from "./types";

const redraw = 100; // ms

export function Messages() {
  useSomeChanges(redraw, onTail);
  const [filter, set] = useState("");
  const found = filter ? tail.filter((l) => l.rel.includes(filter) || textOf(l).includes(filter)) : tail;
  const pause = () => {
    link.paused = !link.paused;
    touch(onTail);
  };
  return (
    <>
      <h1>Messages</h1>
      <p class="tools">
        <label>Filter <input type="search" value={filter} onInput={(e) => set(e.currentTarget.value)} /></label>
        <button id="pause" aria-pressed={link.paused} onClick={pause}>{link.paused ? "Go on" : "Pause"}</button>
        <span id="received" class="value" data-received={link.received} data-dropped={link.dropped}>
          {link.received.toLocaleString()} received{link.dropped > 0 && `, ${link.dropped.toLocaleString()} left out`}
        </span>
      </p>
      <Rows lines={found} />
    </>
  );
}
