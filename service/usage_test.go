package service

import "testing"

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
