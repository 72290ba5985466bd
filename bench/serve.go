package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	pebbledb "github.com/cockroachdb/pebble"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/pebble"
	"github.com/mochi-mqtt/server/v2/listeners"
	nats "github.com/nats-io/nats-server/v2/server"
)

// The peers that are libraries, and the relay, run as processes of their own: this program with one of these names.
var servers = map[string]func(args []string) error{"mochi": serveMochi, "nats": serveNATS, "plain-nats": servePlainNATS, "relay": serveRelay}

// serveMochi runs mochi on a port. With a directory it stores in Pebble, synced.
func serveMochi(args []string) error {
	c := mochi.NewDefaultServerCapabilities()
	c.MaximumInflight = 65_535
	c.MaximumClientWritesPending = 1 << 20 // its default of 8,192 makes it lose most at QoS 0
	s := mochi.New(&mochi.Options{Capabilities: c, Logger: slog.New(slog.DiscardHandler)})
	if err := s.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	if dir := args[1]; dir != "" {
		if err := s.AddHook(new(pebble.Hook), &pebble.Options{Path: dir, Mode: pebble.Sync, Options: &pebbledb.Options{}}); err != nil {
			return err
		}
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: "127.0.0.1:" + args[0]})); err != nil {
		return err
	}
	if err := s.Serve(); err != nil {
		return err
	}
	select {}
}

// serveNATS runs nats-server with MQTT on a port, and JetStream in a directory, which its MQTT needs.
func serveNATS(args []string) error {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return runNATS(&nats.Options{
		ServerName: "bench", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: args[1], NoLog: true, NoSigs: true,
		MQTT: nats.MQTTOpts{Host: "127.0.0.1", Port: port, MaxAckPending: 15_000},
	})
}

// servePlainNATS runs nats-server for its own protocol on a port.
func servePlainNATS(args []string) error {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return runNATS(&nats.Options{ServerName: "bench", Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
}

func runNATS(o *nats.Options) error {
	s, err := nats.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("nats is not ready")
	}
	select {}
}

// serveRelay forwards whole packets from every P to every S, and everything between R and A: the least a broker can do.
func serveRelay(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards subs and ends
	var subs []*locked
	ends := make(map[byte]net.Conn)
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			role := make([]byte, 1)
			if _, err := io.ReadFull(nc, role); err != nil {
				return
			}
			switch role[0] {
			case 'S':
				mu.Lock()
				subs = append(subs, &locked{nc: nc})
				mu.Unlock()
				return
			case 'P':
				forward(nc, func(b []byte) {
					mu.Lock()
					to := subs
					mu.Unlock()
					for _, s := range to {
						s.write(b)
					}
				})
				return
			}
			mu.Lock()
			ends[role[0]] = nc
			mu.Unlock()
			other := 'A' + 'R' - role[0]
			forward(nc, func(b []byte) {
				mu.Lock()
				to := ends[other]
				mu.Unlock()
				if to != nil {
					_, _ = to.Write(b)
				}
			})
		}()
	}
}

type locked struct {
	mu   sync.Mutex
	nc   net.Conn
	gone bool
}

func (l *locked) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return
	}
	if _, err := l.nc.Write(b); err != nil {
		l.gone = true
	}
}

// forward hands on the whole packets that come.
func forward(nc net.Conn, to func([]byte)) {
	c := client{nc: nc, in: make([]byte, 32<<10)}
	for c.fill() == nil {
		start := c.a
		for {
			_, end, ok := c.peek()
			if !ok {
				break
			}
			c.a = end
		}
		if c.a > start {
			to(c.in[start:c.a])
		}
	}
}

func init() { // a peer that outlives its parent would spoil the next run
	if len(os.Args) > 1 && servers[os.Args[1]] != nil {
		parent := os.Getppid()
		go func() {
			for range time.Tick(time.Second) {
				if os.Getppid() != parent {
					fmt.Fprintln(os.Stderr, "bench: left alone")
					os.Exit(1)
				}
			}
		}()
	}
}
