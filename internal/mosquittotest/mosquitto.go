// Package mosquittotest runs a real Mosquitto, for tests.
package mosquittotest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/pki"
)

// Start runs a Mosquitto that lets everybody in, until the test ends, and returns host:port. lines are added to its configuration.
func Start(t testing.TB, lines ...string) string {
	t.Helper()
	return Run(t, lines...).Address()
}

// A Server is a Mosquitto that can be killed and started again. What it has in its directory stays.
type Server struct {
	t       testing.TB
	binary  string
	dir     string
	address string
	lines   []string

	cmd   *exec.Cmd
	log   buffer
	ended chan struct{}
}

// A buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Run is [Start]. In lines, DIR/ at the begin of a word is the directory of the server.
func Run(t testing.TB, lines ...string) *Server {
	t.Helper()
	binary, err := exec.LookPath("mosquitto")
	if err != nil {
		binary = "/usr/sbin/mosquitto"
		if _, err := os.Stat(binary); err != nil {
			t.Fatal("Mosquitto is missing: make test installs it, or says what to install")
		}
	}
	s := &Server{t: t, binary: binary, dir: t.TempDir()}
	for _, l := range lines {
		s.lines = append(s.lines, strings.ReplaceAll(l, " DIR/", " "+s.dir+"/"))
	}
	t.Cleanup(s.Kill)
	for range 5 { // the free port may be taken before Mosquitto is there
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.address = l.Addr().String()
		_ = l.Close()
		if s.try() {
			return s
		}
	}
	t.Fatalf("mosquitto does not start: %s", s.log.String())
	return nil
}

// Address is its host:port, also after a restart.
func (s *Server) Address() string { return s.address }

// Dir is its directory, in which it may write.
func (s *Server) Dir() string { return s.dir }

// Log is what it has said.
func (s *Server) Log() string { return s.log.String() }

// try starts it on its port.
func (s *Server) try() bool {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	conf := []string{"listener " + port + " 127.0.0.1", "set_tcp_nodelay true"}
	if !strings.Contains(strings.Join(s.lines, "\n"), "allow_anonymous") {
		conf = append(conf, "allow_anonymous true")
	}
	conf = append(conf, s.lines...)
	if os.Geteuid() == 0 { // else it becomes somebody who may not write into the directory
		conf = append(conf, "user root")
	}
	file := filepath.Join(s.dir, "conf")
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = exec.Command(s.binary, "-c", file)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	for {
		if conn, err := net.DialTimeout("tcp", s.address, time.Second); err == nil {
			_ = conn.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends it by SIGKILL.
func (s *Server) Kill() {
	if s.cmd != nil && s.ended != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// Again starts it after Kill, on the same port and with what it has saved.
func (s *Server) Again() {
	s.t.Helper()
	for range 200 { // its port may be taken for a moment, by an outgoing connection
		if s.try() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("mosquitto does not start again: %s", s.log.String())
}

// Password adds a user to a file of passwords in the directory, for password_file.
func Password(t testing.TB, file, user, password string) {
	t.Helper()
	args := []string{"-b", file, user, password}
	if _, err := os.Stat(file); err != nil {
		args = append([]string{"-c"}, args...)
	}
	if out, err := exec.Command("mosquitto_passwd", args...).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("mosquitto_passwd: %w: %s", err, out))
	}
}

// TLS makes an authority with a certificate for 127.0.0.1, and returns the lines that have a server speak TLS with it, and the file with the authority.
func TLS(t testing.TB) (lines []string, ca string) {
	t.Helper()
	a, err := pki.Create(filepath.Join(t.TempDir(), "tls"), "test", false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Issue(pki.Request{Name: "engine", Server: true, Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return []string{"certfile " + c.CertFile, "keyfile " + c.KeyFile}, a.CertFile()
}
