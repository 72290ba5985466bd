import { type ComponentType, render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Alerts } from "./alerts";
import { Drive } from "./drive";
import { Header } from "./header";
import { api, link, onLink, start, watch } from "./link";
import { Logs } from "./logs";
import { Messages } from "./messages";
import { Overview } from "./overview";
import { Boundary, restoreTheme, setTheme, theme, useUp } from "./parts";
import { Performance } from "./performance";
import { Services } from "./services";
import { Settings } from "./settings";
import { Topics } from "./topics";
import type { Session } from "./types";
import "uplot/dist/uPlot.min.css";
import "./style.css";

const pages = {
  overview: Overview,
  drive: Drive,
  services: Services,
  topics: Topics,
  alerts: Alerts,
  messages: Messages,
  performance: Performance,
  logs: Logs,
  settings: Settings,
} satisfies Record<string, ComponentType>;

type Name = keyof typeof pages;
const names = Object.keys(pages) as Name[];

function here(): Name {
  const name = location.hash.slice(2);
  return names.find((n) => n === name) ?? "overview";
}

function title(name: Name): string {
  return name[0]!.toUpperCase() + name.slice(1);
}

function Login({ done }: { done: () => void }) {
  const [error, setError] = useState("");
  const send = (e: Event) => {
    e.preventDefault();
    const f = new FormData(e.target as HTMLFormElement);
    setError("");
    api("/api/login", { name: f.get("name"), password: f.get("password") }).then(done, (x: Error) => setError(x.message));
  };
  return (
    <main class="login">
      <h1>Lawnberry</h1>
      <form class="card" onSubmit={send}>
        <label>Name <input name="name" autocomplete="username" autocapitalize="none" required /></label>
        <label>Password <input name="password" type="password" autocomplete="current-password" required /></label>
        <button class="primary">Log in</button>
        <p role="alert" class="bad">{error}</p>
      </form>
    </main>
  );
}

function Nav({ page, user }: { page: Name; user: string }) {
  const bar = useRef<HTMLElement>(null);
  // Where it does not fit, the present page's link is scrolled to.
  useEffect(() => {
    const at = bar.current?.querySelector<HTMLElement>("[aria-current]");
    if (at) bar.current!.scrollLeft = at.offsetLeft - (bar.current!.clientWidth - at.clientWidth) / 2;
  }, [page]);
  const logout = () => api("/api/logout", {}).then(() => location.reload(), () => location.reload());
  return (
    <nav ref={bar} aria-label="Pages">
      {names.map((n) => <a key={n} href={`#/${n}`} aria-current={n === page ? "page" : undefined}>{title(n)}</a>)}
      <span class="space" />
      <button id="theme" onClick={() => setTheme(theme() === "dark" ? "light" : "dark")} aria-label="Dark or light">◐</button>
      {user && <button id="logout" onClick={logout}>Log out {user}</button>}
    </nav>
  );
}

function App() {
  const [session, setSession] = useState<Session>();
  const [page, setPage] = useState<Name>(here());
  const up = useUp();
  const look = () => {
    api<Session>("/api/session").then(setSession, () => setTimeout(look, 1000));
  };
  useEffect(() => {
    look();
    const moved = () => setPage(here());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => { document.title = `${title(page)} · Lawnberry`; }, [page]);

  const inside = !!session && (!session.login || !!session.user);
  useEffect(() => { if (inside) start(); }, [inside]);
  // Without a link, somebody may have to log in anew.
  useEffect(() => watch([onLink], () => { if (!link.up) api<Session>("/api/session").then(setSession, () => {}); }), []);

  if (!session) return <p class="loading" role="status">Looking for the mower…</p>;
  if (!inside) return <Login done={look} />;
  const Page = pages[page];
  return (
    <div class={up ? undefined : "lost"}>
      <Header />
      <Nav page={page} user={session.user} />
      <main id={`page-${page}`} tabIndex={-1}>
        <Boundary key={page} name="This page"><Page /></Boundary>
      </main>
    </div>
  );
}

restoreTheme();
render(<App />, document.getElementById("app")!);
