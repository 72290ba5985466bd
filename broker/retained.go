package broker

import (
	"hash/maphash"
	"strings"
	"sync"
)

// retained holds the retained message of each topic in a tree of levels.
//
// A topic's stripe is held while its retained message changes and the change is fanned out, and while the retained
// message is queued for a new subscriber. So a subscriber sees a topic's states in one order, and never an older one
// after a newer one.
type retained struct {
	seed    maphash.Seed
	stripes [64]sync.Mutex

	mu    sync.RWMutex // guards what follows
	root  retainedNode
	count int // of clients' messages; the broker's own below $SYS come on top
	bytes int
	size  int // what they are reckoned to take: their bytes, and the nodes
}

// retainedNodeSize is what a level of a retained message's topic is reckoned to take, bytes.
const retainedNodeSize = 256

type retainedNode struct {
	message  *message
	children map[string]*retainedNode
}

func (r *retained) stripe(topic string) *sync.Mutex {
	return &r.stripes[maphash.String(r.seed, topic)%uint64(len(r.stripes))]
}

// get returns the retained message of a topic, or nil. An expired one is nil.
func (r *retained) get(topic string, now int64) *message {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := &r.root
	for level := range strings.SplitSeq(topic, "/") {
		if n = n.children[level]; n == nil {
			return nil
		}
	}
	if n.message == nil || n.message.expires <= now {
		return nil
	}
	return n.message
}

// set replaces the topic's retained message. It refuses a new topic when limit are stored, and any when there is no room in
// maxSize bytes.
func (r *retained) set(m *message, limit, maxSize int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := reserved(m.topic)
	full := !own && (r.count >= limit || r.size+m.size() > maxSize)
	n := &r.root
	for level := range strings.SplitSeq(m.topic, "/") {
		child := n.children[level]
		if child == nil {
			if full { // nothing of this topic was made yet
				return false
			}
			child = &retainedNode{}
			r.size += retainedNodeSize
			if n.children == nil {
				n.children = make(map[string]*retainedNode)
			}
			n.children[level] = child
		}
		n = child
	}
	if n.message == nil {
		if full {
			return false
		}
		if !own {
			r.count++
		}
	} else {
		if !own && r.size-n.message.size()+m.size() > maxSize {
			return false
		}
		r.bytes -= n.message.size()
		r.size -= n.message.size()
	}
	n.message = m
	r.bytes += m.size()
	r.size += m.size()
	return true
}

// remove deletes the topic's retained message and reports whether there was one; when is nil or the one that must still be
// there.
func (r *retained) remove(topic string, when *message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.root
	for level := range strings.SplitSeq(topic, "/") {
		if n = n.children[level]; n == nil {
			return false
		}
	}
	if n.message == nil || when != nil && n.message != when {
		return false
	}
	r.bytes -= n.message.size()
	r.size -= n.message.size()
	n.message = nil
	if !reserved(topic) {
		r.count--
	}
	r.prune(topic)
	return true
}

// prune removes the empty nodes on the way to topic. Caller holds mu.
func (r *retained) prune(topic string) {
	var descend func(n *retainedNode, rest string) (empty bool)
	descend = func(n *retainedNode, rest string) bool {
		level, tail, more := strings.Cut(rest, "/")
		if child := n.children[level]; child != nil {
			if !more || descend(child, tail) {
				if child.message == nil && len(child.children) == 0 {
					delete(n.children, level)
					r.size -= retainedNodeSize
				}
			}
		}
		return n.message == nil && len(n.children) == 0
	}
	descend(&r.root, topic)
}

// match appends the retained messages whose topic matches filter.
func (r *retained) match(list []*message, filter string) []*message {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root.match(list, filter, true)
}

func (n *retainedNode) match(list []*message, filter string, first bool) []*message {
	level, tail, more := strings.Cut(filter, "/")
	switch level {
	case "#":
		return n.all(list, first)
	case "+":
		for name, child := range n.children {
			if first && strings.HasPrefix(name, "$") {
				continue
			}
			list = child.step(list, tail, more)
		}
		return list
	}
	if child := n.children[level]; child != nil {
		list = child.step(list, tail, more)
	}
	return list
}

func (n *retainedNode) step(list []*message, tail string, more bool) []*message {
	if more {
		return n.match(list, tail, false)
	}
	if n.message != nil {
		list = append(list, n.message)
	}
	return list
}

// all appends n's own message and those below it, as "#" does; the levels that begin with $ are left out at the root.
func (n *retainedNode) all(list []*message, root bool) []*message {
	if n.message != nil {
		list = append(list, n.message)
	}
	for name, child := range n.children {
		if root && strings.HasPrefix(name, "$") {
			continue
		}
		list = child.all(list, false)
	}
	return list
}

// expired returns the retained messages whose expiry has passed.
func (r *retained) expired(now int64) (list []*message) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.root.each(func(m *message) {
		if m.expires <= now {
			list = append(list, m)
		}
	})
	return list
}

// each calls f for n's own message and those below it.
func (n *retainedNode) each(f func(*message)) {
	if n.message != nil {
		f(n.message)
	}
	for _, child := range n.children {
		child.each(f)
	}
}
