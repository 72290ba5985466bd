package uitest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/demo"
)

// startDemo starts a mower that mows, with a bridge, and nobody who walks past it: that stops it, and takes control from whoever drives.
func startDemo(t *testing.T) *app.App {
	t.Helper()
	c := config.Default()
	c.Broker.Port, c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port = 0, true, 0
	a, err := app.Start(t.Context(), app.Options{Config: c, Version: "1.2.3", AnyPort: true, Demo: &demo.Options{Seed: 1, Alone: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

// simulate has the demo's hardware simulate that somebody lifts the mower, or puts it down, by the form of that command.
func (b *browser) simulate(lifted string) {
	b.t.Helper()
	b.show("services")
	b.click("[data-choose=hardware_interface]")
	b.until("the form", "document.querySelector('[data-command=simulate] select[name=lifted]')")
	b.run("document.querySelector('[data-command=simulate] select[name=lifted]').value = %q", lifted)
	b.click("[data-command=simulate] button")
	b.until("the result", "document.querySelector('[data-command=simulate] output').textContent.match(/Done:.*lifted\":%s/)", lifted)
}

// askRelease asks for the release of an emergency stop, until the page has listed what stands against it. The demo's operator may release one
// in the moment before, which closes the question.
func (b *browser) askRelease() {
	b.t.Helper()
	b.until("the reasons", `(() => {
		const release = document.querySelector("#release"), confirm = document.querySelector("#release-confirm");
		if (release && !release.disabled) release.click();
		return document.querySelectorAll("#against li").length > 0 && confirm?.disabled;
	})()`)
}

// The dashboard shows a mower that mows, stops it, releases it, and sees when the bridge goes and comes.
func TestDashboard(t *testing.T) {
	a := startDemo(t)
	b := open(t, a.Bridge().URLs()[0])

	// The mower moves, on the lawn that navigation has told of.
	b.until("the mower", "document.querySelector('#mower')")
	b.until("the lawn", "document.querySelector('#lawn').points.numberOfItems === 4 && document.querySelector('#dock')")
	b.run("const m = document.querySelector('#mower').dataset; window.was = m.x + ' ' + m.y")
	b.until("the mower moving", "(() => { const m = document.querySelector('#mower').dataset; return window.was !== m.x + ' ' + m.y })()")

	// The graph has the seven services.
	b.show("services")
	for _, id := range demo.ServiceIDs() {
		b.until(id, "document.querySelector('#graph [data-service=%s]')", id)
	}

	b.size(1280, 800)
	for _, page := range pages {
		b.show(page)
		if os.Getenv("LAWNBERRY_SCREENSHOTS") != "" {
			switch page {
			case "performance":
				b.size(1280, 800)
			case "services":
				b.click("[data-choose=navigation]")
				b.until("forms", "document.querySelector('.command')")
			case "messages":
				b.size(1280, 480) // a picture of more would be large
				b.fill("#page-messages input", "navigation/position")
			case "topics":
				b.click(".tree button")
			}
			time.Sleep(6 * time.Second) // for the charts to have a line
		}
		if page != "drive" { // TestDrive has that
			b.picture(page)
		}
	}

	// A command from its form: somebody lifts the mower, and STOP is clicked. The release is refused, with the reasons.
	b.simulate("true")
	b.click("#stop")
	b.until("engaged", "document.querySelector('#engaged')")
	b.until("the services' confirmation", "document.querySelectorAll('#participants .confirmed').length > 0")
	b.askRelease()
	b.picture("stop")

	// Put down again, it is released: by the button, or by the demo's own operator if that is faster.
	b.expectFailures() // who is second is refused
	b.simulate("false")
	b.until("released", "(() => { const c = document.querySelector('#release-confirm'); if (c && !c.disabled) c.click(); return !document.querySelector('#engaged') })()")

	// The bridge goes and comes.
	address := strings.TrimPrefix(a.Bridge().URLs()[0], "http://")
	if err := a.Bridge().Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.until("the page grey", "document.querySelector('.lost')")
	again, err := web.Start(t.Context(), web.Options{Client: client.Options{URL: a.URL()}, Addresses: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Stop(context.Background()) })
	b.until("the page alive", "!document.querySelector('.lost')")

	// A phone, and the dark.
	b.size(360, 740)
	for _, page := range pages {
		b.show(page)
		b.until("no horizontal scroll on "+page, "document.documentElement.scrollWidth <= 360")
		if page == "overview" {
			b.until("the mower", "document.querySelector('#mower')")
			b.picture("phone")
		}
	}
	b.scheme("dark")
	b.show("drive")
	b.until("motors to drive", "document.querySelector('#take:not(:disabled)')")
	b.picture("phone-drive")
	b.size(1280, 800)
	b.show("overview")
	b.until("the mower", "document.querySelector('#mower')")
	b.picture("dark")
}
