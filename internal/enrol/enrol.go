package enrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

var (
	// ErrEnrolled is a mower that has its credentials already.
	ErrEnrolled = errors.New("is enrolled already")
	// ErrUnreachable is an engine that no connection can be made to.
	ErrUnreachable = errors.New("engine")
	// ErrNotEnrolled is a mower that has none.
	ErrNotEnrolled = errors.New("is not enrolled")
)

// An Enrolment is the document of a mower in [fleet.BucketMowers].
type Enrolment struct {
	Mower    string     `json:"mower"`
	Account  string     `json:"account"` // public key
	User     string     `json:"user"`    // public key
	Enrolled time.Time  `json:"enrolled"`
	By       string     `json:"by"`                // who has enrolled it: user and host
	Revoked  *time.Time `json:"revoked,omitempty"` // locked out since
	Why      string     `json:"why,omitempty"`
	// RevokedBy is who has locked it out: user and host.
	RevokedBy string `json:"revoked_by,omitempty"`
	// Unconfirmed are the servers that did not answer when it was locked out: they let it in until they hear of it from the others. [Fleet.Revoke] returns
	// them; they are not kept.
	Unconfirmed []string `json:"unconfirmed,omitempty"`

	Replaced []string `json:"replaced,omitempty"` // accounts before this one, locked out
}

// A session is a connection to the engine for a change.
type session struct {
	f      *Fleet
	fleet  *nats.Conn
	system *nats.Conn
	mowers jetstream.KeyValue
}

// open connects; end must be called.
func (f *Fleet) open(ctx context.Context, change bool) (s *session, err error) {
	s = &session{f: f}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	once := []nats.Option{nats.RetryOnFailedConnect(false), nats.NoReconnect()}
	if s.fleet, err = f.Engine().DialNATS("lawnberry fleet", once...); err != nil {
		return s, fmt.Errorf("%w %s: %w", ErrUnreachable, f.config.URL(), err)
	}
	if change {
		if s.system, err = f.system().DialNATS("lawnberry fleet", once...); err != nil {
			return s, fmt.Errorf("%w %s: %w", ErrUnreachable, f.config.URL(), err)
		}
	}
	js, err := jetstream.New(s.fleet)
	if err != nil {
		return s, err
	}
	err = patiently(ctx, oneAnswer, func(ctx context.Context) (err error) {
		s.mowers, err = js.KeyValue(ctx, fleet.BucketMowers)
		return err
	})
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		err = fmt.Errorf("the engine has no bucket %s: make the streams and buckets with \"lawnberry fleet setup\"", fleet.BucketMowers)
	}
	return s, err
}

func (s *session) end() {
	for _, c := range []*nats.Conn{s.fleet, s.system} {
		if c != nil {
			c.Close()
		}
	}
}

// patiently calls f until the engine answers: when a node has died, others take over what it led, which takes seconds, and what it was asked
// is lost. An attempt has so much time.
func patiently(ctx context.Context, attempt time.Duration, f func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, attempt)
		err := f(try)
		cancel()
		api := new(jetstream.APIError)
		busy := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
			errors.Is(err, jetstream.ErrNoStreamResponse) || errors.As(err, &api) && api.Code == 503
		if !busy || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

const oneAnswer = 3 * time.Second // that one question may take

// find returns a mower's enrolment and its revision, nil and 0 without.
func (s *session) find(ctx context.Context, mower string) (*Enrolment, uint64, error) {
	var entry jetstream.KeyValueEntry
	err := patiently(ctx, oneAnswer, func(ctx context.Context) (err error) {
		entry, err = s.mowers.Get(ctx, mower)
		return err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var e Enrolment
	if err := json.Unmarshal(entry.Value(), &e); err != nil {
		return nil, 0, fmt.Errorf("the enrolment of %s cannot be read: %w", mower, err)
	}
	return &e, entry.Revision(), nil
}

// put writes an enrolment, unless somebody has changed it since it was read.
func (s *session) put(ctx context.Context, e *Enrolment, revision uint64) (uint64, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	var written uint64
	err = patiently(ctx, oneAnswer, func(ctx context.Context) (err error) {
		if revision == 0 {
			written, err = s.mowers.Create(ctx, e.Mower, text)
		} else {
			written, err = s.mowers.Update(ctx, e.Mower, text, revision)
		}
		return err
	})
	api := new(jetstream.APIError)
	if !errors.Is(err, jetstream.ErrKeyExists) && (!errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence) {
		return written, err
	}
	// It may have been this, at an attempt whose answer was lost.
	if entry, err := s.mowers.Get(ctx, e.Mower); err == nil && string(entry.Value()) == string(text) {
		return entry.Revision(), nil
	}
	return 0, fmt.Errorf("mower %s was enrolled or revoked by somebody else at the same time: look at \"lawnberry fleet enrolled\" and try again", e.Mower)
}

// Enrol makes the credentials of a mower and writes them to a new file, which is the only place they are ever in. The file is made, empty, before
// anything else, so that nobody is locked out for a file that cannot be written; it is removed when Enrol fails. The mower is let in when Enrol
// returns. It is [ErrEnrolled] for a mower that was enrolled before, unless again: that locks out whoever has the former credentials, before the new
// ones are there.
func (f *Fleet) Enrol(ctx context.Context, mower, file string, again bool) (e *Enrolment, err error) {
	if err := fleet.CheckMower(mower); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(file); err == nil {
		return nil, fmt.Errorf("%s: %w: it is not overwritten", file, fs.ErrExist)
	}
	out, err := createNew(file, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the file for the credentials: %w", err)
	}
	defer func() {
		_ = out.Close() // what is in it was synced, or it is removed
		if err != nil {
			_ = os.Remove(file)
		}
	}()
	s, err := f.open(ctx, true)
	if err != nil {
		return nil, err
	}
	defer s.end()
	old, revision, err := s.find(ctx, mower)
	if err != nil {
		return nil, err
	}
	e = &Enrolment{Mower: mower, By: whoami()}
	if old != nil {
		if !again && old.Revoked == nil {
			return nil, fmt.Errorf("mower %s %w", mower, ErrEnrolled)
		}
		if !again {
			return nil, fmt.Errorf("mower %s was revoked on %s: %w", mower, old.Revoked.Format(time.DateOnly), ErrEnrolled)
		}
		e.Replaced = append(slices.Clone(old.Replaced), old.Account)
		if _, err := s.lockOut(ctx, mower, old); err != nil {
			return nil, err
		}
	}
	key, err := nkeys.CreateAccount()
	if err != nil {
		return nil, err
	}
	if e.Account, err = key.PublicKey(); err != nil {
		return nil, err
	}
	creds, user, err := mowerUser(mower, key)
	if err != nil {
		return nil, err
	}
	e.User, e.Enrolled = user, time.Now().UTC().Truncate(time.Second)
	// The record is first: what is let in can be found and locked out, whatever happens next.
	if _, err := s.put(ctx, e, revision); err != nil {
		if old != nil {
			return nil, fmt.Errorf("the former credentials of mower %s are locked out, and it has no others yet: %w", mower, err)
		}
		return nil, err
	}
	if err := s.letIn(ctx, e, out, creds); err != nil {
		return nil, fmt.Errorf("mower %s is written down as enrolled, and has no credentials, so enrol it with --again: %w", mower, err)
	}
	return e, nil
}

// letIn has the servers let a mower in, and writes its credentials.
func (s *session) letIn(ctx context.Context, e *Enrolment, out *os.File, creds []byte) error {
	account, err := s.f.mowerAccount(e.Mower, e.Account, false)
	if err != nil {
		return err
	}
	if _, err := s.hand(ctx, account); err != nil {
		return err
	}
	if _, err := out.Write(creds); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return syncDirectory(out.Name())
}

// Revoke locks a mower out: every server closes its connections, and lets it in no more. It returns once each server that could be reached has said so;
// the others learn it from them. It is [ErrNotEnrolled] for a mower that is not there.
func (f *Fleet) Revoke(ctx context.Context, mower, why string) (*Enrolment, error) {
	if err := fleet.CheckMower(mower); err != nil {
		return nil, err
	}
	s, err := f.open(ctx, true)
	if err != nil {
		return nil, err
	}
	defer s.end()
	e, revision, err := s.find(ctx, mower)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("mower %s %w", mower, ErrNotEnrolled)
	}
	// Out first, and written down then: it may be called again.
	unconfirmed, err := s.lockOut(ctx, mower, e)
	if err != nil {
		return nil, err
	}
	if e.Revoked == nil {
		now := time.Now().UTC().Truncate(time.Second)
		e.Revoked, e.Why, e.RevokedBy = &now, why, whoami()
		if _, err := s.put(ctx, e, revision); err != nil {
			return nil, err
		}
	}
	e.Unconfirmed = unconfirmed
	return e, nil
}

// lockOut locks a mower out, and returns which servers have not answered.
func (s *session) lockOut(ctx context.Context, mower string, e *Enrolment) (unconfirmed []string, err error) {
	after(e.Enrolled.Unix() + 1) // the account was signed within that second
	account, err := s.f.mowerAccount(mower, e.Account, true)
	if err != nil {
		return nil, err
	}
	return s.hand(ctx, account)
}

// hand gives an account to every server. It waits for all that there are, and fails when one refuses, or when none answers; silent are those of
// the fleet that do not answer at all.
func (s *session) hand(ctx context.Context, account string) (silent []string, err error) {
	servers, err := s.servers(ctx)
	if err != nil {
		return nil, err
	}
	inbox, err := s.system.SubscribeSync(nats.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := s.system.PublishRequest("$SYS.REQ.CLAIMS.UPDATE", inbox.Subject, []byte(account)); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var taken []string
	for len(taken) < len(servers) {
		m, err := inbox.NextMsgWithContext(wait)
		if err != nil {
			break
		}
		var answer struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return nil, fmt.Errorf("a server's answer cannot be read: %w", err)
		}
		if answer.Error != nil {
			return nil, fmt.Errorf("server %s does not take the account: %s", answer.Server.Name, answer.Error.Description)
		}
		taken = append(taken, answer.Server.Name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(taken) < len(servers) {
		return nil, fmt.Errorf("of the servers %s only %s took the account: try again", strings.Join(servers, ", "), list(taken))
	}
	for _, n := range s.f.config.Nodes {
		if !slices.Contains(servers, n.Name) {
			silent = append(silent, n.Name)
		}
	}
	return silent, nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// servers returns the names of the servers that answer within a second.
func (s *session) servers(ctx context.Context) ([]string, error) {
	inbox, err := s.system.SubscribeSync(nats.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = inbox.Unsubscribe() }()
	if err := s.system.PublishRequest("$SYS.REQ.SERVER.PING", inbox.Subject, nil); err != nil {
		return nil, err
	}
	var names []string
	for {
		// The first may take its time; the others of the cluster are not far behind it.
		limit := time.Second
		if len(names) == 0 {
			limit = 10 * time.Second
		}
		if len(names) == len(s.f.config.Nodes) {
			return names, nil
		}
		wait, cancel := context.WithTimeout(ctx, limit)
		m, err := inbox.NextMsgWithContext(wait)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && len(names) == 0 {
			return nil, fmt.Errorf("no server of the engine answers: %w", err)
		}
		if err != nil {
			return names, nil
		}
		var answer struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return nil, fmt.Errorf("a server's answer cannot be read: %w", err)
		}
		if answer.Server.Name != "" {
			names = append(names, answer.Server.Name)
		}
	}
}

// List returns all mowers that were ever enrolled, by name.
func (f *Fleet) List(ctx context.Context) ([]Enrolment, error) {
	s, err := f.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer s.end()
	watcher, err := s.mowers.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = watcher.Stop() }()
	all := []Enrolment{}
	for {
		select {
		case entry := <-watcher.Updates():
			if entry == nil {
				slices.SortFunc(all, func(a, b Enrolment) int { return strings.Compare(a.Mower, b.Mower) })
				return all, nil
			}
			var e Enrolment
			if err := json.Unmarshal(entry.Value(), &e); err != nil {
				return nil, fmt.Errorf("the enrolment of %s cannot be read: %w", entry.Key(), err)
			}
			all = append(all, e)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Setup makes the engine's streams and buckets.
func (f *Fleet) Setup(ctx context.Context, l fleet.Limits) ([]fleet.Settled, error) {
	c, err := f.Engine().DialNATS("lawnberry fleet", nats.RetryOnFailedConnect(false), nats.NoReconnect())
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrUnreachable, f.config.URL(), err)
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		return nil, err
	}
	var changes []fleet.Settled
	err = patiently(ctx, 20*time.Second, func(ctx context.Context) (err error) {
		changes, err = fleet.Setup(ctx, js, l, f.config.Replicas())
		return err
	})
	return changes, err
}

// whoami is the user and host that an enrolment is written down with.
func whoami() string {
	name := "?"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
