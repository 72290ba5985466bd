// Package mock runs services that only pretend: they are there, healthy, answer ping, status and shutdown, and publish made up readings, so
// that a service can be developed without the rest of the mower. They never say anything on what concerns safety, and move nothing.
package mock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// Options configure a service that pretends.
type Options struct {
	Service service.Options // ID, Type, Client, Dependencies and the like
	// Publish are filters of topics that it has readings for; a + in one stands for its id. None is sensors/{id}/data. What lies
	// below safety/, system/, commands/ and responses/ is left out, and so are filters with a #.
	Publish []string
	Logger  *slog.Logger
}

// A Service pretends. Stop it.
type Service struct {
	o    Options
	svc  *service.Service
	stop context.CancelFunc
	work sync.WaitGroup
}

const (
	longestPeriod  = time.Minute
	shortestPeriod = time.Second
	sendTime       = 5 * time.Second
)

// Start starts a service and returns when it is healthy, or its dependencies are not in time.
func Start(ctx context.Context, o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	meta := map[string]any{"mock": true}
	for k, v := range o.Service.Metadata {
		meta[k] = v
	}
	o.Service.Metadata, o.Service.Logger = meta, o.Logger
	svc, err := service.Start(ctx, o.Service)
	if err != nil {
		return nil, fmt.Errorf("mock service %s: %w", o.Service.ID, err)
	}
	s := &Service{o: o, svc: svc}
	working, stop := context.WithCancel(context.Background())
	s.stop = stop
	svc.OnShutdown(func(context.Context) { stop() })
	for _, t := range s.topics() {
		s.work.Go(func() { s.publish(working, t) })
	}
	return s, nil
}

// Stop ends it. It is idempotent.
func (s *Service) Stop(ctx context.Context) error {
	s.stop()
	s.work.Wait()
	return s.svc.Stop(ctx)
}

// Done is closed when it has ended, as by the command shutdown.
func (s *Service) Done() <-chan struct{} { return s.svc.Done() }

// topics returns what it publishes.
func (s *Service) topics() (names []string) {
	filters := s.o.Publish
	if len(filters) == 0 {
		filters = []string{"sensors/+/data"}
	}
	topics := s.svc.Client().Topics()
	for _, f := range filters {
		full, err := topics.Resolve(f)
		if err != nil {
			continue
		}
		rel, inside := topics.Relative(full)
		root, _, _ := strings.Cut(rel, "/")
		switch {
		case !inside, strings.HasSuffix(rel, "#"), root == "safety", root == "system", root == "commands", root == "responses":
			continue
		}
		names = append(names, strings.ReplaceAll(rel, "+", s.svc.ID()))
	}
	return names
}

// publish publishes readings on a topic until ctx ends, at half the rate that the topic allows, but once a second at most.
func (s *Service) publish(ctx context.Context, name string) {
	topics := s.svc.Client().Topics()
	period := shortestPeriod
	if d, ok := topics.Lookup(name); ok && d.Rate > 0 {
		period = min(max(period, 2*time.Minute/time.Duration(d.Rate)), longestPeriod)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	began := time.Now()
	for {
		m, err := s.reading(name, time.Since(began))
		if err == nil {
			send, cancel := context.WithTimeout(ctx, sendTime)
			err = s.svc.Publish(send, name, m)
			cancel()
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			s.o.Logger.Warn("mock reading not published", "topic", name, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reading makes a reading up: a value between 0 and 100 that goes up and down in a minute.
func (s *Service) reading(name string, passed time.Duration) (message.Message, error) {
	levels := strings.Split(name, "/")
	kind := levels[len(levels)-1]
	if (kind == "data" || kind == "status") && len(levels) > 1 {
		kind = levels[len(levels)-2]
	}
	value := math.Round(500+500*math.Sin(2*math.Pi*passed.Seconds()/60)) / 10
	if strings.HasSuffix(name, "/status") {
		details, err := json.Marshal(map[string]any{"mock": true, "value": value})
		if err != nil {
			return message.Message{}, err
		}
		return message.NewStatus(s.svc.ID(), message.Status{Status: "healthy", Uptime: passed.Seconds(), Details: details})
	}
	return message.NewSensorData(s.svc.ID(), message.SensorData{SensorType: kind, Data: map[string]any{"value": value, "mock": true}, Units: map[string]string{"value": "%"}})
}
