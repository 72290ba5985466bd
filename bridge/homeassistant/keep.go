package homeassistant

import (
	"bytes"
	"context"
	"errors"
	"time"
)

type (
	// published is the result of the commands publish and remove.
	published struct {
		Topic     string `json:"topic"`
		Bytes     int    `json:"bytes" doc:"of the document; 0 when it is removed"`
		Published bool   `json:"published"`
	}
	// migrated is the result of the command migrate.
	migrated struct {
		published
		Replaced []string `json:"replaced" doc:"topics of single components"`
	}
)

// build returns the document as of now.
func (b *Bridge) build() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.o.Document(b.seen)
}

// publishNow publishes the document as of now, and all values.
func (b *Bridge) publishNow(ctx context.Context) (published, error) {
	p, err := b.publish(ctx)
	if err == nil {
		b.states.again()
	}
	return p, err
}

func (b *Bridge) publish(ctx context.Context) (published, error) {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	b.mu.Lock()
	if !b.ready.Load() || b.ended {
		b.mu.Unlock()
		return published{}, errNotYet
	}
	old := b.document
	b.mu.Unlock()
	document, err := b.build()
	if err != nil {
		return published{}, err
	}
	if err := publishDocument(ctx, b.home, b.o.Settings, old, document); err != nil {
		return published{}, err
	}
	if err := put(ctx, b.home, b.o.availability(), []byte("online")); err != nil {
		return published{}, err
	}
	b.dropGone(ctx)
	b.mu.Lock()
	b.document, b.removed = document, false
	b.mu.Unlock()
	b.showService(b.o.MowerService)
	return published{b.o.Topic(), len(document), true}, nil
}

var errNotYet = errors.New("the bridge is not connected yet: try again in a second")

// dropGone removes what is retained for entities of services that are not there any more.
func (b *Bridge) dropGone(ctx context.Context) {
	b.mu.Lock()
	keep := map[string]bool{b.o.stateTopic(serviceEntity(b.o.MowerService)): true, b.o.attributesTopic(serviceEntity(b.o.MowerService)): true}
	for id := range b.known {
		keep[b.o.stateTopic(serviceEntity(id))], keep[b.o.attributesTopic(serviceEntity(id))] = true, true
	}
	b.mu.Unlock()
	prefix := []byte(b.o.base() + "service_")
	for _, name := range b.states.topics() {
		if bytes.HasPrefix([]byte(name), prefix) && !keep[name] && b.states.drop(name) {
			if err := put(ctx, b.home, name, nil); err != nil {
				b.log.Warn("a value that is gone is still retained", "topic", name, "error", err)
			}
		}
	}
}

// removeNow removes the mower from Home Assistant.
func (b *Bridge) removeNow(ctx context.Context) (published, error) {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	b.mu.Lock()
	if !b.ready.Load() || b.ended {
		b.mu.Unlock()
		return published{}, errNotYet
	}
	b.removed, b.document = true, nil // first, so that nothing comes after it
	b.mu.Unlock()
	if err := Remove(ctx, b.home, b.o.Settings); err != nil {
		return published{}, err
	}
	return published{b.o.Topic(), 0, false}, nil
}

// migrateNow replaces topics of single components.
func (b *Bridge) migrateNow(ctx context.Context) (migrated, error) {
	b.publishing.Lock()
	document, err := b.build()
	var replaced []string
	if err == nil && !b.ready.Load() {
		err = errNotYet
	}
	if err == nil {
		replaced, err = Migrate(ctx, b.home, b.o.Settings, document)
	}
	b.publishing.Unlock()
	if err != nil {
		return migrated{}, err
	}
	p, err := b.publishNow(ctx)
	return migrated{p, append([]string{}, replaced...)}, err
}

// keepDocument publishes the document again when it has changed, until the bridge ends. It waits until services have settled.
func (b *Bridge) keepDocument() {
	settle := firstSettle
	for {
		select {
		case <-b.rebuild:
		case <-b.ctx.Done():
			return
		}
		if !b.pause(settle) {
			return
		}
		settle = settleTime
		select { // what came meanwhile is in it
		case <-b.rebuild:
		default:
		}
		for tries := 0; b.stale(); tries++ {
			ctx, cancel := context.WithTimeout(b.ctx, publishTime)
			_, err := b.publish(ctx)
			cancel()
			if err == nil {
				break
			}
			if b.ctx.Err() != nil {
				return
			}
			b.log.Warn("the document for Home Assistant was not published, it is tried again", "error", err)
			if !b.pause(min(time.Minute, retryTime<<min(tries, 10))) {
				return
			}
		}
	}
}

// stale reports whether the document that is published is not that of now.
func (b *Bridge) stale() bool {
	document, err := b.build()
	b.mu.Lock()
	defer b.mu.Unlock()
	return err == nil && !b.removed && !bytes.Equal(document, b.document)
}
