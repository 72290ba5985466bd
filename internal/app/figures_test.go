package app

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/config"
)

// figuresOf asks a bridge for its figures.
func figuresOf(t *testing.T, url, user string) (status int, text string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		q.SetBasicAuth(user, "password of "+user)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// waitFigures asks until every text is there.
func waitFigures(t *testing.T, url, user string, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		status, text := figuresOf(t, url, user)
		missing := ""
		for _, w := range want {
			if !strings.Contains(text, w) {
				missing = w
			}
		}
		if status == http.StatusOK && missing == "" {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d, there is no %q in\n%s", status, missing, text)
		}
	}
}

// The figures are those of what runs, for who may come in to the bridge, and only if the configuration wants it.
func TestFigures(t *testing.T) {
	t.Parallel()
	with := func(c *config.Config) *config.Config {
		c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port, c.Monitoring.Metrics.Enabled = true, 0, true
		return c
	}
	t.Run("open", func(t *testing.T) {
		t.Parallel()
		a := start(t, Options{Config: with(settings()), DataDir: t.TempDir(), Version: "1.2.3"})
		waitFigures(t, a.Bridge().URLs()[0], "", `lawnberry_build_info{engine="embedded",version="1.2.3"} 1`, `lawnberry_service_state{service="web_bridge"} 0`,
			`lawnberry_service_state{service="emergency_stop"} 0`, "lawnberry_emergency_stop_state 1\n", "lawnberry_health_state 0\n", "lawnberry_broker_store_failing 0\n",
			`lawnberry_broker_session_queued_messages{service="web_bridge"}`, `lawnberry_client_connected{client="web_bridge"} 1`, "go_goroutines ")
	})
	t.Run("users", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		withRoles(t, dir, map[string]string{"vera": "viewer"})
		a := start(t, Options{Config: with(settings()), DataDir: dir})
		url := a.Bridge().URLs()[0]
		if status, text := figuresOf(t, url, ""); status != http.StatusUnauthorized || strings.Contains(text, "lawnberry_") {
			t.Errorf("without a login: %d %s", status, text)
		}
		if status, _ := figuresOf(t, url, "nobody"); status != http.StatusUnauthorized {
			t.Errorf("with a wrong login: %d", status)
		}
		waitFigures(t, url, "vera", "lawnberry_broker_connections ")
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		c := with(settings())
		c.Monitoring.Metrics.Enabled = false
		a := start(t, Options{Config: c, DataDir: t.TempDir()})
		if status, text := figuresOf(t, a.Bridge().URLs()[0], ""); strings.Contains(text, "lawnberry_broker") {
			t.Errorf("%d %s", status, text)
		}
	})
	t.Run("mosquitto", func(t *testing.T) {
		t.Parallel()
		a := start(t, Options{Config: with(withMosquitto(settings())), DataDir: shortDir(t)})
		waitFigures(t, a.Bridge().URLs()[0], "", "lawnberry_mosquitto_running 1\n", "lawnberry_mosquitto_restarts_total 0\n", `lawnberry_service_state{service="web_bridge"} 0`)
	})
}
