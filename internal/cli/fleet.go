package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/seal"
)

// A fleetAccess is the flags that all verbs of the fleet have: where its engine is, and who asks.
type fleetAccess struct {
	url, credentials, ca, key string

	stops bool // the verb gives no command but the emergency stop, which needs no key
}

func (t *tool) fleetVerbs() *cobra.Command {
	var f fleetAccess
	c := &cobra.Command{
		Use:   "fleet",
		Short: "Look after many mowers",
		Long: `fleet talks to the engine that the mowers' uplinks talk to (integration.fleet in their configurations), a NATS server or cluster or an MQTT 5
broker. No mower need be on the same host or network, and no configuration file is read.

Commands and jobs are signed with the key of --key, whose identity is the name of the operator. Mowers take no others unless they are told to;
the emergency stop they take from everybody whom the engine lets in.

Environment:
  LAWNBERRY_FLEET_URL          the engine, as --url
  LAWNBERRY_FLEET_CREDENTIALS  as --credentials
  LAWNBERRY_FLEET_CA           as --ca
  LAWNBERRY_FLEET_KEY          as --key
  LAWNBERRY_FLEET_DIR          as --dir of the verbs that keep the engine: setup, enrol, revoke, enrolled`,
		Example: `  lawnberry fleet ls --url tls://n1.example.com,tls://n2.example.com --credentials anna.creds
  lawnberry fleet call mower-0042 navigation dock
  lawnberry fleet estop mower-0042 --reason 'a dog on the lawn'`,
	}
	asGroup(c)
	flags := c.PersistentFlags()
	flags.StringVar(&f.url, "url", "", "`URL` of the engine: nats://HOST or tls://HOST, those of several nodes separated by commas, or mqtt://HOST or mqtts://HOST (default $LAWNBERRY_FLEET_URL)")
	flags.StringVar(&f.credentials, "credentials", "", "`FILE` to log in at the engine with (default $LAWNBERRY_FLEET_CREDENTIALS, else no login)")
	flags.StringVar(&f.ca, "ca", "", "`FILE` with the authorities that may have signed the engine's certificate (default $LAWNBERRY_FLEET_CA, else the system's)")
	flags.StringVar(&f.key, "key", "", "key `FILE` of the operator, to sign with; see \"lawnberry key new --algorithm ed25519 --identity NAME\" (default $LAWNBERRY_FLEET_KEY)")
	c.AddCommand(t.fleetKeeping(&f)...)
	c.AddCommand(t.fleetLs(&f), t.fleetWatch(&f), t.fleetInfo(&f), t.fleetHistory(&f), t.fleetTop(&f), t.fleetUI(&f), t.fleetCall(&f), t.fleetJob(&f), t.fleetStop(&f))
	return c
}

// engine returns where the engine is and how to get in.
func (f *fleetAccess) engine(t *tool) (fleet.Engine, error) {
	log, err := t.logger(nil, slog.LevelError)
	e := fleet.Engine{
		URL: cmp.Or(f.url, t.getenv("LAWNBERRY_FLEET_URL")), Credentials: cmp.Or(f.credentials, t.getenv("LAWNBERRY_FLEET_CREDENTIALS")),
		CAFile: cmp.Or(f.ca, t.getenv("LAWNBERRY_FLEET_CA")), Log: log,
	}
	if err != nil {
		return e, err
	}
	if e.URL == "" {
		return e, usagef("--url is missing: name the fleet's engine, such as --url nats://localhost, or set LAWNBERRY_FLEET_URL")
	}
	if err := e.Check(); err != nil {
		return e, usagef("%w", err)
	}
	return e, nil
}

// dialNATS connects to the engine, or says why not. The connection is made again when it is lost.
func (f *fleetAccess) dialNATS(ctx context.Context, t *tool) (*nats.Conn, error) {
	e, err := f.engine(t)
	if err != nil {
		return nil, err
	}
	if p, err := e.Protocol(); err != nil || p != fleet.NATS {
		return nil, usagef("--url %s: this verb wants an engine that speaks NATS, nats:// or tls://: an MQTT broker cannot do this", e.URL)
	}
	type dialled struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan dialled, 1)
	go func() {
		nc, err := e.DialNATS("lawnberry fleet", nats.RetryOnFailedConnect(false), nats.ReconnectWait(100*time.Millisecond),
			nats.CustomReconnectDelay(func(int) time.Duration { return 100 * time.Millisecond }))
		done <- dialled{nc, err}
	}()
	select {
	case d := <-done:
		return d.nc, engineError(e, d.err)
	case <-ctx.Done():
		go func() { // it ends by itself
			if d := <-done; d.nc != nil {
				d.nc.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// engineError says why there is no connection to the engine.
func engineError(e fleet.Engine, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return &failure{exitRefused, fmt.Errorf("the engine at %s does not let us in: %w", e.URL, err), "see --credentials"}
	case errors.Is(err, nats.ErrNoServers):
		return &failure{exitNoBroker, fmt.Errorf("no NATS server answers at %s", e.URL), "is it running, and does it speak TLS if the URL says so?"}
	}
	return failf(exitNoBroker, "engine at %s: %w", e.URL, err)
}

// signer opens a key file to sign with, and returns whose it is.
func signer(t *tool, file string) (name string, ring *seal.Ring, err error) {
	log, err := t.logger(nil, slog.LevelError)
	if err != nil {
		return "", nil, err
	}
	keys, err := seal.Load(file)
	if err != nil {
		return "", nil, err
	}
	k := seal.Newest(keys, seal.Ed25519, time.Now())
	switch {
	case k == nil:
		return "", nil, usagef("%s has no ed25519 key that signs: make one with \"lawnberry key new --algorithm ed25519 --identity NAME\"", file)
	case k.Identity == "":
		return "", nil, usagef("the key in %s is nobody's: make one with \"lawnberry key new --algorithm ed25519 --identity NAME\"", file)
	}
	ring, err = seal.Open(file, log)
	return k.Identity, ring, err
}
