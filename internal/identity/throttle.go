package identity

import (
	"net/netip"
	"sync"
	"time"
)

// What a Throttle grants.
const (
	allowance  = 5                // failures; the last of them locks
	firstDelay = time.Second      // of the first lock; each further failure doubles it
	longDelay  = 5 * time.Minute  // the longest
	memory     = 30 * time.Minute // without a failure, after which all are forgotten
	maxRecords = 4096             // addresses, names, and pairs of both, each
)

// A Throttle slows down who guesses passwords. Its zero value is usable, and its methods may be called concurrently.
//
// Failures are counted by address (IPv6 by /64, which is what one customer gets) and by user name, known or not. The fifth
// locks for a second, every further one for twice as long as the one before, up to five minutes. What is tried meanwhile is
// not looked at and not counted. Half an hour without a failure forgets it all, a minute would let guesses go on at five a minute.
//
// Where a user has logged in before, nobody else's failures count: those from other addresses do not lock the user there, and
// those at other names do not lock the address for this user. Only failures at that very pair of user and address do, by the same
// rule. So who guesses from elsewhere cannot lock a service out, and who guesses at the address of one gets no more
// guesses than everybody. What shares its address with the guesser, as on loopback, may be locked out from there; the Unix socket is not.
//
// What it remembers is bounded; beyond, what has failed least and longest ago is forgotten first. It is gone with the process.
type Throttle struct {
	mu        sync.Mutex // guards everything below
	addresses records[netip.Prefix]
	users     records[string]
	pairs     records[pair] // of users that have logged in, and where
}

type pair struct {
	user    string
	address netip.Prefix
}

// A record is what is known of one address, user or pair.
type record struct {
	failures int
	last     time.Time // the last failure, or when a pair logged in
	until    time.Time // locked until then
}

func (r *record) fail(now time.Time) {
	if now.Sub(r.last) > memory {
		r.failures = 0
	}
	r.failures++
	r.last = now
	if over := r.failures - allowance; over >= 0 {
		delay := longDelay
		if over < 20 { // no overflow
			delay = min(firstDelay<<over, longDelay)
		}
		r.until = now.Add(delay)
	}
}

// records is a bounded map.
type records[K comparable] map[K]*record

// of returns the record of k, made when missing.
func (m *records[K]) of(k K) *record {
	if r := (*m)[k]; r != nil {
		return r
	}
	if *m == nil {
		*m = make(records[K])
	}
	if len(*m) >= maxRecords {
		var least K
		var worst *record
		for k, r := range *m {
			if worst == nil || r.failures < worst.failures || r.failures == worst.failures && r.last.Before(worst.last) {
				least, worst = k, r
			}
		}
		delete(*m, least)
	}
	r := &record{}
	(*m)[k] = r
	return r
}

func (m records[K]) until(k K) time.Time {
	if r := m[k]; r != nil {
		return r.until
	}
	return time.Time{}
}

// network returns what an address is counted as. Without an address it is the same for all.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an invalid address has an invalid prefix
	return p
}

// Locked returns how long a login of the user from the address is not to be looked at, 0 when it may be.
func (t *Throttle) Locked(user string, from netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := network(from)
	if r := t.pairs[pair{user, at}]; r != nil {
		return max(0, time.Until(r.until))
	}
	return max(0, time.Until(t.addresses.until(at)), time.Until(t.users.until(user)))
}

// Failed counts a failure. It returns how long the user is locked at that address then.
func (t *Throttle) Failed(user string, from netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, now := network(from), time.Now()
	t.addresses.of(at).fail(now)
	t.users.of(user).fail(now)
	if r := t.pairs[pair{user, at}]; r != nil {
		r.fail(now)
		return max(0, r.until.Sub(now))
	}
	return max(0, t.addresses[at].until.Sub(now), t.users[user].until.Sub(now))
}

// Succeeded remembers that the user has logged in from the address.
func (t *Throttle) Succeeded(user string, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.pairs.of(pair{user, network(from)}); r.failures == 0 { // else last is when that was
		r.last = time.Now()
	}
}

// Unlock forgets all failures at a user, who has a new password. Removed also forgets where the user logged in.
func (t *Throttle) Unlock(user string, removed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.users, user)
	for k, r := range t.pairs {
		switch {
		case k.user != user:
		case removed:
			delete(t.pairs, k)
		default:
			*r = record{last: r.last}
		}
	}
}
