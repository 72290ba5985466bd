package mosquitto

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// probeID is a client id that nobody else has.
func probeID() string { return "lawnberry-probe-" + rand.Text()[:12] }

// listening reports whether somebody takes connections at a Unix socket.
func listening(path string) bool {
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = nc.Close()
	return true
}

// A sign is a connection that is asked for signs of life.
type sign struct {
	nc   net.Conn
	read *packet.Reader
}

func (s *sign) close() {
	_, _ = s.nc.Write([]byte{byte(packet.DISCONNECT) << 4, 0})
	_ = s.nc.Close()
}

// greet connects and waits for the answer to CONNECT.
func (b *Broker) greet(ctx context.Context, socket string) (*sign, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	s := &sign{nc, packet.NewReader(nc, 4096)}
	hello := packet.Connect{Version: packet.V311, CleanStart: true, KeepAlive: 60, ClientID: []byte(b.probeID)}
	raw, err := hello.Append(nil, packet.V311)
	if err == nil {
		_, err = nc.Write(raw)
	}
	var first byte
	var body []byte
	if err == nil {
		first, body, err = s.read.Next()
	}
	switch {
	case err != nil:
	case packet.Type(first>>4) != packet.CONNACK || len(body) != 2:
		err = errors.New("what listens there does not speak MQTT")
	case body[1] != 0:
		err = fmt.Errorf("CONNECT is refused with code %d", body[1])
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return s, nil
}

// ping asks for a sign of life.
func (s *sign) ping(within time.Duration) error {
	if err := s.nc.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := s.nc.Write([]byte{byte(packet.PINGREQ) << 4, 0}); err != nil {
		return err
	}
	first, _, err := s.read.Next()
	if err == nil && packet.Type(first>>4) != packet.PINGRESP {
		err = errors.New("PINGREQ is answered with something else")
	}
	return err
}

// probe asks for a sign of life again and again. It returns nil when ctx ends, else why the process counts as hung: neither the connection
// that there was nor a new one has brought an answer within the patience in all. (A new one, since an answer may be there that we were too late for.)
func (b *Broker) probe(ctx context.Context) error {
	var s *sign
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	tick := time.NewTicker(b.times.probe)
	defer tick.Stop()
	for {
		if s == nil || s.ping(b.times.patience*2/3) != nil {
			if s != nil {
				_ = s.nc.Close()
				s = nil
			}
			fresh, cancel := context.WithTimeout(ctx, b.times.patience/3)
			again, err := b.greet(fresh, b.socket)
			cancel()
			if ctx.Err() != nil {
				if err == nil {
					again.close()
				}
				return nil
			}
			if err != nil {
				return err
			}
			s = again
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
