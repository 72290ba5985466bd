package service

import (
	"reflect"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

func statusDelivery(raw bool, payload string) *client.Delivery {
	m := message.NewRaw([]byte(payload))
	if !raw {
		m.Raw = false
		m.Metadata = message.Metadata{Timestamp: 1_763_884_800, ID: "1", Sender: "peer", Type: message.TypeStatus}
	}
	return &client.Delivery{Topic: "system/services/peer/status", Message: m, Received: time.Now()}
}

// Services of other makes leave keys out, and write the ones they send in ways of their own.
func TestReadStatus(t *testing.T) {
	full := Info{
		ID: "peer", Type: "sensors", Version: "1.2", State: Degraded, Reason: "hot", Started: time.Unix(1_763_880_000, 0),
		Uptime: 4800 * time.Second, Dependencies: []string{"a"}, Endpoints: map[string]string{"gps": "sensors/gps/data"},
		Metadata: map[string]any{"n": 1.0}, Resources: message.Resources{CPU: 1, Memory: 2, Disk: 3},
	}
	tests := []struct {
		name    string
		raw     bool
		payload string
		ignored bool
		want    Info
	}{
		{name: "complete", payload: `{"status": "degraded", "uptime": 4800, "version": "1.2",
			"resources": {"cpu_usage": 1, "memory_usage": 2, "disk_usage": 3},
			"details": {"service_id": "peer", "service_type": "sensors", "version": "1.2", "start_time": 1763880000,
			"last_heartbeat": 1763884800, "state": "degraded", "reason": "hot", "uptime": 4800, "dependencies": ["a"],
			"endpoints": {"gps": "sensors/gps/data"}, "metadata": {"n": 1}}}`, want: full},
		{name: "nothing but a state", payload: `{"status": "healthy"}`, want: Info{State: Healthy}},
		{name: "state in the details alone", payload: `{"details": {"state": "healthy", "uptime": 2.5}}`, want: Info{State: Healthy, Uptime: 2500 * time.Millisecond}},
		{name: "details null", payload: `{"status": "error", "details": null}`, want: Info{State: Failing}},
		{name: "details an array", payload: `{"status": "error", "details": [1]}`, want: Info{State: Failing}},
		{name: "another's id in the details", payload: `{"status": "healthy", "details": {"service_id": "somebody"}}`, want: Info{State: Healthy}},
		{name: "our states in capitals", payload: `{"status": " HEALTHY "}`, want: Info{State: Healthy}},
		{name: "a state of its own", payload: `{"status": "Mowing"}`, want: Info{State: "Mowing"}},
		{name: "no state at all", payload: `{"uptime": 1}`, want: Info{State: "unknown", Uptime: time.Second}},
		{name: "empty object", payload: `{}`, want: Info{State: "unknown"}},
		{name: "ISO time with zone", payload: `{"status": "healthy", "details": {"start_time": "2025-11-23T06:40:00.5+00:00"}}`,
			want: Info{State: Healthy, Started: time.Date(2025, 11, 23, 6, 40, 0, 5e8, time.UTC)}},
		{name: "ISO time as Python writes it", payload: `{"status": "healthy", "details": {"start_time": "2025-11-23T06:40:00.123456"}}`,
			want: Info{State: Healthy, Started: time.Date(2025, 11, 23, 6, 40, 0, 123456000, time.Local)}},
		{name: "time with a blank", payload: `{"status": "healthy", "details": {"start_time": "2025-11-23 06:40:00"}}`,
			want: Info{State: Healthy, Started: time.Date(2025, 11, 23, 6, 40, 0, 0, time.Local)}},
		{name: "number as text", payload: `{"status": "healthy", "details": {"start_time": "1763880000", "uptime": "3"}}`,
			want: Info{State: Healthy, Started: time.Unix(1_763_880_000, 0), Uptime: 3 * time.Second}},
		{name: "impossible numbers", payload: `{"status": "healthy", "uptime": 1e300, "details": {"start_time": 1e300, "version": 7}}`,
			want: Info{State: Healthy, Uptime: seconds(1e300)}},
		{name: "wrong types", payload: `{"status": "healthy", "uptime": -4, "resources": [], "details": {"dependencies": "a", "endpoints": [], "metadata": 5, "start_time": {}, "service_type": null}}`,
			want: Info{State: Healthy}},
		{name: "odd resources", payload: `{"status": "healthy", "resources": {"cpu_usage": "12.5", "memory_usage": null}}`,
			want: Info{State: Healthy, Resources: message.Resources{CPU: 12.5}}},
		{name: "raw word", raw: true, payload: `offline`, want: Info{State: Offline}},
		{name: "raw JSON string", raw: true, payload: `"healthy"`, want: Info{State: Healthy}},
		{name: "raw object", raw: true, payload: `{"status": "healthy"}`, want: Info{State: Healthy}},
		{name: "raw object with a state", raw: true, payload: `{"state": "healthy"}`, want: Info{State: Healthy}},
		{name: "raw object about something else", raw: true, payload: `{"temperature": 3}`, ignored: true},
		{name: "raw text", raw: true, payload: `hello there`, ignored: true},
		{name: "raw number", raw: true, payload: `42`, ignored: true},
		{name: "raw null", raw: true, payload: `null`, ignored: true},
		{name: "raw bytes", raw: true, payload: "\xff\x00", ignored: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rep, ok := readStatus(statusDelivery(test.raw, test.payload))
			if ok == test.ignored {
				t.Fatalf("ok is %v", ok)
			}
			if test.ignored {
				return
			}
			got := Info{ID: "peer"}
			rep.merge(&got)
			test.want.ID = "peer"
			if !got.Started.Equal(test.want.Started) {
				t.Errorf("started %v, want %v", got.Started, test.want.Started)
			}
			got.Started, test.want.Started = time.Time{}, time.Time{}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// A Will says little; what was known stays.
func TestStatusKeepsWhatItDoesNotSay(t *testing.T) {
	i := Info{ID: "peer", Type: "sensors", Version: "1", State: Healthy, Reason: "", Uptime: time.Minute, Dependencies: []string{"a"}}
	rep, _ := readStatus(statusDelivery(false, `{"status": "offline"}`))
	rep.merge(&i)
	want := Info{ID: "peer", Type: "sensors", Version: "1", State: Offline, Uptime: time.Minute, Dependencies: []string{"a"}}
	if !reflect.DeepEqual(i, want) {
		t.Errorf("\n got %+v\nwant %+v", i, want)
	}
	rep, _ = readStatus(statusDelivery(false, `{"uptime": 70}`))
	i.State, i.Reason = Degraded, "hot"
	rep.merge(&i)
	if i.State != Degraded || i.Reason != "hot" || i.Uptime != 70*time.Second {
		t.Errorf("a heartbeat without a state: %+v", i)
	}
}

func FuzzReadStatus(f *testing.F) {
	f.Add(false, `{"status": "healthy", "details": {"start_time": "2025-11-23T06:40:00", "uptime": 1e9}}`)
	f.Add(true, `"offline"`)
	f.Add(true, `{"state": 1}`)
	f.Fuzz(func(t *testing.T, raw bool, payload string) {
		rep, ok := readStatus(statusDelivery(raw, payload))
		if !ok {
			return
		}
		i := Info{ID: "peer"}
		rep.merge(&i)
		if i.State == "" || i.Uptime < 0 || i.ID != "peer" {
			t.Errorf("%q became %+v", payload, i)
		}
	})
}
