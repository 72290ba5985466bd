package uitest

import (
	"context"
	"errors"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// An alert is acknowledged, then cleared: it is gone from the page, and from the bus.
func TestAlerts(t *testing.T) {
	w := newWorld(t)
	check(t, w.mover.EmitAlert(testContext(t), message.Alert{AlertType: "stuck", Severity: "warning", Message: "The mower is stuck"}))
	b := open(t, w.url())
	b.says("header .alert", "The mower is stuck")
	b.show("alerts")
	b.click("[data-alert=stuck] .ack")
	b.says("[data-alert=stuck]", "Acknowledged")
	b.click("[data-alert=stuck] .clear")
	b.until("no alert", "!document.querySelector('[data-alert=stuck]')")
	b.says("header", "No alerts")

	// What is retained is there at once, before the answer to a subscription of its own topic.
	c, err := client.Connect(testContext(t), client.Options{URL: w.broker.URL()})
	check(t, err)
	stopAtEnd(t, c.Close)
	got := make(chan string, 10)
	_, err = c.Subscribe(testContext(t), "safety/alerts/#", func(_ context.Context, d *client.Delivery) { got <- d.Topic })
	check(t, err)
	check(t, c.Publish(testContext(t), "safety/alerts/other", message.NewRaw([]byte("last"))))
	if topic := <-got; topic != "safety/alerts/other" {
		t.Errorf("retained still: %s", topic)
	}
}

// The form publishes JSON and text, with the quality of service and retention that it says.
func TestPublishForm(t *testing.T) {
	w := newWorld(t)
	got := make(chan client.Delivery, 10)
	_, err := w.mover.Client().Subscribe(testContext(t), "navigation/note", func(_ context.Context, d *client.Delivery) { got <- *d })
	check(t, err)
	b := open(t, w.url())
	b.show("topics")
	for _, c := range []struct{ data, want, qos string }{{`{ "a": [1, 2] }`, `{"a":[1,2]}`, "2"}, {"just text", "just text", "0"}} {
		b.fill("#publish [name=topic]", "navigation/note")
		b.fill("#publish [name=data]", c.data)
		b.run("document.querySelector('#publish [name=qos]').value = %q", c.qos)
		b.click("#publish button")
		b.says("#publish output", "Published")
		d := <-got
		if string(d.Message.Payload) != c.want || string('0'+d.QoS) != c.qos {
			t.Errorf("%s: got %s with QoS %d", c.data, d.Message.Payload, d.QoS)
		}
	}
	b.fill("#publish [name=topic]", "navigation/#")
	b.click("#publish button")
	b.says("#publish output.bad", "bad_request")

	// Retained, it is in the tree, and its detail shows it.
	b.fill("#publish [name=topic]", "navigation/note")
	b.click("#publish [name=retain]")
	b.click("#publish button")
	b.says("#publish output", "Published")
	<-got
	b.until("the topic", "(() => { const x = [...document.querySelectorAll('.tree button')].find((e) => e.innerText === 'navigation/note'); x?.click(); return x })()")
	b.says("pre", "just text")
}

// A command that runs is cancelled from its form: its target hears of it, and the form says so.
func TestCancelCommand(t *testing.T) {
	w := newWorld(t)
	b := open(t, w.url())
	b.show("services")
	b.click("[data-choose=mover]")
	b.click("[data-command=wait] button[type=submit]")
	b.says("[data-command=wait] output", "Progress: 50")
	b.click("[data-command=wait] .cancel")
	b.says("[data-command=wait] output.bad", "cancelled")
	b.until("no cancel", "!document.querySelector('[data-command=wait] .cancel')")
	select {
	case err := <-w.ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the command ended by %v", err)
		}
	case <-testContext(t).Done():
		t.Error("the command was not cancelled")
	}
}
