package safety

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// Engage engages the emergency stop for a program without a latch, such as a command line. by is who does, as others see it; "" is the
// client's id. When it returns nil the broker has it, and id names the engagement: see [Confirmed]. Unlike [Latch.Engage] it says it
// once.
func Engage(ctx context.Context, c *client.Client, by, reason string) (id string, err error) {
	if by == "" {
		by = c.ID()
	}
	m, err := engagement(by, reason, time.Now(), 0)
	if err != nil {
		return "", fmt.Errorf("emergency stop: %w", err)
	}
	m.Metadata.Sender = c.ID()
	r := c.PublishAsync(stopTopic, m, client.WithRetain(true), client.Unlimited())
	if err := r.Wait(ctx); err != nil {
		return "", fmt.Errorf("emergency stop: %w", err)
	}
	return m.Metadata.ID, nil
}

// Confirmed asks the hub whether it has taken in an engagement.
func Confirmed(ctx context.Context, c Caller, id string) (bool, error) {
	var a confirmAnswer
	if err := c.Call(ctx, HubID, commandConfirm, confirmQuery{Heard: []string{id}}, &a, client.Unannounced()); err != nil {
		return false, err
	}
	return slices.Contains(a.Known, id), nil
}

// Release asks the hub to release the emergency stop, whose state with that sequence number the caller has seen, in the name of by. When it
// returns nil it is released, and that outlives a crash. Otherwise the error says why not: a *[client.CommandError] with the code refused
// names all reasons.
func Release(ctx context.Context, c Caller, by string, sequence uint64) error {
	return c.Call(ctx, HubID, commandRelease, releaseQuery{Sequence: sequence, By: by}, nil, client.Unannounced())
}
