package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func (t *tool) serviceVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "Look at the services, wait for them, and end them",
		Example: `  lawnberry service ls
  lawnberry service info navigation
  lawnberry service graph
  lawnberry service ping safety --count 10
  lawnberry service wait navigation safety`,
	}
	asGroup(c)
	c.AddCommand(t.serviceLs(), t.serviceInfo(), t.serviceGraph(), t.servicePing(), t.serviceStats(), t.serviceWait(), t.serviceWatch(), t.serviceShutdown())
	return c
}

func (t *tool) serviceLs() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:   "ls [TYPE]",
		Short: "List the services and their states",
		Long: `ls lists the services that have announced themselves, all or those of one type. A service that was silent for longer than
the lease that it announces, or the configuration's services.heartbeat_timeout, is asked to announce itself, and is offline
when it does not.`,
		Example: `  lawnberry service ls
  lawnberry service ls sensor --json`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			found, err := t.discover(c.Context(), &d, false)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				found = slices.DeleteFunc(found, func(s serviceInfo) bool { return s.Type != args[0] })
			}
			if t.json {
				return writeJSON(t.stdout, struct {
					Services []serviceInfo `json:"services"`
				}{append([]serviceInfo{}, found...)})
			}
			if len(found) == 0 {
				_, err := fmt.Fprintln(t.stdout, "no services")
				return err
			}
			t.listServices(found)
			return nil
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

func (t *tool) listServices(found []serviceInfo) {
	rows := table{header: []string{"ID", "TYPE", "STATE", "VERSION", "UPTIME", "LAST SEEN", "CPU", "MEM", "DEPENDS ON"}}
	for _, s := range found {
		depends := strings.Join(s.Dependencies, ", ")
		rows.add(text(s.ID), text(s.Type), cell{s.State, stateStyle(s.State)}, text(s.Version), text(s.uptime()),
			text(s.age()+" ago"), text(fmt.Sprintf("%.1f%%", s.Resources.CPU)), text(fmt.Sprintf("%.1f%%", s.Resources.Memory)),
			text(cmp.Or(depends, "-")))
	}
	rows.write(t.stdout, t.colour(t.stdout))
}

func (t *tool) serviceInfo() *cobra.Command {
	var d dialler
	c := &cobra.Command{
		Use:     "info ID",
		Short:   "Show everything known of one service",
		Example: "  lawnberry service info navigation",
		Args:    arguments(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkLevel("service", args[0]); err != nil {
				return err
			}
			found, err := t.discover(c.Context(), &d, true)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(found, func(s serviceInfo) bool { return s.ID == args[0] })
			if i < 0 {
				return unknownService(args[0], found)
			}
			if t.json {
				return writeJSON(t.stdout, found[i])
			}
			t.describeService(found[i])
			return nil
		},
	}
	d.flags(c, connectTimeout, "give up after this long")
	return c
}

func (t *tool) describeService(s serviceInfo) {
	rows := table{rows: s.about()}
	rows.write(t.stdout, t.colour(t.stdout))
}

// about is everything known of the service, name and value.
func (s *serviceInfo) about() (rows [][]cell) {
	row := func(name, value string, st style) {
		if value != "" {
			rows = append(rows, []cell{{name, bold}, {value, st}})
		}
	}
	row("id", s.ID, plain)
	row("type", s.Type, plain)
	row("state", s.State, stateStyle(s.State))
	if s.Reported != s.State {
		row("reported", s.Reported, plain)
	}
	row("reason", s.Reason, plain)
	row("version", s.Version, plain)
	if !s.Started.IsZero() {
		row("started", s.Started.Local().Format("2006-01-02 15:04:05"), plain)
	}
	row("uptime", s.uptime(), plain)
	row("last seen", s.age()+" ago", plain)
	row("cpu", fmt.Sprintf("%.1f%%", s.Resources.CPU), plain)
	row("memory", fmt.Sprintf("%.1f%%", s.Resources.Memory), plain)
	row("disk", fmt.Sprintf("%.1f%%", s.Resources.Disk), plain)
	row("depends on", strings.Join(s.Dependencies, ", "), plain)
	row("uses", strings.Join(s.Optional, ", "), plain)
	for _, name := range slices.Sorted(maps.Keys(s.Endpoints)) {
		row("endpoint "+name, s.Endpoints[name], plain)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Metadata)) {
		row("metadata "+name, compact(s.Metadata[name]), plain)
	}
	for _, c := range s.Commands {
		row("command "+c.Name, cmp.Or(c.Description, "-"), plain)
	}
	return rows
}

func unknownService(id string, found []serviceInfo) error {
	if len(found) == 0 {
		return failf(exitRefused, "no service %q: no service has announced itself", id)
	}
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID)
	}
	return failf(exitRefused, "no service %q: there are %s", id, strings.Join(ids, ", "))
}

func (t *tool) servicePing() *cobra.Command {
	var d dialler
	var count int
	var interval time.Duration
	c := &cobra.Command{
		Use:   "ping ID",
		Short: "Measure the round trip of commands to a service",
		Example: `  lawnberry service ping navigation
  lawnberry service ping navigation --count 100 --interval 0`,
		Args: arguments(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			if count < 1 || interval < 0 {
				return usagef("want --count of 1 or more, and no negative --interval")
			}
			return t.ping(c.Context(), &d, args[0], count, interval)
		},
	}
	d.flags(c, 5*time.Second, "wait this long for each answer")
	c.Flags().IntVarP(&count, "count", "n", 4, "send this many")
	c.Flags().DurationVarP(&interval, "interval", "i", 200*time.Millisecond, "wait this long between two")
	return c
}

// A pingResult is what ping says with --json.
type pingResult struct {
	Service string  `json:"service"`
	Count   int     `json:"count"`
	Min     float64 `json:"min_ms"`
	Avg     float64 `json:"avg_ms"`
	Max     float64 `json:"max_ms"`
}

func (t *tool) ping(ctx context.Context, d *dialler, id string, count int, interval time.Duration) error {
	if err := checkLevel("service", id); err != nil {
		return err
	}
	o, _, err := d.options(t)
	if err != nil {
		return err
	}
	c, err := d.connect(ctx, o)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	_, err = checkAlive(limited, c, id, "ping")
	err = because(ctx, err)
	cancel()
	if err != nil {
		_ = disconnect(c)
		return err
	}
	var trips []time.Duration
	for i := range count {
		if i > 0 && !pause(ctx, interval) {
			break
		}
		took, failed := ping(ctx, c, id, d.timeout)
		if err = because(ctx, failed); err != nil {
			break
		}
		trips = append(trips, took)
		if !t.json {
			fmt.Fprintf(t.stdout, "%s answered in %s\n", id, milliseconds(took))
		}
	}
	if err == nil && ctx.Err() != nil && len(trips) == 0 {
		err = context.Cause(ctx)
	}
	_ = disconnect(c) // all answers are here
	if err != nil {
		return err
	}
	var sum time.Duration
	for _, took := range trips {
		sum += took
	}
	avg := sum / time.Duration(len(trips))
	if t.json {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return writeJSON(t.stdout, pingResult{id, len(trips), ms(slices.Min(trips)), ms(avg), ms(slices.Max(trips))})
	}
	_, err = fmt.Fprintf(t.stdout, "%d round trips: min %s, avg %s, max %s\n", len(trips), milliseconds(slices.Min(trips)), milliseconds(avg), milliseconds(slices.Max(trips)))
	return err
}

func ping(ctx context.Context, c *client.Client, id string, timeout time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	err := c.Call(ctx, id, "ping", nil, nil)
	return time.Since(began), err
}

// pause waits, and reports whether ctx lasted.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A serviceInfo is what a service says of itself, as system/services/{id}/status holds it.
type serviceInfo struct {
	ID           string                     `json:"id"`
	Type         string                     `json:"type"`
	State        string                     `json:"state"`              // as judged here
	Reported     string                     `json:"reported,omitempty"` // as the service said last, where that differs
	Version      string                     `json:"version"`
	Started      time.Time                  `json:"started,omitzero"`
	Uptime       float64                    `json:"uptime_s"`
	LastSeen     time.Time                  `json:"last_seen"`
	Reason       string                     `json:"reason,omitempty"`  // for what it reported
	Lease        float64                    `json:"lease_s,omitempty"` // the silence after which it is offline, if it announces one
	Dependencies []string                   `json:"dependencies"`
	Optional     []string                   `json:"optional_dependencies,omitempty"`
	Endpoints    map[string]string          `json:"endpoints"`
	Metadata     map[string]json.RawMessage `json:"metadata"`
	Resources    message.Resources          `json:"resources"`
	Commands     []service.Command          `json:"commands,omitempty"` // that it has described
}

// gone reports whether the service has said that it is not there.
func (s *serviceInfo) gone() bool { return s.State == "offline" }

// uptime is what the service said last, and the time since.
func (s *serviceInfo) uptime() string {
	if s.gone() {
		return "-"
	}
	said := time.Duration(s.Uptime * float64(time.Second))
	return shortDuration(said + max(0, time.Since(s.LastSeen)))
}

func (s *serviceInfo) age() string { return shortDuration(time.Since(s.LastSeen)) }

// parseService reads the status of the service that the last but one level of topic names.
func parseService(d *client.Delivery) (serviceInfo, bool) {
	levels := strings.Split(d.Topic, "/")
	if d.Message.Raw || len(levels) < 2 {
		return serviceInfo{}, false
	}
	status, err := message.Payload[message.Status](d.Message)
	if err != nil {
		return serviceInfo{}, false
	}
	var details struct {
		Type         string                     `json:"service_type"`
		Version      string                     `json:"version"`
		Start        any                        `json:"start_time"`
		Reason       string                     `json:"reason"`
		Dependencies []string                   `json:"dependencies"`
		Optional     []string                   `json:"optional_dependencies"`
		Lease        float64                    `json:"heartbeat_timeout"`
		Endpoints    map[string]string          `json:"endpoints"`
		Metadata     map[string]json.RawMessage `json:"metadata"`
	}
	_ = json.Unmarshal(status.Details, &details) // what fits is kept; a stranger's details may be anything
	s := serviceInfo{
		ID: levels[len(levels)-2], Type: details.Type, State: status.Status, Version: cmp.Or(details.Version, status.Version),
		Uptime: status.Uptime, LastSeen: d.Message.Metadata.Time(), Dependencies: append([]string{}, details.Dependencies...),
		Reason: details.Reason, Optional: details.Optional, Endpoints: details.Endpoints, Metadata: details.Metadata, Resources: status.Resources,
		Lease: max(0, details.Lease),
	}
	if seconds, ok := details.Start.(float64); ok && seconds > 0 {
		s.Started = message.Metadata{Timestamp: seconds}.Time()
	}
	return s, true
}

// discover returns the services that have announced themselves, sorted by id, with their commands if described is set.
func (t *tool) discover(ctx context.Context, d *dialler, described bool) ([]serviceInfo, error) {
	o, cfg, err := d.options(t)
	if err != nil {
		return nil, err
	}
	c, err := d.connect(ctx, o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	r := newRoll()
	if err = r.take(ctx, c, cfg.Services.HeartbeatTimeout); err == nil && described {
		err = r.takeCommands(ctx, c, "+")
	}
	_ = disconnect(c)
	if err != nil {
		return nil, because(ctx, err)
	}
	return r.list(), nil
}

// A roll collects the status of services.
type roll struct {
	changed chan struct{}     // holds one when something arrived
	seen    func(serviceInfo) // called with each status; nil is nobody
	most    int               // services that are kept; 0 is any number

	mu       sync.Mutex // guards what follows
	others   int        // statuses of services beyond most
	since    time.Time  // of the connection; silence from before it is nobody's. Zero counts all silence
	services map[string]serviceInfo
	heard    map[string]bool // has spoken since we listen, by id
	pages    map[string]map[int]service.Commands
}

func newRoll() *roll {
	return &roll{services: map[string]serviceInfo{}, heard: map[string]bool{}, pages: map[string]map[int]service.Commands{}, changed: make(chan struct{}, 1)}
}

// settle is how long nothing more has to arrive until everything sent so far is taken to have been handled.
const settle = 30 * time.Millisecond

// answerTime is how long silent services have to announce themselves.
const answerTime = time.Second

// take collects what the broker retains, and asks those who have been silent for longer than their lease, or timeout.
func (r *roll) take(ctx context.Context, c *client.Client, timeout time.Duration) error {
	_, err := c.Subscribe(ctx, "system/services/+/status", func(_ context.Context, d *client.Delivery) { r.add(d) })
	if err != nil {
		return err
	}
	if err := roundTrip(ctx, c); err != nil {
		return err
	}
	if err := r.quiet(ctx); err != nil {
		return err
	}
	if len(r.silent(timeout)) == 0 {
		return nil
	}
	// Their clocks may be wrong, or they may be dead: only an answer tells.
	m, err := message.NewStatus(c.ID(), message.Status{Status: "healthy"})
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, "system/health_check", m); err != nil {
		return err
	}
	limit := time.NewTimer(answerTime)
	defer limit.Stop()
	for len(r.silent(timeout)) > 0 {
		select {
		case <-r.changed:
		case <-limit.C:
			r.markOffline(timeout)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// roundTrip returns when the broker has delivered what it had for this client before: it sends a message to itself,
// which takes its place behind all that.
func roundTrip(ctx context.Context, c *client.Client) error {
	back := make(chan struct{})
	var once sync.Once
	self := "responses/" + c.ID()
	s, err := c.Subscribe(ctx, self, func(context.Context, *client.Delivery) { once.Do(func() { close(back) }) })
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, self, message.NewRaw([]byte("{}")), client.WithQoS(1)); err != nil {
		return err
	}
	select {
	case <-back:
		return s.Unsubscribe(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// quiet waits until what has been received has been handled.
func (r *roll) quiet(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-r.changed:
			timer.Reset(settle)
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *roll) add(d *client.Delivery) {
	s, ok := parseService(d)
	if !ok {
		return
	}
	if !d.Retained {
		s.LastSeen = d.Received
	}
	r.mu.Lock()
	if _, known := r.services[s.ID]; !known && r.most > 0 && len(r.services) >= r.most {
		r.others++
		r.mu.Unlock()
		return
	}
	if old := r.services[s.ID]; d.Retained && r.heard[s.ID] && old.LastSeen.After(s.LastSeen) {
		s.LastSeen = old.LastSeen // it comes again after a reconnect, and may be older than heartbeats that were not retained
	}
	r.services[s.ID] = s
	r.heard[s.ID] = r.heard[s.ID] || !d.Retained
	r.mu.Unlock()
	if r.seen != nil {
		r.seen(s)
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// silent returns the services that say they are there but were last heard longer ago than their lease, timeout if they announce
// none.
func (r *roll) silent(timeout time.Duration) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for id, s := range r.services {
		age := time.Since(s.LastSeen)
		lease := cmp.Or(s.Lease, timeout.Seconds())
		if !s.gone() && !r.heard[id] && math.Abs(age.Seconds()) > lease {
			ids = append(ids, id)
		}
	}
	return ids
}

func (r *roll) markOffline(timeout time.Duration) {
	ids := r.silent(timeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		s := r.services[id]
		s.State, s.Reported, s.Reason = "offline", s.State, ""
		r.services[id] = s
	}
}

func (r *roll) list() []serviceInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.SortedFunc(maps.Values(r.services), func(a, b serviceInfo) int { return cmp.Compare(a.ID, b.ID) })
	for i := range list {
		list[i].Commands = r.commandsLocked(list[i].ID)
	}
	return list
}
