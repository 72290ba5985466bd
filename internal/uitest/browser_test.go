package uitest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A browser shows the dashboard. What it says on its console, and requests that leave the host, are faults at the end of the test.
type browser struct {
	t   testing.TB
	ctx context.Context

	mu      sync.Mutex // guards the fields below
	faults  []string   // of the console
	foreign []string   // requests that left the host
	away    bool       // the bridge is away or refuses, so failed requests are expected
}

const patience = 30 * time.Second // with what the page has to show

func open(t *testing.T, address string) *browser {
	t.Helper()
	return openPage(t, address, address+"/")
}

// openPage opens a page of the server at an address.
func openPage(t testing.TB, address, page string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("Chromium is missing: make test installs it, or says what to install")
	}
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(time.Minute))
	ctx, end := chromedp.NewExecAllocator(context.Background(), flags...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended
		end()
		b.judge()
	})
	host, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	chromedp.ListenTarget(ctx, func(e any) { b.hear(e, host.Host) })
	if err := chromedp.Run(b.ctx); err != nil { // the first run starts the browser, which lives as long as its context
		t.Fatal(err)
	}
	b.do(network.Enable(), log.Enable())
	b.size(1280, 900)
	b.scheme("light")
	b.do(chromedp.Navigate(page))
	return b
}

func (b *browser) hear(e any, host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := e.(type) {
	case *runtime.EventExceptionThrown:
		b.faults = append(b.faults, e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
			b.faults = append(b.faults, fmt.Sprint(e.Args))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError && !b.away {
			b.faults = append(b.faults, e.Entry.Text+" "+e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Scheme != "data" && u.Host != host {
			b.foreign = append(b.foreign, e.Request.URL)
		}
	}
}

// judge fails the test for what the browser has seen.
func (b *browser) judge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults != nil {
		b.t.Errorf("on the console: %s", strings.Join(b.faults, "\n"))
	}
	if b.foreign != nil {
		b.t.Errorf("requests that left the host: %v", b.foreign)
	}
}

// expectFailures has failed requests count as expected from now on: exceptions and what the page itself complains of still do not.
func (b *browser) expectFailures() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = true
}

func (b *browser) do(actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) size(width, height int64) {
	b.t.Helper()
	b.do(emulation.SetDeviceMetricsOverride(width, height, 1, width < 500))
}

// scheme is what the system of the browser prefers: dark or light.
func (b *browser) scheme(name string) {
	b.t.Helper()
	b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}))
}

// run runs statements in the page.
func (b *browser) run(script string, args ...any) {
	b.t.Helper()
	b.do(chromedp.Evaluate(fmt.Sprintf("(() => {"+script+"})()", args...), nil, awaited))
}

// value returns the value of an expression of the page.
func value[T any](b *browser, expression string, args ...any) (v T) {
	b.t.Helper()
	b.do(chromedp.Evaluate(fmt.Sprintf(expression, args...), &v, awaited))
	return v
}

// until waits for an expression of the page to be true.
func (b *browser) until(what, expression string, args ...any) {
	b.t.Helper()
	expression = fmt.Sprintf("!!("+expression+")", args...)
	for deadline := time.Now().Add(patience); !value[bool](b, "%s", expression); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not seen: %s; the page says:\n%s", what, value[string](b, "document.body.innerText"))
		}
	}
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.until(selector, "(() => { const e = document.querySelector(%q); if (!e || e.disabled) return false; e.click(); return true })()", selector)
}

// fill sets the value of a field.
func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.until(selector, "document.querySelector(%q)", selector)
	b.run("const e = document.querySelector(%q); e.value = %q; e.dispatchEvent(new Event('input', {bubbles: true}))", selector, text)
}

// says waits for a text in what a selector selects.
func (b *browser) says(selector, text string) {
	b.t.Helper()
	b.until(selector+" says "+text, "[...document.querySelectorAll(%q)].some((e) => e.innerText.includes(%q))", selector, text)
}

func (b *browser) show(page string) {
	b.t.Helper()
	b.run("location.hash = '#/%s'", page)
	b.until(page, "document.querySelector('#page-%s h1')", page)
}

// picture, when LAWNBERRY_SCREENSHOTS names a directory, writes a picture there of what is shown.
func (b *browser) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("LAWNBERRY_SCREENSHOTS")
	if dir == "" {
		return
	}
	var png []byte
	b.do(chromedp.CaptureScreenshot(&png))
	if err := os.WriteFile(filepath.Join(dir, "dashboard-"+name+".png"), png, 0o644); err != nil { //nolint:gosec // it is for all to see
		b.t.Fatal(err)
	}
}

var pages = []string{"overview", "drive", "services", "topics", "alerts", "messages", "performance", "logs", "settings"}

// awaited has the value of a promise waited for.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
