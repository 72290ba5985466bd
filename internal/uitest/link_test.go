package uitest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
)

// What a process of this test binary is told to be a bridge: the broker's URL, and where to listen.
const (
	bridgeBroker  = "LAWNBERRY_TEST_BRIDGE_BROKER"
	bridgeAddress = "LAWNBERRY_TEST_BRIDGE_ADDRESS"
)

// beBridge is a bridge until it is killed, or its input ends.
func beBridge() {
	b, err := web.Start(context.Background(), web.Options{Client: client.Options{URL: os.Getenv(bridgeBroker)}, Addresses: []string{os.Getenv(bridgeAddress)}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(b.URLs()[0])
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// bridgeProcess starts a bridge in a process of its own.
func bridgeProcess(t *testing.T, broker, address string) (url string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), bridgeBroker+"="+broker, bridgeAddress+"="+address), os.Stderr
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill() // SIGKILL
		_ = cmd.Wait()
		_ = in.Close()
	}
	t.Cleanup(kill)
	line := bufio.NewScanner(out)
	if !line.Scan() || !strings.HasPrefix(line.Text(), "http://") {
		t.Fatalf("the bridge does not start: %q %v", line.Text(), line.Err())
	}
	return line.Text(), kill
}

// watchGrey notes when the page goes grey, and how long it did not run at most.
const watchGrey = `
	window.greyAt = 0; window.late = 0;
	let last = Date.now();
	const look = () => {
		const now = Date.now();
		if (!window.greyAt) window.late = Math.max(window.late, now - last - 20);
		last = now;
		if (!window.greyAt && document.querySelector(".lost")) window.greyAt = now;
	};
	setInterval(look, 20);
	new MutationObserver(look).observe(document.getElementById("app"), {attributes: true, subtree: true, attributeFilter: ["class"]});`

// grey fails unless the page went grey within 2 s of a time. What it was not run for does not count.
func (b *browser) grey(since time.Time) {
	b.t.Helper()
	b.until("the page grey", "window.greyAt > 0")
	after := value[float64](b, "window.greyAt") - float64(since.UnixMilli())
	late := value[float64](b, "window.late")
	b.t.Logf("grey after %.0f ms; the page was late by %.0f ms at most", after, late)
	if after-late > 2000 {
		b.t.Errorf("grey after %.0f ms only", after)
	}
	if value[bool](b, "document.querySelector('#stop').disabled") {
		b.t.Error("STOP is disabled without a link")
	}
	color := value[string](b, "getComputedStyle(document.querySelector('main')).filter")
	if color != "grayscale(1)" {
		b.t.Errorf("grey is %q", color)
	}
}

// A bridge that is killed leaves the page grey within 2 s, and the page comes back with the next one.
func TestBridgeKilled(t *testing.T) {
	w := newBareWorld(t)
	url, kill := bridgeProcess(t, w.broker.URL(), "127.0.0.1:0")
	b := open(t, url)
	b.expectFailures()
	b.until("connected", "document.querySelector('#link.good')")
	b.run("%s", watchGrey)
	began := time.Now()
	kill()
	b.grey(began)
	bridgeProcess(t, w.broker.URL(), strings.TrimPrefix(url, "http://"))
	b.until("the page alive", "!document.querySelector('.lost') && document.querySelector('#link.good')")
	w.sensor("power/battery", map[string]any{"level": 64.0})
	b.says("header", "64 %")
}

// A link that goes silent, without being closed, leaves the page grey within 2 s, too. STOP says that it failed. When the link is well again,
// so is the page.
func TestLinkSilent(t *testing.T) {
	w := newWorld(t)
	proxy, err := faultnet.Start(strings.TrimPrefix(w.url(), "http://"))
	check(t, err)
	t.Cleanup(proxy.Close)
	b := open(t, "http://"+proxy.Addr())
	b.expectFailures()
	b.until("connected", "document.querySelector('#link.good')")
	b.run("%s", watchGrey)
	began := time.Now()
	for _, d := range []faultnet.Direction{faultnet.Up, faultnet.Down} {
		proxy.Set(d, faultnet.Faults{Stall: true})
	}
	b.grey(began)
	b.says("#link", "Link lost")
	b.click("#stop")
	b.says("#stop-error", "STOP FAILED")
	for _, d := range []faultnet.Direction{faultnet.Up, faultnet.Down} {
		proxy.Set(d, faultnet.Faults{})
	}
	b.until("the page alive", "!document.querySelector('.lost')")
	w.sensor("power/battery", map[string]any{"level": 63.0})
	b.says("header", "63 %")
}
