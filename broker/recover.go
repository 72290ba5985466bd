package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/store"
	"github.com/lawnberry/lawnberry/topic"
)

// A StoreError is a directory that the broker cannot keep its store in.
type StoreError struct {
	Dir string
	Err error // a *store.LockedError when another broker uses it
}

func (e *StoreError) Error() string { return fmt.Sprintf("broker: store in %s: %v", e.Dir, e.Err) }

func (e *StoreError) Unwrap() error { return e.Err }

// openJournal opens the store, and takes over what an earlier broker left there. Nobody is connected yet.
func (b *Broker) openJournal(dir string) error {
	st, err := store.Open(dir, b.limits.store)
	if err != nil {
		return &StoreError{dir, err}
	}
	j := &journal{
		broker: b, store: st, open: newGroup(), past: newGroup(),
		kick: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	j.past.finish(committed)
	j.current.Store(j.open)
	b.journal = j
	began := time.Now()
	r := recovery{broker: b, journal: j}
	if err := r.read(); err != nil {
		return &StoreError{dir, errors.Join(err, st.Close())}
	}
	go j.run()
	r.resume()
	b.log.Info("store opened", "dir", dir, "sessions", len(r.sessions), "queued", r.queued, "retained", b.retained.count,
		"took", time.Since(began).String())
	return nil
}

// recovery is what is found in the store at a start.
type recovery struct {
	broker  *Broker
	journal *journal

	sessions []*found
	queued   int
	expired  int
	bad      int // records that make no sense
}

// found is the records of one session.
type found struct {
	number  uint64
	head    *head
	will    *will
	subs    []*subscription
	replay  []*subscription // those that had not got all their retained messages
	items   []foundItem
	release []foundRelease
	inbound []uint16
	sent    [2]uint64
	session *session
}

type foundItem struct {
	item
	shared string
}

type foundRelease struct {
	id    uint16
	order uint64
}

// read reads the store into memory.
func (r *recovery) read() error {
	b := r.broker
	fresh := true
	var f *found
	err := r.journal.store.Scan(nil, func(key, value []byte) error {
		in := recordReader{rest: value}
		switch {
		case string(key) == string(versionKey):
			fresh = false
			if v := in.uvarint(); v != formatVersion {
				return fmt.Errorf("its format is version %d, and this broker knows version %d: use the newer program, or another directory", v, formatVersion)
			}
			return nil
		case string(key) == string(clockKey):
			a, ok := decodeAnchor(value)
			if in.bad = !ok; ok {
				r.journal.clock = a
				b.base = a.elapsed(b.limits.wall()) - int64(time.Since(b.started))
			}
		case key[0] == retainedPrefix && len(key) > 1:
			m := in.message(in.byte())
			m.retain = true
			if in.bad = in.bad || m.topic != string(key[1:]); !in.bad {
				m.urgent = strings.HasPrefix(m.topic, b.urgentPrefix)
				b.setRetained(m)
			}
		case key[0] == sessionPrefix && len(key) >= 10:
			number := binary.BigEndian.Uint64(key[1:])
			if f == nil || f.number != number {
				f = &found{number: number}
				r.sessions = append(r.sessions, f)
			}
			f.take(key[9], key[10:], &in)
		default:
			in.bad = true
		}
		if in.bad {
			if r.bad++; r.bad <= 10 {
				b.log.Warn("record in the store left alone: it makes no sense", "key", fmt.Sprintf("%q", key))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if fresh {
		var batch store.Batch
		batch.Set(versionKey, binary.AppendUvarint(nil, formatVersion))
		if err := r.journal.store.Commit(&batch); err != nil {
			return err
		}
	}
	return nil
}

// take adds one record to f.
func (f *found) take(kind byte, rest []byte, in *recordReader) {
	id := func() uint16 {
		if len(rest) != 2 {
			in.bad = true
			return 0
		}
		return binary.BigEndian.Uint16(rest)
	}
	switch kind {
	case recordHead:
		if h := in.head(); !in.bad {
			f.head = &h
		}
	case recordWill:
		if w := in.will(); !in.bad {
			f.will = w
		}
	case recordSubscription:
		sub, replay := in.subscription()
		sub.filter = string(rest)
		if in.bad = in.bad || topic.CheckFilter(sub.filter) != nil; in.bad {
			return
		}
		f.subs = append(f.subs, sub)
		if replay {
			f.replay = append(f.replay, sub)
		}
	case recordItem:
		it, shared := in.item()
		if len(rest) != 8 {
			in.bad = true
		}
		if !in.bad {
			it.order = binary.BigEndian.Uint64(rest)
			f.items = append(f.items, foundItem{it, shared})
		}
	case recordRelease:
		x := foundRelease{id: id(), order: in.uint64()}
		if x.id == 0 {
			in.bad = true
		}
		if !in.bad {
			f.release = append(f.release, x)
		}
	case recordInbound:
		if n := id(); !in.bad {
			f.inbound = append(f.inbound, n)
		}
	case recordSent:
		if a, b := in.uint64(), in.uint64(); !in.bad {
			f.sent = [2]uint64{a, b}
		}
	default:
		in.bad = true
	}
}

// resume brings back the sessions, then lets happen what became due meanwhile: expiries and Wills.
func (r *recovery) resume() {
	b := r.broker
	now := b.now()
	last := uint64(0)
	for _, f := range r.sessions {
		last = max(last, f.number)
	}
	r.journal.nextID.Store(last)
	for _, f := range r.sessions {
		if f.head == nil {
			continue
		}
		if older := b.sessions[f.head.client]; older != nil { // cannot be; the newer one counts
			b.tree.removeAll(older)
			b.log.Warn("two sessions of one client in the store: the older is dropped", "client", f.head.client)
		}
		r.restore(f, now)
	}
	var t txn
	for _, f := range r.sessions {
		b.begin(&t)
		s := f.session
		switch {
		case s == nil || b.sessions[s.id] != s: // only a Will, or remains
			if f.will != nil {
				b.publishWill(nil, f.will, &t)
			}
			t.add(op{kind: deleteSession, session: f.number})
			b.finish(&t)
			continue
		case f.head.away == online:
			f.head.away = now
			t.add(op{kind: putHead, session: f.number, value: f.head.append(nil)})
		}
		r.due(f, now-f.head.away, &t)
		b.finish(&t)
		if b.sessions[s.id] != s {
			continue
		}
		for _, sub := range f.replay {
			b.sendRetained(sub, nil)
			b.begin(&t)
			t.add(op{kind: putSubscription, session: f.number, text: sub.filter, value: appendSubscription(nil, sub, false)})
			b.finish(&t)
		}
	}
	b.clearExpired()
	if r.expired > 0 {
		b.stats.expired.Add(uint64(r.expired))
	}
	if r.bad > 0 {
		b.log.Error("records in the store make no sense", "count", r.bad)
	}
}

// restore makes the session of f.
func (r *recovery) restore(f *found, now int64) {
	b := r.broker
	s := &session{
		broker: b, id: f.head.client, owner: f.head.owner, subs: make(map[string]*subscription), inbound: make(map[uint16]inbound),
		durable: true, number: f.number, head: r.journal.past, expiry: f.head.expiry, sent: f.sent,
		loose: rand.Uint32(),
		order: max(f.sent[0], f.sent[1]), // also when nothing is left: what is queued from now on was not sent
	}
	f.session = s
	b.sessions[s.id] = s
	for _, sub := range f.subs {
		sub.session = s
		name, inner, _ := topic.SplitShared(sub.filter)
		b.tree.add(sub, name, inner)
	}
	for _, id := range f.inbound {
		s.inbound[id] = inbound{group: r.journal.past}
	}
	for _, x := range f.release {
		s.window.add(item{id: x.id, qos: 2, order: x.order, group: r.journal.past}).release = true
		s.order = max(s.order, x.order+1)
		s.lane(x.id > ordinaryIDs).goOn(x.id)
	}
	for i := range f.items {
		it := &f.items[i].item
		s.order = max(s.order, it.order+1)
		it.group = r.journal.past
		urgent := it.message.urgent
		l := s.lane(urgent)
		l.goOn(it.id)
		it.delivery.session = s
		if sub := s.subs[f.items[i].shared]; sub != nil {
			it.delivery.group = sub.group
		}
		sent := f.sent[0]
		if urgent {
			sent = f.sent[1]
		}
		switch {
		case it.message.expires <= now && it.order >= sent:
			r.expired++
			s.refuse = append(s.refuse, *it)
		case it.order < sent && s.window.get(it.id) == nil && s.window.count < maxInflight:
			s.window.add(*it)
		case it.stored:
			l.reliable.push(*it)
			s.stored++
			s.replay += it.message.size()
			r.queued++
		default:
			l.reliable.push(*it)
			s.queued++
			s.bytes += it.message.size()
			r.queued++
		}
	}
	if len(s.refuse) > 0 {
		s.record()
	}
}

// due lets happen what is due after a session was away for so long, and sets timers for the rest.
func (r *recovery) due(f *found, away int64, t *txn) {
	b, s := r.broker, f.session
	left := func(d time.Duration) time.Duration {
		if d == forever {
			return forever
		}
		return max(d-time.Duration(away), 0)
	}
	if left(s.expiry) == 0 {
		s.will = f.will
		b.log.Info("session expired", "client", s.id)
		b.stats.expiredSessions.Add(1)
		b.end(s, t)
		return
	}
	if w := f.will; w != nil {
		s.will = w
		if delay := left(w.delay); delay > 0 {
			s.willTimer = time.AfterFunc(delay, func() { b.publishDelayedWill(s, w) })
		} else if w := s.takeWill(w, t); w != nil {
			b.publishWill(s, w, t)
		}
	}
	if s.expiry != forever {
		s.expiryTimer = time.AfterFunc(left(s.expiry), func() { b.expire(s, 0) })
	}
}
