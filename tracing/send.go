package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// A sender posts spans. One goroutine uses it.
type sender struct {
	o       Options
	target  string
	http    *http.Client
	failing bool // and that was logged
	log     *slog.Logger
}

func newSender(target string, o Options) *sender {
	return &sender{o: o, target: target, log: o.Logger, http: &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       sendTimeout,
	}}
}

// post sends a batch, once: what a collector does not take now is not worth the memory. It reports whether it was taken.
func (s *sender) post(ctx context.Context, batch []*span) bool {
	err := s.try(ctx, encode(&s.o, batch))
	switch {
	case err != nil && !s.failing:
		s.log.Warn("spans cannot be sent, and are lost until they can: start the collector, or set monitoring.tracing.endpoint", "endpoint", s.target, "error", err)
	case err == nil && s.failing:
		s.log.Info("spans are sent again", "endpoint", s.target)
	}
	s.failing = err != nil
	return err == nil
}

func (s *sender) try(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("User-Agent", "lawnberry")
	answer, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", answer.Status)
	}
	return nil
}

func (s *sender) close() { s.http.CloseIdleConnections() }
