package fleet

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Of a consumer of jobs.
const (
	JobAckWait = 30 * time.Second // in which the mower says that it is still at a job
	MaxJobs    = 16               // that a mower has taken and not ended
)

// JobConsumer is the consumer of a mower's jobs in [StreamJobs]. Where mowers are enrolled it is made for them (package enrol), and they may not change
// it; elsewhere the uplink makes it.
func JobConsumer(mower string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: mower, FilterSubject: JobFilter(mower),
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: JobAckWait, MaxAckPending: MaxJobs,
	}
}
