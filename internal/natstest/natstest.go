// Package natstest runs real nats-server processes with JetStream on the loopback interface, for tests: one, or a cluster that is killed,
// stopped, partitioned and started again.
package natstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/proctest"
)

// ready is how long servers may take until they are ready, on a machine that is slow and busy.
const ready = 3 * time.Minute

// Options are those of [New].
type Options struct {
	// Nodes is how many servers there are, by default 1. More are a cluster.
	Nodes int
	// Lines are added to the configuration of every node. Relative paths in them are in the directory of the node, which is its working directory.
	Lines []string
	// Prepare is called before the first start of each node, with its directory; what it returns is added to that node's configuration.
	Prepare func(node int, dir string) []string
	// Partitions routes what the nodes say to each other through proxies, so that [Servers.Partition] works.
	Partitions bool
	// ServerName is that of a node, by default n0, n1 and so on.
	ServerName func(node int) string
	// Given are nodes that have a configuration, instead of all that is above.
	Given []Given
}

// Given is a node with a configuration: nats.conf in its directory, which is started there.
type Given struct {
	Dir             string
	Name            string // its server_name
	Client, Monitor int    // ports of its configuration, see [Port]
}

// Servers are running nodes, counted from 0. Methods may be called concurrently; those that take a node fail the test if it is not as they need it.
type Servers struct {
	t       testing.TB
	binary  string
	options Options
	nodes   []*node
	links   map[[2]int]*faultnet.Proxy // from one node to another
	client  *http.Client
}

type node struct {
	name                   string
	dir                    string
	client, route, monitor int // ports

	mu      sync.Mutex // guards what follows
	cmd     *exec.Cmd  // nil while it does not run
	ended   chan struct{}
	stopped bool
}

// Start runs one server until the test ends, and waits until it is ready. lines are added to its configuration.
func Start(t testing.TB, lines ...string) *Servers {
	t.Helper()
	return New(t, Options{Lines: lines})
}

// Cluster runs a cluster of so many nodes until the test ends, and waits until it is ready. lines are added to the configuration of each.
func Cluster(t testing.TB, nodes int, lines ...string) *Servers {
	t.Helper()
	return New(t, Options{Nodes: nodes, Lines: lines})
}

// New runs servers until the test ends, and waits until they are ready.
func New(t testing.TB, o Options) *Servers {
	t.Helper()
	o.Nodes = max(o.Nodes, 1, len(o.Given))
	if o.ServerName == nil {
		o.ServerName = func(node int) string { return fmt.Sprintf("n%d", node) }
	}
	s := &Servers{
		t: t, binary: Binary(t), options: o, links: make(map[[2]int]*faultnet.Proxy),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	for _, g := range o.Given {
		s.nodes = append(s.nodes, &node{name: g.Name, dir: g.Dir, client: g.Client, monitor: g.Monitor})
	}
	for i := range o.Nodes - len(o.Given) {
		n := &node{name: o.ServerName(i), dir: t.TempDir()}
		n.client, n.route, n.monitor = Port(t), Port(t), Port(t)
		s.nodes = append(s.nodes, n)
	}
	if o.Partitions {
		for i := range s.nodes {
			for j, to := range s.nodes {
				if i == j {
					continue
				}
				p, err := faultnet.Start(address(to.route))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(p.Close)
				s.links[[2]int{i, j}] = p
			}
		}
	}
	for i, n := range s.nodes[len(o.Given):] {
		if err := os.WriteFile(filepath.Join(n.dir, "nats.conf"), []byte(s.configuration(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.end)
	for i := range s.nodes {
		s.run(i)
	}
	s.WaitReady()
	return s
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (s *Servers) configuration(i int) string {
	n := s.nodes[i]
	// What streams may take is reserved when they are made, so there is plenty.
	lines := []string{
		"server_name: " + n.name,
		"listen: " + address(n.client),
		"http: " + address(n.monitor),
		`jetstream { store_dir: "jetstream", max_memory_store: 4GB, max_file_store: 500GB }`,
	}
	if len(s.nodes) > 1 {
		lines = append(lines, "cluster {", "  name: test", "  listen: "+address(n.route))
		if s.options.Partitions {
			// Nodes tell each other of third ones, and where to reach them. Nobody is at that address: they shall take the proxies.
			lines = append(lines, "  advertise: "+address(Port(s.t)))
		}
		lines = append(lines, "  routes: [")
		for j, to := range s.nodes {
			if j == i {
				continue
			}
			at := address(to.route)
			if p := s.links[[2]int{i, j}]; p != nil {
				at = p.Addr()
			}
			lines = append(lines, "    nats://"+at)
		}
		lines = append(lines, "  ]", "}")
	}
	lines = append(lines, s.options.Lines...)
	if s.options.Prepare != nil {
		lines = append(lines, s.options.Prepare(i, n.dir)...)
	}
	return strings.Join(lines, "\n") + "\n"
}

// run starts a node that does not run.
func (s *Servers) run(i int) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		s.t.Fatalf("node %d runs already", i)
	}
	log, err := os.OpenFile(s.logFile(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(s.binary, "-c", "nats.conf")
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	n.cmd, n.ended, n.stopped = cmd, make(chan struct{}), false
	go func(ended chan struct{}) {
		defer close(ended)
		_ = cmd.Wait()
	}(n.ended)
}

func (s *Servers) logFile(i int) string { return filepath.Join(s.nodes[i].dir, "log") }

// end kills what runs.
func (s *Servers) end() {
	if s.t.Failed() {
		for i := range s.nodes {
			s.t.Logf("the end of the log of node %d:\n%s", i, tail(s.Log(i), 4000))
		}
	}
	for _, n := range s.nodes {
		n.mu.Lock()
		n.kill(syscall.SIGKILL)
		n.mu.Unlock()
	}
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }

// kill ends a node and waits for its end. The caller holds n.mu.
func (n *node) kill(sig syscall.Signal) bool {
	if n.cmd == nil {
		return false
	}
	_ = n.cmd.Process.Signal(sig)
	<-n.ended
	n.cmd, n.stopped = nil, false
	return true
}

// Len is how many nodes there are.
func (s *Servers) Len() int { return len(s.nodes) }

// URL is where clients find node 0.
func (s *Servers) URL() string { return s.NodeURL(0) }

// NodeURL is where clients find a node.
func (s *Servers) NodeURL(i int) string { return "nats://" + address(s.nodes[i].client) }

// URLs is where clients find the nodes, separated by commas.
func (s *Servers) URLs() string {
	var all []string
	for i := range s.nodes {
		all = append(all, s.NodeURL(i))
	}
	return strings.Join(all, ",")
}

// ClientPort is that of a node for clients.
func (s *Servers) ClientPort(i int) int { return s.nodes[i].client }

// MonitorURL is where a node tells about itself over HTTP: /varz, /jsz and so on.
func (s *Servers) MonitorURL(i int) string { return "http://" + address(s.nodes[i].monitor) }

// Name is the server name of a node.
func (s *Servers) Name(i int) string { return s.nodes[i].name }

// Node is the number of the node with that server name, or -1.
func (s *Servers) Node(name string) int {
	return slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name })
}

// Dir is the directory of a node, with nats.conf and jetstream in it.
func (s *Servers) Dir(i int) string { return s.nodes[i].dir }

// PID is the process of a node that runs, or 0.
func (s *Servers) PID(i int) int {
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Log is what a node has logged, over all its starts.
func (s *Servers) Log(i int) string {
	text, _ := os.ReadFile(s.logFile(i))
	return string(text)
}

// Kill ends a node by SIGKILL.
func (s *Servers) Kill(i int) { s.signalEnd(i, syscall.SIGKILL) }

// Quit ends a node by SIGTERM, and waits until it has ended.
func (s *Servers) Quit(i int) { s.signalEnd(i, syscall.SIGTERM) }

func (s *Servers) signalEnd(i int, sig syscall.Signal) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if sig != syscall.SIGKILL && n.stopped {
		s.t.Fatalf("node %d is stopped: it cannot end itself", i)
	}
	if !n.kill(sig) {
		s.t.Fatalf("node %d does not run", i)
	}
}

// Restart starts a node again that was ended, with its ports and its directory. It does not wait: see [Servers.WaitReady].
func (s *Servers) Restart(i int) {
	s.t.Helper()
	s.run(i)
}

// Reload makes a node read its configuration again.
func (s *Servers) Reload(i int) { s.signal(i, syscall.SIGHUP) }

// Stop makes a node hang: its sockets stay open and nothing is read.
func (s *Servers) Stop(i int) { s.signal(i, syscall.SIGSTOP) }

// Cont ends a hang.
func (s *Servers) Cont(i int) { s.signal(i, syscall.SIGCONT) }

func (s *Servers) signal(i int, sig syscall.Signal) {
	s.t.Helper()
	n := s.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		s.t.Fatalf("node %d does not run", i)
	}
	if n.stopped = sig == syscall.SIGSTOP; n.stopped {
		proctest.Stop(s.t, n.cmd.Process.Pid)
		return
	}
	if err := n.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("node %d: %v", i, err)
	}
}

// Partition cuts a node off from the others without telling either side: what they send each other vanishes. Clients still reach it. It needs
// Options.Partitions.
func (s *Servers) Partition(i int) {
	s.t.Helper()
	s.link(i, faultnet.Faults{Lose: true})
}

// Heal ends a partition. Connections that have lost something are reset, as a stream with a hole in it never goes on.
func (s *Servers) Heal(i int) {
	s.t.Helper()
	for _, p := range s.link(i, faultnet.Faults{}) {
		p.Cut(true)
	}
}

func (s *Servers) link(i int, f faultnet.Faults) []*faultnet.Proxy {
	s.t.Helper()
	var of []*faultnet.Proxy
	for pair, p := range s.links {
		if pair[0] == i || pair[1] == i {
			p.Set(faultnet.Up, f)
			p.Set(faultnet.Down, f)
			of = append(of, p)
		}
	}
	if of == nil {
		s.t.Fatal("there is nothing to partition: natstest.Options.Partitions is not set, or there is one node")
	}
	return of
}

// WaitReady waits until every node that runs and is not stopped is healthy and knows who leads the cluster's JetStream. It fails the test if that takes
// minutes, or if a node has ended by itself.
func (s *Servers) WaitReady() {
	s.t.Helper()
	deadline := time.Now().Add(ready)
	for i := range s.nodes {
		for {
			err := s.readiness(i)
			if err == nil {
				break
			}
			n := s.nodes[i]
			n.mu.Lock()
			ended := n.ended
			n.mu.Unlock()
			select {
			case <-ended:
				s.t.Fatalf("node %d has ended:\n%s", i, tail(s.Log(i), 4000))
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("node %d is not ready: %v", i, err)
			}
		}
	}
}

// readiness returns what a node lacks; nothing if it is not meant to run.
func (s *Servers) readiness(i int) error {
	n := s.nodes[i]
	n.mu.Lock()
	idle := n.cmd == nil || n.stopped
	n.mu.Unlock()
	if idle {
		return nil
	}
	if err := s.get(i, "/healthz", nil); err != nil {
		return err
	}
	var state struct {
		Disabled bool `json:"disabled"`
		Meta     *struct {
			Leader string `json:"leader"`
			Size   int    `json:"cluster_size"`
		} `json:"meta_cluster"`
	}
	if err := s.get(i, "/jsz", &state); err != nil {
		return err
	}
	switch {
	case state.Disabled:
		return fmt.Errorf("JetStream is disabled")
	case len(s.nodes) == 1:
		return nil
	case state.Meta == nil || state.Meta.Leader == "":
		return fmt.Errorf("JetStream has no leader")
	case state.Meta.Size != len(s.nodes):
		return fmt.Errorf("JetStream knows %d nodes of %d", state.Meta.Size, len(s.nodes))
	}
	return nil
}

// get reads what a node says at a path over HTTP, into v unless that is nil.
func (s *Servers) get(i int, path string, v any) error {
	response, err := s.client.Get(s.MonitorURL(i) + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, response.Status, strings.TrimSpace(body.String()))
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(body.Bytes(), v)
}

// Leader is the node that leads JetStream's cluster, as the given node sees it, or -1.
func (s *Servers) Leader(seenBy int) int {
	var state struct {
		Meta struct {
			Leader string `json:"leader"`
		} `json:"meta_cluster"`
	}
	if err := s.get(seenBy, "/jsz", &state); err != nil {
		return -1
	}
	return s.Node(state.Meta.Leader)
}

// Port returns a port that nobody listens on, and that nobody else who asks here gets until the test ends: a node that is down has its port back
// later. The kernel gives them to nobody who connects, as they are below its range for that (32768 on Linux).
func Port(t testing.TB) int {
	t.Helper()
	cache, err := cacheDirectory()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const first, last = 21000, 31999
	for try := range last - first + 1 {
		candidate := first + (os.Getpid()*37+try)%(last-first+1)
		unlock, err := lock(filepath.Join(dir, fmt.Sprint(candidate)), false)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address(candidate))
		if err != nil {
			unlock()
			continue
		}
		_ = l.Close()
		t.Cleanup(unlock)
		return candidate
	}
	t.Fatal("there is no free port")
	return 0
}
