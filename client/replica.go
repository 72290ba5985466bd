package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// ServeOption changes what ServeCommands does.
type ServeOption func(*commandServer)

// Replicas are the servers that share the commands to one name: the broker gives each command to one of them, through a
// shared subscription.
type Replicas struct {
	Group string // of the shared subscription; one topic level
	// Siblings returns the ids of the other servers in the group, those that can be reached now. A command that is meant
	// for one of them is passed on to commands/{id}. It must not wait.
	Siblings func() []string
	// Turn is asked where each server hears every command, as the broker has no shared subscriptions: whether a command to
	// the name is for this one. It must not wait.
	Turn func() bool
}

// AsReplica makes ServeCommands one of several servers of the same name. Without shared subscriptions (MQTT 3.1.1, where a
// broker cannot say whether it has them, or a broker that says it has none) it subscribes plainly, and Turn decides.
func AsReplica(r Replicas) ServeOption {
	return func(s *commandServer) { s.replicas = &r }
}

// passedKey is the user property of a command that one replica has passed on to another, which passes it on no more.
const passedKey = "passed-on"

// subscribe subscribes to commands/{name}, shared if that is wanted and possible.
func (s *commandServer) subscribe(ctx context.Context) (*Subscription, error) {
	c := s.c
	opts := []SubscribeOption{WithInvalid(), func(o *subscribing) { o.serve, o.peek = s.take, s.peek }}
	if s.replicas != nil && c.shares() {
		if err := topic.CheckLevel("group", s.replicas.Group); err != nil {
			return nil, err
		}
		s.shared = true
		sub, err := c.Subscribe(ctx, "$share/"+s.replicas.Group+"/commands/"+s.name, nil, opts...)
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return sub, err
		}
		c.opts.Logger.Info("no shared subscription: commands are heard by every replica", "name", s.name, "error", err)
		other := *s // the handler of the refused subscription may still look at s
		other.shared = false
		s = &other
		opts[1] = func(o *subscribing) { o.serve, o.peek = s.take, s.peek }
	}
	return c.Subscribe(ctx, "commands/"+s.name, nil, opts...)
}

// shares reports whether the broker says that it has shared subscriptions.
func (c *Client) shares() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link == nil || c.link.version == packet.V5 && c.link.server.shared
}

// Shared reports whether s is a shared subscription.
func (s *Subscription) Shared() bool { return s.shared }

// othersTurn reports whether another replica runs r.
func (s *commandServer) othersTurn(r *Request) bool {
	return s.replicas != nil && !s.shared && r.Target == s.name && !s.replicas.Turn()
}

// passOn hands r to the replica that it is meant for, with all its properties, once. It reports false if there is none.
func (s *commandServer) passOn(r *Request) bool {
	if s.replicas == nil || !s.shared || !slices.Contains(s.replicas.Siblings(), r.Target) {
		return false
	}
	return s.forward(r, r.Target, r.Delivery.Message)
}

// passCancel tells the other replicas that a caller gives up: which of them has its command, only they know.
func (s *commandServer) passCancel(r *Request) {
	if s.replicas == nil || !s.shared || s.c.requests.runs(r.Sender, r.correlation) {
		return
	}
	for _, id := range s.replicas.Siblings() {
		m, err := message.NewCommand(r.Sender, message.Command{Target: id, Command: cancelCommand, RequireAck: new(false)})
		if err != nil {
			return
		}
		m.Metadata.CorrelationID = r.correlation
		s.forward(r, id, m)
	}
}

// forward reports false for what is not to be forwarded.
func (s *commandServer) forward(r *Request, id string, m message.Message) bool {
	d := r.Delivery
	if _, passed := d.user(passedKey); passed || m.Raw || topic.CheckLevel("target", id) != nil {
		return false
	}
	opts := []PublishOption{WithRetain(false), WithUser(passedKey, s.c.id), func(p *publishing) {
		if p.correlation = d.CorrelationData; d.ResponseTopic != "" {
			p.response = topic.Absolute(d.ResponseTopic)
		}
		for _, kv := range d.User {
			if kv[0] != encodingKey && !isProof(kv[0]) {
				p.user = append(p.user, kv)
			}
		}
	}}
	p, err := s.c.prepare("commands/"+id, m, opts)
	if err == nil {
		p.deadline = time.Time{}
		if d.Expiry > 0 { // what is left by the broker's clock, whatever ours makes of expires_at
			p.deadline = d.Received.Add(d.Expiry)
		}
		p.unawaited = true
		err = s.c.submit(context.Background(), p, true)
	}
	if err != nil {
		s.c.opts.Logger.Warn("command not passed on", "command", r.Command, "to", id, "error", err)
	}
	return true
}

// runs reports whether the request with that correlation id is one of ours.
func (q *requests) runs(sender, correlation string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.order, func(e *execution) bool { return e.key.sender == sender && e.correlation == correlation })
}
