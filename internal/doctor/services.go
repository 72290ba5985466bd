package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	bridge "github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/client"
)

const (
	maxAsked   = 200 // services
	longOutbox = 100 // messages
)

// ask asks the services for their figures, all at once.
func (x *examination) ask(ctx context.Context, c *client.Client, h *heard) {
	h.mu.Lock()
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(h.services)) {
		if h.services[id].state != "offline" && len(ids) < maxAsked {
			ids = append(ids, id)
		}
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			limited, cancel := context.WithTimeout(ctx, answerTime)
			defer cancel()
			var answer json.RawMessage
			err := c.Call(limited, id, "status", nil, &answer)
			var uplink json.RawMessage
			if id == bridge.ID && err == nil && x.o.Loaded.Config.Integration.Fleet.Enabled {
				_ = c.Call(limited, id, bridge.CommandCondition, nil, &uplink) // an older version has none
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if s := h.services[id]; s != nil { // it may have been removed meanwhile
				s.answer, s.silence, s.uplink = answer, err, uplink
			}
		})
	}
	wg.Wait()
}

// lately reports whether the retained status of a service is not older than its lease.
func (x *examination) lately(s *member) bool {
	return x.o.Now().Sub(s.retained).Abs() <= cmp.Or(s.lease, x.o.Loaded.Config.Services.HeartbeatTimeout)
}

// runs reports whether a service has shown that it runs.
func (s *member) runs() bool { return s.live || s.answer != nil }

func (x *examination) services(h *heard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defined := x.o.Loaded.Config.ServiceDefinitions
	explained := x.uplink(h)
	for _, id := range slices.Sorted(maps.Keys(h.services)) {
		s := h.services[id]
		switch {
		case s.runs():
			x.running(id, s, explained && id == bridge.ID)
		case s.state == "offline":
			continue
		case x.lately(s):
			x.find("service-silent", fmt.Sprintf("%s said %s ago that it is %s, and does not answer", id, age(x.o.Now().Sub(s.retained)), s.state), "id", id)
		default:
			x.find("service-dead", fmt.Sprintf("%s is dead: its retained status says %s and is %s old, and it does not answer", id, s.state,
				age(x.o.Now().Sub(s.retained))),
				"id", id)
		}
		if _, known := defined[id]; !known && len(defined) > 0 && !partOfServe(id) {
			x.find("service-undefined", id+" is not in service_definitions")
		}
	}
	x.dependencies(h)
}

// running looks at a service that runs. explained is that it was said already why it is not healthy.
func (x *examination) running(id string, s *member, explained bool) {
	x.report.Figures.Services++
	if s.live {
		x.report.Figures.ClocksMS[id] = milliseconds(s.offset)
		if s.offset.Abs() > wrongClock {
			x.find("clock-wrong", fmt.Sprintf("the clock of %s differs by %.1f s from the one here", id, s.offset.Seconds()))
		}
	}
	if len(s.lives) > 1 {
		x.find("service-twice", fmt.Sprintf("%d processes call themselves %s", len(s.lives), id), "id", id)
	}
	if (s.state == "error" || s.state == "degraded") && !explained {
		var answer struct {
			Reason string `json:"reason"`
		}
		what := id + " says that it is " + s.state
		if json.Unmarshal(s.answer, &answer) == nil && answer.Reason != "" {
			what += ": " + answer.Reason
		}
		x.find("service-unable", what, "id", id)
	}
	if command := (*client.CommandError)(nil); errors.As(s.silence, &command) && command.Code == client.CodeTimeout {
		x.find("service-mute", id+" announces itself and does not answer the command status", "id", id)
	}
	var answer struct {
		Stats stats `json:"mqtt_stats"`
	}
	if json.Unmarshal(s.answer, &answer) != nil {
		return // of another make, or none
	}
	n := answer.Stats
	if n.Limited > 0 {
		x.find("rate-exceeded", fmt.Sprintf("%s was refused %d messages, because they were over the rate of their topic", id, n.Limited))
	}
	if n.Dropped > 0 {
		x.find("service-dropped", fmt.Sprintf("%s has lost %d messages at a bound of its own", id, n.Dropped), "id", id)
	}
	if n.Queued > longOutbox {
		x.find("outbox-long", fmt.Sprintf("%d messages of %s wait for the broker", n.Queued, id), "id", id)
	}
	if n.Rejected > 0 {
		x.find("messages-rejected", fmt.Sprintf("%s has rejected %d messages that break a rule", id, n.Rejected), "id", id)
	}
}

// partOfServe reports whether a service is a part of lawnberry serve, which needs no definition and has all rights.
func partOfServe(id string) bool {
	return slices.Contains([]string{"emergency_stop", "web_bridge", "home_assistant", bridge.ID, "lawnberry"}, id)
}

// dependencies names what is needed, or defined, and does not run.
func (x *examination) dependencies(h *heard) {
	defined := x.o.Loaded.Config.ServiceDefinitions
	missing := func(id string) string {
		switch s := h.services[id]; {
		case s == nil:
			return "was never seen"
		case s.runs():
			return ""
		case s.state == "offline" || !x.lately(s):
			return "is offline"
		}
		return ""
	}
	needed := map[string][]string{} // by what is needed
	for id, s := range h.services {
		if missing(id) != "" {
			continue
		}
		needs := slices.Concat(s.needs, defined[id].Dependencies)
		slices.Sort(needs)
		for _, n := range slices.Compact(needs) {
			needed[n] = append(needed[n], id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(needed)) {
		if why := missing(id); why != "" {
			slices.Sort(needed[id])
			x.find("dependency-missing", fmt.Sprintf("%s %s, and %s needs it", id, why, strings.Join(needed[id], ", ")))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(defined)) {
		if why := missing(id); why != "" && needed[id] == nil {
			x.find("service-missing", fmt.Sprintf("%s is in service_definitions and %s", id, why), "id", id)
		}
	}
}

// stats are what a service says of its connection; those of another make say less.
type stats struct {
	Limited  uint64 `json:"messages_rate_limited"`
	Dropped  uint64 `json:"messages_dropped"`
	Rejected uint64 `json:"messages_rejected"`
	Queued   uint64 `json:"queued"`
}

// age is a duration for people; the clock of who said it may be ahead.
func age(d time.Duration) time.Duration { return max(d, 0).Round(time.Second) }

func seconds(s float64) time.Duration {
	if math.IsNaN(s) || s <= 0 || s > 1e9 {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
