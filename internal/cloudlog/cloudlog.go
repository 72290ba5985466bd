// Package cloudlog sends log lines to an HTTP server in batches. What cannot be sent yet waits in files, so that neither a network that is away
// for a week nor a crash loses it; when they take too much room the oldest go, and the server is told how many lines did.
//
// A batch is a POST of a JSON array of objects, one per line, with "time", "level" and "msg" as log/slog has them. Its Idempotency-Key
// is the same each time it is tried: a server that has answered nothing may have it already. 2xx takes a batch; 408, 425, 429, 5xx and
// a network that fails are tried again after 1 s, then 2 s, up to 5 minutes; any other answer refuses the batch, whose lines are lost and counted.
package cloudlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a Sink.
type Options struct {
	Endpoint string        // http or https URL
	Token    string        // sent as a bearer token, unless empty
	Dir      string        // of the files; made when missing
	Lines    int           // of a batch at most; 0 is 100
	Flush    time.Duration // the longest a line waits for its batch to be full; 0 is 60 s
	MaxBytes int64         // of all files; 0 is 16 MiB
	Logger   *slog.Logger  // for what goes wrong; must not lead to the sink. nil discards

	firstRetry time.Duration // 0 is 1 s
}

const (
	queueLength = 4096      // lines on the way to the file
	maxLine     = 32 << 10  // bytes; longer lines are left out
	maxBatch    = 512 << 10 // bytes of a batch, about
	sendTimeout = 30 * time.Second
	lastRetry   = 5 * time.Minute
)

// Stats are the figures of a Sink since it was started.
type Stats struct {
	Sent    uint64 // lines that the server has taken
	Lost    uint64 // lines that were left out: no room, refused, or too long
	Waiting int    // batches in files
	Failing bool   // the last attempt failed
}

// A Sink takes log lines. Its methods may be called concurrently.
type Sink struct {
	o      Options
	shown  string // the endpoint without what may be secret of it
	client *http.Client
	log    *slog.Logger
	lines  chan []byte
	ready  chan struct{} // a batch is complete
	stop   context.CancelFunc
	work   sync.WaitGroup
	spool  *spool

	sent, lost, told atomic.Uint64 // told: of lost, what the server knows
	failing          atomic.Bool
	closing          sync.Once
	closed           chan struct{}
}

// Start opens the files and begins to send. An endpoint that is no URL, and a directory that cannot be used, are errors.
func Start(o Options) (*Sink, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("the endpoint is no http or https URL") // it may be secret
	}
	if o.Lines <= 0 {
		o.Lines = 100
	}
	if o.Flush <= 0 {
		o.Flush = time.Minute
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 20
	}
	if o.firstRetry <= 0 {
		o.firstRetry = time.Second
	}
	s := &Sink{
		o: o, shown: (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), log: o.Logger, lines: make(chan []byte, queueLength), ready: make(chan struct{}, 1), closed: make(chan struct{}),
		client: &http.Client{
			Timeout:       sendTimeout,
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.spool, err = openSpool(o.Dir, o.MaxBytes); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.work.Go(s.collect)
	s.work.Go(func() { s.send(ctx) })
	return s, nil
}

// Stats returns the figures.
func (s *Sink) Stats() Stats {
	return Stats{Sent: s.sent.Load(), Lost: s.lost.Load(), Waiting: s.spool.waiting(), Failing: s.failing.Load()}
}

// Stop writes what has come to the files, tries to send it until ctx ends or an attempt fails, and ends. It is idempotent; lines that come later are dropped.
func (s *Sink) Stop(ctx context.Context) error {
	s.closing.Do(func() { close(s.closed) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
	}()
	defer s.client.CloseIdleConnections()
	select {
	case <-done:
		s.stop()
		return nil
	case <-ctx.Done():
		s.stop() // ends what is being sent; it is in its file
		<-done
		return nil
	}
}

// put takes a line, an object in JSON. It never waits.
func (s *Sink) put(line []byte) {
	select {
	case <-s.closed:
		return
	default:
	}
	if len(line) > maxLine {
		s.lost.Add(1)
		return
	}
	select {
	case s.lines <- line:
	default:
		s.lost.Add(1)
	}
}

// collect writes lines to files, a file for each batch.
func (s *Sink) collect() {
	defer close(s.ready)
	flush := time.NewTimer(s.o.Flush)
	defer flush.Stop()
	n, size, most := 0, 0, s.o.Lines
	complete := func() {
		if n == 0 {
			return
		}
		if err := s.spool.complete(); err != nil {
			s.log.Error("log lines are lost: they cannot be written", "error", err, "lines", n)
			s.lost.Add(uint64(n))
		}
		n, size = 0, 0
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
	add := func(line []byte) {
		dropped, err := s.spool.append(line)
		s.lost.Add(uint64(dropped))
		if err != nil {
			s.log.Error("log lines are lost: they cannot be written", "error", err, "lines", 1)
			s.lost.Add(1)
			return
		}
		if n == 0 {
			flush.Reset(s.o.Flush)
		}
		if n, size = n+1, size+len(line)+1; n >= most || size >= maxBatch {
			complete()
		}
	}
	for {
		select {
		case line := <-s.lines:
			add(line)
		case <-flush.C:
			complete()
			flush.Reset(s.o.Flush)
		case <-s.closed:
			most = queueLength // a file for each few lines would take time that a process at its end has not
			for {
				select {
				case line := <-s.lines:
					add(line)
					continue
				default:
				}
				break
			}
			complete()
			return
		}
	}
}

// send sends one batch after another, the oldest first, until collect has ended and all is sent, or the end, or an attempt has failed after that.
func (s *Sink) send(ctx context.Context) {
	pause := s.o.firstRetry
	for {
		name, lines, ok := s.spool.oldest()
		if !ok {
			if _, more := <-s.ready; !more && s.spool.waiting() == 0 {
				return
			}
			continue
		}
		err := s.try(ctx, name, lines)
		var refused *refusedError
		if err == nil || errors.As(err, &refused) {
			if err != nil {
				s.log.Warn("log lines are lost: the server refuses them", "endpoint", s.shown, "status", refused.status, "lines", len(lines))
				s.lost.Add(uint64(len(lines)))
			} else {
				s.sent.Add(uint64(len(lines)))
			}
			if s.failing.Swap(false) && err == nil {
				s.log.Info("the log server is back", "endpoint", s.shown)
			}
			pause = s.o.firstRetry
			s.spool.remove(name)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !s.failing.Swap(true) {
			s.log.Warn("the log server cannot be reached, lines wait in files", "endpoint", s.shown, "error", err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-s.closed: // this was the last attempt
			return
		}
		pause = min(2*pause, lastRetry)
	}
}

// A refusedError is an answer that no further attempt would change.
type refusedError struct{ status int }

func (e *refusedError) Error() string { return fmt.Sprintf("refused with status %d", e.status) }

// try sends a batch once.
func (s *Sink) try(ctx context.Context, name string, lines [][]byte) error {
	lost := s.lost.Load()
	missing := lost - s.told.Load()
	if missing > 0 {
		lines = append(lines, fmt.Appendf(nil, `{"time":%q,"level":"WARN","msg":"log lines are missing","lines":%d}`, time.Now().UTC().Format(time.RFC3339Nano), missing))
	}
	body := append([]byte{'['}, bytes.Join(lines, []byte(",\n"))...)
	body = append(body, ']')
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.Endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "lawnberry")
	r.Header.Set("Idempotency-Key", name)
	if s.o.Token != "" {
		r.Header.Set("Authorization", "Bearer "+s.o.Token)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		if with := (*url.Error)(nil); errors.As(err, &with) { // it has the whole endpoint in it
			err = with.Err
		}
		return err
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection serves again
	_ = answer.Body.Close()
	switch code := answer.StatusCode; {
	case code >= 200 && code < 300:
		s.told.Store(lost)
		return nil
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return fmt.Errorf("status %d", code)
	default:
		return &refusedError{code}
	}
}
