package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
)

func TestTableAligns(t *testing.T) {
	rows := table{header: []string{"ID", "STATE", "NOTE"}}
	rows.add(text("gps"), cell{"healthy", green}, text(""))
	rows.add(text("übersicht"), cell{"error", red}, text("x\x1b[2Jy"))
	var b bytes.Buffer
	rows.write(&b, false)
	want := "ID         STATE    NOTE\n" +
		"gps        healthy\n" +
		"übersicht  error    x\\x1b[2Jy\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	rows.write(&b, true)
	if !strings.Contains(b.String(), "\x1b[32mhealthy\x1b[0m") {
		t.Errorf("no colour in %q", b.String())
	}
	if strip(b.String()) != want {
		t.Errorf("colours change the alignment:\n%s", strip(b.String()))
	}
}

// strip takes the codes of colours out.
func strip(s string) string {
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		if !ok {
			return s
		}
		_, after, _ = strings.Cut(after, "m")
		s = before + after
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"grün 21°":       "grün 21°",
		"a\nb\tc":        `a\nb\tc`,
		"\x1b]0;title\a": `\x1b]0;title\a`,
		"\xff":           `\xff`,
		"\u202eabc":      `\u202eabc`, // turns the direction of what follows
		"\u009b2J":       `\u009b2J`,  // a control sequence in one character
		"":               "",
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                          "0s",
		1500 * time.Microsecond:               "2ms",
		59*time.Second + 900*time.Millisecond: "59s",
		61 * time.Second:                      "1m1s",
		2*time.Hour + 4*time.Minute:           "2h4m",
		51 * time.Hour:                        "2d3h",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("shortDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestExitCode(t *testing.T) {
	timedOut, cancel := context.WithTimeoutCause(t.Context(), -1, failf(exitTimeout, "late"))
	defer cancel()
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{errors.New("x"), exitFailed},
		{errInterrupted, exitFailed},
		{config.Problems{{Severity: config.SeverityError}}, exitFailed},
		{fmt.Errorf("sub: %w", usagef("x")), exitUsage},
		{&client.ConnectError{Err: errors.New("x")}, exitNoBroker},
		{&client.ConnectError{Code: 0x86}, exitRefused},
		{&client.RefusedError{Code: 0x87}, exitRefused},
		{&client.CommandError{Code: client.CodeTimeout}, exitTimeout},
		{&client.CommandError{Code: client.CodeCancelled}, exitFailed},
		{&client.CommandError{Code: client.CodeNoSuchService}, exitRefused},
		{&client.CommandError{Code: client.CodeOffline}, exitRefused},
		{&client.CommandError{Code: client.CodeBadParameters}, exitRefused},
		{client.ErrNotConnected, exitNoBroker},
		{context.DeadlineExceeded, exitTimeout},
		{because(timedOut, errors.New("x")), exitTimeout},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestReportIsOneLine(t *testing.T) {
	err := &failure{exitUsage, errors.New("a\nb \x1b[31mred"), "do this"}
	var b bytes.Buffer
	report(&b, err, exitUsage, false)
	if got, want := b.String(), "lawnberry: a b \\x1b[31mred; do this\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	b.Reset()
	report(&b, err, exitUsage, true)
	if got, want := b.String(), `{"error":"a b \\x1b[31mred; do this","code":2}`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"tcp://localhost:1883": true, "mqtt://host": true, "ssl://host:8883": true, "wss://host/mqtt": true,
		"unix:///run/lawnberry.sock": true, "tcp://[::1]:1883": true, "tcp://user@host": true,
		"localhost:1883": false, "host": false, "": false, "http://host": false, "tcp://": false, "unix://": false, "tcp://a b": false,
	} {
		if err := checkURL(url); (err == nil) != ok {
			t.Errorf("checkURL(%q): %v", url, err)
		} else if err != nil && exitCode(err) != exitUsage {
			t.Errorf("checkURL(%q): exit code %d", url, exitCode(err))
		}
	}
}

func TestCheckURLHidesThePassword(t *testing.T) {
	for _, url := range []string{"tcp://mower:secret@", "mower:secret@host", "http://mower:secret@host", "tcp://mower:se cret@host", "://mower:secret@host"} {
		if err := checkURL(url); err == nil || strings.Contains(err.Error(), "cret") {
			t.Errorf("checkURL(%q): %v", url, err)
		}
	}
}
