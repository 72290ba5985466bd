package examples

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/config"
)

// TestFullConfiguration reads the example with every key, and runs a mower with it: what its first lines say is done, then serve starts, and the services
// that it simulates are healthy.
func TestFullConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	body, err := os.ReadFile("mower.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "mower.yaml")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := range config.Keys() {
		if loaded.Origin(k.Path).File == "" {
			t.Errorf("%s is not in the example", k.Path)
		}
	}
	expected := regexp.MustCompile("not supported yet|is not used, since broker.engine is embedded|starts only when somebody can log in")
	for _, p := range loaded.Problems {
		if !expected.MatchString(p.Text) {
			t.Errorf("%v", p)
		}
	}

	lawnberry := filepath.Join(dir, "lawnberry")
	if out, err := exec.Command("go", "build", "-o", lawnberry, "../cmd/lawnberry").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, lawnberry, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "LAWNBERRY_BROKER_PORT=0", "LAWNBERRY_BROKER_WEBSOCKETS_PORT=0", "LAWNBERRY_INTEGRATION_WEBSOCKET_BRIDGE_PORT=0",
			"LAWNBERRY_DATA_DIR="+filepath.Join(dir, "data"))
		return c
	}
	for line := range strings.Lines(string(body)) {
		words := strings.Fields(strings.TrimPrefix(line, "#"))
		if len(words) < 2 || words[0] != "lawnberry" || words[1] == "serve" || words[1] == "config" || !strings.HasPrefix(line, "#   ") {
			continue
		}
		if out, err := run(words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	serve := run("serve", "--config", "mower.yaml", "--json")
	var log bytes.Buffer
	serve.Stderr = &log
	out, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { ended <- serve.Wait() }()
	if err != nil {
		t.Fatalf("serve: %v, %v\n%s", err, <-ended, log.String())
	}
	var serving struct {
		Listening []struct{ Network, URL string }
	}
	if err := json.Unmarshal([]byte(line), &serving); err != nil {
		t.Fatal(err)
	}
	networks := map[string]bool{}
	for _, l := range serving.Listening {
		scheme, _, _ := strings.Cut(l.URL, "://")
		networks[scheme] = true
	}
	for _, want := range []string{"ssl", "wss", "https", "unix"} {
		if !networks[want] {
			t.Errorf("nothing listens with %s: %s", want, line)
		}
	}
	for late := time.Now().Add(patience / 2); ; {
		services, err := run("service", "ls", "--json").CombinedOutput()
		if healthy := strings.Count(string(services), `"healthy"`); err == nil && healthy >= 5 { // two that are simulated, the hub, two bridges
			break
		}
		if time.Now().After(late) {
			t.Errorf("not all services are healthy: %v\n%s", err, services)
			break
		}
	}
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve: %v\n%s", err, log.String())
	}
}
