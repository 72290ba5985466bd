package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// A Finding is something that a broker lacks or does differently.
type Finding struct {
	Fatal bool   `json:"fatal"` // this system does not work with it
	What  string `json:"what"`
	Means string `json:"means"` // what follows from it, or what is done instead
}

func (f Finding) String() string { return f.What + ": " + f.Means }

// Examine returns what a broker lacks, by what it says of itself, the worst first; none is good news.
func Examine(s client.Server) (found []Finding) {
	fatal := func(what, means string) { found = append(found, Finding{true, what, means}) }
	note := func(what, means string) { found = append(found, Finding{false, what, means}) }
	if !s.RetainAvailable {
		fatal("no retained messages", "services could not find each other, and an emergency stop would be forgotten")
	}
	if s.MaximumQoS == 0 {
		fatal("QoS 0 only", "an emergency stop could get lost")
	}
	if !s.WildcardAvailable {
		fatal("no subscriptions with + and #", "services could not find each other")
	}
	const least = 64 << 10
	if s.MaximumPacketSize < least {
		note(fmt.Sprintf("packets of %d bytes at most", s.MaximumPacketSize), "larger messages are refused when they are published")
	}
	if s.MaximumQoS == 1 {
		note("QoS 1 at most", "what is meant for QoS 2 goes at QoS 1 and may come twice; a command is run once all the same, by its message_id")
	}
	if s.Version < 5 {
		note("MQTT 3.1.1 only", "no message expires in it, nobody is told that a command has no receiver or that a message was refused, "+
			"signatures have no place, and sessions last as long as it likes")
	}
	if !s.SharedAvailable && s.Version >= 5 {
		note("no shared subscriptions", "each of several services of one type gets the commands to the type, and the one with the smallest id runs them")
	}
	if !s.IdentifiersAvailable && s.Version >= 5 {
		note("no subscription identifiers", "clients match topics themselves")
	}
	if s.Version >= 5 && s.SessionExpiry >= 0 && s.SessionExpiry < time.Minute {
		note(fmt.Sprintf("sessions are kept for %v", s.SessionExpiry), "what comes while a client is away for longer is lost")
	}
	if s.ReceiveMaximum < 16 {
		note(fmt.Sprintf("%d messages at once", s.ReceiveMaximum), "messages of QoS 1 and 2 are slow")
	}
	if !s.LateAcknowledgements {
		note("it is not our own", "messages below safety/ overtake nothing, and what it keeps in a crash is for its own documentation to say")
	}
	return found
}

// PortHolder names the process that listens on a TCP port, such as "process 812 (mosquitto)"; "" when it cannot be named.
func PortHolder(port int) string { return portHolder(port) }

// PortOwner returns the id of the process that listens on a TCP port of this machine, or on a Unix socket when that is not "". It is 0
// when no process can be seen, for instance because it belongs to another user.
func PortOwner(port int, socket string) int {
	if socket != "" {
		return unixOwner(socket)
	}
	return portOwner(port)
}

// ProcessName describes a process, such as "process 812 (mosquitto)".
func ProcessName(pid int) string { return describeProcess(pid) }

// Findings are what the broker elsewhere lacks, as it said at the start; none with one of our own.
func (a *App) Findings() []Finding { return a.findings }

// Ask connects with o and returns what the broker says of itself.
func Ask(ctx context.Context, o client.Options) (client.Server, error) {
	o.FailFast, o.CleanStart, o.SessionExpiry, o.ID, o.Dir, o.Will, o.Birth = true, true, 0, "", "", nil, nil
	c, err := client.Connect(ctx, o)
	if err != nil {
		return client.Server{}, err
	}
	s, ok := c.Server()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = c.Close(bye)
	if !ok {
		return client.Server{}, errors.New("the broker ended the connection")
	}
	return s, nil
}

// useExternal sees whether a broker elsewhere can be used, and says what it lacks.
func (a *App) useExternal(ctx context.Context, o Options) error {
	if _, err := a.prepareElsewhere(o); err != nil {
		return err
	}
	options, err := o.Config.ClientOptions()
	if err != nil {
		return err
	}
	s, err := Ask(ctx, options)
	if err != nil {
		return fmt.Errorf("broker.engine is external: %w", err)
	}
	a.url, a.findings = s.URL, Examine(s)
	var fatal []string
	for _, f := range a.findings {
		if f.Fatal {
			fatal = append(fatal, f.String())
		}
	}
	if len(fatal) > 0 {
		return fmt.Errorf("the broker %s cannot be used: %s; choose another in broker.external.urls, or set broker.engine to embedded", s.URL, strings.Join(fatal, "; "))
	}
	a.log.Info("the broker is elsewhere", "url", s.URL, "mqtt", s.Version, "addresses", 1+len(options.Fallback))
	for _, f := range a.findings {
		a.log.Warn("the broker lacks something", "what", f.What, "means", f.Means)
	}
	if o.Config.Security.AccessControl.Enabled {
		a.log.Warn("not with this engine", "what", "security.access_control is for that broker to keep: here it holds in the bridge for browsers only")
	}
	return nil
}

// prepareElsewhere takes the data directory, in which the state of the emergency stop is kept, and reads the users, who may log in to the bridge for browsers.
func (a *App) prepareElsewhere(o Options) (*logins, error) {
	if err := a.takeDataDir(o.DataDir); err != nil {
		return nil, err
	}
	if err := a.sendLogs(o); err != nil {
		return nil, err
	}
	users := a.dataDir
	if a.temporary {
		users = ""
	}
	c := *o.Config
	c.Broker.Auth.Enabled = false // is of a broker of ours
	logins, err := newLogins(&c, users, nil, a.log)
	if err != nil {
		return nil, err
	}
	a.users, a.logins = logins.users, logins
	return logins, a.SetAccess(o.Config)
}
