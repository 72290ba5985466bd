package cli

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// serve tells the service manager when it is ready, takes its configuration in, and stops; and feeds the watchdog meanwhile.
func TestServeTellsTheServiceManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "2000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	fed := 0
	hear := func(prefix string) string { // the next message but for the watchdog's
		t.Helper()
		for {
			buf := make([]byte, 4096)
			_ = manager.SetReadDeadline(time.Now().Add(60 * time.Second))
			n, err := manager.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			message := string(buf[:n])
			if strings.HasPrefix(message, "WATCHDOG=1") && prefix != "WATCHDOG=1" {
				fed++
				continue
			}
			if !strings.HasPrefix(message, prefix) {
				t.Fatalf("got %q, want %q", message, prefix)
			}
			return message
		}
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "mower.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("broker: {port: 0, max_connections: 50}")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		ended <- execute(ctx, []string{"serve", "--config", file, "--data-dir", dir}, strings.NewReader(""), &bytes.Buffer{}, &stderr, nil)
	}()
	ready := hear("READY=1")
	_, url, _ := strings.Cut(ready, "unix://")
	c, err := client.Connect(t.Context(), client.Options{URL: "unix://" + url, FailFast: true}) // at once: nothing is waited for
	if err != nil {
		t.Fatalf("%v: not ready, though it said %q", err, ready)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	write("broker: {port: 0, max_connections: 60}")
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1\nSTATUS=listening on ")
	write("broker: {port: 0, max_connections: -1}")
	hear("RELOADING=1\nMONOTONIC_USEC=")
	if got := hear("READY=1\nSTATUS=configuration not taken in: "); !strings.Contains(got, "max_connections") {
		t.Errorf("got %q", got)
	}
	hear("WATCHDOG=1")
	cancel(errInterrupted)
	hear("STOPPING=1")
	if code := <-ended; code != 0 {
		t.Errorf("code %d: %s", code, stderr.String())
	}
}
