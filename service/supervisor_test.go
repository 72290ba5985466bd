package service_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func supervise(t *testing.T, b brokertest.Broker) *service.Supervisor {
	t.Helper()
	s, err := service.Supervise(testContext(t), service.SupervisorOptions{Client: client.Options{URL: b.URL()}})
	must(t, err)
	t.Cleanup(func() { _ = s.Stop(testContext(t)) })
	return s
}

// health returns the latest system/health that p has heard.
func (p *peer) health() (h service.Health, retained bool) {
	all := p.on("system/health")
	if len(all) == 0 {
		return h, false
	}
	d := all[len(all)-1]
	status, err := message.Payload[message.Status](d.Message)
	if err == nil {
		err = json.Unmarshal(status.Details, &h)
	}
	if err != nil || status.Status != string(h.State) {
		p.t.Errorf("%s: %v", d.Message.Payload, err)
	}
	return h, d.Retained
}

func (p *peer) awaitHealth(state service.State, reasons ...string) {
	p.t.Helper()
	defer func() {
		p.t.Helper()
		if p.t.Failed() {
			h, _ := p.health()
			p.t.Logf("the health is %+v", h)
		}
	}()
	eventually(p.t, fmt.Sprintf("health %s because of %q", state, reasons), func() bool {
		h, _ := p.health()
		return h.State == state && slices.Equal(h.Reasons, reasons)
	})
}

// The health of all is that of the worst, with the reasons, and is retained. Before there is a service nothing is said.
func TestSystemHealth(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/health")
	supervise(t, b)
	p.say("system/health_check", "{}")
	power := start(t, b, service.Options{ID: "power"})
	p.awaitHealth(service.Healthy)
	if !brokertest.Holds(b, func(s broker.Stats) bool { return s.Retained <= 3 }) {
		t.Error("more than 3 retained messages")
	}
	nav := start(t, b, service.Options{ID: "nav", Dependencies: []string{"power"}})
	power.SetState(service.Degraded, "battery low")
	p.awaitHealth(service.Degraded, "power is degraded: battery low")
	nav.SetState(service.Failing, "lost")
	p.awaitHealth(service.Failing, "nav is error: lost", "power is degraded: battery low")
	h, _ := p.health()
	if h.Services["error"] != 1 || h.Services["degraded"] != 1 || len(h.Unhealthy) != 2 || h.Unhealthy[0].ServiceID != "nav" || !h.Supervisor {
		t.Errorf("%+v", h)
	}
	late, retained := newPeer(t, b, "late", "system/health"), false
	eventually(t, "the retained health", func() bool {
		var h service.Health
		h, retained = late.health()
		return h.State == service.Failing
	})
	if !retained {
		t.Error("the health is not retained")
	}

	nav.SetState(service.Healthy, "")
	power.SetState(service.Healthy, "")
	// Good news may wait for the rate of the topic, five a minute.
	eventuallyIn(t, time.Minute, "the health of all", func() bool { h, _ := p.health(); return h.State == service.Healthy })
	stop(t, power) // by itself, but somebody needs it
	p.awaitHealth(service.Degraded, "nav is degraded: dependency power is offline", "power is offline: stopped, needed by nav")
}

func eventuallyIn(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > most {
			t.Fatalf("waited %v in vain: %s", most, what)
		}
	}
}

// What someone else puts on system/health, or nothing, is put right; and the health is said again when it is asked for.
func TestSystemHealthIsPutRight(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/health")
	supervise(t, b)
	start(t, b, service.Options{ID: "power"})
	p.awaitHealth(service.Healthy)
	for _, lie := range []string{"", "all is well", `{"status": "error"}`} {
		n := len(p.on("system/health"))
		p.say("system/health", lie, client.WithRetain(true), client.Unlimited())
		eventually(t, "the truth", func() bool {
			all := p.on("system/health")
			return len(all) > n+1 && all[len(all)-1].Message.Metadata.Sender == "lawnberry-supervisor"
		})
	}
	n := len(p.on("system/health"))
	p.say("system/health_check", "{}")
	eventuallyIn(t, time.Minute, "the answer", func() bool { return len(p.on("system/health")) > n })
}

// However many see a death, it is reported once: by the supervisor when there is one, else by one of the services.
//
// Seen failing when the services do not know of the supervisor, and when a supervisor does not go first.
func TestDeathsAreReportedOnce(t *testing.T) {
	for _, supervised := range []bool{true, false} {
		t.Run(fmt.Sprint("supervisor ", supervised), func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			watcher := newPeer(t, b, "watcher", "system/events/+")
			began := time.Now()
			if supervised {
				supervise(t, b)
			}
			var observers []*service.Service
			for i := range 10 {
				observers = append(observers, start(t, b, service.Options{ID: fmt.Sprintf("observer_%02d", i)}))
			}
			if supervised { // it listens for a while before it reports
				eventually(t, "the supervisor reports", func() bool { return time.Since(began) > 4*time.Second })
			}
			const deaths = 20
			for i := range deaths {
				victim := startVictim(t, b)
				for _, o := range observers {
					awaitState(t, o, "victim", service.Healthy)
				}
				_ = victim.Process.Kill()
				_ = victim.Wait()
				for _, o := range observers {
					awaitState(t, o, "victim", service.Offline)
				}
				eventually(t, "the report", func() bool { return len(watcher.events("service_offline")) > i })
			}
			// Whoever comes next would have reported by now.
			last := time.Now()
			eventually(t, "all turns", func() bool { return time.Since(last) > 2500*time.Millisecond })
			gone := 0
			for _, e := range watcher.events("service_state_change") {
				if e == `{"service_id":"victim","old_state":"healthy","new_state":"offline"}` {
					gone++
				}
			}
			n := len(watcher.events("service_offline"))
			t.Logf("fault=death_of_a_service,_supervisor_%v times=%d sent=%d delivered=%d lost=%d duplicated=%d out_of_order=0",
				supervised, deaths, deaths, n, max(deaths-n, 0), max(n-deaths, 0))
			if n != deaths || gone != deaths {
				t.Errorf("%d deaths: %d times service_offline, %d times service_state_change", deaths, n, gone)
			}
			for _, d := range watcher.on("system/events/service_offline") {
				if by := d.Message.Metadata.Sender; (by == "lawnberry-supervisor") != supervised {
					t.Errorf("reported by %s", by)
				}
			}
		})
	}
}
