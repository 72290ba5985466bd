package homeassistant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// MaxPayload is what a client must take in and send for this package, bytes: see client.Options.Limits. It is more than messages of the bus have.
const MaxPayload = maxDocument

// migrating tells Home Assistant that an entity which a single topic describes is about to be described by a device's document.
const migrating = `{"migrate_discovery":true}`

// Publish publishes a document, retained. If the one that is there has components which the new one has not, they are named as removed first.
func Publish(ctx context.Context, c *client.Client, s Settings, document []byte) error {
	s, err := s.withDefaults()
	if err != nil {
		return err
	}
	old, err := Retained(ctx, c, s.Topic())
	if err != nil {
		return err
	}
	return publishDocument(ctx, c, s, old[s.Topic()], document)
}

func publishDocument(ctx context.Context, c *client.Client, s Settings, old, document []byte) error {
	if between := withRemoved(old, document); between != nil {
		if err := put(ctx, c, s.Topic(), between); err != nil {
			return err
		}
	}
	return put(ctx, c, s.Topic(), document)
}

// withRemoved returns a document in which the components that old has and it has not are named as removed, nil if there are none.
func withRemoved(old, document []byte) []byte {
	type components struct {
		Components map[string]map[string]json.RawMessage `json:"components"`
	}
	var before, after components
	var whole map[string]json.RawMessage
	if json.Unmarshal(old, &before) != nil || json.Unmarshal(document, &after) != nil || json.Unmarshal(document, &whole) != nil {
		return nil
	}
	gone := false
	for key, c := range before.Components {
		if _, there := after.Components[key]; !there && c["platform"] != nil {
			after.Components[key] = map[string]json.RawMessage{"platform": c["platform"]}
			gone = true
		}
	}
	if !gone {
		return nil
	}
	whole["components"] = encode(after.Components)
	return encode(whole)
}

// Remove removes the device from Home Assistant, and all that is retained for it.
func Remove(ctx context.Context, c *client.Client, s Settings) error {
	s, err := s.withDefaults()
	if err != nil {
		return err
	}
	if err := put(ctx, c, s.Topic(), nil); err != nil {
		return err
	}
	kept, err := Retained(ctx, c, s.base()+"#")
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if err := put(ctx, c, name, nil); err != nil {
			return err
		}
	}
	return nil
}

// Migrate replaces the topics of single components that describe this device, as earlier versions published them, by the document. Home Assistant
// keeps the names, areas and history of those whose platform and unique_id the document has; others go. It returns the topics that were
// replaced. Migrating again after it failed is safe.
func Migrate(ctx context.Context, c *client.Client, s Settings, document []byte) (replaced []string, err error) {
	s, err = s.withDefaults()
	if err != nil {
		return nil, err
	}
	found, err := Retained(ctx, c, s.Prefix+"/+/+/config", s.Prefix+"/+/+/+/config")
	if err != nil {
		return nil, err
	}
	for name, payload := range found {
		if s.describesUs(name, payload) {
			replaced = append(replaced, name)
		}
	}
	slices.Sort(replaced)
	for _, name := range replaced {
		if err := put(ctx, c, name, []byte(migrating)); err != nil {
			return nil, err
		}
	}
	if err := Publish(ctx, c, s, document); err != nil {
		return nil, err
	}
	for _, name := range replaced {
		if err := put(ctx, c, name, nil); err != nil {
			return nil, err
		}
	}
	return replaced, nil
}

// describesUs reports whether a topic of discovery is that of a single component of this device: by its name, by the device that it names, or by its
// unique_id.
func (s Settings) describesUs(name string, payload []byte) bool {
	levels := strings.Split(strings.TrimPrefix(name, s.Prefix+"/"), "/")
	if levels[0] == "device" || len(payload) == 0 {
		return false
	}
	ours := func(id string) bool { return id == s.DeviceID || strings.HasPrefix(id, s.DeviceID+"_") }
	var config map[string]any
	if json.Unmarshal(payload, &config) != nil || config == nil {
		return false
	}
	expand(config, abbreviations())
	if migrate, _ := config["migrate_discovery"].(bool); migrate { // one that a Migrate left behind
		return slices.ContainsFunc(levels[1:len(levels)-1], ours)
	}
	if id, _ := config["unique_id"].(string); ours(id) {
		return true
	}
	device, _ := config["device"].(map[string]any)
	expand(device, deviceAbbreviations())
	switch ids := device["identifiers"].(type) {
	case string:
		return ids == s.DeviceID
	case []any:
		return slices.Contains(ids, any(s.DeviceID))
	}
	return false
}

// put publishes what Home Assistant reads, retained: as it is, neither in an envelope nor compressed.
func put(ctx context.Context, c *client.Client, name string, payload []byte) error {
	return c.Publish(ctx, topic.Absolute(name), message.NewRaw(payload), client.WithQoS(1), client.WithRetain(true))
}

const (
	maxRetained = 5000     // topics that Retained takes in
	maxKept     = 16 << 20 // bytes of their payloads
)

// Retained returns what the broker retains on the topics of some full filters.
func Retained(ctx context.Context, c *client.Client, filters ...string) (found map[string][]byte, err error) {
	found = map[string][]byte{}
	var mu sync.Mutex // guards found, size and full
	size, full := 0, false
	var subs []*client.Subscription
	defer func() {
		for _, s := range subs {
			err = errors.Join(err, s.Unsubscribe(ctx))
		}
	}()
	for _, filter := range filters {
		sub, err := c.Subscribe(ctx, topic.Absolute(filter), func(_ context.Context, d *client.Delivery) {
			mu.Lock()
			defer mu.Unlock()
			if !d.Retained {
				return
			}
			if size += len(d.Message.Payload); len(found) >= maxRetained || size > maxKept {
				full = true
				return
			}
			found[fullTopic(c, d.Topic)] = d.Message.Payload
		}, client.WithQueue(client.Queue{Max: 2 * maxRetained}))
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	if err := roundTrip(ctx, c); err != nil {
		return nil, err
	}
	for _, s := range subs {
		if err := s.Drain(ctx); err != nil {
			return nil, err
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if full {
		return nil, fmt.Errorf("more than %d topics or %d bytes are retained on %s", maxRetained, maxKept, strings.Join(filters, ", "))
	}
	return found, nil
}

// fullTopic undoes what the client does to topics inside the namespace.
func fullTopic(c *client.Client, name string) string {
	if full, err := c.Topics().Resolve(topic.Absolute(name)); err == nil {
		return full
	}
	return name
}

// roundTrip waits until something has come back from the broker, and with it all that it had sent before.
func roundTrip(ctx context.Context, c *client.Client) error {
	back := make(chan struct{})
	var once sync.Once
	self := "responses/" + c.ID()
	sub, err := c.Subscribe(ctx, self, func(context.Context, *client.Delivery) { once.Do(func() { close(back) }) })
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, self, message.NewRaw([]byte("{}")), client.WithQoS(1)); err != nil {
		return errors.Join(err, sub.Unsubscribe(ctx))
	}
	select {
	case <-back:
		return sub.Unsubscribe(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
