package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Result is what was measured. As JSON its names stay as they are: what was kept can be compared with what is measured later.
type Result struct {
	Kind     Kind     `json:"bench"`
	Loop     string   `json:"loop"` // open, closed, or full: as fast as it goes
	Broker   Broker   `json:"broker"`
	Settings Settings `json:"settings"`

	Seconds     float64 `json:"seconds"` // from the first message's time to the last arrival
	Interrupted bool    `json:"interrupted"`

	Sent       Volume         `json:"sent"`
	Received   Volume         `json:"received"`   // of commands: answers
	Lost       uint64         `json:"lost"`       // deliveries that were due and did not come; of commands: calls without an answer
	LostHere   uint64         `json:"lost_here"`  // of them, those that a subscriber of this process was too slow for
	Refused    uint64         `json:"refused"`    // of them, those that never left or that the broker refused
	Duplicates uint64         `json:"duplicates"` // of commands: executions too many
	Disordered uint64         `json:"out_of_order"`
	Foreign    uint64         `json:"foreign"`          // messages of others on our topics
	Errors     map[string]int `json:"errors,omitempty"` // of commands: how many failed, by code
	Retained   int            `json:"retained_left"`    // topics that could not be cleared

	Latency *LatencyFigures `json:"latency_ms"` // null when nothing came
	Spread  Spread          `json:"spread_percent"`
	Late    float64         `json:"sent_late_p99_ms"` // of the load itself, against its rate; is part of the latency
	TooLate int64           `json:"over_50_ms"`       // deliveries
	Bars    []Bar           `json:"histogram"`

	Load        Usage `json:"load_usage"`
	BrokerUsage Usage `json:"broker_usage"`
}

// A Broker is who was measured.
type Broker struct {
	URL     string `json:"url"`     // without credentials
	Process string `json:"process"` // such as "process 812 (mosquitto)"; "" is not known
	Version string `json:"version"` // as it says below $SYS; "" is not known
	MQTT    string `json:"mqtt"`    // 3.1.1 or 5
}

// Settings are what was asked for.
type Settings struct {
	Topic       string  `json:"topic,omitempty"`
	Service     string  `json:"service,omitempty"`
	Command     string  `json:"command,omitempty"`
	Size        int     `json:"size"`
	QoS         int     `json:"qos"`
	Retain      bool    `json:"retain"`
	Publishers  int     `json:"publishers"` // of commands: callers
	Subscribers int     `json:"subscribers"`
	Rate        float64 `json:"rate"` // messages a second; 0 is as fast as it goes
	Duration    float64 `json:"duration_seconds"`
	Count       int     `json:"count"`
	WarmUp      float64 `json:"warm_up_seconds"`
}

// A Volume is messages and the bytes of their payloads.
type Volume struct {
	Messages       uint64  `json:"messages"`
	Bytes          uint64  `json:"bytes"`
	PerSecond      float64 `json:"messages_per_second"`
	BytesPerSecond float64 `json:"bytes_per_second"`
}

func volume(messages, bytes uint64, seconds float64) Volume {
	v := Volume{Messages: messages, Bytes: bytes}
	if seconds > 0 {
		v.PerSecond, v.BytesPerSecond = float64(messages)/seconds, float64(bytes)/seconds
	}
	return v
}

// Stop is how late the emergency stop may come.
const Stop = 50 * time.Millisecond

func protocol(version byte) string {
	switch version {
	case 4:
		return "3.1.1"
	case 5:
		return "5"
	}
	return ""
}

func (r *run) result(interrupted bool, ts *times, late *hdrhistogram.Histogram) *Result {
	p := &r.plan
	res := &Result{
		Kind: p.Kind, Loop: "open", Interrupted: interrupted, Broker: Broker{Version: r.meter.said(sysVersion)},
		Settings: Settings{Topic: p.Topic, Service: p.Service, Command: p.Name, Size: p.Size, QoS: p.QoS, Retain: p.Retain, Publishers: p.Publishers,
			Subscribers: p.Subscribers, Rate: p.Rate, Duration: p.Duration.Seconds(), Count: p.Count, WarmUp: p.WarmUp.Seconds()},
		Latency: ts.figures(), Spread: ts.spread(), TooLate: ts.over(Stop), Bars: ts.bars(),
	}
	if p.Closed || p.Kind == Command && p.Rate == 0 {
		res.Loop = "closed"
	} else if p.Rate == 0 {
		res.Loop = "full"
	}
	if late.TotalCount() > 0 {
		res.Late = inMilliseconds(float64(late.ValueAtQuantile(99)))
	}
	res.Load, res.BrokerUsage = r.meter.end()
	return res
}

// messagesResult sums up what publishers and subscribers have counted.
func (r *run) messagesResult(interrupted bool) *Result {
	ts := newTimes()
	late := hdrhistogram.New(1000, int64(longestTime), 2)
	var all [tenths]cut
	start := time.Duration(r.start.Load())
	last := start
	var received, bytes, distinct, duplicates, disordered, foreign, here uint64
	for _, s := range r.subscribers {
		for _, h := range s.c.Stats().Handlers {
			here += h.Dropped
		}
		s.mu.Lock()
		ts.merge(s.times)
		received, bytes, foreign = received+s.received, bytes+s.bytes, foreign+s.foreign
		last = max(last, s.lastReal)
		for i := range s.sequences {
			q := &s.sequences[i]
			distinct, duplicates, disordered = distinct+q.distinct, duplicates+q.duplicates, disordered+q.disordered
		}
		for i, c := range s.cuts {
			all[i].add(c)
		}
		s.mu.Unlock()
	}
	var sent, refused uint64
	for _, p := range r.publishers {
		sent += p.sent.Load()
		late.Merge(p.late)
		st := p.c.Stats()
		refused += st.Failed
		for _, n := range st.Rejected {
			refused += n
		}
	}
	res := r.result(interrupted, ts, late)
	res.Broker.MQTT = protocol(r.publishers[0].c.Stats().Version)
	res.Seconds = (last - start).Seconds()
	res.Sent = volume(sent, sent*uint64(r.plan.Size), res.Seconds)
	res.Received = volume(received, bytes, res.Seconds)
	due := sent * uint64(len(r.subscribers))
	res.Lost = due - min(distinct, due)
	res.LostHere, res.Refused = min(here, res.Lost), refused
	res.Duplicates, res.Disordered, res.Foreign = duplicates, disordered, foreign
	res.Spread.PerSecond = rates(all)
	return res
}

func (c *cut) add(o cut) {
	if o.n == 0 {
		return
	}
	if c.n == 0 || o.first < c.first {
		c.first = o.first
	}
	c.n += o.n
	c.last = max(c.last, o.last)
}

// rates returns how much the rates of the slices differ, in percent.
func rates(cuts [tenths]cut) float64 {
	var v []float64
	for _, c := range cuts {
		if took := c.last - c.first; took > 0 && c.n > 1 {
			v = append(v, float64(c.n-1)/took.Seconds())
		}
	}
	return deviation(v)
}
