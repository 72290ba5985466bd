package app

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/mosquittotest"
	"github.com/lawnberry/lawnberry/safety"
)

func elsewhere(urls ...string) *config.Config {
	c := settings()
	c.Broker.Engine, c.Broker.External.URLs = config.EngineExternal, urls
	return c
}

// A broker elsewhere is used as it is, at the first address that answers; the hub is here, unless one is there already.
func TestExternal(t *testing.T) {
	t.Parallel()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "tcp://" + nobody.Addr().String()
	_ = nobody.Close()
	url := "tcp://" + mosquittotest.Start(t)
	var lines logLines
	c := elsewhere(gone, url)
	c.Integration.WebSocketBridge = config.WebSocketBridge{Enabled: true, MaxConnections: 3}
	a := start(t, Options{Config: c, DataDir: t.TempDir(), Logger: logTo(&lines)})
	if a.URL() != url || a.Hub() == nil {
		t.Fatalf("URL %s, hub %v", a.URL(), a.Hub())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if s, err := safety.ReadStatus(ctx, dial(t, client.Options{URL: url})); err != nil || !s.Engaged {
		t.Errorf("%+v, %v", s, err)
	}
	v := visitor{t: t, url: a.Bridge().URLs()[0]}
	if status, answer := v.do("GET", "/api/stats", nil); status != 200 || answer["broker"].(map[string]any)["engine"] != "external" {
		t.Errorf("%d: %v", status, answer)
	}
	if len(a.Findings()) == 0 || !strings.Contains(lines.String(), "the broker lacks something") || !strings.Contains(lines.String(), "overtake nothing") {
		t.Errorf("%v\n%s", a.Findings(), &lines)
	}
	var second logLines
	b := start(t, Options{Config: elsewhere(url), DataDir: t.TempDir(), Logger: logTo(&second)})
	if b.Hub() != nil || !strings.Contains(second.String(), "kept by another process") {
		t.Errorf("hub %v\n%s", b.Hub(), &second)
	}
	for range b.Endpoints() {
		t.Error("it listens")
	}
}

// One that cannot be reached, or lacks what this system needs, ends the start with the reason and what to do.
func TestExternalIsRefused(t *testing.T) {
	t.Parallel()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "tcp://" + nobody.Addr().String()
	_ = nobody.Close()
	for _, tt := range []struct{ url, want string }{
		{gone, "connection refused"},
		{"tcp://" + mosquittotest.Start(t, "retain_available false"), "no retained messages: services could not find each other"},
		{"tcp://" + mosquittotest.Start(t, "max_qos 0"), "QoS 0 only"},
	} {
		a, err := Start(t.Context(), Options{Config: elsewhere(tt.url), DataDir: t.TempDir()})
		if err == nil {
			_ = a.Stop(context.Background())
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "broker.e") {
			t.Errorf("%s: %v", tt.url, err)
		}
	}
}

// What a broker lacks is found by what it says, and our own lacks nothing.
func TestExamine(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	own := start(t, Options{Config: settings()})
	s, err := Ask(ctx, client.Options{URL: own.URL()})
	if err != nil || len(Examine(s)) != 0 {
		t.Errorf("%v, %v", Examine(s), err)
	}
	s, err = Ask(ctx, client.Options{URL: "tcp://" + mosquittotest.Start(t, "max_qos 1", "max_packet_size 20000")})
	if err != nil {
		t.Fatal(err)
	}
	found := Examine(s)
	for _, want := range []string{"QoS 1 at most", "packets of 20000 bytes", "it is not our own"} {
		has := false
		for _, f := range found {
			has = has || strings.Contains(f.String(), want) && !f.Fatal
		}
		if !has {
			t.Errorf("%q is not in %v", want, found)
		}
	}
	all := Examine(client.Server{Version: 4, MaximumQoS: 2, RetainAvailable: true, WildcardAvailable: true, MaximumPacketSize: 1 << 20, ReceiveMaximum: 20, SessionExpiry: -1})
	if len(all) != 2 || all[0].What != "MQTT 3.1.1 only" {
		t.Errorf("got %v", all)
	}
	lacks := Examine(client.Server{Version: 5})
	if len(lacks) < 8 || !lacks[0].Fatal || !lacks[1].Fatal || !lacks[2].Fatal || lacks[3].Fatal {
		t.Errorf("got %v", lacks)
	}
}
