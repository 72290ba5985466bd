package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"regexp"
	"testing"
)

// The log is text on a terminal, which has no dates, and JSON lines elsewhere.
func TestLoggerOfTerminal(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	said := func(stderr io.Writer) string {
		var out bytes.Buffer
		log, err := (&tool{stderr: stderr}).logger(&out, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("not this")
		log.Info("something happened", "what", 7)
		return out.String()
	}
	want := regexp.MustCompile(`^time=\d\d:\d\d:\d\d\.\d{3} level=INFO msg="something happened" what=7\n$`)
	if text := said(&output{Writer: tty}); !want.MatchString(text) {
		t.Errorf("on a terminal: %q", text)
	}
	var line struct {
		Time, Level, Msg string
		What             int
	}
	if text := said(&output{Writer: io.Discard}); json.Unmarshal([]byte(text), &line) != nil || line.Time == "" || line.Level != "INFO" || line.What != 7 {
		t.Errorf("elsewhere: %q", text)
	}
}
