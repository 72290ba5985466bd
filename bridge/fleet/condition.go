package fleet

import (
	"context"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/service"
)

// CommandCondition is the command of the service on the mower's bus that answers with its [Condition].
const CommandCondition = "uplink"

// A Condition is how an uplink is, for somebody on the mower who looks for what is wrong.
type Condition struct {
	Connected bool          `json:"connected" doc:"to the engine"`
	Since     *time.Time    `json:"since" doc:"of the connection; null without one"`
	Refused   int           `json:"refused_topics" doc:"topics that the engine does not take"`
	Backlog   fleet.Backlog `json:"backlog" doc:"history that waits"`
	Lost      fleet.Losses  `json:"lost" doc:"of this outbox, ever, by class"`
	Disk      string        `json:"disk" doc:"why the outbox cannot be written; empty when it can"`
}

// serveCondition answers CommandCondition.
func (u *Uplink) serveCondition() {
	service.Handle(u.svc, CommandCondition, func(context.Context, struct{}) (Condition, error) {
		s := u.Stats()
		c := Condition{Connected: s.Connected, Refused: s.Refused, Backlog: s.Backlog, Lost: s.Lost}
		if s.Connected {
			c.Since = &s.Since
		}
		if c.Lost == nil {
			c.Lost = fleet.Losses{}
		}
		if s.Disk != nil {
			c.Disk = s.Disk.Error()
		}
		return c, nil
	}, service.Description("Tells how the uplink to the fleet is: its connection, what waits, and what was lost."), service.Repeatable())
}
