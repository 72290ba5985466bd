package broker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Real clients: Mosquitto's and paho's. `make test` installs them.

// command prepares a program that the test needs; it is killed when the test ends.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: make test installs it (Debian package mosquitto-clients)", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*patient)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, path, args...)
}

// mosquitto runs mosquitto_pub or another of Mosquitto's clients against b, and returns its output.
func mosquitto(t *testing.T, b *Broker, name, version string, args ...string) string {
	t.Helper()
	cmd := mosquittoCommand(t, b, name, version, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func mosquittoCommand(t *testing.T, b *Broker, name, version string, args ...string) *exec.Cmd {
	t.Helper()
	host, port, _ := strings.Cut(strings.TrimPrefix(b.URL(), "tcp://"), ":")
	return command(t, name, append([]string{"-h", host, "-p", port, "-V", version}, args...)...)
}

// A running is a program that works in the background.
type running struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func inBackground(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = &r.out, &r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- cmd.Wait() }()
	return r
}

// background starts mosquitto_sub with a client id and waits until it has subscribed.
func background(t *testing.T, b *Broker, version, id string, args ...string) *running {
	t.Helper()
	r := inBackground(t, mosquittoCommand(t, b, "mosquitto_sub", version, append(args, "-i", id)...))
	waitFor(t, fmt.Sprint(r.cmd.Args, " to subscribe"), func() bool {
		s := b.find(id)
		b.tree.mu.RLock()
		defer b.tree.mu.RUnlock()
		return s != nil && len(s.subs) > 0
	})
	return r
}

// prints waits for the program to end, and checks its output.
func (r *running) prints(t *testing.T, want string) {
	t.Helper()
	if err := <-r.done; err != nil || r.out.String() != want {
		t.Errorf("%v: %v, printed\n%.2000s\nwant\n%.2000s", r.cmd.Args, err, r.out.String(), want)
	}
}

func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"311", "5"} {
		for qos := range 3 {
			t.Run(fmt.Sprintf("%s, QoS %d", version, qos), func(t *testing.T) {
				t.Parallel()
				b := start(t, Options{})
				q := fmt.Sprint(qos)

				// A burst, line by line.
				const n = 500
				var lines, want strings.Builder
				for i := range n {
					fmt.Fprintln(&lines, "message", i)
					fmt.Fprintln(&want, "a/b", "message", i)
				}
				sub := background(t, b, version, "burst", "-q", q, "-t", "a/#", "-C", fmt.Sprint(n), "-v")
				cmd := mosquittoCommand(t, b, "mosquitto_pub", version, "-q", q, "-t", "a/b", "-l")
				cmd.Stdin = strings.NewReader(lines.String())
				pub := inBackground(t, cmd)
				sub.prints(t, want.String())
				if qos == 0 {
					// That mosquitto_pub 2.0.11 ends is not for the broker to say: of 600 that had sent all to Mosquitto, 3 never did.
					_ = cmd.Process.Kill()
					<-pub.done
				} else {
					pub.prints(t, "")
				}

				// Retained.
				mosquitto(t, b, "mosquitto_pub", version, "-q", q, "-t", "kept", "-m", "state", "-r")
				waitFor(t, "it to be stored", func() bool { return b.Stats().Retained == 1 })
				if out := mosquitto(t, b, "mosquitto_sub", version, "-q", q, "-t", "kept", "-C", "1", "-F", "%r %q %p", "-W", "20"); out != fmt.Sprintf("1 %d state\n", qos) {
					t.Errorf("retained: %q", out)
				}

				// The Will of a client that is killed.
				sub = background(t, b, version, "heir", "-q", q, "-t", "will", "-C", "1")
				mortal := background(t, b, version, "mortal", "-t", "none", "--will-topic", "will", "--will-payload", "gone", "--will-qos", q)
				_ = mortal.cmd.Process.Kill()
				<-mortal.done
				sub.prints(t, "gone\n")

				// A session that is offline meanwhile.
				keep := []string{"-i", "kept", "-c", "-q", q, "-t", "later"}
				if version == "5" {
					keep = append(keep, "-x", "100")
				}
				mosquitto(t, b, "mosquitto_sub", version, append(keep, "-E")...)
				for i := range 3 {
					mosquitto(t, b, "mosquitto_pub", version, "-q", q, "-t", "later", "-m", fmt.Sprint(i))
				}
				if qos > 0 {
					if out := mosquitto(t, b, "mosquitto_sub", version, append(keep, "-C", "3", "-W", "20")...); out != "0\n1\n2\n" {
						t.Errorf("offline: %q", out)
					}
				}
				if version == "5" {
					sub = background(t, b, version, "properties", "-q", q, "-t", "p", "-C", "1", "-F", "%P %C %R %D %p")
					mosquitto(t, b, "mosquitto_pub", version, "-q", q, "-t", "p", "-m", "x", "-D", "publish", "user-property", "k", "v", "-D", "publish", "content-type", "text/plain",
						"-D", "publish", "response-topic", "answer", "-D", "publish", "correlation-data", "7", "-D", "publish", "topic-alias", "3")
					sub.prints(t, "k:v text/plain answer 7 x\n")
				}
			})
		}
	}
	t.Run("request and response", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub := background(t, b, "5", "question", "-t", "question", "-C", "1", "-F", "%R %p")
		rr := mosquittoCommand(t, b, "mosquitto_rr", "5", "-t", "question", "-e", "answer", "-m", "ping", "-W", "20")
		var out bytes.Buffer
		rr.Stdout = &out
		if err := rr.Start(); err != nil {
			t.Fatal(err)
		}
		pub.prints(t, "answer ping\n")
		mosquitto(t, b, "mosquitto_pub", "5", "-t", "answer", "-m", "pong")
		if err := rr.Wait(); err != nil || out.String() != "pong\n" {
			t.Errorf("%v: %q", err, out.String())
		}
	})
}

// python returns a Python that has paho-mqtt.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if p != "" && exec.Command(p, "-c", "import paho.mqtt.client").Run() == nil {
			return p
		}
	}
	t.Fatal("no Python with paho-mqtt: make test installs it (Debian package python3-paho-mqtt)")
	return ""
}

func TestPahoClients(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: []Listener{{Network: "ws", Address: "127.0.0.1:0"}}})
	_, tcp, _ := strings.Cut(strings.TrimPrefix(b.URL(), "tcp://"), ":")
	_, web, _ := strings.Cut(strings.TrimPrefix(url(t, b, "ws"), "ws://"), ":")
	begun := time.Now()
	out, err := command(t, python(t), "testdata/paho_client.py", "127.0.0.1", tcp, web).CombinedOutput()
	if err != nil {
		t.Errorf("after %v: %v\n%s", time.Since(begun), err, out)
	}
	if s := b.Stats(); s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}
