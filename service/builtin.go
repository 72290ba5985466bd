package service

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// builtins are the commands that every service answers.
var builtins = [...]string{"log_level", "ping", "shutdown", "status"}

// Builtins returns the descriptions of the commands that every service answers: no service describes these itself.
func Builtins() []Command {
	return []Command{
		describe[levelQuery, levelAnswer]("log_level", []HandleOption{Description(levelText), Repeatable()}),
		describe[struct{}, pong]("ping", []HandleOption{Description("Answers, with the service's uptime."), Repeatable()}),
		describe[struct{}, shuttingDown]("shutdown", []HandleOption{Description("Ends the service."), Repeatable()}),
		describe[struct{}, condition]("status", []HandleOption{Description("Tells the service's state, and figures of its connection."), Repeatable()}),
	}
}

// offers reports whether a command that every service answers is more than a refusal here.
func (s *Service) offers(command string) bool { return command != "log_level" || s.o.LogLevels != nil }

func isBuiltin(command string) bool { return slices.Contains(builtins[:], command) }

// pong is the result of ping.
type pong struct {
	Pong      bool    `json:"pong"`
	Timestamp float64 `json:"timestamp"` // Unix seconds
	ServiceID string  `json:"service_id"`
	Uptime    float64 `json:"uptime"` // seconds
}

// condition is the result of status.
type condition struct {
	ServiceID string    `json:"service_id"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Uptime    float64   `json:"uptime"` // seconds
	Metrics   metrics   `json:"metrics"`
	MQTTStats mqttStats `json:"mqtt_stats"`
}

type metrics struct {
	message.Resources
	Services int `json:"services"` // known to this service
	Commands int `json:"commands"` // that it answers
}

type mqttStats struct {
	Connected        bool    `json:"connected"`
	ConnectedSince   float64 `json:"connected_since"` // Unix seconds
	ProtocolVersion  int     `json:"protocol_version"`
	Reconnects       uint64  `json:"reconnects"`
	MessagesSent     uint64  `json:"messages_sent"`
	MessagesReceived uint64  `json:"messages_received"`
	MessagesFailed   uint64  `json:"messages_failed"`
	MessagesExpired  uint64  `json:"messages_expired"`
	MessagesRejected uint64  `json:"messages_rejected"`
	MessagesDropped  uint64  `json:"messages_dropped"`
	MessagesLimited  uint64  `json:"messages_rate_limited"` // refused for their rate
	Queued           int     `json:"queued"`
	Handlers         int     `json:"handlers"`
	PendingCalls     int     `json:"pending_calls"`
	RoundTripP50     float64 `json:"round_trip_p50_ms"`
	RoundTripP99     float64 `json:"round_trip_p99_ms"`
	OneWayP50        float64 `json:"one_way_p50_ms"`
	OneWayP99        float64 `json:"one_way_p99_ms"`
}

type shuttingDown struct {
	ShuttingDown bool `json:"shutting_down"`
}

// handlerOfOurs runs a command that every service answers.
type handlerOfOurs func(parameters json.RawMessage) (result any, err error)

// builtin returns the implementation of a command that every service answers, or nil.
func (s *Service) builtin(command string) handlerOfOurs {
	switch command {
	case "ping":
		return func(json.RawMessage) (any, error) {
			return pong{Pong: true, Timestamp: message.Seconds(time.Now()), ServiceID: s.o.ID, Uptime: s.uptime()}, nil
		}
	case "status":
		return func(json.RawMessage) (any, error) { return s.condition(), nil }
	case "shutdown":
		return func(json.RawMessage) (any, error) {
			s.log.Info("asked to shut down")
			// The client answers before it closes; Stop is what ends this goroutine and everything else.
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), runPatience)
				defer cancel()
				if err := s.Stop(ctx); err != nil {
					s.log.Warn("shutdown incomplete", "error", err)
				}
			}()
			return shuttingDown{true}, nil
		}
	case "log_level":
		return s.logLevel
	}
	return nil
}

func (s *Service) uptime() float64 { return time.Since(s.started).Round(time.Millisecond).Seconds() }

func (s *Service) condition() condition {
	s.mu.Lock()
	c := condition{ServiceID: s.o.ID, State: s.state, Reason: s.reason, Uptime: s.uptime()}
	s.mu.Unlock()
	c.Metrics = metrics{s.usage.current(), len(s.registry.all("")), len(s.commands())}
	st := s.client.Stats()
	c.MQTTStats = mqttStats{
		Connected: st.Connected, ProtocolVersion: int(st.Version), Reconnects: st.Reconnects,
		MessagesSent: st.Sent, MessagesReceived: st.Received, MessagesFailed: st.Failed,
		MessagesExpired: st.Expired, MessagesRejected: rejected(st), MessagesDropped: st.Dropped, MessagesLimited: st.RateLimited,
		Queued: st.Outbox, Handlers: len(st.Handlers), PendingCalls: st.PendingCalls,
		RoundTripP50: milliseconds(st.RoundTrip.P50), RoundTripP99: milliseconds(st.RoundTrip.P99),
		OneWayP50: milliseconds(st.OneWay.P50), OneWayP99: milliseconds(st.OneWay.P99),
	}
	if !st.ConnectedSince.IsZero() {
		c.MQTTStats.ConnectedSince = message.Seconds(st.ConnectedSince)
	}
	return c
}

func rejected(st client.Stats) (sum uint64) {
	for _, n := range st.Rejected {
		sum += n
	}
	return sum
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
