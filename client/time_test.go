package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// pinged connects to a broker that answers PINGREQ if it is to, and returns when PINGREQ came within d.
func pinged(t *testing.T, o Options, serverKeepAlive uint16, answer bool, d time.Duration) (at []time.Duration, cause error) {
	synctest.Test(t, func(t *testing.T) {
		var begin time.Time
		pings := make(chan time.Duration, 10_000)
		o.Dial = scripted(t, func(n int, s *script) {
			ack := packet.Connack{}
			if serverKeepAlive > 0 {
				ack.Properties.ServerKeepAlive = packet.Some(serverKeepAlive)
			}
			if n > 0 || s.accept(ack) == nil {
				return
			}
			begin = time.Now()
			for {
				first, _, err := s.rd.Next()
				if err != nil || packet.Type(first>>4) == packet.DISCONNECT {
					return
				}
				if packet.Type(first>>4) == packet.PINGREQ {
					pings <- time.Since(begin)
					if answer {
						s.send(&packet.Pingresp{})
					}
				}
			}
		})
		lost := make(chan error, 1)
		o.ReconnectDelay = 24 * time.Hour
		o.OnState = func(up bool, err error) {
			if !up {
				lost <- err
			}
		}
		c, err := Connect(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case cause = <-lost:
			pings <- -time.Since(begin)
		case <-time.After(d):
		}
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		close(pings)
		for p := range pings {
			at = append(at, p)
		}
	})
	return at, cause
}

func TestKeepAlive(t *testing.T) {
	t.Run("an idle link is probed and stays", func(t *testing.T) {
		at, cause := pinged(t, Options{Probe: 2 * time.Second}, 0, true, time.Minute)
		if cause != nil || len(at) < 23 || len(at) > 24 {
			t.Errorf("%v, %d PINGREQ: %v", cause, len(at), at)
		}
	})
	t.Run("keep alive without probing", func(t *testing.T) {
		at, cause := pinged(t, Options{Probe: 24 * time.Hour, KeepAlive: 10 * time.Second}, 0, true, 10*time.Minute)
		last := time.Duration(0)
		for _, p := range at {
			if p-last > 10*time.Second { // [MQTT-3.1.2-20]
				t.Errorf("nothing was sent from %v to %v", last, p)
			}
			last = p
		}
		if cause != nil || len(at) < 60 || len(at) > 120 {
			t.Errorf("%v, %d PINGREQ", cause, len(at))
		}
	})
	t.Run("the broker's keep alive", func(t *testing.T) {
		at, cause := pinged(t, Options{Probe: 24 * time.Hour, KeepAlive: time.Hour}, 4, true, time.Minute)
		if cause != nil || len(at) < 15 {
			t.Errorf("%v, %d PINGREQ", cause, len(at))
		}
	})
	t.Run("silence", func(t *testing.T) {
		at, cause := pinged(t, Options{}, 0, false, time.Hour)
		if !errors.Is(cause, errSilent) || len(at) != 2 || at[0] > 1250*time.Millisecond || at[1] < -3*time.Second || at[1] > -2*time.Second {
			t.Errorf("%v: PINGREQ and the end at %v", cause, at)
		}
	})
}
