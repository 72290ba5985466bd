package uitest

import (
	"sync/atomic"
	"testing"

	"github.com/lawnberry/lawnberry/safety"
)

// While a hazard is there the page says which, offers no release, and what is asked for in spite of it is refused; when it is over, the page
// releases. Nothing else has released meanwhile.
func TestRelease(t *testing.T) {
	w := newWorld(t)
	var releases atomic.Int32
	defer w.latch.OnChange(func(s safety.State) {
		if !s.Engaged {
			releases.Add(1)
		}
	})()
	check(t, w.latch.SetHazard(testContext(t), "lifted", "The wheels are off the ground"))
	b := open(t, w.url())
	b.expectFailures() // the refusal is one

	b.click("#release")
	b.says("#against li", "The wheels are off the ground")
	b.until("no release", "document.querySelector('#release-confirm').disabled")

	// It is over for a moment, and begins again when the page cannot know: only the hub can refuse now.
	w.latch.ClearHazard("lifted")
	b.until("a release", "!document.querySelector('#release-confirm').disabled")
	b.run(`window.fetched = window.fetch; window.fetch = (u, o) => u === "/api/emergency-stop" && o?.method !== "POST" ? new Promise(() => {}) : fetched(u, o)`)
	check(t, w.latch.SetHazard(testContext(t), "person", "A person is 1.0 m away"))
	b.run("document.querySelector('#release-confirm').click()")
	b.says("#release-error", "A person is 1.0 m away")
	b.run("window.fetch = window.fetched")
	b.says("#against li", "A person is 1.0 m away")
	b.until("no release", "document.querySelector('#release-confirm').disabled")
	if s := w.hub.Status(); !s.Engaged || releases.Load() != 0 {
		t.Fatalf("released with a hazard there: %+v, %d times", s.State, releases.Load())
	}

	w.latch.ClearHazard("person")
	b.click("#release-confirm")
	b.until("released", "!document.querySelector('#engaged')")
	eventually(t, "the hub has released", func() bool { return !w.hub.Status().Engaged })
	eventually(t, "the mover knows", func() bool { return releases.Load() == 1 })
}
