package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A kind is a broker in one setting.
type kind struct {
	name   string
	bare   bool // the relay
	stores bool // measured with a stored session too
	start  func(ours, dir string, port int, store bool) *exec.Cmd
	unix   bool
}

var kinds = []kind{
	{name: "relay", bare: true, start: selfServer("relay")},
	{name: "lawnberry", stores: true, unix: true, start: func(ours, dir string, port int, _ bool) *exec.Cmd {
		c := exec.Command(ours, "serve", "--data-dir", dir)
		c.Env = append(os.Environ(), fmt.Sprint("LAWNBERRY_BROKER_PORT=", port), "LAWNBERRY_BROKER_MAX_CONNECTIONS=10000",
			"LAWNBERRY_BROKER_LOG_LEVEL=warning", "LAWNBERRY_MONITORING_LOGGING_LOG_LEVEL=warning")
		return c
	}},
	{name: "mosquitto", start: mosquitto("")},
	{name: "mosquitto, nodelay", start: mosquitto("set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n")},
	{name: "mochi", stores: true, start: func(_, dir string, port int, store bool) *exec.Cmd {
		if !store {
			dir = ""
		}
		return self("mochi", port, dir)
	}},
	{name: "nats-server", start: func(_, dir string, port int, _ bool) *exec.Cmd { return self("nats", port, dir) }},
}

func kindNamed(name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

// selfServer starts one of servers that needs its port only.
func selfServer(name string) func(ours, dir string, port int, store bool) *exec.Cmd {
	return func(_, _ string, port int, _ bool) *exec.Cmd { return self(name, port) }
}

func self(name string, port int, more ...string) *exec.Cmd {
	return exec.Command("/proc/self/exe", append([]string{name, strconv.Itoa(port)}, more...)...)
}

func mosquitto(settings string) func(ours, dir string, port int, store bool) *exec.Cmd {
	return func(_, dir string, port int, _ bool) *exec.Cmd {
		conf := filepath.Join(dir, "mosquitto.conf")
		if err := os.WriteFile(conf, fmt.Appendf(nil, "listener %d 127.0.0.1\nallow_anonymous true\n%s", port, settings), 0o600); err != nil {
			fail(err)
		}
		program := "/usr/sbin/mosquitto"
		if path, err := exec.LookPath("mosquitto"); err == nil {
			program = path
		}
		return exec.Command(program, "-c", conf)
	}
}

// A server is a running broker.
type server struct {
	kind
	dir, address string
	cmd          *exec.Cmd
}

func (k kind) run(ours, dir string, store bool) (*server, error) {
	dir, err := os.MkdirTemp(dir, "b")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &server{kind: k, dir: dir, address: fmt.Sprint("127.0.0.1:", port), cmd: k.start(ours, dir, port, store)}
	s.cmd.Stderr = os.Stderr
	if strings.HasPrefix(k.name, "mosquitto") {
		s.cmd.Stderr = nil // it tells of every connection
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		nc, err := net.Dial("tcp", s.address)
		if err == nil {
			nc.Close()
			return s, nil
		}
		if time.Now().After(end) {
			s.stop()
			return nil, fmt.Errorf("%s does not listen: %w", k.name, err)
		}
	}
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.dir)
}

// client connects to s; role is what the relay wants to know.
func (s *server) client(id string, role byte) (*client, error) {
	if !s.bare {
		return dial("tcp", s.address, id, true)
	}
	c, err := dial("tcp", s.address, "", true)
	if err == nil {
		_, err = c.nc.Write([]byte{role})
	}
	return c, err
}

// cpu returns the processor time that the broker has used, in seconds.
func (s *server) cpu() float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return float64(user+system) / 100
}

// rss returns the broker's resident memory in MB.
func (s *server) rss() float64 { return s.status("VmRSS") }

// status returns a figure of the broker's process status in MB.
func (s *server) status(name string) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(status), name+":")
	kb, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kb) / 1024
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// build builds the command of the module that this one lies in.
func build(to string) error {
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "./cmd/lawnberry")
	c.Dir = ".."
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s (bench runs in its own folder)", err, out)
	}
	return nil
}

func versions() map[string]string {
	v := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			switch m.Path {
			case "github.com/mochi-mqtt/server/v2":
				v["mochi"] = m.Version
			case "github.com/nats-io/nats-server/v2":
				v["nats-server"] = m.Version
			case "github.com/nats-io/nats.go":
				v["nats.go"] = m.Version
			}
		}
	}
	out, err := exec.Command("/usr/sbin/mosquitto", "-h").CombinedOutput()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		line, _, _ := strings.Cut(string(out), "\n")
		v["mosquitto"] = strings.TrimPrefix(line, "mosquitto version ")
	}
	return v
}
