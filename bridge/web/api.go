package web

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/tracing"
)

//go:embed openapi.json
var openAPI []byte

const maxBody = 64 << 10 // bytes of a request

// A route is one of the API. The test of openapi.json goes through them.
type route struct {
	pattern string // as of http.ServeMux
	open    bool   // without a login
	serve   func(w http.ResponseWriter, r *http.Request, who identity) error
}

func (b *Bridge) routes() []route {
	return []route{
		{"GET /api/session", true, func(w http.ResponseWriter, r *http.Request, _ identity) error {
			who, err := b.identify(r)
			if err != nil {
				who = identity{}
			}
			return writeJSON(w, b.sessionOf(who))
		}},
		{"POST /api/login", true, func(w http.ResponseWriter, r *http.Request, _ identity) error { return b.login(w, r) }},
		{"POST /api/logout", true, func(w http.ResponseWriter, r *http.Request, _ identity) error { return b.logout(w, r) }},
		{"GET /api/openapi.json", true, func(w http.ResponseWriter, _ *http.Request, _ identity) error {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-cache")
			_, err := w.Write(openAPI)
			return err
		}},
		{"GET /api/services", false, b.getServices},
		{"GET /api/services/{id}", false, b.getService},
		{"POST /api/services/{id}/commands/{command}", false, b.postCommand},
		{"GET /api/topics", false, b.getTopics},
		{"GET /api/topics/{topic...}", false, b.getTopic},
		{"GET /api/alerts", false, b.getAlerts},
		{"POST /api/alerts/{id}/ack", false, b.postAck},
		{"GET /api/health", false, b.getHealth},
		{"GET /api/stats", false, b.getStats},
		{"GET /api/config", false, b.getConfig},
		{"GET /api/emergency-stop", false, b.getStop},
		{"POST /api/emergency-stop", false, b.postStop},
	}
}

// handler is all that the bridge serves.
func (b *Bridge) handler() http.Handler {
	mux := http.NewServeMux()
	for _, x := range b.routes() {
		mux.HandleFunc(x.pattern, func(w http.ResponseWriter, r *http.Request) {
			var who identity
			err := checkType(r)
			if err == nil && !x.open {
				who, err = b.identify(r)
			}
			if err == nil {
				err = x.serve(w, r, who)
			}
			if err != nil {
				problem(w, err)
			}
		})
	}
	mux.HandleFunc("GET /ws", b.serveWS)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !b.svc.Client().Connected() {
			writeProblem(w, problemView{Title: "not ready", Status: http.StatusServiceUnavailable, Detail: "there is no connection to the broker"})
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	if b.o.Metrics != nil {
		mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
			if _, err := b.identify(r); err != nil {
				problem(w, err)
				return
			}
			w.Header().Set("Cache-Control", "no-store")
			b.o.Metrics.ServeHTTP(w, r)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if serveDashboard(w, r) {
			return
		}
		// A path that is there for another method has an Allow header in the mux's own answer.
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if method == r.Method {
				continue
			}
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "/" {
				w.Header().Set("Allow", method)
				writeProblem(w, problemView{Title: "method not allowed", Status: http.StatusMethodNotAllowed, Detail: "this is for " + method})
				return
			}
		}
		writeProblem(w, problemView{Title: "not found", Status: http.StatusNotFound, Detail: "nothing is at " + r.URL.Path})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if why := b.foreign(r); why != "" {
			b.log.Warn("a request to the web bridge was refused", "remote", r.RemoteAddr, "host", r.Host, "origin", r.Header.Get("Origin"), "path", r.URL.Path, "reason", why)
			writeProblem(w, problemView{Title: "refused", Status: http.StatusForbidden, Code: "foreign", Detail: why})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func problem(w http.ResponseWriter, err error) {
	var h *httpError
	if errors.As(err, &h) {
		writeProblem(w, problemView{Title: h.title, Status: h.status, Detail: h.detail})
		return
	}
	code, text := explain(err)
	p := problemView{Title: "failed", Status: http.StatusBadGateway, Detail: text, Code: code}
	switch code {
	case "bad_request", client.CodeBadParameters:
		p.Title, p.Status = "bad request", http.StatusBadRequest
	case "forbidden":
		p.Title, p.Status = "not allowed", http.StatusForbidden
	case client.CodeNoSuchService, client.CodeUnknownCommand:
		p.Title, p.Status = "not found", http.StatusNotFound
	case client.CodeTimeout:
		p.Title, p.Status = "no answer", http.StatusGatewayTimeout
	case client.CodeRefused:
		p.Title, p.Status = "refused", http.StatusConflict
	case client.CodeOffline:
		p.Title, p.Status = "offline", http.StatusServiceUnavailable
	}
	var blocked *blockedRelease
	if errors.As(err, &blocked) {
		p.Reasons = blocked.reasons
	}
	writeProblem(w, p)
}

func writeJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write(append(body, '\n'))
	if err != nil {
		return nil //nolint:nilerr // the browser is gone, nobody hears of it
	}
	return nil
}

// checkType refuses what is posted as something else than JSON, as a form of a foreign page would be. Nothing needs no type.
func checkType(r *http.Request) error {
	given := r.Header.Get("Content-Type")
	if r.Method != http.MethodPost || given == "" && r.ContentLength == 0 {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(given); err != nil || kind != "application/json" {
		return &httpError{http.StatusUnsupportedMediaType, "unsupported media type", "send JSON with Content-Type: application/json"}
	}
	return nil
}

// readJSON reads a request's body.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return &httpError{http.StatusRequestEntityTooLarge, "too large", "a request has 64 KiB at most"}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &badRequest{"not the JSON that is wanted: " + err.Error()}
	}
	return nil
}

// A serviceView is a service in the API.
type serviceView struct {
	ID           string            `json:"id"`
	Type         string            `json:"type"`
	Version      string            `json:"version"`
	State        service.State     `json:"state"`
	Reason       string            `json:"reason,omitempty"`
	Host         string            `json:"host,omitempty"`
	PID          int               `json:"pid,omitempty"`
	Started      time.Time         `json:"started,omitzero"`
	LastSeen     time.Time         `json:"last_seen,omitzero"`
	Uptime       float64           `json:"uptime_s"`
	Dependencies []string          `json:"dependencies"`
	Optional     []string          `json:"optional_dependencies"`
	Endpoints    map[string]string `json:"endpoints"`
	Metadata     map[string]any    `json:"metadata"`
	Resources    message.Resources `json:"resources"`
	Commands     []service.Command `json:"commands,omitempty"`
}

func viewOfService(i service.Info) serviceView {
	v := serviceView{
		ID: i.ID, Type: i.Type, Version: i.Version, State: i.State, Reason: i.Reason, Host: i.Host, PID: i.PID, Started: i.Started, LastSeen: i.LastSeen,
		Uptime: i.Uptime.Seconds(), Dependencies: i.Dependencies, Optional: i.Optional, Endpoints: i.Endpoints, Metadata: i.Metadata, Resources: i.Resources,
	}
	if v.Dependencies == nil {
		v.Dependencies = []string{}
	}
	if v.Optional == nil {
		v.Optional = []string{}
	}
	if v.Endpoints == nil {
		v.Endpoints = map[string]string{}
	}
	if v.Metadata == nil {
		v.Metadata = map[string]any{}
	}
	return v
}

func (b *Bridge) maySee(who identity, rel string) bool {
	if who.rights == nil {
		return true
	}
	full, err := b.svc.Client().Topics().Resolve(rel)
	return err == nil && who.rights.MayReceive(full)
}

func (b *Bridge) getServices(w http.ResponseWriter, r *http.Request, who identity) error {
	list := []serviceView{}
	for i := range b.svc.Services(r.URL.Query().Get("type")) {
		if b.maySee(who, "system/services/"+i.ID+"/status") {
			list = append(list, viewOfService(i))
		}
	}
	return writeJSON(w, map[string]any{"services": list})
}

func (b *Bridge) getService(w http.ResponseWriter, r *http.Request, who identity) error {
	id := r.PathValue("id")
	i, ok := b.svc.Service(id)
	if !ok || !b.maySee(who, "system/services/"+id+"/status") {
		return &httpError{http.StatusNotFound, "not found", "there is no service " + id}
	}
	v := viewOfService(i)
	v.Commands = b.commands(id)
	return writeJSON(w, v)
}

// commands returns what a service has described of its commands, sorted.
func (b *Bridge) commands(id string) []service.Command {
	commands := map[string]service.Command{}
	for _, filter := range []string{"system/services/" + id + "/commands", "system/services/" + id + "/commands/+"} {
		full, err := b.svc.Client().Topics().Resolve(filter)
		if err != nil {
			return nil
		}
		for _, s := range b.feed.last(full) {
			if page, ok := service.ReadCommands(s.delivery); ok {
				for _, c := range page.Commands {
					commands[c.Name] = c
				}
			}
		}
	}
	return slices.SortedFunc(maps.Values(commands), func(a, b service.Command) int { return strings.Compare(a.Name, b.Name) })
}

// postCommand sends a command: the body is its parameters, an object, or nothing.
func (b *Bridge) postCommand(w http.ResponseWriter, r *http.Request, who identity) error {
	var parameters json.RawMessage
	if r.ContentLength != 0 {
		if err := readJSON(w, r, &parameters); err != nil {
			return err
		}
	}
	timeout := callTime
	if t := r.URL.Query().Get("timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 || d > longestCall {
			return &badRequest{"timeout: want a duration such as 5s, up to 1h"}
		}
		timeout = d
	}
	traced := tracing.Remote(r.Context(), r.Header.Get("traceparent"), r.Header.Get("tracestate"))
	ctx, cancel := context.WithTimeout(traced, timeout)
	defer cancel()
	result, err := b.call(ctx, who.name, who.rights, r.PathValue("id"), r.PathValue("command"), parameters)
	if err != nil {
		return err
	}
	return writeJSON(w, map[string]any{"result": result})
}

func (b *Bridge) getTopics(w http.ResponseWriter, r *http.Request, who identity) error {
	may := func(name string) bool { return who.rights == nil || who.rights.MayReceive(name) }
	return writeJSON(w, map[string]any{"topics": b.feed.views(may, r.URL.Query().Has("data"))})
}

func (b *Bridge) getTopic(w http.ResponseWriter, r *http.Request, who identity) error {
	name, err := b.svc.Client().Topics().Resolve(r.PathValue("topic"))
	if err != nil {
		return &badRequest{err.Error()}
	}
	v, ok := b.feed.viewOf(name)
	if !ok || who.rights != nil && !who.rights.MayReceive(name) {
		return &httpError{http.StatusNotFound, "not found", "nothing has come on " + name}
	}
	return writeJSON(w, v)
}

func (b *Bridge) getAlerts(w http.ResponseWriter, _ *http.Request, who identity) error {
	type entry struct {
		Time   time.Time           `json:"time"`
		Action service.AlertAction `json:"action"`
		By     string              `json:"by,omitempty"`
		Alert  service.Alert       `json:"alert"`
	}
	alerts, history := []service.Alert{}, []entry{}
	for _, a := range b.svc.Alerts() {
		if b.maySee(who, "safety/alerts/"+a.AlertType) {
			alerts = append(alerts, a)
		}
	}
	for _, e := range b.svc.AlertHistory() {
		if b.maySee(who, "safety/alerts/"+e.Alert.AlertType) {
			history = append(history, entry{e.Time, e.Action, e.By, e.Alert})
		}
	}
	return writeJSON(w, map[string]any{"alerts": alerts, "history": history})
}

func (b *Bridge) postAck(w http.ResponseWriter, r *http.Request, who identity) error {
	id := r.PathValue("id")
	if who.rights != nil {
		full, err := b.svc.Client().Topics().Resolve("safety/alerts/" + id)
		if err == nil {
			err = who.rights.MaySend(full, []byte("{}"))
		}
		if err != nil {
			return &forbidden{err}
		}
	}
	if err := b.svc.AckAlert(r.Context(), id); err != nil {
		if errors.Is(err, service.ErrNoAlert) {
			return &httpError{http.StatusNotFound, "not found", "there is no alert " + id}
		}
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (b *Bridge) getHealth(w http.ResponseWriter, _ *http.Request, _ identity) error {
	full, err := b.svc.Client().Topics().Resolve("system/health")
	if err != nil {
		return err
	}
	h := service.Health{State: "unknown", Reasons: []string{}, Services: map[service.State]int{}, Unhealthy: []service.ServiceState{}}
	for _, s := range b.feed.last(full) {
		if p, err := message.Payload[message.Status](s.delivery.Message); err == nil {
			_ = json.Unmarshal(p.Details, &h) // as much of it as there is
		}
	}
	return writeJSON(w, struct {
		service.Health
		Connected bool `json:"connected"`
	}{h, b.svc.Client().Connected()})
}

// Stats are the figures of a bridge.
type Stats struct {
	Connections int     `json:"connections"` // WebSockets now
	Opened      uint64  `json:"opened"`
	Refused     uint64  `json:"refused"` // beyond the limit
	Stalled     uint64  `json:"stalled"` // ended since they did not read
	Dropped     uint64  `json:"dropped"` // messages left out, of all browsers
	Queued      int     `json:"queued"`  // messages that wait, of all browsers
	Messages    uint64  `json:"messages"`
	Topics      int     `json:"topics"`
	Uptime      float64 `json:"uptime_s"`
}

// Stats returns the bridge's figures.
func (b *Bridge) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{
		Connections: len(b.conns), Opened: b.stats.opened, Refused: b.stats.refused, Stalled: b.stats.stalled, Dropped: b.stats.dropped,
		Uptime: time.Since(b.began).Seconds(),
	}
	for c := range b.conns {
		s.Dropped += c.queue.droppedTotal()
		n, _ := c.queue.length()
		s.Queued += n
	}
	b.feed.mu.Lock()
	defer b.feed.mu.Unlock()
	s.Messages, s.Topics = b.feed.total, len(b.feed.topics)
	return s
}

func (b *Bridge) getStats(w http.ResponseWriter, _ *http.Request, _ identity) error {
	c := b.svc.Client().Stats()
	quantiles := func(q client.Quantiles) map[string]any {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return map[string]any{"count": q.Count, "p50_ms": ms(q.P50), "p99_ms": ms(q.P99), "max_ms": ms(q.Max)}
	}
	all := map[string]any{
		"bridge":       b.Stats(),
		"one_way":      quantiles(c.OneWay),
		"round_trip":   quantiles(c.RoundTrip),
		"client":       map[string]any{"sent": c.Sent, "received": c.Received, "reconnects": c.Reconnects, "rejected": c.Rejected, "dropped": c.Dropped, "outbox": c.Outbox},
		"connected_at": c.ConnectedSince,
	}
	if b.o.Stats != nil {
		all["broker"] = b.o.Stats()
	}
	return writeJSON(w, all)
}

// getConfig is for admins, where people log in.
func (b *Bridge) getConfig(w http.ResponseWriter, _ *http.Request, who identity) error {
	if b.o.Login != nil && b.o.Login.Needed() && who.role != "admin" {
		return &forbidden{errors.New("the configuration is for admins")}
	}
	values := []ConfigValue{}
	if b.o.Config != nil {
		values = append(values, b.o.Config()...)
	}
	return writeJSON(w, map[string]any{"values": values})
}

// A stopView is the emergency stop in the API.
type stopView struct {
	safety.Status
	Here safety.State `json:"here"` // as the bridge itself knows it: unknown is engaged
}

func (b *Bridge) getStop(w http.ResponseWriter, r *http.Request, _ identity) error {
	v := stopView{Here: b.latch.State()}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	var err error
	if v.Status, err = safety.ReadStatus(ctx, b.svc); err != nil {
		v.Status = safety.Status{State: b.latch.State(), Causes: []safety.Cause{}, Against: []string{}, Participants: []safety.Participant{}}
	}
	return writeJSON(w, v)
}

// A blockedRelease is a release that was refused, with its reasons.
type blockedRelease struct {
	err     error
	reasons []string
}

func (e *blockedRelease) Error() string { return e.err.Error() }
func (e *blockedRelease) Unwrap() error { return e.err }

// postStop engages: {"engaged": true, "reason": "..."}; or releases, naming the state that was seen: {"engaged": false, "sequence": 7}.
func (b *Bridge) postStop(w http.ResponseWriter, r *http.Request, who identity) error {
	q := struct {
		Engaged  *bool  `json:"engaged"`
		Reason   string `json:"reason"`
		Sequence uint64 `json:"sequence"`
	}{}
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if q.Engaged == nil {
		return &badRequest{"engaged is missing: true engages, false releases"}
	}
	if *q.Engaged {
		if err := b.engage(r.Context(), who.name, q.Reason); err != nil {
			return err
		}
		return writeJSON(w, b.latch.State())
	}
	parameters, err := json.Marshal(map[string]any{"sequence": q.Sequence})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.call(ctx, who.name, who.rights, safety.HubID, "release", parameters); err != nil {
		if code, _ := explain(err); code == client.CodeRefused {
			if s, gone := safety.ReadStatus(ctx, b.svc); gone == nil {
				err = &blockedRelease{err, s.Against}
			}
		}
		return err
	}
	s, err := b.latch.Confirm(ctx)
	if err != nil {
		return err
	}
	return writeJSON(w, s)
}
