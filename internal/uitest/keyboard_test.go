package uitest

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// The first Tab reaches STOP, and Enter engages; what else has the focus is seen to have it, and pages change by keyboard.
func TestKeyboard(t *testing.T) {
	w := newWorld(t)
	check(t, w.latch.Release(testContext(t), w.hub.Status().Sequence))
	b := open(t, w.url())
	b.until("not engaged", "document.querySelector('#link.good') && !document.querySelector('#engaged')")

	focus := func() string {
		t.Helper()
		const look = `(() => {
			const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
			const seen = e.matches(":focus-visible") && s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2
				&& r.width > 0 && r.bottom > 0 && r.top < innerHeight && r.right > 0 && r.left < innerWidth;
			return (seen ? "" : "unseen ") + (e.id || e.getAttribute("href") || e.tagName);
		})()`
		return value[string](b, "%s", look)
	}
	b.do(chromedp.KeyEvent(kb.Tab))
	if at := focus(); at != "stop" {
		t.Fatalf("the first Tab reaches %s", at)
	}
	b.do(chromedp.KeyEvent(kb.Enter))
	eventually(t, "the emergency stop is engaged", func() bool { return w.hub.Status().Engaged })
	b.until("engaged", "document.querySelector('#engaged')")

	tabTo := func(want string) {
		t.Helper()
		for range 40 {
			b.do(chromedp.KeyEvent(kb.Tab))
			at := focus()
			if strings.HasPrefix(at, "unseen") {
				t.Errorf("the focus is not seen: %s", at)
			}
			if at == want {
				return
			}
		}
		t.Fatalf("Tab does not reach %s", want)
	}
	tabTo("#/alerts")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until("the alerts", "document.querySelector('#page-alerts h1')")
	tabTo("theme")
	before := value[string](b, "getComputedStyle(document.body).backgroundColor")
	b.do(chromedp.KeyEvent(" "))
	b.until("the other theme", "getComputedStyle(document.body).backgroundColor !== %q", before)

	// The question before a release, too.
	b.do(chromedp.Navigate(w.url() + "/#/overview"))
	b.do(chromedp.Reload())
	b.until("engaged", "document.querySelector('#release:not(:disabled)')")
	tabTo("release")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until("nothing stands against it", "document.querySelector('#release-confirm:not(:disabled)')")
	tabTo("release-confirm")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.until("released", "!document.querySelector('#engaged')")
	eventually(t, "the hub has released", func() bool { return !w.hub.Status().Engaged })
}
