package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A publication is the flags of pub.
type publication struct {
	dialler
	kind     string
	sender   string
	priority string
	qos      int
	retain   bool
	lines    bool
	shorthand
	supply
	trace

	qosGiven, retainGiven bool
}

func (t *tool) pubVerb() *cobra.Command {
	p := &publication{}
	c := &cobra.Command{
		Use:   "pub [TOPIC] [PAYLOAD]",
		Short: "Publish a message",
		Long: `pub publishes PAYLOAD on TOPIC as it is, or with --type as the payload of an envelope, whose missing keys get
their defaults. Without PAYLOAD, or with -, it is read from standard input. An empty PAYLOAD with --retain removes what
the broker retains on TOPIC. QoS and retain are those of the topic (see "lawnberry topic ls") unless given.

--sensor, --event, --alert and --status make envelopes, and know their topics: TOPIC is left out then. Of an event and an alert PAYLOAD may be
left out too. --count repeats a message, each time with another id and the time of then; --file publishes each line of a file.`,
		Example: `  lawnberry pub weather/current '{"temperature": 21.5}'
  lawnberry pub safety/alerts/rain --type alert '{"alert_type": "rain", "severity": "warning"}'
  lawnberry pub --sensor temperature '{"value": 21}' --rate 1 --count 60
  lawnberry pub --alert rain --severity warning '{"message": "It rains"}'
  lawnberry pub navigation/position --type sensor_data --file track.jsonl --rate 2
  date | lawnberry pub absolute:test/time`,
		Args: func(c *cobra.Command, args []string) error {
			for _, name := range []string{"sensor", "event", "alert"} { // else the payload would be taken for the topic
				if f := c.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
					return usagef("--%s is empty: name a type", name)
				}
			}
			if p.shorthand.given() {
				return arguments(0, 1)(c, args)
			}
			return arguments(1, 2, "TOPIC")(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			p.countGiven = c.Flags().Changed("count")
			p.qosGiven, p.retainGiven = c.Flags().Changed("qos"), c.Flags().Changed("retain")
			return p.run(c.Context(), t, args)
		},
		ValidArgsFunction: t.completeTopics(1),
	}
	p.dialler.flags(c, connectTimeout, "give up when the broker takes longer for a message")
	f := c.Flags()
	f.StringVarP(&p.kind, "type", "t", "", "wrap the payload in an envelope of this `TYPE`: "+strings.Join(typeNames(), ", "))
	f.StringVar(&p.sender, "sender", "", "`ID` that the envelope names as its sender (default the client's id)")
	f.StringVar(&p.priority, "priority", "", "`PRIORITY` of the envelope: low, normal, high or critical (default by type)")
	f.IntVarP(&p.qos, "qos", "q", 0, "quality of service, `0` to 2 (default the topic's)")
	f.BoolVarP(&p.retain, "retain", "r", false, "let the broker keep the message for later subscribers (default the topic's)")
	f.BoolVarP(&p.lines, "lines", "l", false, "publish every line of standard input as a message of its own")
	p.shorthand.flags(c)
	p.supply.flags(c)
	p.trace.flags(c)
	return c
}

// A sent is what pub says about a message.
type sent struct {
	Topic    string `json:"topic"`
	QoS      byte   `json:"qos"`
	Retained bool   `json:"retained"`
	Bytes    int    `json:"bytes"`
	ID       string `json:"message_id,omitempty"`
}

func (p *publication) run(ctx context.Context, t *tool, args []string) error {
	o, cfg, err := p.options(t)
	if err != nil {
		return err
	}
	if args, err = p.expand(&p.kind, p.sender, args); err != nil {
		return err
	}
	if err := p.check(o.Topics, args[0]); err != nil {
		return err
	}
	if err := p.supply.check(p.lines, len(args) == 2); err != nil {
		return err
	}
	if p.lines && len(args) == 2 && args[1] != "-" {
		return usagef("--lines reads standard input: leave out the payload")
	}
	if len(args) == 1 && p.file == "" && isTerminal(t.stdin) {
		return usagef("PAYLOAD is missing: give it, or - to type it")
	}
	if p.sender == "" {
		p.sender = o.ID
	}
	next, end, err := p.source(ctx, t, args, o.Limits)
	if err != nil {
		return err
	}
	defer end()
	m, more, err := next() // made before connecting, so that a bad payload is found without a broker
	if err != nil {
		return err
	}
	ctx, untrace, err := p.trace.begin(ctx, t, &o, cfg)
	if err != nil {
		return err
	}
	defer untrace()
	c, err := p.connect(ctx, o)
	if err != nil {
		return err
	}
	n := 0
	pace := p.pacer()
	for more {
		if err = pace(ctx); err != nil {
			break
		}
		if err = p.publish(ctx, t, c, args[0], m); err != nil {
			break
		}
		n++
		if m, more, err = next(); err != nil {
			break
		}
	}
	if errors.Is(err, errInterrupted) && p.endless() {
		err = nil // an interrupt is how it ends
	}
	if failed := disconnect(c); err == nil {
		err = failed
	}
	if p.many() && !t.json {
		what := "messages"
		if n == 1 {
			what = "message"
		}
		_, failed := fmt.Fprintf(t.stdout, "published %d %s on %s\n", n, what, printable(args[0]))
		err = errors.Join(err, failed)
	}
	return err
}

// check finds what is wrong with the topic and the flags.
func (p *publication) check(topics *topic.Registry, name string) error {
	full, err := topics.Resolve(name)
	if err != nil {
		return err
	}
	if err := topic.CheckName(full); err != nil {
		return err
	}
	switch {
	case p.qosGiven && (p.qos < 0 || p.qos > 2):
		return usagef("--qos %d: want 0, 1 or 2", p.qos)
	case p.kind != "" && !slices.Contains(typeNames(), p.kind):
		return usagef("--type %q: want %s", p.kind, strings.Join(typeNames(), ", "))
	case p.severity != "" && p.alert == "":
		return usagef("--severity belongs to --alert: name its type")
	case p.kind == "" && (p.sender != "" || p.priority != ""):
		return usagef("--sender and --priority belong to an envelope: give its --type")
	}
	if p.priority != "" {
		if _, err := parsePriority(p.priority); err != nil {
			return err
		}
	}
	return nil
}

// message makes what body is sent as.
func (p *publication) message(body []byte, limits message.Limits) (message.Message, error) {
	body, err := p.fill(body)
	if err != nil {
		return message.Message{}, &failure{code: exitUsage, err: fmt.Errorf("payload: %w", err)}
	}
	if p.kind == "" {
		m := message.NewRaw(body)
		if _, _, err := message.Encode(&m, limits); err != nil {
			return m, &failure{code: exitUsage, err: fmt.Errorf("payload: %w", err)}
		}
		return m, nil
	}
	m, err := envelope(message.Type(p.kind), p.sender, body)
	if err == nil && p.priority != "" {
		m.Metadata.Priority, err = parsePriority(p.priority)
	}
	if err == nil {
		_, _, err = message.Encode(&m, limits)
	}
	if err != nil {
		return m, &failure{code: exitUsage, err: fmt.Errorf("payload of type %s: %w", p.kind, err)}
	}
	return m, nil
}

// publish sends one message and says so.
func (p *publication) publish(ctx context.Context, t *tool, c *client.Client, name string, m message.Message) error {
	full, err := c.Topics().Resolve(name)
	if err != nil {
		return err
	}
	d, known := c.Topics().Lookup(name)
	priority := m.Metadata.Priority
	if m.Raw {
		priority = message.Normal
	}
	s := sent{Topic: full, QoS: message.QoS(priority, d.QoS, known), Retained: d.Retain, Bytes: len(m.Payload), ID: m.Metadata.ID}
	if p.qosGiven {
		s.QoS = byte(p.qos)
	}
	if p.retainGiven {
		s.Retained = p.retain
	}
	limited, cancel := p.bound(ctx)
	defer cancel()
	if err := c.Publish(limited, name, m, client.WithQoS(s.QoS), client.WithRetain(s.Retained)); err != nil {
		return because(limited, err)
	}
	if t.json {
		return writeJSONLine(t.stdout, s)
	}
	if p.lines || p.many() {
		return nil
	}
	note := ""
	if s.Retained {
		note = ", retained"
	}
	_, err = fmt.Fprintf(t.stdout, "published on %s: %d bytes, QoS %d%s\n", printable(s.Topic), s.Bytes, s.QoS, note)
	return err
}

// envelope wraps a payload, a JSON object, and completes it with the defaults of its type.
func envelope(kind message.Type, sender string, body []byte) (message.Message, error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(body, &given); err != nil || given == nil {
		return message.Message{}, errors.New("want a JSON object")
	}
	if _, ok := given["success"]; kind == message.TypeResponse && !ok {
		return message.Message{}, errors.New("payload.success is missing")
	}
	m, err := withDefaults(kind, sender, body)
	if err != nil {
		return m, err
	}
	var complete map[string]json.RawMessage
	if err := json.Unmarshal(m.Payload, &complete); err != nil {
		return m, err
	}
	for k, v := range given { // as it was written, and what the type does not know
		complete[k] = v
	}
	m.Payload, err = json.Marshal(complete)
	return m, err
}

// withDefaults makes a message of a payload through the constructor of its type.
func withDefaults(kind message.Type, sender string, body []byte) (message.Message, error) {
	switch kind {
	case message.TypeSensorData:
		return construct(body, sender, message.NewSensorData)
	case message.TypeCommand:
		return construct(body, sender, message.NewCommand)
	case message.TypeResponse:
		return construct(body, sender, message.NewResponse)
	case message.TypeStatus:
		return construct(body, sender, message.NewStatus)
	case message.TypeEvent:
		return construct(body, sender, message.NewEvent)
	case message.TypeAlert:
		return construct(body, sender, message.NewAlert)
	default:
		return message.NewHeartbeat(sender, json.RawMessage(body))
	}
}

func construct[P any](body []byte, sender string, constructor func(string, P) (message.Message, error)) (message.Message, error) {
	p, err := message.Payload[P](message.Message{Payload: body})
	if err != nil {
		return message.Message{}, err
	}
	return constructor(sender, p)
}

// readBounded reads a payload, at most a little more than a message may hold.
func readBounded(ctx context.Context, r io.Reader, limits message.Limits) ([]byte, error) {
	most := int64(limits.MaxPayload)
	if most <= 0 {
		most = 10_000
	}
	var body []byte
	err := await(ctx, func() (err error) {
		body, err = io.ReadAll(io.LimitReader(r, most+1))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	return body, nil
}

// await returns what f does, or why ctx ended before f did, which then goes on by itself: reading cannot be interrupted.
func await(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func typeNames() []string {
	return []string{"sensor_data", "command", "response", "status", "event", "heartbeat", "alert"}
}

func parsePriority(name string) (message.Priority, error) {
	for p := message.Low; p <= message.Critical; p++ {
		if name == p.String() || name == fmt.Sprint(int(p)) {
			return p, nil
		}
	}
	return 0, usagef("--priority %q: want low, normal, high or critical", name)
}
