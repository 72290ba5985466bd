package fleet

import (
	"bytes"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// FuzzCommand: whatever comes is refused, or is a command to the service that it was sent to, by somebody with a name, with a deadline that is near.
func FuzzCommand(f *testing.F) {
	m, err := message.NewCommand("anna", message.Command{Target: "navigation", Command: "dock", Parameters: []byte(`{"a": 1}`)})
	if err != nil {
		f.Fatal(err)
	}
	m.Metadata.ExpiresAt = m.Metadata.Timestamp + 30
	body, err := m.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	small, _ := message.Compress(append(body, bytes.Repeat([]byte(" "), 2000)...), message.Limits{})
	for _, b := range [][]byte{body, small, body[:len(body)/2], nil, []byte(`{"command":"dock"}`), []byte("\x1f\x8b"), bytes.ReplaceAll(body, []byte("navigation"), []byte("emergency_stop"))} {
		f.Add("navigation", b, false)
		f.Add("emergency_stop", b, true)
	}
	f.Fuzz(func(t *testing.T, service string, body []byte, job bool) {
		in := inbound{service: service, body: body, header: func(string) string { return "" }, received: time.Now()}
		if job {
			in.lane = laneJob
		}
		before := bytes.Clone(body)
		r, err := readRequest(&in, message.Limits{})
		if r == nil {
			t.Fatal("nothing to answer with")
		}
		if !bytes.Equal(before, body) {
			t.Error("the body was changed")
		}
		if err != nil {
			return
		}
		md := r.m.Metadata
		if topic.CheckLevel("", service) != nil || r.p.Target != service || !printable(r.p.Command, maxName) || !printable(md.ID, maxID) || !printable(md.Sender, maxSender) {
			t.Errorf("taken: %+v, %+v", md, r.p)
		}
		longest := maxCommandTime
		if job {
			longest = maxJobTime
		}
		if until, err := deadline(r); err == nil && (until.Before(in.received) || until.After(in.received.Add(longest))) {
			t.Errorf("deadline %s, received %s", until, in.received)
		}
	})
}
