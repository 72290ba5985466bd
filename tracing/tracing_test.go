package tracing_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	collector "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/tracing"
)

const (
	patience = time.Minute
	parentID = "b7ad6b7169203331"
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	parent   = "00-" + traceID + "-" + parentID + "-01"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bin is what a collector has taken.
type bin struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	spans map[string]*collector.Span // by service.name and name
}

// collect runs a collector, which decodes what comes by OpenTelemetry's own definitions.
func collect(t *testing.T) *bin {
	b := &bin{t: t, spans: map[string]*collector.Span{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var all collector.TracesData // field for field an ExportTraceServiceRequest
		if err == nil {
			err = proto.UnmarshalOptions{}.Unmarshal(body, &all)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		if len(all.ProtoReflect().GetUnknown()) > 0 {
			t.Error("fields that are not known")
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, rs := range all.ResourceSpans {
			service := rs.Resource.Attributes[0].Value.GetStringValue()
			for _, s := range rs.ScopeSpans[0].Spans {
				b.spans[service+": "+s.Name] = s
			}
		}
	}))
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

// await waits for a span.
func (b *bin) await(name string) *collector.Span {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b.mu.Lock()
		s := b.spans[name]
		b.mu.Unlock()
		if s != nil {
			return s
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var got []string
	for n := range b.spans {
		got = append(got, n)
	}
	b.t.Fatalf("no span %q, but %q", name, got)
	return nil
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, o tracing.Options) *tracing.Tracer {
	t.Helper()
	tr, err := tracing.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Stop(testContext(t)) })
	return tr
}

// connect connects a program that is traced under its id.
func connect(t *testing.T, url, id, endpoint string) *client.Client {
	t.Helper()
	tr := start(t, tracing.Options{Service: id, Version: "1", Endpoint: endpoint, SampleRatio: 1})
	c, err := client.Connect(testContext(t), client.Options{URL: url, ID: id, Tracer: tr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

func attribute(s *collector.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return fmt.Sprint(a.Value.GetStringValue(), a.Value.GetIntValue())
		}
	}
	return ""
}

// TestTree sees a command through three programs.
func TestTree(t *testing.T) {
	b, got := brokertest.Start(t), collect(t)
	caller, mower, watcher := connect(t, b.URL(), "caller", got.url), connect(t, b.URL(), "mower", got.url), connect(t, b.URL(), "watcher", got.url)
	ctx := testContext(t)
	if _, err := watcher.Subscribe(ctx, "test/moved", func(context.Context, *client.Delivery) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := mower.ServeCommands(ctx, "mower", nil, func(ctx context.Context, r *client.Request) (any, error) {
		if r.Command == "fail" {
			return nil, &client.CommandError{Code: client.CodeRefused, Message: "the blade is stuck"}
		}
		if r.Command == "later" {
			return nil, mower.PublishAsync("test/later", message.NewRaw([]byte("x")), client.TracedBy(ctx)).Wait(ctx)
		}
		return nil, mower.Publish(ctx, "test/moved", message.NewRaw([]byte("moved")), client.WithQoS(1))
	}); err != nil {
		t.Fatal(err)
	}
	if err := caller.Call(ctx, "mower", "move", nil, nil); err != nil {
		t.Fatal(err)
	}
	call, serve := got.await("caller: call mower move"), got.await("mower: serve mower move")
	publish, process := got.await("mower: publish lawnberry/test/moved"), got.await("watcher: process lawnberry/test/moved")
	line := []*collector.Span{call, serve, publish, process}
	kinds := []string{"SPAN_KIND_CLIENT", "SPAN_KIND_SERVER", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"}
	for i, s := range line {
		if s.Kind.String() != kinds[i] || !bytes.Equal(s.TraceId, call.TraceId) || len(s.TraceId) != 16 || len(s.SpanId) != 8 {
			t.Errorf("%s: %v", s.Name, s)
		}
		if s.StartTimeUnixNano == 0 || s.EndTimeUnixNano < s.StartTimeUnixNano || s.Status != nil {
			t.Errorf("%s: from %d to %d, status %v", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano, s.Status)
		}
		var want []byte
		if i > 0 {
			want = line[i-1].SpanId
		}
		if !bytes.Equal(s.ParentSpanId, want) {
			t.Errorf("%s: its parent is %x, want %x", s.Name, s.ParentSpanId, want)
		}
	}
	for key, want := range map[string]string{"messaging.system": "mqtt0", "messaging.destination.name": "lawnberry/test/moved0", "messaging.operation.type": "process0",
		"messaging.mqtt.qos": "1", "messaging.message.body.size": "5", "messaging.client.id": "watcher0"} {
		if a := attribute(process, key); a != want {
			t.Errorf("%s is %q, want %q", key, a, want)
		}
	}
	if id := attribute(call, "messaging.message.id"); id == "" || id != attribute(serve, "messaging.message.id") {
		t.Errorf("message ids %q and %q", id, attribute(serve, "messaging.message.id"))
	}

	if err := caller.Call(ctx, "mower", "fail", nil, nil); err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{"caller: call mower fail", "mower: serve mower fail"} {
		s := got.await(name)
		if s.Status.GetCode() != collector.Status_STATUS_CODE_ERROR || !strings.Contains(s.Status.GetMessage(), "the blade is stuck") || attribute(s, "error.type") != client.CodeRefused+"0" {
			t.Errorf("%s: %v, %s", name, s.Status, attribute(s, "error.type"))
		}
	}
	if err := caller.Call(ctx, "mower", "later", nil, nil); err != nil {
		t.Fatal(err)
	}
	if s := got.await("mower: publish lawnberry/test/later"); !bytes.Equal(s.ParentSpanId, got.await("mower: serve mower later").SpanId) {
		t.Error("what was published later is no part of the command")
	}
}

const python = `
import sys
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes
try:
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
except AttributeError:
    c = mqtt.Client(protocol=mqtt.MQTTv5)
c.connect(sys.argv[1], int(sys.argv[2]))
c.loop_start()
p = Properties(PacketTypes.PUBLISH)
p.UserProperty = [("traceparent", sys.argv[3]), ("tracestate", "vendor=1")]
c.publish("lawnberry/test/python", "x", qos=1, properties=p).wait_for_publish(20)
c.disconnect()
c.loop_stop()
`

// TestPython has a publisher that shares no code with ours begin the trace.
func TestPython(t *testing.T) {
	program := ""
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if program == "" && p != "" && exec.Command(p, "-c", "import paho.mqtt.client").Run() == nil {
			program = p
		}
	}
	if program == "" {
		t.Fatal("no Python with paho-mqtt: run scripts/test-deps")
	}
	b, got := brokertest.Start(t), collect(t)
	c := connect(t, b.URL(), "watcher", got.url)
	if _, err := c.Subscribe(testContext(t), "test/python", func(context.Context, *client.Delivery) {}); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "-c", python, u.Hostname(), u.Port(), parent).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := got.await("watcher: process lawnberry/test/python")
	if hex.EncodeToString(s.TraceId) != traceID || hex.EncodeToString(s.ParentSpanId) != parentID || s.TraceState != "vendor=1" {
		t.Errorf("trace %x, parent %x, state %q", s.TraceId, s.ParentSpanId, s.TraceState)
	}
	if s.Flags&0x300 != 0x300 {
		t.Errorf("flags %x: the parent is remote", s.Flags)
	}
}

// TestGarbage has messages with a traceparent that is none arrive, in a trace of their own.
func TestGarbage(t *testing.T) {
	b, got := brokertest.Start(t), collect(t)
	watcher := connect(t, b.URL(), "watcher", got.url)
	plain, err := client.Connect(testContext(t), client.Options{URL: b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close(testContext(t))
	came := make(chan string, 16)
	if _, err := watcher.Subscribe(testContext(t), "test/+", func(_ context.Context, d *client.Delivery) { came <- d.Topic }); err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"", "00-1", strings.Repeat("f", 60000), strings.ToUpper(parent), "00-" + strings.Repeat("0", 32) + "-" + parentID + "-01"} {
		name := fmt.Sprintf("test/%d", i)
		if err := plain.Publish(testContext(t), name, message.NewRaw([]byte("x")), client.WithUser("traceparent", text), client.WithUser("tracestate", "\u00e4"), client.WithQoS(1)); err != nil {
			t.Fatal(err)
		}
		select {
		case topic := <-came:
			if topic != name {
				t.Errorf("%s came, want %s", topic, name)
			}
		case <-time.After(patience):
			t.Fatalf("%s did not come", name)
		}
		if s := got.await("watcher: process lawnberry/" + name); len(s.ParentSpanId) > 0 || s.TraceState != "" {
			t.Errorf("%s: parent %x, state %q", name, s.ParentSpanId, s.TraceState)
		}
	}
}

// TestSampling: what is not sampled here is passed on, and not recorded.
func TestSampling(t *testing.T) {
	got := collect(t)
	tr := start(t, tracing.Options{Endpoint: got.url})
	ctx, s := tr.Begin(context.Background(), "none")
	said, _ := s.Propagate()
	if !strings.HasSuffix(said, "-00") || !strings.Contains(said, tracing.TraceID(ctx)) {
		t.Errorf("it says %s, in the trace %s", said, tracing.TraceID(ctx))
	}
	s.End(nil)
	_, s = tr.Begin(tracing.Remote(context.Background(), parent, ""), "theirs")
	s.End(nil)
	_, s = tr.Begin(tracing.NewTrace(context.Background()), "wanted")
	s.End(nil)
	if err := tr.Stop(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if s := got.await("lawnberry: wanted"); len(s.ParentSpanId) > 0 {
		t.Errorf("parent %x of the first span", s.ParentSpanId)
	}
	got.await("lawnberry: theirs")
	if len(got.spans) != 2 || tr.Stats() != (tracing.Stats{Sent: 2}) {
		t.Errorf("%d spans, %+v", len(got.spans), tr.Stats())
	}
}

// TestNoCollector: a collector that is away, or takes connections and never answers, holds up nobody, is logged once, and spans are counted.
func TestNoCollector(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, endpoint := range map[string]string{"silent": "http://" + silent.Addr().String(), "away": gone.URL} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			const most = 100_000
			tr := start(t, tracing.Options{Endpoint: endpoint, SampleRatio: 1, Queue: 10, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			for range most {
				_, s := tr.Begin(context.Background(), "x")
				s.End(nil)
				s.End(nil) // a second time is none
			}
			if err := tr.Stop(testContext(t)); err != nil {
				t.Error(err)
			}
			if s := tr.Stats(); s.Dropped != most || s.Sent != 0 {
				t.Errorf("%+v, want all of %d dropped", s, most)
			}
			if n := strings.Count(log.String(), "spans cannot be sent"); n != 1 {
				t.Errorf("logged %d times: %s", n, log.String())
			}
			if err := tr.Stop(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []tracing.Options{{SampleRatio: -0.1}, {SampleRatio: 1.1}, {SampleRatio: math.NaN()}, {Endpoint: "localhost:4318"}, {Endpoint: "ftp://x"},
		{Endpoint: "http://"}, {Endpoint: "http://:4318"}, {Endpoint: "http://a:b@x"}, {Endpoint: "%"}} {
		if tr, err := tracing.Start(o); err == nil {
			t.Errorf("%+v is taken", o)
			_ = tr.Stop(testContext(t))
		}
	}
	for text, want := range map[string]string{"http://x:4318": "http://x:4318/v1/traces", "https://x/": "https://x/v1/traces", "http://x/other": "http://x/other"} {
		if got, err := tracing.CheckEndpoint(text); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
}
