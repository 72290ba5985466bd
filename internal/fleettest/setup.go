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
	for name, subjects := range map[string][]string{
		fleet.StreamAlerts:    {"lawnberry.*.safety.>", "lawnberry.*.weather.alerts"},
		fleet.StreamEvents:    {"lawnberry.*.system.events.>", "lawnberry.*.system.logs.>", "lawnberry.*.fleet.>"},
		fleet.StreamTelemetry: {"lawnberry.*.navigation.>", "lawnberry.*.power.>", "lawnberry.*.sensors.>", "lawnberry.*.weather.current", "lawnberry.*.system.health"},
		fleet.StreamJobs:      {"lawnberry.*.jobs.>"},
	} {
		c := jetstream.StreamConfig{Name: name, Subjects: subjects, Replicas: replicas, AllowDirect: true, Duplicates: 2 * time.Minute}
		if name == fleet.StreamJobs {
			c.Retention = jetstream.WorkQueuePolicy
		}
		if _, err := js.CreateOrUpdateStream(ctx, c); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	for name, life := range map[string]time.Duration{fleet.BucketState: 0, fleet.BucketPresence: ttl} {
		c := jetstream.KeyValueConfig{Bucket: name, Replicas: replicas, TTL: life}
		if life > 0 {
			c.LimitMarkerTTL = time.Minute
		}
		if _, err := js.CreateOrUpdateKeyValue(ctx, c); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}
