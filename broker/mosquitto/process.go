package mosquitto

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/lawnberry/lawnberry/broker"
)

const reloadSignal = syscall.SIGHUP

// A process is a running Mosquitto.
type process interface {
	pid() int
	signal(s os.Signal) error
	kill() error
	ended() <-chan struct{}
	err() error // how it ended, once it has
}

// A child is a process that we have started.
type child struct {
	cmd  *exec.Cmd
	log  *mapper
	over chan struct{} // closed when it has ended and its log is read
	how  error         // set before over is closed
}

func (c *child) pid() int                 { return c.cmd.Process.Pid }
func (c *child) signal(s os.Signal) error { return c.cmd.Process.Signal(s) }
func (c *child) kill() error              { return c.cmd.Process.Kill() }
func (c *child) ended() <-chan struct{}   { return c.over }
func (c *child) err() error               { return c.how }

// run starts the program. The goroutine that waits for it keeps its thread, since the kernel ends the process when that thread ends.
func (b *Broker) run() (*child, error) {
	cmd := exec.Command(b.binary, "-c", configName)
	cmd.Dir = b.o.Dir
	cmd.SysProcAttr = attributes()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: &mapper{log: b.log, own: b.probeID}, over: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.log.read(stderr)
		c.how = cmd.Wait()
		if c.how == nil {
			c.how = errors.New("exit status 0")
		}
		close(c.over)
	}()
	if err := <-started; err != nil {
		return nil, &BinaryError{Path: b.binary, Version: b.version, Err: err}
	}
	return c, nil
}

// launch writes the files, starts Mosquitto, and returns when it answers.
func (b *Broker) launch(ctx context.Context) (process, error) {
	b.reload.Lock()
	edit, err := b.writeConfig()
	b.reload.Unlock()
	if err != nil {
		return nil, err
	}
	inner := filepath.Join(b.o.Dir, socketName)
	if err := removeSocket(inner); err != nil {
		return nil, &broker.ListenError{Network: "unix", Address: inner, Err: err}
	}
	c, err := b.run()
	if err != nil {
		return nil, err
	}
	err = b.remember(c.pid())
	if err == nil {
		err = b.awaitAnswer(ctx, c, inner)
	}
	if err == nil {
		err = b.moveSocket(inner)
	}
	if err != nil {
		_ = c.kill()
		<-c.over
		b.forget()
		return nil, err
	}
	b.began(c, false)
	if b.edited(edit) { // it may have read what was written before
		if err := b.Reload(); err != nil {
			b.log.Error("Mosquitto may not know the logins of now", "error", err)
		}
	}
	return c, nil
}

// awaitAnswer waits until Mosquitto answers a CONNECT: then all its listeners are there.
func (b *Broker) awaitAnswer(ctx context.Context, c *child, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, b.times.start)
	defer cancel()
	stop := context.AfterFunc(b.ctx, cancel)
	defer stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := b.greet(ctx, socket)
		if err == nil {
			s.close()
			return nil
		}
		select {
		case <-c.over:
			if err := b.ctx.Err(); err != nil {
				return err
			}
			if err := b.stillFree(ctx); err != nil {
				return err
			}
			return &StartError{Binary: b.binary, File: filepath.Join(b.o.Dir, configName), Said: c.log.tail(), Err: c.how}
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				return &StartError{Binary: b.binary, File: filepath.Join(b.o.Dir, configName), Said: c.log.tail(),
					Err: fmt.Errorf("no answer within %v: %w", b.times.start, err)}
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// stillFree returns the error of a listener whose port somebody has taken meanwhile.
func (b *Broker) stillFree(ctx context.Context) error {
	var chosen []Listener
	for i, l := range b.o.Listeners {
		if b.ports[i] != "" {
			l.Address = b.endpoints[len(chosen)].Address
			chosen = append(chosen, l)
		}
	}
	_, _, err := b.choosePorts(ctx, chosen)
	return err
}

// moveSocket gives the socket its place, once nobody but this user can connect to it.
func (b *Broker) moveSocket(inner string) error {
	if err := os.Chmod(inner, 0o600); err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	if b.socket == inner {
		return nil
	}
	if err := removeSocket(b.socket); err != nil {
		return &broker.ListenError{Network: "unix", Address: b.socket, Err: err}
	}
	if err := os.Rename(inner, b.socket); err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	return nil
}

// removeSocket removes a socket that nobody listens on.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("a file that is no socket is in the way")
	}
	if listening(path) {
		return syscall.EADDRINUSE
	}
	return os.Remove(path)
}

// A mapper makes the lines of Mosquitto's log ours, and keeps the last ones.
type mapper struct {
	log  logger
	own  string // the id of our own client, which is no news; "" is none
	last ring
}

// read takes in all lines until the end.
func (m *mapper) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, 4096)
	for {
		line, more, err := lines.ReadLine()
		if err != nil {
			return
		}
		m.take(string(line))
		for more && err == nil { // the rest of a line that is too long
			_, more, err = lines.ReadLine()
		}
	}
}
