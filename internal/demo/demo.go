// Package demo is a simulated mower: the physics of a machine, a lawn and a battery, and the seven services of a mower
// that exchange readings, commands, events and alerts about it over a real broker, through the public packages alone.
//
//	hardware_interface  owns the world: reads its sensors, drives its motors while set points keep coming
//	sensor_fusion       makes one position out of gyroscope, odometers and satellites
//	navigation          mows the lawn in stripes, docks, and pauses when told to; has the lease of the motors
//	safety              engages the emergency stop for people, obstacles, tilt, lifting and lost services
//	power               battery, solar panel and consumption; sends the mower home
//	vision              tells whom the cameras see
//	weather             the conditions and the forecast
//
// Three of them share the world without the bus, as their real counterparts share the real one: hardware_interface by its
// sensors and motors, vision by its cameras, weather by looking at the sky.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// Options configure a demo. The zero value mows in real time over tcp://localhost:1883.
type Options struct {
	Client client.Options // how to reach the broker; each service gets a copy, with an id of its own
	Seed   uint64         // of everything random; 0 takes one from the clock
	// Speed is how many simulated seconds the mowing makes in one real second, up to 10; 0 is 1. The sensors keep their
	// rates in real time, people their pace, and the dead man his.
	Speed float64
	// Operator lets the demo play the person at the mower too, who releases the emergency stop, at the start and whenever nothing stands
	// against it any more, and has navigation go on. It must be set only where the hub is the demo's own: an emergency stop that
	// another keeps is not the demo's to release. Without it Start fails while the emergency stop is engaged, and later the mower stands until
	// somebody releases it and commands "resume".
	Operator bool
	Alone    bool         // nobody walks past the mower
	Logger   *slog.Logger // nil is discarded

	urls map[string]string // of the broker by service, where it is another than Client's
}

const (
	version   = "1.0.0"         // of the services
	heartbeat = 5 * time.Second // of the services
	maxSpeed  = 10.0            // beyond it the mower no longer keeps to its stripes

	startTime    = 30 * time.Second // that Start takes at most
	stopTime     = 4 * time.Second  // that Stop takes at most
	exercisePace = 2 * time.Second  // between two rounds of commands
)

// serviceIDs are sorted.
var serviceIDs = [...]string{"hardware_interface", "navigation", "power", "safety", "sensor_fusion", "vision", "weather"}

// ServiceIDs returns the ids of the demo's services. On a broker that runs already they must be free: services of the
// same ids would lose their connections to the demo's.
func ServiceIDs() []string { return slices.Clone(serviceIDs[:]) }

// typeOf returns the type of a service of the demo.
func typeOf(id string) string {
	switch id {
	case "hardware_interface":
		return "hardware"
	case "sensor_fusion":
		return "sensors"
	}
	return id
}

// Demo is a running demo. Its methods may be called concurrently.
type Demo struct {
	began    time.Time
	log      *slog.Logger
	ledger   *ledger
	observer *observer
	world    *world
	nodes    []*node // in the order in which they stop

	resting  context.Context // ends first, when the demo sends no more commands of its own
	rest     context.CancelFunc
	sending  context.Context // ends when the command that was begun must end too
	abandon  context.CancelFunc
	exercise sync.WaitGroup // commands, and the operator

	stop    sync.Once
	stopped chan struct{} // closed when Stop has finished
	stopErr error         // set before stopped is closed

	mu    sync.Mutex    // guards the field below
	ended time.Duration // after which Stop began, 0 before
}

// Start starts the seven services, all at once, and returns when all of them are healthy and the mower mows. It gives up,
// stops what it has started and says which service is not healthy when ctx ends, and after 30 s at the latest. ctx is for
// starting only.
//
// Without Client.Topics it makes a registry with the limits of [Rates]; in one that is given they are up to the caller.
func Start(ctx context.Context, o Options) (*Demo, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("gave up after %v", startTime))
	defer cancel()
	d := &Demo{
		began: time.Now(), log: o.Logger, ledger: newLedger(), world: newWorld(o.Seed, o.Speed), stopped: make(chan struct{}),
	}
	if o.Alone {
		d.world.visits.next = math.Inf(1)
	}
	d.resting, d.rest = context.WithCancel(context.Background())
	d.sending, d.abandon = context.WithCancel(context.Background())
	if d.observer, err = observe(ctx, o.Client, d.ledger); err != nil {
		return nil, fmt.Errorf("start the demo: %w", err)
	}
	if err = d.observer.awaitHub(ctx, o.Operator); err == nil {
		err = d.startAll(ctx, o)
	}
	if err == nil {
		err = d.observer.awaitHealthy(ctx)
	}
	if err == nil {
		d.observer.watch(true)
		if err = d.setGoing(ctx, o.Operator); err == nil {
			d.exercise.Go(d.exercises)
			if o.Operator {
				d.exercise.Go(d.operate)
			}
			return d, nil
		}
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := d.Stop(stopping); err != nil {
		d.log.Warn("the demo did not stop cleanly", "error", err)
	}
	return nil, fmt.Errorf("start the demo: %w", err)
}

func (o Options) withDefaults() (Options, error) {
	if o.Speed < 0 || o.Speed > maxSpeed || o.Speed != o.Speed {
		return o, fmt.Errorf("the demo cannot mow at %v times real time: choose a speed up to %v", o.Speed, maxSpeed)
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	o.Client.Topics, err = topics(o.Client.Topics)
	return o, err
}

// startAll starts the services all at once; they put themselves in order. The error names those that failed.
func (d *Demo) startAll(ctx context.Context, o Options) error {
	roles := map[string]role{
		"hardware_interface": &hardware{world: d.world},
		"navigation":         newNavigation(o.Speed),
		"power":              newPower(),
		"safety":             newSafety(),
		"sensor_fusion":      newFusion(),
		"vision":             &vision{camera: &camera{world: d.world}},
		"weather":            &weather{world: d.world},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards nodes and errs
	nodes := map[string]*node{}
	var errs []error
	for id, r := range roles {
		wg.Go(func() {
			n, err := startNode(ctx, id, r, o, d.ledger)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				nodes[id] = n
				return
			}
			// The first failure ends the others, which would wait in vain; theirs is of no interest.
			if len(errs) == 0 || !errors.Is(err, context.Canceled) {
				errs = append(errs, fmt.Errorf("service %s: %w", id, err))
			}
			cancel()
		})
	}
	wg.Wait()
	// Safety first, so that it does not raise the alarm when the others leave, and each before what it depends on.
	for _, id := range []string{"safety", "navigation", "power", "vision", "weather", "sensor_fusion", "hardware_interface"} {
		if n := nodes[id]; n != nil {
			d.nodes = append(d.nodes, n)
		}
	}
	return errors.Join(errs...)
}

// command sends a command as anybody on the bus could.
func (d *Demo) command(ctx context.Context, target, command string, parameters any) error {
	return d.ask(ctx, target, command, parameters, new(json.RawMessage))
}

// ask is command with a result.
func (d *Demo) ask(ctx context.Context, target, command string, parameters, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	done := d.ledger.Calling(observerID, target)
	err := d.observer.client.Call(ctx, target, command, parameters, result)
	done(err)
	return err
}

// exercises sends a few commands every few seconds, so that their ways are seen to work.
func (d *Demo) exercises() {
	t := time.NewTicker(exercisePace)
	defer t.Stop()
	all := sensors()
	for round := 0; ; round++ {
		for _, c := range []struct {
			target, command string
			parameters      any
		}{
			{"navigation", "get_position", nil},
			{"hardware_interface", "read_sensor", sensorQuery{all[round%len(all)].id}},
			{serviceIDs[round%len(serviceIDs)], "ping", nil},
			{serviceIDs[(round+3)%len(serviceIDs)], "ping", nil},
			{"power", "get_battery", nil},
			{"safety", "get_status", nil},
		} {
			if d.resting.Err() != nil {
				return
			}
			// A command that was begun is waited for, so that it counts as what it is.
			if err := d.command(d.sending, c.target, c.command, c.parameters); err != nil {
				d.log.Warn("a command failed", "target", c.target, "command", c.command, "error", err)
			}
		}
		select {
		case <-t.C:
		case <-d.resting.Done():
			return
		}
	}
}

// Stop ends everything: the mower stands, what is in flight is waited for, the services say goodbye. It takes 4 s at most,
// or as long as ctx allows if that is less. It is idempotent: a further call returns what the first returned, when that has
// finished or its own ctx ends.
func (d *Demo) Stop(ctx context.Context) error {
	first := false
	d.stop.Do(func() { first = true })
	if first {
		d.stopErr = d.shutdown(ctx)
		close(d.stopped)
		return d.stopErr
	}
	select {
	case <-d.stopped:
		return d.stopErr
	default:
	}
	select {
	case <-d.stopped:
		return d.stopErr
	case <-ctx.Done():
		return fmt.Errorf("stop the demo: %w", context.Cause(ctx))
	}
}

func (d *Demo) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	d.mu.Lock()
	d.ended = time.Since(d.began)
	d.mu.Unlock()
	d.observer.watch(false) // from here on services may leave

	// First all stop sending, then what was sent arrives, and only then the first of them leaves. Each may take half of the
	// time that is left.
	d.quiet(ctx)
	d.drain(ctx)
	d.ledger.Close()

	gone := !d.observer.client.Connected()
	errs := make([]error, len(d.nodes)+1)
	var wg sync.WaitGroup
	for i, n := range d.nodes {
		leave := func() {
			if err := n.Stop(ctx); err != nil {
				errs[i] = fmt.Errorf("service %s: %w", n.id, err)
			}
		}
		if gone { // without a broker nobody sees the order, and all have to wait
			wg.Go(leave)
		} else {
			leave()
		}
	}
	wg.Wait()
	errs[len(d.nodes)] = d.observer.close(ctx)
	switch err := errors.Join(errs...); {
	case err != nil && gone:
		d.log.Debug("services could not say goodbye", "error", err)
		return errors.New("stop the demo: the broker is gone, so that the services could not say goodbye to it")
	case err != nil:
		return fmt.Errorf("stop the demo: %w", err)
	}
	return nil
}

// halfOf returns a context that ends when half of the time that ctx has left is over.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	end, _ := ctx.Deadline()
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// quiet waits until nothing more is sent.
func (d *Demo) quiet(ctx context.Context) {
	ctx, cancel := halfOf(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, d.abandon)
	d.rest()
	var wg sync.WaitGroup
	wg.Go(d.exercise.Wait)
	for _, n := range d.nodes {
		wg.Go(func() { n.quiet(ctx) })
	}
	wg.Wait()
	stop()
	d.abandon()
}

// drain waits until everything that was published has arrived, or can no longer be expected to.
func (d *Demo) drain(ctx context.Context) {
	if !d.observer.client.Connected() {
		return
	}
	ctx, cancel := halfOf(ctx)
	defer cancel()
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for a := d.ledger.Account(); a.delivered < a.published; a = d.ledger.Account() {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Snapshot returns what the live view shows. It costs some microseconds.
func (d *Demo) Snapshot() View {
	a := d.ledger.Account()
	v := View{
		Uptime:    d.uptime(),
		Published: a.published, Delivered: a.delivered, Lost: a.lost, RatePerSecond: a.perSecond,
		P50: a.latency.P50, P99: a.latency.P99, Max: a.latency.Max, RoundTrip: a.trips,
		CommandsOK: a.ok, CommandsFailed: a.failed,
	}
	d.observer.view(&v)
	return v
}

// Summary returns the totals so far; after Stop, the final ones.
func (d *Demo) Summary() Summary {
	a := d.ledger.Account()
	return Summary{
		Services:  d.observer.judged(),
		Published: a.published - a.onTheWay, Delivered: a.delivered, Lost: a.lost,
		RatePerSecond: round(float64(a.delivered)/max(d.uptime().Seconds(), 0.001), 1),
		Latency:       a.latency.milliseconds(), RoundTrip: a.trips.milliseconds(),
		Commands: CommandsRun{OK: a.ok, Failed: a.failed},
		Refused:  a.refused, Duplicates: a.twice,
		EmergencyStops: d.observer.stops(),
	}
}

func (d *Demo) uptime() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended > 0 {
		return d.ended
	}
	return time.Since(d.began)
}
