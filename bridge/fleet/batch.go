package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/message"
)

const (
	compressAbove = 1000     // bytes
	batchBytes    = 64 << 10 // of a batch, before it is compressed: it is sealed then
	batchCount    = 1000     // messages, likewise
	openBytes     = 8 << 20  // in all batches that are not sealed; beyond it each message is a batch
)

// Batches collect telemetry by topic until it is sealed. Their methods may be called concurrently.
type batches struct {
	interval time.Duration

	mu    sync.Mutex // guards the fields below
	open  map[string]*batch
	bytes int // in them
}

// A batch is lines as fleet.HeaderBatch says.
type batch struct {
	lines   []byte
	count   int
	arrival time.Time // of the first
	opened  time.Time // by the clock that nobody sets
}

func newBatches(interval time.Duration) *batches {
	return &batches{interval: interval, open: map[string]*batch{}}
}

// add adds a message, and returns a batch of the topic that is full, nil if there is none.
func (b *batches) add(topic string, body []byte, arrival time.Time) (full *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.open[topic]
	if x != nil && len(x.lines)+len(body) > batchBytes { // if this one is too large for the engine, it takes none of the others with it
		full = b.take(topic, x)
		x = nil
	}
	if x == nil {
		x = &batch{arrival: arrival, opened: time.Now()}
		b.open[topic] = x
	}
	before := len(x.lines)
	x.lines = appendLine(x.lines, body, arrival)
	b.bytes += len(x.lines) - before
	x.count++
	if full != nil || len(x.lines) < batchBytes && x.count < batchCount && b.bytes < openBytes {
		return full
	}
	return b.take(topic, x)
}

// take seals a batch, and takes it out. mu is held.
func (b *batches) take(topic string, x *batch) *record {
	delete(b.open, topic)
	b.bytes -= len(x.lines)
	return x.seal(topic)
}

// due returns the batches that have waited long enough, or all.
func (b *batches) due(all bool) (sealed []*record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for topic, x := range b.open {
		if all || time.Since(x.opened) >= b.interval {
			sealed = append(sealed, b.take(topic, x))
		}
	}
	return sealed
}

// waiting returns how many messages are in no sealed batch.
func (b *batches) waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.open {
		n += x.count
	}
	return n
}

func (x *batch) seal(topic string) *record {
	r := &record{topic: topic, class: fleet.Telemetry, id: uuid.NewString(), body: x.lines, count: x.count, batch: true, arrival: x.arrival}
	r.compress()
	return r
}

// appendLine appends a message: what is no JSON as text, and what is no text as base64.
func appendLine(lines, body []byte, arrival time.Time) []byte {
	lines = append(lines, `{"t":`...)
	lines = strconv.AppendFloat(lines, float64(arrival.UnixMicro())/1e6, 'f', -1, 64)
	lines = append(lines, `,"m":`...)
	switch {
	case len(body) == 0:
		lines = append(lines, "null"...)
	case json.Valid(body):
		if bytes.ContainsAny(body, "\n\r") {
			var b bytes.Buffer
			_ = json.Compact(&b, body) // it is valid
			body = b.Bytes()
		}
		lines = append(lines, body...)
	case utf8.Valid(body):
		text, _ := json.Marshal(string(body)) // a text can be encoded
		lines = append(lines, text...)
	default:
		text, _ := json.Marshal(map[string]string{"base64": base64.StdEncoding.EncodeToString(body)})
		lines = append(lines, text...)
	}
	return append(lines, '}', '\n')
}

// compress has the body compressed if that is worth it.
func (r *record) compress() {
	if len(r.body) <= compressAbove {
		return
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(r.body)
	if err != nil || w.Close() != nil || b.Len() >= len(r.body) { // a buffer takes all
		return
	}
	r.body, r.gzip = b.Bytes(), true
}

// recordID returns the id of a message's record, by which repetitions are known: the message's, if nobody else can have it. Others have one
// that follows from all that is in the message, and what has no envelope has one of its own.
func recordID(topic string, m *message.Message, body []byte) string {
	if m.Raw {
		return uuid.NewString()
	}
	if id, err := uuid.Parse(m.Metadata.ID); err == nil && len(m.Metadata.ID) == 36 {
		return id.String()
	}
	sum := sha256.Sum256(append([]byte(topic+"\x00"), body...))
	return hex.EncodeToString(sum[:16])
}

// otherID is the id of the record of a message whose id another record has, that of another topic. Like any it never changes.
func otherID(topic, id string) string {
	sum := sha256.Sum256([]byte(topic + "\x00" + id))
	return hex.EncodeToString(sum[:16])
}
