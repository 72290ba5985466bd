package broker

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/internal/store"
)

// The keys of the store. All that belongs to one session lies together, below a number that is never used again.
//
//	C                       the anchor of the clock
//	R topic                 a retained message
//	S number f filter       a subscription
//	S number h              the session itself: client id, expiry, since when it is without a connection
//	S number i id           the packet identifier of a QoS 2 message from the client, before PUBREL
//	S number p id           the packet identifier of a QoS 2 message to the client, after PUBREC
//	S number q order        a QoS 1 or 2 message to the client, until it is acknowledged (QoS 2: until PUBREC)
//	S number w              the Will
//	S number x              how far the queue has been sent
//	V                       the version of this format
var (
	clockKey   = []byte("C")
	versionKey = []byte("V")
)

const (
	retainedPrefix = 'R'
	sessionPrefix  = 'S'
	formatVersion  = 1
)

const (
	recordSubscription = 'f'
	recordHead         = 'h'
	recordInbound      = 'i'
	recordRelease      = 'p'
	recordItem         = 'q'
	recordWill         = 'w'
	recordSent         = 'x'
)

func sessionKey(dst []byte, number uint64, kind byte) []byte {
	dst = append(dst, sessionPrefix)
	dst = binary.BigEndian.AppendUint64(dst, number)
	return append(dst, kind)
}

// sessionRange returns the keys between which all of a session lies.
func sessionRange(number uint64) (from, to []byte) {
	from = binary.BigEndian.AppendUint64([]byte{sessionPrefix}, number)
	return from, binary.BigEndian.AppendUint64([]byte{sessionPrefix}, number+1)
}

// An op is one change of what is stored.
type op struct {
	kind    opKind
	session uint64
	order   uint64 // of an item
	id      uint16 // packet identifier
	item    item
	text    string // filter
	value   []byte
	sent    *session
	owed    bool // it is kept for the next attempt when it cannot be stored, though it is a message
}

type opKind uint8

const (
	opNone opKind = iota
	putItem
	deleteItem
	putInbound
	deleteInbound
	putRelease
	deleteRelease
	putSubscription
	deleteSubscription
	putHead
	putWill
	deleteWill
	putSent
	deleteSession
)

// A recordWriter turns changes into records, in a batch or in what is carried over after a failure.
type recordWriter struct {
	batch      *store.Batch
	carry      map[string][]byte
	key, value []byte // for use again
}

func (w *recordWriter) set(key, value []byte) {
	if w.batch != nil {
		w.batch.Set(key, value)
	} else {
		w.carry[string(key)] = append([]byte{}, value...)
	}
}

func (w *recordWriter) remove(key []byte) {
	if w.batch != nil {
		w.batch.Delete(key)
	} else {
		w.carry[string(key)] = nil
	}
}

func (w *recordWriter) retained(topic string, m *message) {
	w.key = append(append(w.key[:0], retainedPrefix), topic...)
	if m == nil {
		w.remove(w.key)
		return
	}
	w.value = appendMessage(append(w.value[:0], m.qos), m)
	w.set(w.key, w.value)
}

func (o *op) write(w *recordWriter) {
	key := func(kind byte) { w.key = sessionKey(w.key[:0], o.session, kind) }
	byID := func(kind byte) { key(kind); w.key = binary.BigEndian.AppendUint16(w.key, o.id) }
	switch o.kind {
	case putItem:
		key(recordItem)
		w.key = binary.BigEndian.AppendUint64(w.key, o.item.order)
		w.value = appendItem(w.value[:0], &o.item)
		w.set(w.key, w.value)
	case deleteItem:
		key(recordItem)
		w.key = binary.BigEndian.AppendUint64(w.key, o.order)
		w.remove(w.key)
	case putInbound:
		byID(recordInbound)
		w.set(w.key, nil)
	case deleteInbound:
		byID(recordInbound)
		w.remove(w.key)
	case putRelease:
		byID(recordRelease)
		w.set(w.key, binary.BigEndian.AppendUint64(w.value[:0], o.order))
	case deleteRelease:
		byID(recordRelease)
		w.remove(w.key)
	case putSubscription:
		key(recordSubscription)
		w.key = append(w.key, o.text...)
		w.set(w.key, o.value)
	case deleteSubscription:
		key(recordSubscription)
		w.key = append(w.key, o.text...)
		w.remove(w.key)
	case putHead:
		key(recordHead)
		w.set(w.key, o.value)
	case putWill:
		key(recordWill)
		w.set(w.key, o.value)
	case deleteWill:
		key(recordWill)
		w.remove(w.key)
	case putSent:
		o.sent.mu.Lock()
		marks, idle := o.sent.sent, o.sent.window.count == 0
		o.sent.mu.Unlock()
		if idle { // nothing that was sent is left to be sent again
			return
		}
		key(recordSent)
		w.value = binary.BigEndian.AppendUint64(w.value[:0], marks[0])
		w.set(w.key, binary.BigEndian.AppendUint64(w.value, marks[1]))
	case deleteSession:
		if w.batch != nil {
			from, to := sessionRange(o.session)
			w.batch.DeleteRange(from, to)
			return
		}
		from, _ := sessionRange(o.session)
		for key := range w.carry {
			if strings.HasPrefix(key, string(from)) {
				delete(w.carry, key)
			}
		}
	}
}

// appendMessage appends all of m but its quality of service.
func appendMessage(dst []byte, m *message) []byte {
	dst = binary.AppendVarint(dst, m.expires)
	dst = appendText(dst, m.topic)
	dst = binary.AppendUvarint(dst, uint64(len(m.props)))
	dst = append(dst, m.props...)
	return append(dst, m.payload...)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// The bits of an item's first byte, beside its quality of service in the lowest two.
const (
	itemRetain = 1 << (2 + iota)
	itemStored
	itemUrgent
)

func appendItem(dst []byte, it *item) []byte {
	first := it.qos
	if it.retain {
		first |= itemRetain
	}
	if it.stored {
		first |= itemStored
	}
	if it.message.urgent {
		first |= itemUrgent
	}
	dst = append(dst, first)
	dst = binary.BigEndian.AppendUint16(dst, it.id)
	dst = binary.AppendUvarint(dst, uint64(len(it.delivery.ids)))
	for _, id := range it.delivery.ids {
		dst = binary.AppendUvarint(dst, uint64(id))
	}
	shared := ""
	if it.delivery.group != nil {
		shared = it.delivery.group.filter
	}
	dst = appendText(dst, shared)
	return appendMessage(append(dst, it.message.qos), it.message)
}

func appendSubscription(dst []byte, sub *subscription, replay bool) []byte {
	flags := sub.qos
	if sub.noLocal {
		flags |= 1 << 2
	}
	if sub.asPublish {
		flags |= 1 << 3
	}
	if replay {
		flags |= 1 << 4
	}
	return binary.AppendUvarint(append(dst, flags), uint64(sub.id))
}

// A head is the record of a session itself.
type head struct {
	client string
	owner  string // the user whose it is; "" is nobody's in particular
	expiry time.Duration
	away   int64 // since when there is no connection, on the broker's clock; online is while there is one
}

const online = -1

func (h *head) append(dst []byte) []byte {
	dst = binary.AppendVarint(dst, int64(h.expiry))
	dst = binary.AppendVarint(dst, h.away)
	dst = append(dst, h.client...)
	if h.owner != "" { // no client id has a zero in it [MQTT-1.5.4-2]
		dst = append(append(dst, 0), h.owner...)
	}
	return dst
}

func appendWill(dst []byte, w *will) []byte {
	flags := w.message.qos
	if w.message.retain {
		flags |= 1 << 2
	}
	if w.expiry.OK {
		flags |= 1 << 3
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(dst, uint64(w.expiry.V))
	dst = binary.AppendVarint(dst, int64(w.delay))
	return appendMessage(dst, &w.message)
}

// A recordReader takes a record apart. After the first mistake it yields zeros.
type recordReader struct {
	rest []byte
	bad  bool
}

func (r *recordReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *recordReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *recordReader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *recordReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return v
}

func (r *recordReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return v
}

func (r *recordReader) text() string { return string(r.take(r.uvarint())) }

func (r *recordReader) message(qos byte) *message {
	m := &message{qos: qos, expires: r.varint(), topic: r.text()}
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return m
	}
	body := append([]byte{}, r.take(uint64(len(r.rest)))...)
	m.props, m.payload = body[:n:n], body[n:]
	if qos > 2 || m.topic == "" {
		r.bad = true
	}
	return m
}

// item reads an item but for its order and its session. shared is the filter of the shared subscription it came through.
func (r *recordReader) item() (it item, shared string) {
	first := r.byte()
	it.qos = first & 3
	it.retain = first&itemRetain != 0
	it.stored = first&itemStored != 0
	it.id = r.uint16()
	it.delivery = &delivery{qos: it.qos}
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return it, ""
	}
	for range n {
		it.delivery.ids = append(it.delivery.ids, uint32(r.uvarint()))
	}
	shared = r.text()
	it.message = r.message(r.byte())
	it.message.urgent = first&itemUrgent != 0
	if it.qos == 0 || it.qos > 2 || it.id == 0 {
		r.bad = true
	}
	return it, shared
}

func (r *recordReader) subscription() (sub *subscription, replay bool) {
	flags := r.byte()
	sub = &subscription{qos: flags & 3, noLocal: flags&(1<<2) != 0, asPublish: flags&(1<<3) != 0, id: uint32(r.uvarint())}
	if sub.qos > 2 {
		r.bad = true
	}
	return sub, flags&(1<<4) != 0
}

func (r *recordReader) head() head {
	h := head{expiry: time.Duration(r.varint()), away: r.varint()}
	h.client, h.owner, _ = strings.Cut(string(r.rest), "\x00")
	if h.expiry <= 0 || h.client == "" {
		r.bad = true
	}
	return h
}

func (r *recordReader) will() *will {
	flags := r.byte()
	w := &will{}
	if v := r.uvarint(); flags&(1<<3) != 0 {
		w.expiry = packet.Some(uint32(v))
	}
	w.delay = time.Duration(r.varint())
	w.message = *r.message(flags & 3)
	w.message.retain = flags&(1<<2) != 0
	return w
}
