package service

import "testing"

func TestParseCPU(t *testing.T) {
	tests := []struct {
		line        string
		busy, total float64
		ok          bool
	}{
		{"cpu  100 5 50 800 45 3 2 1 77 0", 161, 1006, true},
		{"cpu 1 2 3 4", 6, 10, true}, // an old kernel
		{"cpu 1 2 3", 0, 0, false},
		{"cpu a b c d e", 0, 0, false},
		{"intr 1 2 3 4 5", 0, 0, false},
		{"", 0, 0, false},
	}
	for _, test := range tests {
		busy, total, ok := parseCPU(test.line)
		if busy != test.busy || total != test.total || ok != test.ok {
			t.Errorf("%q: %v of %v, %v", test.line, busy, total, ok)
		}
	}
}

func TestUsage(t *testing.T) {
	r := newUsage(t.TempDir()).current()
	for name, v := range map[string]float64{"cpu": r.CPU, "memory": r.Memory, "disk": r.Disk} {
		if v <= 0 || v > 100 {
			t.Errorf("%s usage %v %%", name, v)
		}
	}
	if r := newUsage("/no/such/path").current(); r.Disk != 0 || r.Memory <= 0 {
		t.Errorf("of a path that is missing: %+v", r)
	}
	if a, b := percent(-3), percent(250); a != 0 || b != 100 {
		t.Errorf("percent keeps %v and %v", a, b)
	}
}
