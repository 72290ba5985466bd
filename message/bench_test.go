package message

import (
	"testing"
)

// reading is a sensor reading whose payload has 200 bytes.
func reading(t testing.TB) Message {
	t.Helper()
	m, err := NewSensorData("hardware_interface", SensorData{
		SensorType: "gps",
		Data: map[string]any{
			"latitude": 48.137154, "longitude": 11.576124, "altitude": 519.2, "hdop": 0.8, "satellites": 14, "fix": "rtk",
		},
		Units: map[string]string{"latitude": "deg", "altitude": "m"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// BenchmarkRoundTrip is the way of a 200-byte reading: validated and encoded by its sender, decoded and validated by its
// receiver.
func BenchmarkRoundTrip(b *testing.B) {
	m := reading(b)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Validate(Limits{}); err != nil {
			b.Fatal(err)
		}
		body, err := m.Append(buf[:0])
		if err != nil {
			b.Fatal(err)
		}
		got, err := Decode(body, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if got.Metadata.Sender != m.Metadata.Sender {
			b.Fatal("another sender")
		}
	}
	b.ReportMetric(float64(len(m.Payload)), "payload-bytes")
}

func BenchmarkAppend(b *testing.B) {
	m := reading(b)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Append(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	m := reading(b)
	body, _ := m.Append(nil)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := Decode(body, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	m := reading(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Validate(Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	m := reading(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Encode(&m, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewSensorData(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		reading(b)
	}
}
