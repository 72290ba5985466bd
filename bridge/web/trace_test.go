package web_test

import (
	"context"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/tracing"
)

// TestTrace has a request's traceparent come along with the command that it becomes; one that is nonsense begins a trace of its own.
func TestTrace(t *testing.T) {
	tracer, err := tracing.Start(tracing.Options{})
	check(t, err)
	w := newWorld(t, web.Options{Client: client.Options{Tracer: tracer}})
	c, err := client.Connect(testContext(t), client.Options{URL: w.broker.URL()})
	check(t, err)
	w.stopped(c.Close)
	said := make(chan string, 10)
	_, err = c.Subscribe(testContext(t), "commands/mover", func(_ context.Context, d *client.Delivery) {
		for _, kv := range d.User {
			if kv[0] == "traceparent" {
				said <- kv[1]
			}
		}
	})
	check(t, err)
	const id = "0af7651916cd43dd8448eb211c80319c"
	for _, sent := range []string{"00-" + id + "-b7ad6b7169203331-01", "nonsense"} {
		if status, body := w.request("POST", "/api/services/mover/commands/move", move{X: 3}, "traceparent", sent); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		select {
		case got := <-said:
			if theirs := strings.HasPrefix(got, "00-"+id+"-") && strings.HasSuffix(got, "-01"); theirs != (sent != "nonsense") || len(got) != len("00-")+32+20 {
				t.Errorf("%s became %s", sent, got)
			}
		case <-testContext(t).Done():
			t.Fatalf("no traceparent came with the command for %s", sent)
		}
	}
}
