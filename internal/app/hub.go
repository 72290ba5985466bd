package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// stateFile is where the hub of the emergency stop keeps its state, in the data directory.
const stateFile = "emergency_stop.json"

// lookTime is how long a hub on a broker elsewhere has to answer.
const lookTime = 2 * time.Second

// startHub starts the hub of the emergency stop, and returns when it answers. To a broker elsewhere it is started only if none is there.
func (a *App) startHub(ctx, beside context.Context, o Options) error {
	if !o.Config.Safety.EmergencyStop.Enabled || !a.serves && o.Demo == nil {
		return nil
	}
	options, file, err := a.hubClient(o)
	if err != nil {
		return fmt.Errorf("emergency stop: %w", err)
	}
	if a.engine == nil {
		if answers, err := hubAnswers(ctx, options); err != nil || answers {
			if answers {
				a.log.Info("the emergency stop is kept by another process")
			}
			return err
		}
	}
	a.hub, err = safety.StartHub(ctx, safety.HubOptions{
		Client: options, Version: o.Version, File: file, Logger: a.part("safety"), LogLevels: o.LogLevels,
	})
	if used := (*service.InUseError)(nil); errors.As(err, &used) {
		if a.engine == nil {
			a.log.Info("the emergency stop is kept by another process", "process", used.PID, "host", used.Host)
			return nil
		}
		return fmt.Errorf("emergency stop: %w; or set safety.emergency_stop.enabled to false, if that process is to keep its state", err)
	}
	if err != nil {
		return err
	}
	a.beside.Go(func() { a.watchHub(beside) })
	return nil
}

// watchHub ends the hub when somebody tells it to shut down, until ctx ends.
func (a *App) watchHub(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.hub.Done():
	}
	a.log.Error("the hub of the emergency stop was told to end, or put out: nothing may move, and nobody can release it, until this program is started again")
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.hub.Stop(bye); err != nil {
		a.log.Warn("hub of the emergency stop", "error", err)
	}
}

// hubClient returns how the hub reaches the broker, and where it keeps its state.
func (a *App) hubClient(o Options) (c client.Options, file string, err error) {
	if !a.serves {
		c, err = o.Config.ClientOptions()
		c.URL, c.FailFast, c.Dir, c.ID, c.Logger = a.url, true, "", "", a.part("client")
		return c, "", err
	}
	if !a.temporary {
		file = filepath.Join(a.dataDir, stateFile)
	}
	c, err = a.within(o.Config, safety.HubID)
	return c, file, err
}

// within returns how a part of this process reaches the broker: in-process or over the socket, as a user that is trusted, or as every program
// reaches one elsewhere.
func (a *App) within(c *config.Config, user string) (client.Options, error) {
	near := *c
	if a.engine != nil {
		near.Client.TLS.Enabled, near.Broker.TLS.Enabled = false, false // no certificates are needed within a computer
	}
	all, err := near.ClientOptions()
	o := client.Options{
		Topics: all.Topics, Limits: all.Limits, Signing: all.Signing, Encryption: all.Encryption, Uncompressed: all.Uncompressed,
		Tracer: a.tracerOf(), Logger: a.part("client"),
	}
	switch {
	case a.broker != nil:
		o.Dial, o.Username, o.Password = a.broker.Dial, user, client.Secret(a.trusted)
		o.Probe = time.Hour // nothing is between the two
	case a.mosquitto != nil:
		o.URL = a.mosquitto.SocketURL()
	default:
		o.URL, o.Fallback, o.Username, o.Password, o.GetTLS = all.URL, all.Fallback, all.Username, all.Password, all.GetTLS
		o.KeepAlive, o.ReconnectDelay, o.MaxReconnect, o.ReconnectFactor = all.KeepAlive, all.ReconnectDelay, all.MaxReconnect, all.ReconnectFactor
	}
	return o, err
}

// hubAnswers reports whether there is a hub on a broker elsewhere.
func hubAnswers(ctx context.Context, o client.Options) (bool, error) {
	o.CleanStart, o.SessionExpiry = true, -1
	c, err := client.Connect(ctx, o)
	if err != nil {
		return false, fmt.Errorf("emergency stop: %w", err)
	}
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	_, err = safety.ReadStatus(look, c)
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.Close(bye)
	return err == nil, ctx.Err()
}
