package app

import (
	"iter"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/metrics"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// figures says where the figures for Prometheus come from. bridge returns the bridge for browsers, nil until it runs; what is seen through
// it is missing as long.
func (a *App) figures(o Options, bridge func() *web.Bridge) metrics.Options {
	m := metrics.Options{
		Version: o.Version, Engine: o.Config.Broker.Engine,
		Clients: func() map[string]client.Stats {
			all := map[string]client.Stats{}
			if b := bridge(); b != nil {
				all[web.ID] = b.Service().Client().Stats()
			}
			return all
		},
		Services: func() iter.Seq[service.Info] {
			if b := bridge(); b != nil {
				return b.Service().Services("")
			}
			return func(func(service.Info) bool) {}
		},
		Stop: func() safety.State {
			if b := bridge(); b != nil {
				return b.EmergencyStop()
			}
			return safety.State{Engaged: true}
		},
		Health: func() (service.Health, bool) {
			if s := a.supervisor.Load(); s != nil {
				return s.Health(), true
			}
			return service.Health{}, false
		},
		Browsers: func() metrics.Browsers {
			b := bridge()
			if b == nil {
				return metrics.Browsers{}
			}
			s := b.Stats()
			return metrics.Browsers{
				Connections: s.Connections, Queued: s.Queued, Topics: s.Topics,
				Opened: s.Opened, Refused: s.Refused, Stalled: s.Stalled, Dropped: s.Dropped, Messages: s.Messages,
			}
		},
	}
	if o.Config.Integration.Fleet.Enabled {
		m.Uplink = a.fleetFigures
	}
	if a.broker != nil {
		m.Broker = a.broker
	}
	if a.mosquitto != nil {
		m.Mosquitto = a.mosquitto.Stats
	}
	if a.hub != nil {
		m.Hub = a.hub.Status
	}
	return m
}
