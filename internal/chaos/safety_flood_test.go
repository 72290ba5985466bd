package chaos

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	floodFactor  = 10 // times the limits
	floodNames   = 5  // for each wildcard of a topic: sensors, services, kinds of events
	floodClients = 4
)

// floodRates are concrete topics of the flood, and the messages a minute that it sends on each.
func floodRates() map[string]int {
	bus, err := topic.New("")
	if err != nil {
		panic(err)
	}
	rates := map[string]int{}
	for d := range bus.All() {
		if d.Rate <= 0 {
			continue
		}
		for i := range floodNames {
			rates[strings.ReplaceAll(d.Pattern, "+", fmt.Sprint("flood", i))] = d.Rate * floodFactor
		}
	}
	return rates
}

// flood publishes ten times as much as the limits allow on each topic that has one, and says every 100 ms how much that was.
func (p *part) flood(ctx context.Context, o client.Options) error {
	var clients []*client.Client
	for i := range floodClients {
		o.ID = fmt.Sprint(p.ID, i)
		c, err := client.Connect(ctx, o)
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	say(sinceBoot(), saidReady, "")
	var sent atomic.Int64
	n := 0
	for name, rate := range floodRates() {
		c := clients[n%len(clients)]
		n++
		go func() {
			for tick := time.NewTicker(time.Minute / time.Duration(rate)); ; <-tick.C {
				c.PublishAsync(name, reading(c.ID(), name), client.Unlimited(), client.Volatile())
				sent.Add(1)
			}
		}()
	}
	for {
		time.Sleep(100 * time.Millisecond)
		say(sinceBoot(), saidFlooding, strconv.FormatInt(sent.Load(), 10))
	}
}

// reading is something to publish on a topic: a status for a service's, else sensor data.
func reading(from, name string) message.Message {
	var m message.Message
	var err error
	if strings.HasPrefix(name, "system/services/") {
		m, err = message.NewStatus(from, message.Status{Status: "healthy", Uptime: 1, Version: "1"})
	} else {
		data := map[string]any{"latitude": 48.1, "longitude": 11.5, "altitude": 520.5, "speed": 0.3, "satellites": 12, "text": strings.Repeat("x", 100)}
		m, err = message.NewSensorData(from, message.SensorData{SensorType: "flood", Data: data, Quality: 1, Status: "healthy"})
	}
	if err != nil {
		panic(err)
	}
	return m
}

// TestSafetyFlood engages the emergency stop again and again while the bus carries ten times what the limits of its topics allow, to which
// the driver is subscribed. Each tenth time the mower drives before, and must stop; the others are engagements for further reasons, which stop nothing
// any more. Every engagement arrives at the driver's handler. Times, from just before Engage in this process to the handler and to stop in
// the driver's, are judged in the long form.
//
// Seen failing when a latch that knows of one engagement does not publish the next one.
func TestSafetyFlood(t *testing.T) {
	const cycle = 10
	engagements := pick(200, 10_000)
	ctx := within(t, 2*time.Minute+time.Duration(pick(0, 20))*time.Minute)
	m := newMower(t)
	limits := 0
	for name, rate := range floodRates() {
		limits += rate / floodFactor
		m.driver.part.Listen = append(m.driver.part.Listen, name)
	}
	m.start()
	flood := newActor(t, part{Role: "flood", ID: "flood", URL: "tcp://" + m.server.Addr}).start()
	flood.await(0, "that it floods", is(saidFlooding))
	first := flood.await(flood.now(), "that it floods", is(saidFlooding))

	begun, mark := make([]time.Duration, engagements), m.driver.now()
	var stops []time.Duration
	again := 0 // cycles in which the permit was gone before
	for i := 0; i < engagements; i++ {
		var armed int
		if i%cycle == 0 {
			m.release(ctx)
			m.arm(ctx)
			armed = m.driver.now()
		}
		begun[i] = sinceBoot()
		must(t, m.latch.Engage(ctx, fmt.Sprint("flood ", i)))
		if i%cycle != 0 {
			continue
		}
		lost := m.driver.await(armed-1, "the loss of the permit", func(e event) bool { return e.kind == saidLoss && e.at > begun[i]-time.Second })
		if lost.at < begun[i] {
			again++
			continue
		}
		stop := m.driver.await(armed-1, "stop", func(e event) bool { return e.kind == saidStop && e.at > begun[i] })
		if !strings.Contains(stop.text, fmt.Sprint("flood ", i)) {
			t.Logf("engagement %d: stopped because of %q", i, stop.text)
		}
		stops = append(stops, stop.at-begun[i])
	}
	m.driver.await(mark, "the last engagement", func(e event) bool { return e.kind == saidHeard && e.text == fmt.Sprint("flood ", engagements-1) })
	last := flood.await(flood.now(), "that it floods", is(saidFlooding))
	heard, times := make([]time.Duration, engagements), make([]int, engagements)
	for _, e := range m.driver.since(mark) {
		var i int
		if e.kind != saidHeard {
			continue
		}
		if n, err := fmt.Sscanf(e.text, "flood %d", &i); n != 1 || err != nil {
			continue
		}
		if times[i]++; times[i] == 1 {
			heard[i] = e.at - begun[i]
		}
	}
	b := balance{Published: engagements}
	highest := time.Duration(0)
	for i, n := range times {
		switch {
		case n == 0:
			b.Lost++
		case n > 1:
			b.Duplicates++
		}
		if n > 0 && heard[i]+begun[i] < highest {
			b.Misordered++
		}
		highest = max(highest, heard[i]+begun[i])
	}
	tally(t, fmt.Sprintf("emergency_stop_under_%d_times_the_limits", floodFactor), engagements, b)
	slices.Sort(heard)
	slices.Sort(stops)
	figures := func(what string, d []time.Duration) {
		t.Logf("%s, %d times: p50 %v, p99 %v, max %v", what, len(d), quantile(d, .5), quantile(d, .99), d[len(d)-1])
	}
	figures("publish to handler", heard)
	figures("publish to stop", stops)
	var count counted
	must(t, m.operator.Call(ctx, "driver", "count", nil, &count))
	sent := func(e event) int {
		n, err := strconv.Atoi(e.text)
		must(t, err)
		return n
	}
	rate := float64(sent(last)-sent(first)) / (last.at - first.at).Minutes()
	t.Logf("flood: %.0f messages a minute, %.1f times the limits (%d); %d sent, %d arrived at the driver", rate, rate/float64(limits), limits, sent(last), count.Messages)
	if b.Lost+b.Misordered > 0 {
		t.Errorf("engagements: %s", b)
	}
	if again > len(stops)/10 {
		t.Errorf("the permit was gone before %d of %d engagements", again, again+len(stops))
	}
	if int(count.Messages)*10 < sent(last)*9 {
		t.Errorf("of %d messages of the flood %d arrived at the driver", sent(last), count.Messages)
	}
	if !long() {
		return
	}
	if rate < .9*floodFactor*float64(limits) {
		t.Errorf("the flood was %.1f times the limits, want %d", rate/float64(limits), floodFactor)
	}
	for what, d := range map[string][]time.Duration{"handler": heard, "stop": stops} {
		if p99, worst := quantile(d, .99), d[len(d)-1]; p99 > 5*time.Millisecond || worst > 200*time.Millisecond {
			t.Errorf("publish to %s: p99 %v and max %v, want 5ms and 200ms", what, p99, worst)
		}
	}
}
