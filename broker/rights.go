package broker

import (
	"sync"
	"sync/atomic"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Rights say what one client may do. They may be asked concurrently, and for every message: they should be quick.
type Rights interface {
	// MayPublish reports whether messages may be published on a topic, a Will included.
	MayPublish(topic string) bool
	// MaySend looks at one message on a topic on which messages may be published. payload is valid during the call. fades is that
	// it is to be retained, in the place of what was, and has an expiry interval, after which there is neither. The error says why not.
	MaySend(topic string, payload []byte, fades bool) error
	// MaySubscribe reports whether there is anything in a topic filter that the client may receive; it may be a shared one.
	MaySubscribe(filter string) bool
	// MayReceive reports whether messages of a topic may be delivered to the client.
	MayReceive(topic string) bool
}

// What the log has of one connection is bounded.
const (
	maxDenials     = 100 // topics that it names at level warning
	maxDeniedTopic = 256 // bytes of each
)

// A grant is what one session may do; nil is everything.
type grant struct {
	login  Login // whom it was given to, without the password
	who    Identity
	rights Rights
}

// entitlement is what has been asked for rights, and orders it: who asks while they change asks again.
type entitlement struct {
	mu      sync.Mutex    // held while Options.Authorize is asked again, so that an older answer never replaces a newer one
	changes atomic.Uint64 // how often Reauthorize was called
}

// authorize asks what the client of l may do.
func (b *Broker) authorize(l Login, who Identity) (*grant, error) {
	if b.options.Authorize == nil {
		return nil, nil
	}
	l.Password, l.HasPassword = nil, false
	r, err := b.options.Authorize(l, who)
	if err != nil {
		return nil, err
	}
	return &grant{l, who, r}, nil
}

// Reauthorize asks Options.Authorize again for every session that a client has taken since the broker started. What it says holds at once,
// also for messages that are queued; subscriptions stay, whatever may come through them. A client that it refuses is
// disconnected with 0x87.
func (b *Broker) Reauthorize() {
	if b.options.Authorize == nil {
		return
	}
	b.entitled.changes.Add(1) // a client that is about to take a session asks again
	b.mu.Lock()
	sessions := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	for _, s := range sessions {
		b.reauthorize(s)
	}
}

// reauthorize asks again what the client of s may do.
func (b *Broker) reauthorize(s *session) {
	b.entitled.mu.Lock()
	defer b.entitled.mu.Unlock()
	g := s.grant.Load()
	if g == nil {
		return
	}
	now, err := b.authorize(g.login, g.who)
	if err != nil {
		now = &grant{g.login, g.who, nothing{}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grant.Load() != g { // another client has taken it meanwhile, and looks itself whether what it was told still holds
		return
	}
	s.setGrant(now)
	if err != nil && s.conn != nil {
		s.conn.stopLocked(packet.NotAuthorized, err.Error())
	}
}

// nothing is the rights of a client that would not be let in any more.
type nothing struct{}

func (nothing) MayPublish(string) bool             { return false }
func (nothing) MaySend(string, []byte, bool) error { return nil }
func (nothing) MaySubscribe(string) bool           { return false }
func (nothing) MayReceive(string) bool             { return false }

// setGrant puts what the session may do in force; what is queued is looked at again. Caller holds mu.
func (s *session) setGrant(g *grant) {
	s.grant.Store(g)
	s.judged = s.order
}

// mayReceive reports whether messages of a topic may be delivered to the session.
func (s *session) mayReceive(topic string) bool {
	g := s.grant.Load()
	return g == nil || g.rights == nil || g.rights.MayReceive(topic)
}

// mayStillReceive is mayReceive for a message that was queued, maybe before the rights were what they are. Caller holds mu.
func (s *session) mayStillReceive(it *item) bool {
	return it.order >= s.judged || s.mayReceive(it.message.topic)
}

// mayPublish reports whether a message may be published, and why not.
func (g *grant) mayPublish(topic string, payload []byte, fades bool) (reason string, ok bool) {
	if g == nil || g.rights == nil {
		return "", true
	}
	if !g.rights.MayPublish(topic) {
		return "no right to publish on this topic", false
	}
	if err := g.rights.MaySend(topic, payload, fades); err != nil {
		return err.Error(), false
	}
	return "", true
}

// deny counts and logs that something was refused for want of a right.
func (c *conn) deny(verb, topic, reason string) {
	c.broker.stats.denied.Add(1)
	if len(topic) > maxDeniedTopic {
		topic = topic[:maxDeniedTopic] + "..."
	}
	log := c.broker.log.Debug
	if key := verb + " " + topic; len(c.denials) < maxDenials && !c.denials[key] {
		if c.denials == nil {
			c.denials = make(map[string]bool)
		}
		c.denials[key] = true
		log = c.broker.log.Warn
	}
	log("not authorized", "client", c.session.id, "user", c.identity.User, "remote", c.remote, "verb", verb, "topic", topic, "reason", reason)
}
