package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/topic"
)

// connectTimeout is how long a verb waits for its broker.
const connectTimeout = 10 * time.Second

// closeTimeout is how long a verb waits for what it sent, and for its farewell.
const closeTimeout = 3 * time.Second

// A dialler is the flags of a verb that connects.
type dialler struct {
	broker  string
	timeout time.Duration
}

// flags adds --broker and --timeout.
func (d *dialler) flags(c *cobra.Command, timeout time.Duration, usage string) {
	c.Flags().StringVarP(&d.broker, "broker", "b", "", "`URL` of the broker: tcp://HOST:PORT, ssl://, ws://, wss:// or unix://PATH (default $LAWNBERRY_BROKER_URL, else by the configuration)")
	c.Flags().DurationVar(&d.timeout, "timeout", timeout, usage)
}

// schemes are what a broker's URL may begin with.
var schemes = []string{"tcp", "mqtt", "ssl", "tls", "mqtts", "ws", "wss", "unix"}

// checkURL reports why a text is no broker's URL.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err == nil && slices.Contains(schemes, u.Scheme) && (u.Host != "" || u.Scheme == "unix" && u.Path != "") {
		return nil
	}
	shown := withoutLogin(text)
	if !strings.Contains(text, "://") {
		return usagef("broker %q is no URL: want one such as tcp://%s", shown, shown)
	}
	return usagef("broker %q is no URL of a broker: want tcp://HOST:PORT, ssl://, ws://, wss:// or unix://PATH", shown)
}

// withoutLogin hides what may be a password in a text that should have been a URL.
func withoutLogin(text string) string {
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return text
	}
	scheme, _, found := strings.Cut(text[:at], "://")
	if !found {
		return "..." + text[at:]
	}
	return scheme + "://..." + text[at:]
}

// url returns the flag, else the environment's broker, else "".
func (d *dialler) url(t *tool) (string, error) {
	text := d.broker
	if text == "" {
		text = t.getenv("LAWNBERRY_BROKER_URL")
	}
	if text == "" {
		return "", nil
	}
	return text, checkURL(text)
}

// options returns how to reach the broker, and the configuration.
func (d *dialler) options(t *tool) (client.Options, *config.Config, error) {
	fail := func(err error) (client.Options, *config.Config, error) { return client.Options{}, nil, err }
	if err := d.checkFlags(t); err != nil {
		return fail(err)
	}
	loaded, err := t.load()
	if err != nil {
		return fail(err)
	}
	o, err := d.optionsOf(t, loaded.Config)
	if err != nil {
		return fail(err)
	}
	for _, p := range loaded.Problems {
		o.Logger.Info("configuration", "problem", p.Error())
	}
	return o, loaded.Config, nil
}

// checkFlags reports what is wrong with the flags.
func (d *dialler) checkFlags(t *tool) error {
	if d.timeout < 0 {
		return usagef("--timeout %s: want more than 0", d.timeout)
	}
	_, err := d.url(t)
	return err
}

// optionsOf returns how to reach the broker by a configuration.
func (d *dialler) optionsOf(t *tool, cfg *config.Config) (client.Options, error) {
	given, err := d.url(t)
	if err != nil {
		return client.Options{}, err
	}
	o, err := cfg.ClientOptions()
	if err != nil {
		return client.Options{}, err
	}
	o.URL = given
	if given == "" {
		dir, _ := t.dataDirectory() // without one there is no socket to prefer
		o.URL = cfg.ClientURL(dir)
		if socket := t.socketOfUsers(dir); socket != "" && o.Username == "" && cfg.OwnBroker() {
			o.URL = socket
		}
	}
	o.ID = randomID() // the configured one is for one program; several verbs run at once
	if who := cfg.Identity(); topic.CheckLevel("user", who) == nil && !strings.ContainsAny(who, "+#") {
		o.ID = who + "-" + o.ID // as access control wants it of services
	}
	o.CleanStart, o.SessionExpiry, o.FailFast = true, -1, true // nothing of a verb outlives it
	o.Dir = ""
	o.Logger, err = t.logger(nil, slog.LevelWarn)
	return o, err
}

// randomID is a client id that nobody else has.
func randomID() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails
	return "cli-" + hex.EncodeToString(b)
}

// connect reaches the broker, or says why not.
func (d *dialler) connect(ctx context.Context, o client.Options) (*client.Client, error) {
	o.ConnectTimeout = connectTimeout
	if d.timeout > 0 {
		o.ConnectTimeout = min(o.ConnectTimeout, d.timeout)
	}
	c, err := client.Connect(ctx, o)
	return c, because(ctx, err)
}

// bound returns a context that ends after --timeout.
func (d *dialler) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d.timeout, failf(exitTimeout, "no answer within %s", d.timeout))
}

// because returns the reason that ctx ended for, if that is what err reports, and else err.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// disconnect ends a connection once everything sent has arrived.
func disconnect(c *client.Client) error {
	if err := stop(c.Close, closeTimeout); err != nil && !errors.Is(err, client.ErrClosed) {
		return fmt.Errorf("disconnect: %w", err)
	}
	return nil
}

// checkLevel reports why a text cannot be one level of a topic, as the id of a service has to be.
func checkLevel(what, id string) error {
	if id == "" || strings.ContainsAny(id, "/+#\x00") {
		return usagef("%s %q: want an id without /, + and #", what, id)
	}
	return nil
}
