package safety_test

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPythonOfTheDocuments runs the program that docs/safety.md shows: what Python sends engages, and says why.
func TestPythonOfTheDocuments(t *testing.T) {
	var python string
	for _, p := range []string{os.Getenv("LAWNBERRY_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if python == "" && p != "" && exec.Command(p, "-c", "import paho.mqtt.publish").Run() == nil {
			python = p
		}
	}
	if python == "" {
		t.Fatal("no Python with paho-mqtt found: run make test, or install Debian's package python3-paho-mqtt")
	}
	text, err := os.ReadFile("../docs/safety.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```python\n")
	program, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("docs/safety.md shows no Python")
	}
	b := newBus(t)
	latch := b.latch("latch")
	release(t, latch)
	u, err := url.Parse(b.url())
	if err != nil {
		t.Fatal(err)
	}
	program = strings.NewReplacer("localhost", u.Hostname(), "1883", u.Port()).Replace(program)
	if out, err := exec.Command(python, "-c", program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "engaged by the camera", func() bool {
		s := b.hub.Status()
		return s.Engaged && s.By == "camera" && s.Reason == "a person on the lawn" && !latch.Released()
	})
}
