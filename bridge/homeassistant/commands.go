package homeassistant

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
	"github.com/lawnberry/lawnberry/topic"
)

const (
	commandTime  = 10 * time.Second // that a command may take
	freshTime    = 5 * time.Second  // for which a command may wait here before it begins
	engageTime   = 5 * time.Second
	maxCommand   = 64 // bytes of a command
	maxBusy      = 4  // commands at once
	commandQueue = 16
)

// press is what a button sends.
const press = "PRESS"

// obey hears Home Assistant.
func (b *Bridge) obey(ctx context.Context) error {
	queue := client.WithQueue(client.Queue{Max: commandQueue, Full: client.DropOldest})
	for entity, do := range map[string]func(context.Context, *client.Delivery){
		entityMower: b.steer, entityPing: b.pressed(entityPing, b.ping), entityAcknowledge: b.pressed(entityAcknowledge, b.acknowledge),
		entityEngage: b.engage, // has a queue of its own: nothing else keeps it waiting
	} {
		if _, err := b.home.Subscribe(ctx, topic.Absolute(b.o.commandTopic(entity)), func(ctx context.Context, d *client.Delivery) {
			if len(d.Message.Payload) == 0 && d.Invalid == nil { // a retained one was removed
				return
			}
			if d.Retained {
				b.log.Warn("a command from Home Assistant is retained, it is not executed: clear it, and set retain to false", "entity", entity)
				return
			}
			do(ctx, d)
		}, queue, client.WithRetainAsPublished(), client.WithInvalid()); err != nil { // what looks like an envelope of ours is text as well
			return err
		}
	}
	_, err := b.home.Subscribe(ctx, topic.Absolute(b.o.BirthTopic), func(_ context.Context, d *client.Delivery) {
		if !d.Retained && string(d.Message.Payload) == "online" {
			select {
			case b.birth <- struct{}{}:
			default:
			}
		}
	}, queue, client.WithRetainAsPublished())
	return err
}

// readCommand returns a command, unless it cannot be one or is too old.
func (b *Bridge) readCommand(entity string, d *client.Delivery) (command string, ok bool) {
	switch {
	case len(d.Message.Payload) > maxCommand:
		b.failed(entity, "", "", &client.CommandError{Code: client.CodeUnknownCommand, Message: fmt.Sprintf("a command of %d bytes", len(d.Message.Payload))})
	case time.Since(d.Received) > freshTime:
		b.failed(entity, "", "", &client.CommandError{Code: client.CodeTimeout, Message: "it came too late to be begun"})
	default:
		return string(d.Message.Payload), true
	}
	return "", false
}

// steer sends a command to the mower's service. The latest counts: one that runs is cancelled, and nothing overtakes anything.
func (b *Bridge) steer(_ context.Context, d *client.Delivery) {
	wish, ok := b.readCommand(entityMower, d)
	if !ok {
		return
	}
	name, known := map[string]string{"start_mowing": b.o.StartCommand, "pause": b.o.PauseCommand, "dock": b.o.DockCommand}[wish]
	if !known {
		b.failed(entityMower, wish, b.o.MowerService, &client.CommandError{Code: client.CodeUnknownCommand, Message: "want start_mowing, pause or dock"})
		return
	}
	b.do(entityMower, name, b.o.MowerService, true, func(ctx context.Context) error {
		return b.svc.Call(ctx, b.o.MowerService, name, nil, nil)
	})
}

// pressed returns the handler of a button.
func (b *Bridge) pressed(entity string, do func(context.Context) error) func(context.Context, *client.Delivery) {
	return func(_ context.Context, d *client.Delivery) {
		wish, ok := b.readCommand(entity, d)
		switch {
		case !ok:
		case wish != press:
			b.failed(entity, wish, "", &client.CommandError{Code: client.CodeUnknownCommand, Message: "want " + press})
		default:
			b.do(entity, entity, "", false, do)
		}
	}
}

// errOvertaken is why a command was cancelled.
var errOvertaken = errors.New("overtaken by another command")

// A run is a command that runs.
type run struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it has ended
}

// do runs a command beside the others, and tells Home Assistant how it ended. One that steers ends the one before that did, and begins
// when that has ended.
func (b *Bridge) do(entity, command, target string, steers bool, f func(context.Context) error) {
	ctx, cancel := context.WithCancelCause(b.ctx)
	r := &run{cancel, make(chan struct{})}
	b.mu.Lock()
	if b.ended || b.busy >= 2*maxBusy || b.busy >= maxBusy && !steers {
		b.mu.Unlock()
		cancel(nil)
		b.failed(entity, command, target, &client.CommandError{Code: client.CodeRefused, Message: "too many commands at once"})
		return
	}
	defer b.mu.Unlock() // Stop does not wait before this is begun
	var before *run
	if steers {
		if before, b.steering = b.steering, r; before != nil {
			before.cancel(errOvertaken)
		}
	}
	b.busy++
	b.work.Go(func() {
		defer cancel(nil)
		if before != nil {
			<-before.done
		}
		err := b.run(ctx, f)
		b.mu.Lock()
		b.busy--
		b.mu.Unlock()
		close(r.done)
		switch {
		case b.ctx.Err() != nil:
		case err != nil:
			b.failed(entity, command, target, err)
		default:
			b.tell(entityCommand, object{"event_type": "succeeded", "entity": entity, "command": command, "target": target})
		}
	})
}

// run runs f within the time that a command has.
func (b *Bridge) run(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	err := context.Cause(ctx)
	if err == nil {
		err = f(ctx)
	}
	if errors.Is(context.Cause(ctx), errOvertaken) && err != nil {
		return &client.CommandError{Code: client.CodeCancelled, Message: errOvertaken.Error()}
	}
	return err
}

// acknowledge acknowledges all alerts that stand.
func (b *Bridge) acknowledge(ctx context.Context) error {
	var errs []error
	b.mu.Lock()
	var open []string
	for kind, a := range b.alerts {
		if !a.Acknowledged {
			open = append(open, kind)
		}
	}
	b.mu.Unlock()
	slices.Sort(open)
	for _, kind := range open {
		if err := b.svc.AckAlert(ctx, kind); err != nil && !errors.Is(err, service.ErrNoAlert) {
			errs = append(errs, fmt.Errorf("alert %s: %w", kind, err))
		}
	}
	return errors.Join(errs...)
}

// engage engages the emergency stop, whatever is sent: a stop must not fail for its text.
func (b *Bridge) engage(ctx context.Context, _ *client.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, engageTime)
	defer cancel()
	if err := b.latch.Engage(ctx, "STOP, from Home Assistant"); err != nil {
		b.log.Error("the emergency stop was engaged from Home Assistant, but may not have reached everybody: it is said again", "error", err)
		b.failed(entityEngage, entityEngage, "", err)
		return
	}
	b.tell(entityCommand, object{"event_type": "succeeded", "entity": entityEngage, "command": entityEngage, "target": ""})
}

// failed tells Home Assistant that a command has failed, and why.
func (b *Bridge) failed(entity, command, target string, err error) {
	code, reason := "failed", err.Error()
	if said := (*client.CommandError)(nil); errors.As(err, &said) {
		code, reason = said.Code, cmp.Or(said.Message, reason)
	}
	b.log.Warn("a command from Home Assistant failed", "entity", entity, "command", strings.ToValidUTF8(command, "?"), "code", code, "reason", reason)
	b.tell(entityCommand, object{
		"event_type": "failed", "entity": entity, "command": speakable(command), "target": target, "code": code, "reason": speakable(reason),
	})
}
