package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/broker/mosquitto"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/identity"
)

// mosquittoDir is what Mosquitto has of the data directory.
const mosquittoDir = "mosquitto"

// startMosquitto starts Mosquitto with what the configuration says of a broker, and says what of it does not hold then.
func (a *App) startMosquitto(ctx, beside context.Context, o Options) error {
	general, err := a.prepare(o)
	if err != nil {
		return err
	}
	if err := a.SetAccess(o.Config); err != nil {
		return err
	}
	options := mosquitto.Options{
		Binary: o.Config.Broker.Mosquitto.Binary, Dir: filepath.Join(a.dataDir, mosquittoDir), Socket: config.SocketPath(a.dataDir),
		MaxConnections: general.MaxConnections, MaxPacketSize: general.MaxPacketSize,
		MaxQueued: general.MaxQueued, MaxQueuedBytes: general.MaxQueuedBytes, Logger: general.Logger,
	}
	switch location := o.Config.Broker.PersistenceLocation; {
	case general.Dir == "":
	case location != "": // may be another broker's
		options.Persist = filepath.Join(location, "lawnberry-mosquitto")
	default:
		options.Persist = filepath.Join(a.dataDir, mosquittoDir, "store")
	}
	a.relogin.Lock()
	a.current = o.Config
	logins, notes, err := a.mosquittoLogins(a.access.Load(), starting)
	a.relogin.Unlock()
	if err != nil {
		return err
	}
	options.Logins = logins
	err = a.listen(o, &general, func() (err error) {
		options.Listeners = mosquittoListeners(general.Listeners, o.Config.Broker.TLS)
		a.mosquitto, err = mosquitto.Start(ctx, options)
		return err
	})
	if err != nil {
		a.mosquitto = nil
		return err
	}
	a.engine, a.url = a.mosquitto, a.mosquitto.URL()
	a.log.Warn("the broker is Mosquitto, which promises less than the embedded one (docs/mosquitto.md)", "version", a.mosquitto.Version())
	for _, text := range append(missingPromises(o.Config), notes...) {
		a.log.Warn("not with this engine", "what", text)
	}
	a.beside.Go(func() { a.watchUsers(beside) })
	if t := o.Config.Broker.TLS; t.Enabled {
		a.beside.Go(func() { a.watchCertificates(beside, t) })
	}
	return nil
}

func mosquittoListeners(all []broker.Listener, t config.ServerTLS) (listeners []mosquitto.Listener) {
	var encrypted *mosquitto.TLS
	if t.Enabled {
		encrypted = &mosquitto.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile, CRLFile: t.CRLFile, RequireCertificate: t.RequireCertificate}
	}
	for _, l := range all {
		if l.Network != "unix" {
			listeners = append(listeners, mosquitto.Listener{Network: l.Network, Address: l.Address, TLS: encrypted, Optional: l.Optional})
		}
	}
	return listeners
}

// missingPromises are what the embedded broker keeps of a configuration and Mosquitto does not, for people.
func missingPromises(c *config.Config) []string {
	missing := []string{
		"messages below safety/ overtake nothing: on a bus that is flooded an emergency stop waits like everything else",
		"a message that a full queue loses is lost without a word to its publisher; the log says that there are some",
		"a QoS 2 message may come again after a connection was cut; services execute a command once all the same",
		"the client id emergency_stop is free: who takes it puts the hub of the emergency stop out, and nothing moves meanwhile; " +
			"nor is a service told (by 2.0.11) that another has taken its id",
		"connections are not bounded for long: 2.0.11 counts each client that leaves twice, so that broker.max_connections holds only for those that stay",
		"guesses at passwords are not slowed down, and each one holds the broker up for a moment",
	}
	if c.Broker.Persistence {
		missing = append(missing, "what was acknowledged is not on the disk by then: a crash loses the last changes (broker.persistence_sync is not used)")
	}
	if t := c.Broker.TLS; t.Enabled && t.CAFile != "" && !t.RequireCertificate {
		missing = append(missing, "a certificate is no login unless broker.tls.require_certificate is true: clients are not asked for one")
	}
	if t := c.Broker.TLS; t.Enabled && t.RequireCertificate {
		missing = append(missing, "a user who is disabled comes in with a certificate until that is revoked")
	}
	if c.Security.AccessControl.Enabled {
		missing = append(missing,
			"who may come in may use any client id, take over the session of another one with it, and hear what is answered to it",
			"the sender that a message names is not looked at, nor what a message on safety/emergency_stop says: one who may publish there can tell programs "+
				"that read no more than that topic that it is over (the packages do not fall for it); sign what has to be genuine (security.signing)",
			"whoever may log in may join the shared subscription of a type of services, and each command to the type that falls to him is lost; those to a service by its id are not",
			"whoever may send commands to the hub of the emergency stop may release it, so only those may who have that right",
		)
	}
	return missing
}

// An occasion is why logins are made.
type occasion int

const (
	starting     occasion = iota
	rulesChanged          // what cannot be said to Mosquitto refuses the rules
	usersChanged          // what cannot be said to Mosquitto leaves a user out
)

// mosquittoLogins returns who may come in and do what; notes are what of it cannot be said to Mosquitto. At a start a user that Mosquitto cannot take is an
// error, afterwards such a user is left out. a.relogin is held.
func (a *App) mosquittoLogins(bus *access.Bus, mode occasion) (l mosquitto.Logins, notes []string, err error) {
	c := a.current
	l.Anonymous = bus == nil && (!a.logins.asked.Load() || a.logins.anonymous)
	if l.Anonymous && c.Broker.WebSockets.Enabled {
		return l, nil, errors.New("broker.websockets.enabled with the engine mosquitto needs logins, since Mosquitto does not look where a page comes from " +
			"and any page in a browser could connect: add a user with \"lawnberry user add\", or set broker.websockets.enabled to false or broker.engine to embedded")
	}
	var subjects []access.Subject
	known := map[string]bool{}
	add := func(name, role string) {
		if known[name] || bus == nil {
			return
		}
		known[name] = true
		var roles []string
		if role != "" {
			roles = append(roles, role)
		}
		subjects = append(subjects, bus.Subject(name, "%c", roles...))
	}
	for _, u := range a.users.All() {
		user, why := a.mosquittoUser(u)
		switch {
		case u.Disabled:
			continue
		case why == nil:
			l.Users = append(l.Users, user)
			add(u.Name, u.Role)
		case mode == starting:
			err = errors.Join(err, why)
		default:
			a.log.Error("a user cannot log in to Mosquitto", "user", u.Name, "error", why)
		}
	}
	if err != nil || bus == nil {
		return l, nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(c.ServiceDefinitions)) { // who come with a certificate
		add(id, "")
	}
	for _, r := range bus.Policy().Rules() {
		if r.Identity != "" {
			add(r.Identity, "")
		}
	}
	subjects = slices.DeleteFunc(subjects, func(s access.Subject) bool { return mosquitto.CheckName(s.Identity) != nil })
	if mode == usersChanged { // one of whom the rules cannot be said to Mosquitto must not keep in force what others have lost
		subjects = slices.DeleteFunc(subjects, func(s access.Subject) bool {
			_, why := bus.Flatten([]access.Subject{s})
			if why != nil {
				a.log.Error("a user cannot log in to Mosquitto", "user", s.Identity, "error", why)
				l.Users = slices.DeleteFunc(l.Users, func(u mosquitto.User) bool { return u.Name == s.Identity })
			}
			return why != nil
		})
	}
	flat, err := bus.Flatten(subjects)
	if err != nil {
		return l, nil, err
	}
	l.Grants = make([]mosquitto.Grant, 0, len(flat.Rights)) // also without rights there is access control
	for _, r := range flat.Rights {
		l.Grants = append(l.Grants, mosquitto.Grant{User: r.Identity, Access: accessOf(r), Filter: r.Filter})
	}
	for _, text := range flat.Lost {
		notes = append(notes, "denied, though the rules allow it: "+text)
	}
	for _, id := range flat.Mute {
		notes = append(notes, fmt.Sprintf("%s may not ask the hub of the emergency stop, so nothing that it drives moves; to let it ask, and release as well, "+
			"give it that right: {identity: %s, allow: release, filter: safety/emergency_stop}", id, id))
	}
	return l, notes, nil
}

func accessOf(r access.Plain) mosquitto.Access {
	switch {
	case !r.Allow:
		return mosquitto.Deny
	case r.Verbs == access.Publish:
		return mosquitto.Write
	case r.Verbs == access.Subscribe:
		return mosquitto.Read
	}
	return mosquitto.ReadWrite
}

// mosquittoUser is a user as Mosquitto knows it. That of broker.auth has its password there. a.relogin is held.
func (a *App) mosquittoUser(u identity.User) (mosquitto.User, error) {
	verifier := u.Mosquitto
	if auth := a.current.Broker.Auth; auth.Enabled && auth.Username == u.Name {
		if a.verifier == "" {
			a.verifier = mosquitto.Verifier(string(auth.Password))
		}
		verifier = a.verifier
	}
	if err := mosquitto.CheckName(u.Name); err != nil {
		return mosquitto.User{}, err
	}
	if mosquitto.CheckVerifier(verifier) != nil {
		return mosquitto.User{}, fmt.Errorf("user %s has no password for Mosquitto, which needs a hash of its own: "+
			"set it again with \"lawnberry user passwd %s\"", u.Name, u.Name)
	}
	return mosquitto.User{Name: u.Name, Verifier: verifier}, nil
}

// relog has Mosquitto go by the users, and by what c and bus say who may do what.
func (a *App) relog(c *config.Config, bus *access.Bus) error {
	a.relogin.Lock()
	defer a.relogin.Unlock()
	before := a.current
	a.current = before
	if c != nil {
		kept := *before // what needs a restart stays
		kept.ServiceDefinitions, kept.Security.AccessControl = c.ServiceDefinitions, c.Security.AccessControl
		a.current = &kept
	}
	why := usersChanged
	if c != nil {
		why = rulesChanged
	}
	logins, notes, err := a.mosquittoLogins(bus, why)
	if err == nil {
		err = a.mosquitto.SetLogins(logins)
	}
	if err != nil {
		a.current = before
		return err
	}
	for _, text := range notes {
		a.log.Warn("not with this engine", "what", text)
	}
	return nil
}

// watchUsers takes in what changes in the users file until ctx ends.
func (a *App) watchUsers(ctx context.Context) {
	a.users.Watch(ctx, func(identity.Change) {
		if a.users.Any() && !a.logins.asked.Swap(true) {
			a.log.Warn("there is a user now: clients have to log in from now on, but for those on the Unix socket", "allow_anonymous", a.logins.anonymous)
		}
		if err := a.relog(nil, a.access.Load()); err != nil {
			a.log.Error("the users stay as they were", "error", err)
		}
	})
}

// watchCertificates has Mosquitto read its certificates again when their files have changed and stayed the same for a second, until ctx ends.
func (a *App) watchCertificates(ctx context.Context, t config.ServerTLS) {
	look := func() string {
		var b strings.Builder
		for _, path := range []string{t.CertFile, t.KeyFile, t.CAFile, t.CRLFile} {
			var info fs.FileInfo
			if path != "" {
				info, _ = os.Stat(path)
			}
			if info != nil {
				fmt.Fprintln(&b, path, info.ModTime().UnixNano(), info.Size())
			}
		}
		return b.String()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	used := look()
	for seen := used; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := look()
		settled := now == seen
		seen = now
		if !settled || now == used {
			continue
		}
		used = now
		if err := checkPair(t); err != nil { // one that does not fit would leave Mosquitto without
			a.log.Error("certificates not taken in", "error", err)
			continue
		}
		if err := a.mosquitto.Reload(); err != nil {
			a.log.Error("certificates not taken in", "error", err)
			continue
		}
		a.log.Info("certificates taken in")
	}
}

// troubled is for how long system/health speaks of a broker that had to be started again.
const troubled = 5 * time.Minute

// trouble says what is wrong with the broker, "" when nothing is known to be.
func (a *App) trouble() string {
	if a.mosquitto == nil {
		return ""
	}
	s := a.mosquitto.Stats()
	if s.Restarts == 0 || s.Running && time.Since(s.Since) > troubled {
		return ""
	}
	return fmt.Sprintf("Mosquitto had to be started again (%d times by now), because %s", s.Restarts, s.Trouble)
}
