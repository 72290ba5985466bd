// Package mosquittotest runs a real Mosquitto, for tests.
package mosquittotest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Start runs a Mosquitto that lets everybody in, until the test ends, and returns host:port. lines are added to its configuration.
func Start(t testing.TB, lines ...string) string {
	t.Helper()
	binary, err := exec.LookPath("mosquitto")
	if err != nil {
		binary = "/usr/sbin/mosquitto"
		if _, err := os.Stat(binary); err != nil {
			t.Fatal("Mosquitto is missing: make test installs it, or says what to install")
		}
	}
	for range 5 { // the free port may be taken before Mosquitto is there
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		_ = l.Close()
		_, port, _ := net.SplitHostPort(address)
		file := filepath.Join(t.TempDir(), "conf")
		conf := append([]string{"listener " + port + " 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true"}, lines...)
		if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
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
		for alive := true; alive; {
			if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
				_ = conn.Close()
				t.Cleanup(func() {
					_ = cmd.Process.Kill()
					<-ended
				})
				return address
			}
			select {
			case <-ended:
				alive = false
			case <-time.After(5 * time.Millisecond):
			}
		}
		t.Logf("mosquitto ended: %s", log.String())
	}
	t.Fatal("mosquitto does not start")
	return ""
}
