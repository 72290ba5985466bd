package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// A fleetViews opens views of the fleet at an engine that was reached.
type fleetViews func(o fleet.ViewOptions) *fleet.View

// withOperator calls do with an operator at the engine.
func (f *fleetAccess) withOperator(ctx context.Context, t *tool, do func(ctx context.Context, o fleet.Operator) error) error {
	return f.withFleet(ctx, t, func(ctx context.Context, _ fleetViews, o fleet.Operator) error { return do(ctx, o) })
}

// withFleet calls do with what opens views, and an operator.
func (f *fleetAccess) withFleet(ctx context.Context, t *tool, do func(ctx context.Context, views fleetViews, o fleet.Operator) error) error {
	o := fleet.OperatorOptions{Name: t.operator("")}
	if file := cmp.Or(f.key, t.getenv("LAWNBERRY_FLEET_KEY")); file != "" {
		name, ring, err := signer(t, file)
		switch {
		case err == nil:
			o.Name, o.Keys = name, ring
		case !f.stops:
			return err
		default:
			fmt.Fprintf(t.stderr, "lawnberry: the key cannot be used, so the emergency stop goes unsigned, which does as well: %s\n", oneLine(err.Error()))
		}
	}
	e, err := f.engine(t)
	if err != nil {
		return err
	}
	if p, _ := e.Protocol(); p == fleet.MQTT {
		if err := reachMQTT(ctx, e); err != nil {
			return err
		}
		op, err := fleet.NewMQTTOperator(e, o)
		if err != nil {
			return err
		}
		defer op.Close()
		return do(ctx, mqttViews(e), op)
	}
	nc, err := f.dialNATS(ctx, t)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	op, err := fleet.NewNATSOperator(nc, o)
	if err != nil {
		return err
	}
	return do(ctx, natsViews(js), op)
}

// withViews calls do with what opens views.
func (l *fleetLook) withViews(ctx context.Context, t *tool, do func(ctx context.Context, views fleetViews) error) error {
	e, err := l.engine(t)
	if err != nil {
		return err
	}
	if p, _ := e.Protocol(); p == fleet.MQTT {
		if err := reachMQTT(ctx, e); err != nil {
			return err
		}
		return do(ctx, mqttViews(e))
	}
	return l.withJetStream(ctx, t, func(ctx context.Context, js jetstream.JetStream) error { return do(ctx, natsViews(js)) })
}

func natsViews(js jetstream.JetStream) fleetViews {
	return func(o fleet.ViewOptions) *fleet.View { return fleet.OpenView(js, o) }
}

func mqttViews(e fleet.Engine) fleetViews {
	return func(o fleet.ViewOptions) *fleet.View { return fleet.OpenMQTTView(e, o) }
}

// reachMQTT says why a broker cannot be reached.
func reachMQTT(ctx context.Context, e fleet.Engine) error {
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := e.DialMQTT(limited, fleet.MQTTSession{})
	switch {
	case err == nil:
		c.Close(limited)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case fleet.IsMQTTRefusal(err):
		return &failure{exitRefused, err, "see --credentials"}
	}
	return &failure{exitNoBroker, err, "is it running, and does it speak TLS if the URL says so?"}
}

// noHistory is what a verb that reads the history says of an MQTT broker.
func (l *fleetLook) noHistory(t *tool) error {
	e, err := l.engine(t)
	if err != nil {
		return err
	}
	if p, _ := e.Protocol(); p != fleet.MQTT {
		return nil
	}
	return &failure{exitUsage, fmt.Errorf("--url %s: an MQTT broker keeps no history, it passes it on", e.URL),
		"have a program subscribe to lawnberry/fleet/+/history/# and put it into a database, or use NATS; see \"MQTT 5 instead of NATS\" in docs/fleet.md"}
}
