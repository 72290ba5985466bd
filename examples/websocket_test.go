package examples

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/message"
)

// A page is the example in a Chromium.
type page struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex // guards faults
	faults []string   // exceptions
}

func openPage(t *testing.T, address string) *page {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("Chromium is missing: make test installs it, or says what to install")
	}
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(patience))
	ctx, end := chromedp.NewExecAllocator(context.Background(), flags...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	p := &page{t: t, ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended
		end()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.faults != nil {
			t.Errorf("the page failed: %s", strings.Join(p.faults, "\n"))
		}
	})
	chromedp.ListenTarget(ctx, func(e any) {
		if e, is := e.(*runtime.EventExceptionThrown); is {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.faults = append(p.faults, e.ExceptionDetails.Error())
		}
	})
	if err := chromedp.Run(ctx); err != nil { // the first run starts the browser, which lives as long as its context
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(address))
	return p
}

func (p *page) do(actions ...chromedp.Action) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// shows waits until an element's text is as a JavaScript pattern says.
func (p *page) shows(id, pattern string) {
	p.t.Helper()
	text := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		fits := false
		p.do(chromedp.Evaluate("/"+pattern+"/.test(document.getElementById('"+id+"').textContent)", &fits))
		if fits {
			return
		}
	}
	p.do(chromedp.Evaluate("document.body.innerText", &text))
	p.t.Fatalf("%s is never like %s; the page says:\n%s", id, pattern, text)
}

// TestWebSocketPage has the page show the simulated mower, come back after the bridge, and stop the mower. A page from elsewhere is not let in.
func TestWebSocketPage(t *testing.T) {
	broker, leave := simulateWith(t, demo.Options{Seed: 7, Operator: true}) // who has it go on after whatever stopped it
	server := httptest.NewServer(http.FileServer(http.Dir("websocket")))
	t.Cleanup(server.Close)
	address := "127.0.0.1:0"
	start := func(origins ...string) *web.Bridge {
		t.Helper()
		b, err := web.Start(t.Context(), web.Options{Client: client.Options{URL: broker}, Addresses: []string{address}, Origins: origins})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Stop(context.Background()) })
		address = strings.TrimPrefix(b.URLs()[0], "http://")
		return b
	}
	stop := func(b *web.Bridge) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	bridge := start() // without origins
	p := openPage(t, server.URL+"/?bridge="+url.QueryEscape("ws://"+address))
	p.shows("link", "^lost")
	stop(bridge)

	c, err := client.Connect(t.Context(), client.Options{URL: broker})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	bridge = start(server.URL)
	p.shows("link", "^connected$")
	p.shows("position", `^47\.37\d+, 8\.54\d+ \(-?\d+\.\d m`)
	p.shows("battery", `^\d+ %, 2\d\.\d V$`)
	p.shows("emergency", "^released$")
	before := ""
	p.do(chromedp.Evaluate("document.getElementById('position').textContent", &before))
	p.do(chromedp.Evaluate("const before = document.getElementById('position').textContent", nil))
	moved := false
	for end := time.Now().Add(patience); !moved && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		p.do(chromedp.Evaluate("document.getElementById('position').textContent !== before", &moved))
	}
	if !moved {
		t.Fatalf("the mower stays at %s", before)
	}
	leave()

	alert, err := message.NewAlert("tester", message.Alert{AlertType: "hedgehog", Severity: "warning", Message: "<b>a hedgehog</b>"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), "safety/alerts/hedgehog", alert); err != nil {
		t.Fatal(err)
	}
	p.shows("alerts", "warning: <b>a hedgehog<.b>")

	stop(bridge)
	p.shows("link", "^lost")
	p.shows("emergency", "^unknown$")
	p.do(chromedp.Click("#stop", chromedp.ByQuery))
	p.shows("said", "^NOT STOPPED: there is no link")
	bridge = start(server.URL)
	p.shows("link", "^connected$")
	p.shows("alerts", "hedgehog")
	if err := c.Publish(t.Context(), "safety/alerts/hedgehog", message.NewRaw(nil), client.WithRetain(true)); err != nil {
		t.Fatal(err)
	}
	p.shows("alerts", "^(?!.*hedgehog)")

	p.do(chromedp.Click("#stop", chromedp.ByQuery))
	p.shows("said", "^the emergency stop is engaged$")
	p.shows("emergency", "^ENGAGED: "+regexp.QuoteMeta(awaitEngaged(t, c, "STOP was pressed")))
	stop(bridge)
}
