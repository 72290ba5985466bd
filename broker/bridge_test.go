package broker

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A Mosquitto that is bridged to us, as it comes, in each version: messages go both ways, and what it says about itself below $SYS is
// there, retained, and changed by its Will when it is gone.
//
// Seen failing with a broker that refuses all of $SYS to clients.
func TestMosquittoBridge(t *testing.T) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	for _, version := range []string{"mqttv311", "mqttv50"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			watch, other := connect(t, b, packet.V5, "watch"), connect(t, b, packet.V311, "other")
			watch.subscribe("$SYS/broker/connection/+/state", 1)
			other.subscribe("ours/#", 2)
			other.publish("theirs/y", "to them", 2, retain)

			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			port := l.Addr().(*net.TCPAddr).Port
			_ = l.Close()
			file := filepath.Join(t.TempDir(), "mosquitto.conf")
			conf := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nconnection one\naddress %s\nbridge_protocol_version %s\n"+
				"remote_clientid mosquitto\ntry_private false\ntopic # in 2 there/ theirs/\ntopic # out 2 here/ ours/\n", port, strings.TrimPrefix(b.URL(), "tcp://"), version)
			if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithTimeout(context.Background(), 3*patient)
			defer stop()
			bridge := exec.CommandContext(ctx, path, "-c", file)
			if err := bridge.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				stop()
				_ = bridge.Wait()
			}()

			state := watch.getsFirst("$SYS/broker/connection/mosquitto/state", "1", 1)
			watch.acknowledge(state)
			waitFor(t, "the bridge to subscribe", func() bool { return b.Stats().Subscriptions == 3 })
			args := []string{"-h", "127.0.0.1", "-p", fmt.Sprint(port), "-q", "2"}
			if out, err := command(t, "mosquitto_pub", append(args, "-t", "here/x", "-m", "to us")...).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			other.gets("ours/x", "to us", 2)
			if out, err := command(t, "mosquitto_sub", append(args, "-t", "there/#", "-C", "1", "-W", "20", "-v")...).CombinedOutput(); err != nil || string(out) != "there/y to them\n" {
				t.Errorf("%v, got %q", err, out)
			}

			stop() // which kills it
			watch.gets("$SYS/broker/connection/mosquitto/state", "0", 1)
			late := connect(t, b, packet.V5, "late")
			late.subscribe("$SYS/broker/connection/#", 1)
			if m := late.gets("$SYS/broker/connection/mosquitto/state", "0", 1); !m.Retain {
				t.Error("the state is not retained")
			}
			late.subscribe("#", 1)
			late.gets("theirs/y", "to them", 1)
			late.nothing()
		})
	}
}
