package fleet

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A gate passes MQTT connections on to a broker, packet by packet as they come from the client.
type gate struct {
	url string
	// each is told the kind of each packet of the client, as its first byte is, and says whether it goes on, and whether the connection does.
	each func(connection int32, kind byte) (passes, stays bool)
	n    atomic.Int32 // connections so far
}

func newGate(t *testing.T, broker string, each func(connection int32, kind byte) (passes, stays bool)) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	g := &gate{url: "mqtt://" + l.Addr().String(), each: each}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { g.pass(c, strings.TrimPrefix(broker, "mqtt://")) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	return g
}

func (g *gate) pass(c net.Conn, broker string) {
	n := g.n.Add(1)
	defer c.Close()
	far, err := net.Dial("tcp", broker)
	if err != nil {
		return
	}
	defer far.Close()
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		_, _ = io.Copy(c, far)
		_ = c.Close()
	})
	defer far.Close()
	for {
		packet, err := readPacket(c)
		if err != nil {
			return
		}
		passes, stays := g.each(n, packet[0])
		if !stays {
			return
		}
		if passes {
			if _, err := far.Write(packet); err != nil {
				return
			}
		}
	}
}

// readPacket reads one packet of MQTT.
func readPacket(r io.Reader) ([]byte, error) {
	packet := make([]byte, 1)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, err
	}
	length, one := 0, make([]byte, 1)
	for shift := 0; ; shift += 7 {
		if _, err := io.ReadFull(r, one); err != nil {
			return nil, err
		}
		packet = append(packet, one[0])
		if length |= int(one[0]&0x7f) << shift; one[0] < 0x80 {
			break
		}
	}
	body := make([]byte, length)
	_, err := io.ReadFull(r, body)
	return append(packet, body...), err
}

// TestMQTTLostWhileSubscribing has the engine lose the mower's connections, or not answer on them, while the mower subscribes to commands and jobs.
// The mower makes them again, and hears the emergency stop then.
//
// It was seen to fail while the mower waited for a confirmation that could not come any more.
func TestMQTTLostWhileSubscribing(t *testing.T) {
	const subscribe = 0x82
	for _, test := range []struct {
		name string
		each func(n int32, kind byte) (passes, stays bool)
	}{
		{"lost", func(n int32, kind byte) (bool, bool) { return true, n > 4 || kind != subscribe }},
		{"not answered", func(n int32, kind byte) (bool, bool) { return n > 2 || kind != subscribe, true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := ownBroker(t)
			w := newMeadow(t, engine)
			w.up(newGate(t, engine, test.each).url, nil)
			w.online(true)
			if stopped, err := w.anna.Stop(testContext(t), "m-1", "a dog"); err != nil || !stopped.Engaged {
				t.Errorf("%+v, %v", stopped, err)
			}
			var id string
			eventually(t, "the broker keeps jobs for the mower", func() (ok bool) {
				var err error
				id, err = w.anna.AddJob(testContext(t), "m-1", fleet.StopService, fleet.StopCommand, nil, time.Now().Add(time.Hour), 0)
				return err == nil
			})
			if _, err := w.anna.WaitJob(testContext(t), "m-1", id); err != nil {
				t.Errorf("a job: %v", err)
			}
		})
	}
}
