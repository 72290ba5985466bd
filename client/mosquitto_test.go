package client

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/faultnet"
)

// startMosquitto runs a real Mosquitto and returns host:port.
func startMosquitto(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("mosquitto")
	if err != nil {
		if _, err := os.Stat("/usr/sbin/mosquitto"); err != nil {
			t.Fatal("Mosquitto is missing: make test installs it, or says what to install")
		}
		binary = "/usr/sbin/mosquitto"
	}
	for range 5 { // the free port may be taken before Mosquitto is there
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		_ = l.Close()
		file := filepath.Join(t.TempDir(), "conf")
		conf := "listener " + port + " 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n"
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, "-c", file)
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait()
		}()
		address := "127.0.0.1:" + port
		for up := false; !up; {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if up = err == nil; up {
				_ = conn.Close()
				t.Cleanup(func() {
					_ = cmd.Process.Kill()
					<-ended
				})
				return address
			}
			select {
			case <-ended:
				up = true
			case <-time.After(5 * time.Millisecond):
			}
		}
		t.Logf("mosquitto ended: %s", log.String())
	}
	t.Fatal("mosquitto does not start")
	return ""
}

// With Mosquitto, in both versions: overlapping filters (of which it sends copies), retained messages, calls, and
// 20 cuts in a stream of messages.
func TestMosquitto(t *testing.T) {
	address := startMosquitto(t)
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			options := func(address, id string) Options {
				o := Options{URL: "tcp://" + address, ID: id + version}
				if version == "3.1.1" {
					o.Dial = viaV311(t, address)
				}
				return o
			}
			p, err := faultnet.Start(address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			base := "m" + version
			pub := connect(t, options(address, "pub"))
			sub := connect(t, options(p.Addr(), "sub"))
			if got := fmt.Sprint(sub.Stats().Version); !strings.HasPrefix(version+"4", got) && version == "5" {
				t.Fatalf("version %s", got)
			}
			publish(t, pub, base+"/a", "retained", WithRetain(true))
			var ks []*collector
			for _, f := range []string{"/a", "/#", "/a", "/+"} {
				k := newCollector()
				ks = append(ks, k)
				subscribe(t, sub, base+f, k.handle)
				k.wait(t, 1)
			}
			for q := range byte(3) {
				publish(t, pub, base+"/a", fmt.Sprint(q), WithQoS(q))
			}
			for i, k := range ks {
				k.wait(t, 4)
				if got := k.settle(t, sub); !slices.Equal(got, []string{"retained", "0", "1", "2"}) {
					t.Errorf("handler %d: %q", i, got)
				}
			}

			serve(t, sub, "nav"+version)
			var got point
			if err := pub.Call(testContext(t), "nav"+version, "echo", point{1, 2}, &got); err != nil || got != (point{1, 2}) {
				t.Error(got, err)
			}

			k := newCollector()
			subscribe(t, sub, base+"/stream", k.handle)
			const n = 400
			cuts := 0
			for i := range n {
				if i%20 == 10 {
					p.Cut(i%40 == 10)
					cuts++
				}
				publish(t, pub, base+"/stream", strconv.Itoa(i), WithQoS(2))
				if i%20 == 19 {
					eventually(t, "it is back", sub.Connected)
				}
			}
			k.wait(t, n)
			texts := k.settle(t, sub)
			for i, s := range texts {
				if s != strconv.Itoa(i) {
					t.Fatalf("%d is %s", i, s)
				}
			}
			if len(texts) != n {
				t.Errorf("%d messages of %d", len(texts), n)
			}
			t.Logf("%d cuts, %d sent, %d received, in order, each once", cuts, n, len(texts))
		})
	}
	var refused *RefusedError
	c := connect(t, Options{URL: "tcp://" + address})
	if err := c.Publish(testContext(t), "x", raw("y"), WithQoS(1)); errors.As(err, &refused) {
		t.Error("no subscribers is no error:", err)
	}
}
