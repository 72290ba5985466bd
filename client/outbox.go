package client

import (
	"fmt"

	"github.com/lawnberry/lawnberry/topic"
)

// undefined is the class of topics that nobody defined.
const undefined = topic.Safety + 1

const classes = int(undefined) + 1

// A lane is a queue of the outbox; a lower lane goes first.
type lane uint8

const (
	birthLane  lane = iota // what Birth publishes; sent before the client is ready
	safetyLane             // overtakes everything but Birth
	mainLane
	lanes
)

// An outbox holds the publications that have not been sent yet: in order per lane, bounded per class. It belongs to a
// Client, whose mu guards it.
type outbox struct {
	bound  Queue
	lanes  [lanes]list
	count  [classes]int
	topics map[string]int // how many of class State wait, by topic
}

func newOutbox(bound Queue) *outbox { return &outbox{bound: bound, topics: make(map[string]int)} }

func (o *outbox) len() int {
	n := 0
	for i := range o.lanes {
		n += o.lanes[i].n
	}
	return n
}

func (p *publication) lane() lane {
	switch {
	case p.birth:
		return birthLane
	case p.class == topic.Safety:
		return safetyLane
	}
	return mainLane
}

// full reports whether p's class has no room.
func (o *outbox) full(p *publication) bool {
	return p.lane() == mainLane && o.count[p.class] >= o.bound.Max
}

// policy is what happens to one more of a full class.
func (o *outbox) policy(class topic.Class) Overflow {
	if o.bound.Full != ByClass {
		return o.bound.Full
	}
	switch class {
	case topic.Sensor, topic.Event:
		return DropOldest
	case topic.State:
		return Latest
	}
	return Refuse
}

// makeRoom applies the policy of a full class: it takes out what p displaces, if there is such, or refuses p. What the broker may
// have under its identifier is not displaced.
func (o *outbox) makeRoom(p *publication) (displaced *publication, err error) {
	switch o.policy(p.class) {
	case DropOldest:
		displaced = o.oldest(p.class)
	case Latest:
		displaced = o.superseded(p.class, p.topic)
	default:
		return nil, fmt.Errorf("%w: %d messages of class %s wait for the broker", ErrFull, o.count[p.class], className(p.class))
	}
	if displaced != nil {
		o.remove(displaced)
	}
	return displaced, nil
}

func className(c topic.Class) string {
	if c == undefined {
		return "undefined"
	}
	return c.String()
}

func (o *outbox) oldest(class topic.Class) *publication {
	for p := o.lanes[mainLane].head; p != nil; p = p.next {
		if p.class == class && !p.again {
			return p
		}
	}
	return nil
}

// superseded returns what can go when a newer message for name comes: an older one for the same topic, else one of any
// topic with a newer one behind it, else the oldest.
func (o *outbox) superseded(class topic.Class, name string) *publication {
	var other *publication
	for p := o.lanes[mainLane].head; p != nil; p = p.next {
		if p.class != class || p.again {
			continue
		}
		if p.topic == name {
			return p
		}
		if other == nil && o.topics[p.topic] > 1 {
			other = p
		}
	}
	if other == nil {
		other = o.oldest(class)
	}
	return other
}

func (o *outbox) add(p *publication) {
	o.lanes[p.lane()].pushBack(p)
	o.counted(p, 1)
}

// unpop puts p back where it came from, ahead of all others. The bound does not apply: it was accepted already.
func (o *outbox) unpop(p *publication) {
	o.lanes[p.lane()].pushFront(p)
	o.counted(p, 1)
}

func (o *outbox) remove(p *publication) {
	o.lanes[p.lane()].remove(p)
	o.counted(p, -1)
}

func (o *outbox) counted(p *publication, n int) {
	p.queued = n > 0
	if p.lane() == birthLane {
		return
	}
	o.count[p.class] += n
	if p.class != topic.State {
		return
	}
	if o.topics[p.topic] += n; o.topics[p.topic] == 0 {
		delete(o.topics, p.topic)
	}
}

// A list is a doubly linked list of publications; a publication is in one list at most.
type list struct {
	head, tail *publication
	n          int
}

func (l *list) pushBack(p *publication) {
	p.prev, p.next = l.tail, nil
	if l.tail == nil {
		l.head = p
	} else {
		l.tail.next = p
	}
	l.tail = p
	l.n++
}

func (l *list) pushFront(p *publication) {
	p.prev, p.next = nil, l.head
	if l.head == nil {
		l.tail = p
	} else {
		l.head.prev = p
	}
	l.head = p
	l.n++
}

func (l *list) remove(p *publication) {
	if p.prev == nil {
		l.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		l.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	l.n--
}
