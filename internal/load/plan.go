package load

import (
	"fmt"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// The bounds of a Plan.
const (
	MinSize        = stampSize // bytes of a payload
	MaxSize        = 16 << 20
	MaxPublishers  = 200
	MaxSubscribers = 200
	MaxRate        = 10_000_000 // messages a second
	MaxCount       = 1_000_000_000
	MaxDuration    = 24 * time.Hour
	MaxWarmUp      = time.Hour
	MaxPatience    = 10 * time.Minute
)

// A Kind is what is measured.
type Kind string

// The kinds.
const (
	Latency    Kind = "latency"    // how late messages come
	Throughput Kind = "throughput" // how many come
	Command    Kind = "command"    // how long commands take
)

// A Plan says what to load a broker with.
type Plan struct {
	Kind   Kind
	Client client.Options // of every connection; each has an id of its own, made of this one

	Topic       string // publisher n publishes on {Topic}/{n}; relative to the namespace, full, or marked by topic.Absolute
	Size        int    // bytes of a payload; of a command those of the parameters that the echo gets
	QoS         int    // 0, 1 or 2; of a command 1 or 2
	Retain      bool   // what is retained is removed at the end
	Publishers  int    // connections that send; of commands those that call
	Subscribers int    // connections that receive, all of them everything

	// Rate is how many messages are sent a second, by all publishers together, whatever has become of those before (open loop). 0 is no
	// rate: as fast as the connections take them, or, with Closed and of commands, the next when the one before has arrived (closed loop).
	Rate   float64
	Closed bool

	Duration time.Duration // of the measurement; 0 is none, and then Count ends it
	Count    int           // messages in all; 0 is none
	WarmUp   time.Duration // before it, in which all is sent alike and nothing is counted

	// Patience is how long nothing has to come at the end until the rest is lost, and how long a command may take.
	Patience time.Duration

	// Of commands.
	Service, Name string // "" is an echo of our own
	Parameters    []byte // a JSON object, for a Service
	Unannounced   bool   // the Service has not announced itself

	// BrokerPID is the broker's process when that is on this machine and known, to see what it uses; 0 is not known.
	BrokerPID int

	// Progress, when not nil, is called a few times a second from one goroutine, which Run waits for.
	Progress func(Progress)
}

// A Progress is how far a run is.
type Progress struct {
	WarmingUp bool
	Elapsed   time.Duration // of the warm-up, or of the measurement
	Share     float64       // of it, 0 to 1
	Sent      uint64
	Received  uint64
}

// A PlanError is a plan that nobody can follow.
type PlanError struct{ Field, Text string }

func (e *PlanError) Error() string { return e.Field + " " + e.Text }

// Check reports the first thing that is wrong with p, as a *PlanError whose Field is the name in the command line, without dashes.
func (p *Plan) Check() error {
	bad := func(field, format string, args ...any) error {
		return &PlanError{field, fmt.Sprintf(format, args...)}
	}
	within := func(field string, v, least, most int) error {
		if v < least || v > most {
			return bad(field, "%d: want %d to %d", v, least, most)
		}
		return nil
	}
	publishers, leastQoS := "publishers", 0
	if p.Kind == Command {
		publishers, leastQoS = "callers", 1
	}
	if p.Kind == Throughput && p.Closed {
		return bad("closed", "measures latency alone")
	}
	for _, b := range []struct {
		field          string
		v, least, most int
	}{
		{"size", p.Size, MinSize, MaxSize},
		{"qos", p.QoS, leastQoS, 2},
		{publishers, p.Publishers, 1, MaxPublishers},
		{"subscribers", p.Subscribers, 1, MaxSubscribers},
		{"count", p.Count, 0, MaxCount},
	} {
		if err := within(b.field, b.v, b.least, b.most); err != nil {
			return err
		}
	}
	switch {
	case !(p.Rate >= 0 && p.Rate <= MaxRate) || p.Rate > 0 && p.Rate < 0.001: // NaN too
		return bad("rate", "%g: want 0.001 to %d messages a second", p.Rate, MaxRate)
	case p.Closed && p.Rate > 0:
		return bad("rate", "belongs to the open loop: in the closed one the next message waits for the one before")
	case p.Duration < 0 || p.Duration > MaxDuration:
		return bad("duration", "%s: want up to %s", p.Duration, MaxDuration)
	case p.Duration > 0 && p.Count > 0:
		return bad("count", "and --duration exclude each other")
	case p.Duration == 0 && p.Count == 0:
		return bad("duration", "0s: want more than 0, or a --count")
	case p.Count > 0 && p.Count < p.Publishers:
		return bad("count", "%d: want one for each of the %d %s", p.Count, p.Publishers, publishers)
	case p.WarmUp < 0 || p.WarmUp > MaxWarmUp:
		return bad("warm-up", "%s: want 0s to %s", p.WarmUp, MaxWarmUp)
	case p.Patience <= 0 || p.Patience > MaxPatience:
		return bad("timeout", "%s: want more than 0, up to %s", p.Patience, MaxPatience)
	}
	return nil
}

// share returns how many of Count publisher i sends; 0 without Count.
func (p *Plan) share(i int) uint64 {
	n := p.Count / p.Publishers
	if i < p.Count%p.Publishers {
		n++
	}
	return uint64(n)
}

// roomFor bounds how many messages wait in a queue, so that those of a large size do not fill the memory.
func roomFor(size, most int) int { return max(1, min(most, (64<<20)/max(size, 1))) }
