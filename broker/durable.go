package broker

import "time"

// What a session does for the journal: see there.

// prepare returns it as a durable session queues it in l. Caller holds mu.
func (s *session) prepare(it item, l *lane, t *txn, save bool) item {
	if s.durable {
		if !save {
			it.id = looseID(s.loose)
			s.loose++
			return it
		}
		it.id = l.number(it.message.urgent)
		t.keep(s, &it)
	}
	return it
}

// unqueue notes that it, which was taken out of the queue, is to be removed from the store. Caller holds mu.
func (s *session) unqueue(it *item) {
	if it.group != nil {
		s.refuse = append(s.refuse, *it)
	}
}

// mark notes that it was sent. Caller holds mu.
func (s *session) mark(it *item) {
	i := 0
	if it.message.urgent {
		i = 1
	}
	s.sent[i] = it.order + 1
	s.unsaid = true
}

// record adds to the store what sending has changed. Nobody waits for it: at worst it is sent again.
func (s *session) record() {
	var t txn
	s.broker.begin(&t)
	s.mu.Lock()
	for i := range s.refuse {
		t.discard(s, &s.refuse[i])
	}
	s.refuse = s.refuse[:0]
	if s.unsaid && s.durable {
		t.add(op{kind: putSent, session: s.number, sent: s})
	}
	s.unsaid = false
	s.mu.Unlock()
	s.broker.finish(&t)
}

// keep stores that a connection with this expiry and Will takes the session. Caller holds mu.
func (s *session) keep(durable bool, expiry time.Duration, w *will, t *txn) {
	if t.group == nil {
		return
	}
	if s.durable && !durable { // what was stored of it ends here; it goes on in memory, as another
		t.add(op{kind: deleteSession, session: s.number})
		t.wanted = true
		s.number = s.broker.journal.nextID.Add(1)
		s.durable, s.will = false, nil
		s.unstore()
	} else if durable && !s.durable {
		s.durable = true
		s.storeAll(t)
	}
	if durable {
		h := head{client: s.id, owner: s.owner, expiry: expiry, away: online}
		t.add(op{kind: putHead, session: s.number, value: h.append(nil)})
		if s.head == nil {
			s.head = t.group
		}
		t.wanted = true
	}
	switch {
	case w != nil:
		t.add(op{kind: putWill, session: s.number, value: appendWill(nil, w)})
		t.wanted = true
	case s.will != nil:
		t.add(op{kind: deleteWill, session: s.number})
	}
}

// unstore makes everything in memory what it is without a store. Caller holds mu.
func (s *session) unstore() {
	s.head = nil
	for _, l := range []*lane{&s.urgent, &s.ordinary} {
		for i := range l.reliable.count {
			it := l.reliable.at(i)
			it.group, it.id = nil, 0
		}
	}
	for i := range s.window.slots {
		s.window.slots[i].group = nil
	}
	for id, in := range s.inbound {
		in.group = nil
		s.inbound[id] = in
	}
}

// storeAll stores the content of a session that was in memory only. Its subscriptions are the caller's. Caller holds mu.
func (s *session) storeAll(t *txn) {
	t.owed = true
	for i := range s.window.slots {
		if f := &s.window.slots[i]; f.release {
			f.group = t.group
			t.add(op{kind: putRelease, session: s.number, id: f.id, order: f.order})
		} else if f.id != 0 {
			f.item.id = f.id
			t.keep(s, &f.item)
			s.mark(&f.item)
		}
	}
	for _, l := range []*lane{&s.urgent, &s.ordinary} {
		for i := range l.reliable.count {
			it := l.reliable.at(i)
			it.id = l.number(it.message.urgent)
			t.keep(s, it)
		}
	}
	for id := range s.inbound {
		t.add(op{kind: putInbound, session: s.number, id: id, owed: true})
		s.inbound[id] = inbound{group: s.broker.journal.past} // it was answered, whatever becomes of t
	}
}
