package fleettest

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// Setup makes the streams and buckets of a fleet, with so many replicas, and a presence that expires after ttl.
func Setup(ctx context.Context, js jetstream.JetStream, replicas int, ttl time.Duration) error {
	streams, err := fleet.Streams(fleet.Limits{Mowers: 100}, replicas)
	if err != nil {
		return err
	}
	for _, c := range streams {
		if c.Name == "KV_"+fleet.BucketPresence {
			c.MaxAge, c.Duplicates = ttl, min(c.Duplicates, ttl)
		}
		if _, err := js.CreateOrUpdateStream(ctx, c); err != nil {
			return fmt.Errorf("stream %s: %w", c.Name, err)
		}
	}
	return nil
}
