package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	bridge "github.com/lawnberry/lawnberry/bridge/fleet"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/seal"
)

func fleetKinds() []Kind {
	return []Kind{
		{"fleet-file", "fleet", Error, "a file of integration.fleet cannot be used",
			"without credentials or ca_file the fleet does not see this mower and cannot stop it; without keys_file it can give no command but the stop",
			"ls -l {file}",
			"lawnberry fleet enrol writes the credentials, lawnberry key public the keys of an operator; ca_file is tls/ca.pem of the fleet's directory"},
		{"fleet-identity", "fleet", Error, "the credentials are those of another mower", "the engine takes nothing of what this one says",
			"lawnberry config explain integration.fleet.mower_id", "set it to the id that the mower was enrolled with, or take its own credentials"},
		{"fleet-unreachable", "fleet", Warning, "the engine of the fleet cannot be reached",
			"the fleet does not see this mower and cannot stop it; what it says waits", "lawnberry config explain integration.fleet.url",
			"see whether the mower has a network, and whether the engine runs"},
		{"fleet-refused", "fleet", Error, "the engine of the fleet does not let this mower in",
			"the fleet does not see it and cannot stop it; it was revoked perhaps, or has old credentials",
			"lawnberry config explain integration.fleet.credentials", "have the mower enrolled anew, by lawnberry fleet enrol --again"},
		{"fleet-missing", "fleet", Error, "integration.fleet is enabled, and the service fleet does not run", "the fleet does not see this mower and cannot stop it",
			"lawnberry serve", "its log says why there is no uplink; serve has to be started again"},
		{"fleet-not-taken", "fleet", Error, "the engine of the fleet does not take some topics", "what is said on them waits, and is lost at last",
			"lawnberry fleet setup --dir DIR",
			"where the fleet is looked after: streams are missing, or the mower has to be enrolled anew; the log of serve says which"},
		{"fleet-disk", "fleet", Error, "what waits for the fleet cannot be written", "it is in memory, and lost with the power", "df -h {dir}",
			"make room, or make it writable for the user of lawnberry serve"},
		{"fleet-backlog", "fleet", Warning, "what the fleet should have had has waited for more than an hour",
			"the fleet does not know it, and beyond the bounds of the outbox the oldest is lost", "lawnberry service info fleet", ""},
		{"fleet-lost", "fleet", Warning, "what the fleet should have had was dropped", "the fleet never gets it",
			"lawnberry config explain integration.fleet.outbox.max_size", "bounds of size and age say what is kept while the engine is away"},
	}
}

const (
	engineTime = 5 * time.Second // for an attempt to connect to a server of the engine
	oldBacklog = time.Hour
)

// fleet looks at the files of the uplink to a fleet, and whether its engine lets the mower in.
func (x *examination) fleet(ctx context.Context) {
	f := &x.o.Loaded.Config.Integration.Fleet
	e := x.o.Loaded.Config.FleetEngine()
	if !f.Enabled {
		return
	}
	if f.KeysFile != "" && !x.open[f.KeysFile] {
		if _, err := seal.Load(f.KeysFile); err != nil {
			x.find("fleet-file", "integration.fleet.keys_file: "+err.Error(), "file", f.KeysFile)
		}
	}
	if _, err := e.Protocol(); err != nil {
		return // that is a finding of the configuration
	}
	usable := !x.open[f.Credentials]
	if f.CAFile != "" {
		if _, err := expiry(f.CAFile); err != nil {
			x.find("fleet-file", "integration.fleet.ca_file: "+err.Error(), "file", f.CAFile)
			usable = false
		}
	}
	if f.Credentials != "" && usable {
		if err := (fleet.Engine{URL: e.URL, Credentials: f.Credentials}).Check(); err != nil {
			x.find("fleet-file", "integration.fleet.credentials: "+err.Error(), "file", f.Credentials)
			usable = false
		}
	}
	if !usable {
		return
	}
	if other := mowerOf(f.Credentials); f.MowerID != "" && other != "" && other != f.MowerID {
		x.find("fleet-identity", fmt.Sprintf("integration.fleet.mower_id is %s, and %s has the credentials of %s", f.MowerID, f.Credentials, other))
	}
	x.engine(ctx, e)
}

// mowerOf returns which mower may hear its commands with the credentials in a file; "" when they do not say.
func mowerOf(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	token, err := jwt.ParseDecoratedJWT(text)
	if err != nil {
		return ""
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return ""
	}
	for _, subject := range claims.Sub.Allow {
		mower := strings.TrimSuffix(strings.TrimPrefix(subject, "lawnberry."), ".commands.>")
		if fleet.CheckMower(mower) == nil && subject == fleet.CommandFilter(mower) {
			return mower
		}
	}
	return ""
}

// engine looks whether a server of the engine lets the mower in; one is enough.
func (x *examination) engine(ctx context.Context, e fleet.Engine) {
	servers := e.Servers()
	errs := make([]error, len(servers))
	var work sync.WaitGroup
	for i, server := range servers {
		work.Go(func() {
			one := e
			one.URL = server
			errs[i] = reach(ctx, one)
		})
	}
	work.Wait()
	if ctx.Err() != nil || slices.Contains(errs, nil) {
		return
	}
	id, why := "fleet-unreachable", make([]string, len(errs))
	for i, err := range errs {
		why[i] = err.Error()
		if errors.Is(err, errNotLetIn) {
			id = "fleet-refused"
		}
	}
	x.find(id, strings.Join(why, "; "))
}

var errNotLetIn = errors.New("it does not let us in")

// reach connects to a server of an engine, and says what is in the way: its name, TCP, TLS, or the credentials.
func reach(ctx context.Context, e fleet.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	u, err := url.Parse(e.URL)
	if err != nil {
		return err
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), map[string]string{"mqtt": "1883", "mqtts": "8883"}[u.Scheme], "4222")
	if net.ParseIP(host) == nil {
		if _, err := net.DefaultResolver.LookupHost(ctx, host); err != nil {
			return fmt.Errorf("%s: the name is not known here: %w", e.URL, err)
		}
	}
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("%s: no connection over TCP: %w", e.URL, err)
	}
	_ = tcp.Close()
	if p, _ := e.Protocol(); p == fleet.MQTT {
		c, err := e.DialMQTT(ctx, fleet.MQTTSession{})
		switch {
		case err == nil:
			c.Close(ctx)
			return nil
		case fleet.IsMQTTRefusal(err):
			return fmt.Errorf("%s: %w: %w", e.URL, errNotLetIn, err)
		}
		return fmt.Errorf("%s: no MQTT%s: %w", e.URL, overTLS(u.Scheme == "mqtts"), err)
	}
	nc, err := e.DialNATS("lawnberry doctor", nats.RetryOnFailedConnect(false), nats.NoReconnect(), nats.Timeout(engineTime),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // what goes wrong is returned
	switch {
	case err == nil:
		nc.Close()
		return nil
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrMaxAccountConnectionsExceeded), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: %w", e.URL, errNotLetIn, err)
	}
	return fmt.Errorf("%s: no NATS%s: %w", e.URL, overTLS(u.Scheme == "tls" || e.CAFile != ""), err)
}

func overTLS(is bool) string {
	if is {
		return " over TLS"
	}
	return ""
}

// uplink looks at what the running service fleet says of itself. It reports whether something specific was found. h.mu is held.
func (x *examination) uplink(h *heard) (found bool) {
	if !x.o.Loaded.Config.Integration.Fleet.Enabled {
		return false
	}
	s := h.services[bridge.ID]
	if s == nil || s.state == "offline" {
		x.find("fleet-missing", "the service fleet is not there, and integration.fleet is enabled")
		return true
	}
	var now bridge.Condition
	if len(s.uplink) == 0 || json.Unmarshal(s.uplink, &now) != nil {
		return false // it is another version, or does not answer, which is said elsewhere
	}
	before := len(x.report.Findings)
	if now.Refused > 0 {
		x.find("fleet-not-taken", fmt.Sprintf("the engine of the fleet does not take %d topics of this mower", now.Refused))
	}
	if now.Disk != "" {
		x.find("fleet-disk", "what waits for the fleet cannot be written: "+now.Disk, "dir", cmp.Or(x.o.DataDir, "."))
	}
	if at := now.Backlog.Oldest; at != nil && now.Backlog.Records > 0 && x.o.Now().Sub(*at) > oldBacklog {
		link := "and the engine is connected"
		if !now.Connected {
			link = "and the engine is not connected"
		}
		x.find("fleet-backlog", fmt.Sprintf("%d messages wait for the fleet, the oldest for %s, %s", now.Backlog.Records, age(x.o.Now().Sub(*at)), link))
	}
	for _, class := range fleet.Classes() {
		if l := now.Lost[class]; l.Count > 0 {
			x.find("fleet-lost", fmt.Sprintf("%d messages of class %s were dropped until %s, the last for %s", l.Count, class,
				l.Last.Local().Format(time.DateTime), cmp.Or(l.Why, "no reason that is told")))
		}
	}
	return len(x.report.Findings) > before
}
