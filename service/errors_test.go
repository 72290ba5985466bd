package service_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/service"
)

// old dials address through something that refuses MQTT 5, as old brokers do.
func old(address string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		return &oldConn{Conn: conn}, err
	}
}

type oldConn struct {
	net.Conn
	begun, refuse bool
}

func (c *oldConn) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		head := string(p[:min(len(p), 12)])
		c.refuse = strings.Contains(head, "\x00\x04MQTT\x05")
	}
	if c.refuse {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *oldConn) Read(p []byte) (int, error) {
	if c.refuse {
		return copy(p, "\x20\x02\x00\x01"), nil
	}
	return c.Conn.Read(p)
}

type errorParameters struct {
	Speed float64 `json:"speed"`
}

func (p errorParameters) Validate() error {
	if p.Speed > 2 {
		return errors.New("parameters.speed must be 0 to 2")
	}
	return nil
}

// Every way in which a command can fail, with the code that a program acts upon and the words that a person does, through our
// broker and Mosquitto. Over MQTT 3.1.1 a target's answer has no code, which the base format has no place for.
func TestErrorsOfCall(t *testing.T) {
	t.Parallel()
	ours := strings.TrimPrefix(newBroker(t).URL(), "tcp://")
	mosquitto := mosquittotest.Start(t)
	for name, o := range map[string]client.Options{
		"ours, MQTT 5":          {URL: "tcp://" + ours},
		"ours, MQTT 3.1.1":      {Dial: old(ours)},
		"Mosquitto, MQTT 5":     {URL: "tcp://" + mosquitto},
		"Mosquitto, MQTT 3.1.1": {Dial: old(mosquitto)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := strings.Map(func(r rune) rune {
				if strings.ContainsRune(" ,.", r) {
					return '-'
				}
				return r
			}, name)
			cancelled := make(chan error, 1)
			setup := func(_ context.Context, s *service.Service) error {
				service.Handle(s, "drive", func(ctx context.Context, p errorParameters) (any, error) {
					if p.Speed > 1 {
						return nil, errors.New("the wheel slips")
					}
					<-ctx.Done()
					cancelled <- ctx.Err()
					return nil, ctx.Err()
				})
				return nil
			}
			started := make([]*service.Service, 3)
			var all sync.WaitGroup
			for i, so := range []service.Options{{ID: "target-" + id, Setup: setup}, {ID: "gone-" + id}, {ID: "caller-" + id}} {
				all.Go(func() {
					so.Client = o
					var err error
					if started[i], err = service.Start(testContext(t), so); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			for _, s := range started {
				if s == nil {
					return
				}
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					_ = s.Stop(ctx)
				})
			}
			target, gone, caller := started[0], started[1], started[2]
			awaitState(t, caller, gone.ID(), service.Healthy)
			stop(t, gone)
			awaitState(t, caller, gone.ID(), service.Offline)
			awaitState(t, caller, target.ID(), service.Healthy)
			v5 := caller.Client().Stats().Version == 5

			slow := map[string]any{"speed": 0.5}
			tests := []struct {
				name            string
				target, command string
				parameters      any
				limit           func(ctx context.Context) (context.Context, context.CancelFunc)
				code, code311   string
				says            string
			}{
				{"no such service", "nobody-" + id, "drive", nil, nil, client.CodeNoSuchService, client.CodeNoSuchService, "no such service"},
				{"service offline", gone.ID(), "drive", nil, nil, client.CodeOffline, client.CodeOffline, "is offline, last seen"},
				{"unknown command", target.ID(), "fly", nil, nil, client.CodeUnknownCommand, client.CodeFailed, `unknown command "fly", known are: drive, ping, shutdown, status`},
				{"wrong type", target.ID(), "drive", map[string]any{"speed": "fast"}, nil, client.CodeBadParameters, client.CodeFailed, "parameters.speed must be a number, not string"},
				{"wrong value", target.ID(), "drive", map[string]any{"speed": 3}, nil, client.CodeBadParameters, client.CodeFailed, "parameters.speed must be 0 to 2"},
				{"handler error", target.ID(), "drive", map[string]any{"speed": 1.5}, nil, client.CodeFailed, client.CodeFailed, "the wheel slips"},
				{"timeout", target.ID(), "drive", slow, func(ctx context.Context) (context.Context, context.CancelFunc) {
					return context.WithTimeout(ctx, 300*time.Millisecond)
				}, client.CodeTimeout, client.CodeTimeout, "outcome unknown"},
				{"cancelled", target.ID(), "drive", slow, func(ctx context.Context) (context.Context, context.CancelFunc) {
					ctx, cancel := context.WithCancel(ctx)
					time.AfterFunc(300*time.Millisecond, cancel)
					return ctx, cancel
				}, client.CodeCancelled, client.CodeCancelled, "outcome unknown"},
			}
			for _, tt := range tests {
				ctx := testContext(t)
				if tt.limit != nil {
					var cancel context.CancelFunc
					ctx, cancel = tt.limit(ctx)
					t.Cleanup(cancel)
				}
				began := time.Now()
				err := caller.Call(ctx, tt.target, tt.command, tt.parameters, nil)
				code := tt.code
				if !v5 {
					code = tt.code311
				}
				if e := asCommandError(err); e == nil || e.Code != code || !strings.Contains(e.Message, tt.says) || e.Service != tt.target || e.Command != tt.command {
					t.Errorf("%s: %v (%#v), want the code %s and %q", tt.name, err, e, code, tt.says)
				}
				if took := time.Since(began); took > 25*time.Second { // none waits for the deadline, a minute, but those who have one
					t.Errorf("%s: after %v", tt.name, took)
				}
				if tt.limit != nil {
					<-cancelled // the handler's context ends too
				}
			}
			// Somebody who listens to everything keeps the broker from saying that there is nobody.
			if _, err := caller.Subscribe(testContext(t), "#", func(context.Context, *client.Delivery) {}); err != nil {
				t.Fatal(err)
			}
			if e := asCommandError(caller.Call(testContext(t), "nobody-"+id, "drive", nil, nil)); e == nil || e.Code != client.CodeNoSuchService {
				t.Errorf("with a listener: %+v", e)
			}
		})
	}
}
