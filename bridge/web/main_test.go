package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// A world is a broker with a hub, a bridge and a service.
type world struct {
	t      testing.TB
	broker brokertest.Broker
	hub    *safety.Hub
	bridge *web.Bridge
	svc    *service.Service
	url    string
	gone   bool // the test has stopped the broker, so that nobody can say goodbye
}

type move struct {
	X     float64 `json:"x" doc:"metres"`
	Fails bool    `json:"fails"`
	Hangs bool    `json:"hangs"`
}

// stopped stops something at the end of the test.
func (w *world) stopped(stop func(context.Context) error) {
	t := w.t
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := stop(ctx); err != nil && !w.gone {
			t.Error(err)
		}
	})
}

func newWorld(t testing.TB, o web.Options) *world {
	t.Helper()
	w := &world{t: t}
	ctx := testContext(t)
	var err error
	w.broker = brokertest.Start(t)
	w.hub, err = safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: w.broker.URL()}, File: filepath.Join(t.TempDir(), "stop.json")})
	check(t, err)
	w.stopped(w.hub.Stop)
	w.svc, err = service.Start(ctx, service.Options{ID: "mover", Type: "hardware", Version: "1.2.3", Client: client.Options{URL: w.broker.URL()}, Setup: func(_ context.Context, s *service.Service) error {
		service.Handle(s, "move", func(ctx context.Context, p move) (map[string]float64, error) {
			if p.Fails {
				return nil, errors.New("the wheel is stuck")
			}
			service.ReportProgress(ctx, 50)
			if p.Hangs {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return map[string]float64{"x": p.X}, nil
		}, service.Description("Moves it."))
		return nil
	}})
	check(t, err)
	w.stopped(w.svc.Stop)
	o.Client.URL = w.broker.URL()
	if o.Addresses == nil {
		o.Addresses = []string{"127.0.0.1:0"}
	}
	w.bridge, err = web.Start(ctx, o)
	check(t, err)
	w.stopped(w.bridge.Stop)
	w.url = w.bridge.URLs()[0]
	return w
}

// request sends a request as a page of the bridge's own would.
func (w *world) request(method, path string, body any, header ...string) (status int, answer []byte) {
	w.t.Helper()
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		check(w.t, err)
		r = bytes.NewReader(raw)
	}
	q, err := http.NewRequestWithContext(testContext(w.t), method, w.url+path, r)
	check(w.t, err)
	if method != http.MethodGet {
		q.Header.Set("Origin", w.url)
		q.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			q.Header.Del(header[i])
			continue
		}
		if header[i] == "Host" {
			q.Host = header[i+1]
		}
		q.Header.Set(header[i], header[i+1])
	}
	res, err := httpClient.Do(q)
	check(w.t, err)
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	check(w.t, err)
	return res.StatusCode, answer
}

var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// A page is a browser's WebSocket.
type page struct {
	t  testing.TB
	ws *websocket.Conn
}

// dial connects as a page does: protocol "" is one that subscribes to nothing.
func (w *world) dial(protocol string, header ...string) (*page, error) {
	o := &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {w.url}}, HTTPClient: httpClient}
	for i := 0; i < len(header); i += 2 {
		o.HTTPHeader.Set(header[i], header[i+1])
		if header[i+1] == "" {
			o.HTTPHeader.Del(header[i])
		}
	}
	if protocol != "" {
		o.Subprotocols = []string{protocol}
	}
	ws, res, err := websocket.Dial(testContext(w.t), w.url+"/ws", o)
	if err != nil {
		if res != nil && res.Body != nil {
			_ = res.Body.Close()
		}
		return nil, err
	}
	ws.SetReadLimit(1 << 20)
	w.t.Cleanup(func() { _ = ws.CloseNow() })
	return &page{w.t, ws}, nil
}

func (w *world) open(protocol string) *page {
	w.t.Helper()
	p, err := w.dial(protocol)
	check(w.t, err)
	return p
}

func (p *page) send(v any) {
	p.t.Helper()
	raw, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		check(p.t, err)
		raw = string(b)
	}
	check(p.t, p.ws.Write(testContext(p.t), websocket.MessageText, []byte(raw)))
}

// next returns the next frame for which f is true.
func (p *page) next(f func(m map[string]any) bool) map[string]any {
	p.t.Helper()
	for {
		_, raw, err := p.ws.Read(testContext(p.t))
		check(p.t, err)
		var m map[string]any
		check(p.t, json.Unmarshal(raw, &m))
		if f(m) {
			return m
		}
	}
}

// answer returns the answer to a request.
func (p *page) answer(id any) map[string]any {
	p.t.Helper()
	return p.next(func(m map[string]any) bool { return m["op"] != nil && m["op"] != "progress" && equal(m["id"], id) })
}

func equal(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

// on returns the next message on a topic.
func (p *page) on(topic string) map[string]any {
	p.t.Helper()
	return p.next(func(m map[string]any) bool { return m["topic"] == topic })
}

func (w *world) sensor(id string, value float64) {
	w.t.Helper()
	check(w.t, w.svc.PublishSensor(testContext(w.t), message.SensorData{SensorType: id, Data: map[string]float64{"value": value}, Quality: 1, Status: "healthy"}))
}

func contains(all []byte, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(string(all), p) })
}
