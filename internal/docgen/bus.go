package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// A described is a service with the commands that it describes on the bus.
type described struct {
	id, kind string
	commands []service.Command // sorted by name
}

// stopTime is what ending the simulated mower may take.
const stopTime = 20 * time.Second

// describeServices runs the simulated mower with all that serve can have beside it, on this host and ports that are free, and returns
// the services and their commands, sorted by id.
func describeServices(ctx context.Context) (services []described, err error) {
	a, err := startMower(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, a.Stop(stopping))
	}()
	c, err := client.Connect(ctx, client.Options{URL: a.URL()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(context.WithoutCancel(ctx))) }()
	return readServices(ctx, c)
}

// startMower starts the simulated mower, with both bridges.
func startMower(ctx context.Context) (*app.App, error) {
	o := config.Default()
	o.Broker.BindAddress, o.Broker.Port = "127.0.0.1", 0
	o.Integration.WebSocketBridge.Enabled, o.Integration.WebSocketBridge.Port = true, 0
	o.Integration.HomeAssistant.Enabled = true
	return app.Start(ctx, app.Options{Config: o, Demo: &demo.Options{Seed: 1}})
}

// readServices returns the services that are on the bus now. A service describes its commands before it says that it is healthy, so a
// message of our own, which comes after all that is retained, ends the reading.
func readServices(ctx context.Context, c *client.Client) ([]described, error) {
	const end = "system/services/docgen/end"
	found := map[string]*described{}
	pages := map[string]int{} // that are missing
	done := make(chan struct{}, 1)
	sub, err := c.Subscribe(ctx, "system/services/#", func(_ context.Context, d *client.Delivery) {
		id := strings.Split(d.Topic, "/")[2]
		if d.Topic == end {
			select {
			case done <- struct{}{}:
			default:
			}
			return
		}
		if found[id] == nil {
			found[id] = &described{id: id}
		}
		if p, ok := service.ReadCommands(d); ok && d.Retained {
			if _, known := pages[id]; !known {
				pages[id] = p.Pages
			}
			pages[id]--
			found[id].kind = p.ServiceType
			found[id].commands = append(found[id].commands, p.Commands...)
		}
	}, client.WithQueue(client.Queue{Max: 10_000}))
	if err != nil {
		return nil, err
	}
	if err := c.Publish(ctx, end, message.NewRaw([]byte("end")), client.WithQoS(1), client.WithRetain(false)); err != nil {
		return nil, err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, fmt.Errorf("the services did not describe their commands: %w", context.Cause(ctx))
	}
	if err := sub.Unsubscribe(ctx); err != nil {
		return nil, err
	}
	var services []described
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if pages[id] != 0 {
			return nil, fmt.Errorf("%d pages of the commands of %s are missing", pages[id], id)
		}
		s := found[id]
		slices.SortFunc(s.commands, func(a, b service.Command) int { return cmp.Compare(a.Name, b.Name) })
		services = append(services, *s)
	}
	return services, nil
}
