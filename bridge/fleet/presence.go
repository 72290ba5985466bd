package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/service"
)

const (
	presenceTime = 5 * time.Second // for an acknowledgement
	longAway     = time.Hour       // without the engine, until the service says so
)

// keepPresence says that the mower is there, until ctx ends: when the engine is reached, and every third of the time to live.
func (u *Uplink) keepPresence(ctx context.Context, again <-chan struct{}) {
	every := time.NewTicker(u.presenceEvery)
	defer every.Stop()
	for {
		if since, ok := u.engine.connected(); ok {
			if err := u.sayPresence(ctx, since); err != nil && ctx.Err() == nil {
				u.log.Debug("the fleet does not hear that the mower is there", "error", err)
			}
		}
		select {
		case <-every.C:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

func (u *Uplink) sayPresence(ctx context.Context, since time.Time) error {
	state := u.box.state.Load()
	p := fleet.Presence{
		Mower: u.o.Mower, Version: u.o.Version, Since: since, Time: time.Now(), Backlog: state.backlog, Lost: state.losses, Session: u.session,
		Commands: u.o.Down, Unsigned: u.o.Unsigned, Interval: u.presenceEvery.Seconds(),
	}
	if p.Commands == nil {
		p.Commands = []string{}
	}
	if d := u.down; d != nil {
		p.Malformed = d.malformed.Load()
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, presenceTime)
	defer cancel()
	return u.engine.present(ctx, text)
}

// keepBox seals batches, writes what waits to be written, and tells the fleet what was lost, until ctx ends.
func (u *Uplink) keepBox(ctx context.Context) {
	every := time.NewTicker(deletionsLag)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		u.seal(false)
		_, there := u.engine.connected()
		_ = u.box.tick(there) // it is logged, and tried again
		if there {
			u.tellLosses()
		}
		u.sayState(there)
	}
}

// seal puts batches into the outbox that have waited long enough, or all.
func (u *Uplink) seal(all bool) {
	if sealed := u.batches.due(all); len(sealed) > 0 {
		_ = u.box.add(sealed...) // telemetry is not written at once
	}
}

// tellLosses tells the fleet what was lost since it was told last, at most every minute.
func (u *Uplink) tellLosses() {
	if time.Since(u.toldLosses) < u.lossesEvery {
		return
	}
	losses, err := u.box.report(func(l fleet.Losses) *record {
		text, err := json.Marshal(l)
		if err != nil {
			text = []byte("{}") // no time that a Loss has cannot be encoded
		}
		return &record{topic: fleet.OwnLosses, class: fleet.Event, id: uuid.NewString(), body: text, count: 1, arrival: time.Now()}
	})
	if losses == nil {
		return
	}
	u.toldLosses = time.Now()
	attributes := []any{}
	for class, l := range losses {
		attributes = append(attributes, string(class), l.Count)
	}
	if err != nil {
		attributes = append(attributes, "error", err)
	}
	u.log.Warn("history was lost, the fleet is told", attributes...)
}

// sayState has the service degraded while something is wrong that a person can do something about. That the engine is away for a while is nothing
// wrong: a mower is whole without it.
func (u *Uplink) sayState(there bool) {
	if there || u.lastThere.IsZero() {
		u.lastThere = time.Now()
	}
	state, reason := service.Healthy, ""
	box := u.box.state.Load()
	switch refused := u.history.refused.Load(); {
	case box.failed != nil:
		state, reason = service.Degraded, fmt.Sprintf("the outbox of the fleet cannot be written: %v", box.failed)
	case refused > 0:
		state, reason = service.Degraded, fmt.Sprintf("the engine of the fleet does not take %d topics, see the log", refused)
	case time.Since(u.lastThere) > longAway:
		state, reason = service.Degraded, fmt.Sprintf("the engine of the fleet was not reached for %v, %d messages wait",
			time.Since(u.lastThere).Round(time.Minute), box.backlog.Records)
	}
	u.svc.SetState(state, reason)
}
