package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/load"
	"github.com/lawnberry/lawnberry/topic"
)

// ownTopics is where messages go that are only measured.
const ownTopics = "bench/"

// A bench is the flags of a verb that loads a broker.
type bench struct {
	dialler
	plan     load.Plan
	protocol string // "5", "3.1.1" or "" for either
	compare  string // a file
	payload  string // of a command
}

const benchLong = `It loads the broker with no more than it is told to, ends by itself, and an interrupt ends it with what was measured
until then. Messages go on topics of their own, which nobody else uses and no rate limit of the bus holds for; --topic names others.
Where access control is on they need a user of role admin, or a rule.

With the figures come what was lost, came twice or out of order, what both sides used of processor and memory, as far as that
can be known, and what it means for a mower: an emergency stop within 50 ms, and 1,000 messages a second. --json prints all of it under
names that stay, and --compare FILE holds it against what --json has printed before.

Code 1 is messages that were lost, 3 a broker that is not there or dies meanwhile, 4 one that refuses, 5 one that takes no more.`

func (t *tool) benchVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:     "bench",
		Short:   "Measure how fast a broker is",
		Long:    "bench loads a broker, ours or another, with messages or commands, and measures what becomes of them.\n\n" + benchLong,
		Example: "  lawnberry bench latency\n  lawnberry bench throughput --publishers 4\n  lawnberry bench command",
	}
	asGroup(c)
	c.AddCommand(t.benchLatency(), t.benchThroughput(), t.benchCommand())
	return c
}

func (t *tool) benchLatency() *cobra.Command {
	b := &bench{plan: load.Plan{Kind: load.Latency}}
	c := b.verb(t, "latency", "Measure how late messages come", `latency publishes messages and measures how late they come. They are
sent at a fixed --rate, whatever has become of those before, and the time of each counts from when it was to be sent: a broker that stops
for a second delays all that were due in that second, and that is what is shown. With --closed each message waits until the one before
has come everywhere.`,
		`  lawnberry bench latency
  lawnberry bench latency --rate 2000 --qos 0 --subscribers 5
  lawnberry bench latency --closed --count 10000 --broker tcp://192.168.1.20
  lawnberry bench latency --json >before.json
  lawnberry bench latency --compare before.json`)
	f := c.Flags()
	b.ofMessages(c)
	f.Float64Var(&b.plan.Rate, "rate", 1000, "messages a second, of all publishers together (default 1000; none with --closed)")
	f.Lookup("rate").DefValue = "0" // it is in the text
	f.BoolVar(&b.plan.Closed, "closed", false, "send the next message when the one before has come")
	return c
}

func (t *tool) benchThroughput() *cobra.Command {
	b := &bench{plan: load.Plan{Kind: load.Throughput}}
	c := b.verb(t, "throughput", "Measure how many messages a broker delivers", `throughput publishes as fast as the connections take it,
or at a --rate, and measures how much comes. Every subscriber gets the messages of every publisher.`,
		`  lawnberry bench throughput
  lawnberry bench throughput --publishers 4 --subscribers 2 --size 4096 --qos 0
  lawnberry bench throughput --rate 5000 --duration 1m`)
	b.ofMessages(c)
	c.Flags().Float64Var(&b.plan.Rate, "rate", 0, "messages a second, of all publishers together (default as fast as it goes)")
	return c
}

func (t *tool) benchCommand() *cobra.Command {
	b := &bench{plan: load.Plan{Kind: load.Command, Subscribers: 1}}
	c := b.verb(t, "command", "Measure how long commands take", `command calls a command again and again and measures the time until
the answer: of an echo of its own, or with --service and --command of a service that runs, which really does each
time what it is told. The next call waits for the answer to the one before; with --rate calls are made when they are due, and their time
counts from then.`,
		`  lawnberry bench command
  lawnberry bench command --callers 4 --rate 200
  lawnberry bench command --service navigation --command ping`)
	f := c.Flags()
	f.IntVar(&b.plan.Publishers, "callers", 1, "connections that call")
	f.IntVarP(&b.plan.QoS, "qos", "q", 2, "quality of service of the commands, `1` or 2")
	f.Float64Var(&b.plan.Rate, "rate", 0, "calls a second, of all callers together (default the next after the answer)")
	f.StringVar(&b.plan.Service, "service", "", "call this service, an `ID` or a type, instead of an echo")
	f.StringVar(&b.plan.Name, "command", "", "its command, by `NAME`")
	f.StringVar(&b.payload, "payload", "{}", "its parameters, a JSON object")
	return c
}

// verb makes a verb with the flags that all have.
func (b *bench) verb(t *tool, use, short, long, example string) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long + "\n\n" + benchLong, Example: example, Args: arguments(0, 0)}
	c.RunE = func(c *cobra.Command, _ []string) error {
		given := c.Flags().Changed
		if b.plan.Count > 0 && !given("duration") {
			b.plan.Duration = 0
		}
		if b.plan.Closed && !given("rate") {
			b.plan.Rate = 0
		}
		switch {
		case given("count") && b.plan.Count == 0:
			return usagef("--count 0: want 1 to %d", load.MaxCount)
		case given("rate") && b.plan.Rate == 0:
			return usagef("--rate 0: want 0.001 to %d messages a second", load.MaxRate)
		case given("topic") && b.plan.Topic == "":
			return usagef("--topic is empty: leave it out for one of its own")
		case given("payload") && b.plan.Service == "", given("command") && b.plan.Service == "":
			return usagef("--command and --payload belong to a --service")
		case given("size") && b.plan.Service != "":
			return usagef("--size is of the echo's parameters: of a --service give the --payload")
		}
		return b.run(c.Context(), t)
	}
	b.flags(c, 5*time.Second, "what has not come after this long is lost (default 5s)")
	c.Flags().Lookup("timeout").DefValue = "0s" // it is in the text
	f := c.Flags()
	f.IntVarP(&b.plan.Size, "size", "s", 200, "bytes of a payload")
	f.DurationVarP(&b.plan.Duration, "duration", "d", 10*time.Second, "measure for this long")
	f.IntVarP(&b.plan.Count, "count", "n", 0, "measure `N` messages in all, instead of a time")
	f.DurationVar(&b.plan.WarmUp, "warm-up", time.Second, "send for this long before the measurement")
	f.StringVar(&b.protocol, "mqtt", "", "`VERSION` of the protocol: 5 or 3.1.1 (default 5, or 3.1.1 where that is all the broker speaks)")
	f.StringVar(&b.compare, "compare", "", "say what has changed since the measurement that --json has printed into this `FILE`")
	return c
}

// ofMessages adds the flags of messages.
func (b *bench) ofMessages(c *cobra.Command) {
	f := c.Flags()
	f.IntVar(&b.plan.Publishers, "publishers", 1, "connections that publish")
	f.IntVar(&b.plan.Subscribers, "subscribers", 1, "connections that receive, each everything")
	f.IntVarP(&b.plan.QoS, "qos", "q", 1, "quality of service, `0` to 2")
	f.StringVar(&b.plan.Topic, "topic", "", "publish below this `PREFIX` (default bench/ and a name of its own)")
	f.BoolVarP(&b.plan.Retain, "retain", "r", false, "let the broker keep each topic's last message; they are removed at the end")
}

// run measures, and prints what came of it.
func (b *bench) run(ctx context.Context, t *tool) error {
	o, _, err := b.options(t)
	if err != nil {
		return err
	}
	if err := b.prepare(&o); err != nil {
		return err
	}
	before, err := b.before(ctx)
	if err != nil {
		return err
	}
	if b.plan.Service != "" {
		if b.plan.Unannounced, err = b.ask(ctx, o); err != nil {
			return err
		}
	}
	who := brokerOf(o.URL)
	b.plan.Client, b.plan.BrokerPID = o, who.pid
	bar := newProgressBar(t)
	b.plan.Progress = bar.show
	result, err := load.Run(ctx, b.plan)
	bar.clear()
	if err != nil {
		return b.explain(err)
	}
	result.Broker.URL, result.Broker.Process = who.shown, who.process
	shown := benchOutput{Result: result, Verdict: verdicts(result)}
	if before != nil {
		if shown.Differences, shown.Unlike, err = load.Compare(before, result); err != nil {
			return usagef("--compare %s: %w", b.compare, err)
		}
	}
	if t.json {
		err = writeJSON(t.stdout, shown)
	} else {
		err = shown.print(t)
	}
	if err == nil && result.Retained > 0 {
		err = fmt.Errorf(`the broker still retains messages on %d topics below %s: remove them with "lawnberry topic clear '%[2]s/+'"`,
			result.Retained, b.plan.Topic)
	}
	if err == nil && result.Lost > 0 {
		return lossError(result)
	}
	return err
}

// lossError says what was lost.
func lossError(r *load.Result) error {
	if r.Kind == load.Command {
		var codes []string
		for code, n := range r.Errors {
			codes = append(codes, fmt.Sprintf("%s: %d", code, n))
		}
		return fmt.Errorf("%d of %d commands had no answer (%s)", r.Lost, r.Sent.Messages, strings.Join(codes, ", "))
	}
	why := ""
	switch {
	case r.Refused > 0:
		why = fmt.Sprintf(", %d of them refused by the broker", r.Refused)
	case r.LostHere > 0:
		why = fmt.Sprintf(", %d of them here, as the subscriber was too slow for them", r.LostHere)
	}
	return fmt.Errorf("%d of %d messages were lost%s", r.Lost, r.Sent.Messages*uint64(r.Settings.Subscribers), why)
}

// prepare completes the plan, and says what is wrong with it.
func (b *bench) prepare(o *client.Options) error {
	switch b.protocol {
	case "":
	case "5", "5.0":
		o.Version = 5
	case "3.1.1", "311", "4":
		o.Version = 4
	default:
		return usagef("--mqtt %q: want 5 or 3.1.1", b.protocol)
	}
	b.plan.Patience = b.timeout
	if b.plan.Kind != load.Command {
		if b.plan.Topic == "" {
			b.plan.Topic = ownTopics + o.ID
		}
		b.plan.Topic = strings.TrimSuffix(b.plan.Topic, "/")
		if err := checkBenchTopic(o.Topics, b.plan.Topic); err != nil {
			return err
		}
	}
	if b.plan.Service != "" {
		if err := checkLevel("service", b.plan.Service); err != nil {
			return err
		}
		if b.plan.Name == "" {
			return usagef("--service %s: name its --command", b.plan.Service)
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(b.payload), &object); err != nil || object == nil {
			return usagef("--payload %q: want a JSON object such as '{\"sensor_id\": \"gps\"}'", b.payload)
		}
		b.plan.Parameters = []byte(b.payload)
		b.plan.Size = max(len(b.payload), load.MinSize)
	}
	var bad *load.PlanError
	if err := b.plan.Check(); errors.As(err, &bad) {
		return usagef("--%s %s", bad.Field, bad.Text)
	}
	return nil
}

// checkBenchTopic refuses a prefix below which services listen: they would take what is measured for what it is not.
func checkBenchTopic(topics *topic.Registry, prefix string) error {
	full, err := topics.Resolve(prefix + "/0")
	if err != nil {
		return err
	}
	if err := topic.CheckName(full); err != nil {
		return err
	}
	if strings.HasPrefix(full, "$") {
		return usagef("--topic %s: what begins with $ is the broker's", prefix)
	}
	if inside, ok := topics.Relative(full); ok {
		first, _, _ := strings.Cut(inside, "/")
		_, defined := topics.Lookup(full)
		switch {
		case first == "safety", first == "commands", first == "responses", defined:
			return usagef("--topic %s: the mower's services listen there; leave it out, or choose one that is nobody's", prefix)
		}
	}
	return nil
}

// before reads the measurement to compare with; nil is none.
func (b *bench) before(ctx context.Context) (*load.Result, error) {
	if b.compare == "" {
		return nil, nil
	}
	f, err := openFile(ctx, b.compare)
	if err != nil {
		return nil, failf(exitUsage, "--compare: %w", err)
	}
	defer f.Close()
	const most = 1 << 20
	var text []byte
	err = await(ctx, func() (err error) {
		text, err = io.ReadAll(io.LimitReader(f, most))
		return err
	})
	if err != nil {
		return nil, failf(exitUsage, "--compare: %w", err)
	}
	r, err := load.Parse(text)
	if err != nil {
		return nil, usagef("--compare %s: %w", b.compare, err)
	}
	if r.Kind != b.plan.Kind { // better said before ten seconds of measuring
		return nil, usagef("--compare %s: it is of bench %s, which cannot be compared with bench %s", b.compare, r.Kind, b.plan.Kind)
	}
	return r, nil
}

// ask reports whether nobody has announced the service, or that it is offline.
func (b *bench) ask(ctx context.Context, o client.Options) (unannounced bool, err error) {
	c, err := b.connect(ctx, o)
	if err != nil {
		return false, err
	}
	limited, cancel := b.bound(ctx)
	defer cancel()
	known, err := checkAlive(limited, c, b.plan.Service, b.plan.Name)
	if failed := disconnect(c); err == nil {
		err = failed
	}
	return !known, because(limited, err)
}

// explain gives an error of a run its exit code, and says what to do.
func (b *bench) explain(err error) error {
	var refused *client.RefusedError
	var lost *load.LostConnectionError
	var said *client.DisconnectError
	filter := b.plan.Topic + "/#"
	if strings.HasPrefix(filter, ownTopics) {
		filter = ownTopics + "#" // the next run has another name
	}
	rights := fmt.Sprintf("log in as a user of role admin, or allow it by a rule in security.access_control.rules, "+
		"such as {identity: NAME, allow: all, filter: %q}", filter)
	if b.plan.Kind == load.Command {
		rights = "log in as a user of role admin"
	}
	switch {
	case errors.As(err, &refused):
		return &failure{exitRefused, err, rights}
	case errors.Is(err, load.ErrNothingArrives):
		return &failure{exitRefused, fmt.Errorf("%w, within %s", err, b.timeout),
			"it may refuse them without a word, as over MQTT 3.1.1: " + rights + "; or raise --timeout"}
	case errors.Is(err, client.ErrTooLarge):
		return &failure{exitRefused, err, "choose a smaller --size"}
	case errors.Is(err, load.ErrStuck):
		return &failure{code: exitTimeout, err: err}
	case errors.As(err, &lost) && errors.As(lost.Err, &said) && said.Code >= 0x80 && said.Code != shuttingDown:
		return &failure{code: exitRefused, err: err}
	case errors.As(err, &lost):
		return &failure{exitNoBroker, err, "look whether it still runs, and at its log"}
	}
	return err
}

// shuttingDown is the reason code of a broker that ends.
const shuttingDown = 0x8B

// A benchedBroker is who is measured.
type benchedBroker struct {
	shown   string // its URL, without a login
	pid     int    // 0 is not known
	process string
}

// brokerOf looks for the broker's process, which it finds on this machine alone.
func brokerOf(address string) benchedBroker {
	if address == "" {
		address = "tcp://localhost:1883"
	}
	u, err := url.Parse(address)
	if err != nil {
		return benchedBroker{shown: withoutLogin(address)}
	}
	u.User = nil
	b := benchedBroker{shown: u.String()}
	host := u.Hostname()
	ip := net.ParseIP(host)
	switch {
	case u.Scheme == "unix":
		if path, err := filepath.Abs(u.Path); err == nil {
			b.pid = app.PortOwner(0, path)
		}
	case host == "localhost", ip != nil && ip.IsLoopback():
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			port = map[string]int{"ssl": 8883, "tls": 8883, "mqtts": 8883, "ws": 80, "wss": 443}[u.Scheme]
			if port == 0 {
				port = 1883
			}
		}
		b.pid = app.PortOwner(port, "")
	}
	if b.pid > 0 {
		b.process = app.ProcessName(b.pid)
	}
	return b
}
