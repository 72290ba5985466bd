package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/metrics"
)

// startBridge starts the bridge for browsers, if the configuration wants it.
func (a *App) startBridge(ctx context.Context, o Options) error {
	bridge := o.Config.Integration.WebSocketBridge
	if !bridge.Enabled {
		return nil
	}
	c, err := a.within(o.Config, web.ID)
	if err != nil {
		return fmt.Errorf("web bridge: %w", err)
	}
	addresses, encrypted, err := o.Config.BridgeOptions()
	if err != nil {
		return fmt.Errorf("web bridge: %w", err)
	}
	var running atomic.Pointer[web.Bridge]
	var figures http.Handler
	if o.Config.Monitoring.Metrics.Enabled {
		figures = metrics.Handler(a.figures(o, running.Load))
	}
	options := web.Options{
		Client: c, Version: o.Version, Addresses: addresses, TLS: encrypted, MaxConnections: bridge.MaxConnections,
		Hosts: o.Config.Broker.WebSockets.Hosts, Origins: o.Config.Broker.WebSockets.Origins,
		Login: webLogin{a}, Rights: a.webRights, Logger: a.part("web"),
		Stats: a.engineStats, Metrics: figures, Config: func() []web.ConfigValue { return configValues(o.Config) },
	}
	a.bridge, err = web.Start(ctx, options)
	if errors.Is(err, syscall.EADDRINUSE) && o.AnyPort && bridge.Port != 0 {
		a.log.Warn("port is taken, listening on a free one", "port", bridge.Port, "holder", portHolder(bridge.Port))
		options.Addresses = []string{"127.0.0.1:0"}
		a.bridge, err = web.Start(ctx, options)
	}
	if errors.Is(err, syscall.EADDRINUSE) && bridge.Port != 0 {
		return &PortError{Port: bridge.Port, Holder: portHolder(bridge.Port), Key: "integration.websocket_bridge.port", Err: err}
	}
	if err != nil {
		return err
	}
	running.Store(a.bridge)
	for _, url := range a.bridge.URLs() {
		a.log.Info("listening", "network", "http", "url", url)
	}
	return nil
}

// engineStats are the figures of the broker, as far as this process has any.
func (a *App) engineStats() any {
	switch {
	case a.broker != nil:
		return a.broker.Stats()
	case a.mosquitto != nil:
		return a.mosquitto.Stats()
	}
	return map[string]any{"engine": config.EngineExternal, "findings": a.findings}
}

// configValues returns the configuration that applies, key by key, with passwords hidden.
func configValues(c *config.Config) (values []web.ConfigValue) {
	keys := map[string]config.Key{}
	for k := range config.Keys() {
		keys[k.Path] = k
	}
	for e := range (&config.Loaded{Config: c}).Effective() {
		k := keys[e.Key]
		values = append(values, web.ConfigValue{Key: e.Key, Value: e.Value, Description: k.Description, Type: k.Type, Unit: k.Unit, Default: k.Default})
	}
	return values
}

// webLogin lets people in to the bridge as the broker does.
type webLogin struct{ a *App }

// Needed implements web.Login.
func (l webLogin) Needed() bool {
	return l.a.logins.asked.Load() && (!l.a.logins.anonymous || l.a.access.Load() != nil)
}

// Check implements web.Login.
func (l webLogin) Check(ctx context.Context, name, password, from string) error {
	address, _ := netip.ParseAddr(from) // without one it is invalid, as identity has it
	return l.a.users.Check(ctx, identity.Login{Name: name, Password: []byte(password), From: address.Unmap()})
}

// Known implements web.Login.
func (l webLogin) Known(name string) bool { return l.a.users.Has(name) && !l.a.users.Disabled(name) }

// Role implements web.Login.
func (l webLogin) Role(name string) string { return l.a.users.Role(name) }

// webRights returns what somebody may do who has logged in to the bridge: what the rules and roles say, also where the broker itself checks
// nothing.
func (a *App) webRights(user string) (web.Rights, error) {
	bus := a.roles.Load()
	if user == "" && a.access.Load() == nil || bus == nil {
		return nil, nil //nolint:nilnil // no rights to look at are all rights
	}
	var roles []string
	if role := a.users.Role(user); role != "" {
		roles = append(roles, role)
	}
	c, err := bus.Client(bus.Subject(user, user+"-web", roles...))
	if err != nil {
		return nil, err
	}
	return webRights{c}, nil
}

type webRights struct{ c *access.Client }

// MayReceive implements web.Rights.
func (r webRights) MayReceive(topic string) bool { return r.c.MayReceive(topic) }

// MaySend implements web.Rights.
func (r webRights) MaySend(topic string, payload []byte) error {
	if !r.c.MayPublish(topic) {
		return errors.New("no right to publish on " + topic)
	}
	return r.c.MaySend(topic, payload, false)
}
