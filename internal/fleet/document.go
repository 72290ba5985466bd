package fleet

import (
	"encoding/json"
	"time"
)

// Headers of messages at a NATS engine; at an MQTT engine they are user properties. Besides, a history record has Nats-Msg-Id (NATS) or
// message-id (MQTT): the message_id of its envelope, or of a batch what the uplink made of those.
const (
	HeaderBatch    = "Lawnberry-Batch"  // how many messages the record holds: each a line of JSON {"t": Unix seconds of arrival, "m": the message; one that is no JSON as text, or else {"base64": …}}
	HeaderOrigin   = "Lawnberry-Origin" // the mower that it comes from
	HeaderHops     = "Lawnberry-Hops"   // how many bridges it has passed
	HeaderEncoding = "Content-Encoding" // gzip, of the whole body; absent when it is as it is

	// Of a command or job. The value of a signature is base64, and what is signed is described in docs/security.md; the topic in it is
	// that of [CommandTopic] or [JobTopic], whatever the engine.
	HeaderSignature = "Lawnberry-Signature"
	HeaderAlgorithm = "Lawnberry-Signature-Algorithm"
	HeaderKey       = "Lawnberry-Signature-Key"

	// HeaderCode is the code of a failed command in its answer, one of package client's Code constants or of CodeForbidden and its like.
	HeaderCode = "Lawnberry-Code"
)

// A Presence is what a mower says about its uplink, every third of the time to live of what it says. A mower without one is offline.
type Presence struct {
	Mower     string    `json:"mower"`
	Version   string    `json:"version"`   // of lawnberry
	Since     time.Time `json:"since"`     // this connection
	Time      time.Time `json:"time"`      // this document
	Backlog   Backlog   `json:"backlog"`   // history that waits
	Lost      Losses    `json:"lost"`      // of this outbox, ever
	Session   string    `json:"session"`   // differs with each start of the uplink
	Commands  []string  `json:"commands"`  // that the fleet may send, as integration.fleet.down has them
	Unsigned  bool      `json:"unsigned"`  // commands need no signature
	Interval  float64   `json:"interval"`  // seconds to the next document at most
	Malformed uint64    `json:"malformed"` // commands and jobs that could not be read
}

// A Backlog is what waits in an outbox.
type Backlog struct {
	Records int64           `json:"records"` // messages
	Bytes   int64           `json:"bytes"`
	Oldest  *time.Time      `json:"oldest"` // arrival of the oldest; null without any
	ByClass map[Class]int64 `json:"by_class,omitempty"`
}

// Losses are messages of the history that the fleet will never get, by class.
type Losses map[Class]Loss

// A Loss is how many messages of a class were dropped, and when they had arrived.
type Loss struct {
	Count uint64    `json:"count"`
	First time.Time `json:"first"` // arrival of the oldest and the newest of them
	Last  time.Time `json:"last"`
	Why   string    `json:"why"` // of the latest: "age", "bytes", "disk", "size" (too large for the engine) or "topics" (too many of them)
}

// A JobEnd is how a job ended: the record of [OwnJobs].
type JobEnd struct {
	Job      string          `json:"job"` // message_id of the command
	Operator string          `json:"operator"`
	Service  string          `json:"service"`
	Command  string          `json:"command"`
	Time     time.Time       `json:"time"`
	Success  bool            `json:"success"`
	Result   json.RawMessage `json:"result,omitempty"`
	Code     string          `json:"code,omitempty"` // of a failure
	Error    string          `json:"error,omitempty"`
}

// Codes of answers that the uplink gives itself, beside those of package client.
const (
	CodeForbidden = "forbidden" // not in the mower's list, or a command that the fleet can never give, such as a release
	CodeSignature = "signature" // missing, by a key that is not known, or wrong
	CodeOffline   = "offline"   // no uplink of the mower is there
	CodeUnknown   = "unknown"   // the command may have run: the uplink was restarted while it did
)

// The emergency stop: [StopService] takes the command [StopCommand] from every operator, signed or not, and no other.
const (
	StopService = "emergency_stop"
	StopCommand = "engage" // parameters: {"reason": text}
)
