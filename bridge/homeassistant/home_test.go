package homeassistant_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A home is a program that does what Home Assistant does with the documents that it finds: it reads them, subscribes to what they name, and
// evaluates their templates, of which it knows {{ value_json.x }} alone. It speaks MQTT to the broker and knows nothing else of ours.
type home struct {
	t testing.TB
	c *client.Client

	mu        sync.Mutex // guards the fields below
	documents map[string]string
	removed   map[string]int              // how often a topic of discovery was emptied
	configs   map[string]map[string]any   // of entities, by unique_id, with the shared options
	gone      map[string]int              // components that a document named as removed
	heard     map[string][]string         // payloads, by topic; those that are retained too
	retained  map[string]bool             // topics whose last message was a retained one
	asked     map[string]struct{}         // topics that are subscribed to
	events    map[string][]map[string]any // by topic
	problems  []string
	open      int  // topics that are not subscribed to yet
	vandals   bool // others write documents too
	want      chan string
}

const quantum = 5 * time.Millisecond

func newHome(t testing.TB, url, prefix string) *home {
	t.Helper()
	h := &home{
		t: t, documents: map[string]string{}, removed: map[string]int{}, configs: map[string]map[string]any{}, gone: map[string]int{},
		heard: map[string][]string{}, retained: map[string]bool{}, asked: map[string]struct{}{},
		events: map[string][]map[string]any{}, want: make(chan string, 1000),
	}
	ctx := testContext(t)
	var err error
	h.c, err = client.Connect(ctx, client.Options{URL: url, ID: "home", CleanStart: true, Limits: message.Limits{MaxPayload: homeassistant.MaxPayload, MaxAge: -1}})
	check(t, err)
	done := make(chan struct{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		close(h.want)
		<-done
		_ = h.c.Close(ctx) // the broker may be gone
	})
	go func() { // a handler must not wait for what it subscribes to
		defer close(done)
		for name := range h.want {
			_, err := h.c.Subscribe(context.Background(), topic.Absolute(name), h.hear)
			h.note(err)
			h.mu.Lock()
			h.open--
			h.mu.Unlock()
		}
	}()
	for _, filter := range []string{prefix + "/+/+/config", prefix + "/+/+/+/config"} {
		_, err = h.c.Subscribe(ctx, topic.Absolute(filter), h.discover)
		check(t, err)
	}
	return h
}

func (h *home) note(err error) {
	if err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.problems = append(h.problems, err.Error())
	}
}

// discover takes in a message on a topic of discovery.
func (h *home) discover(_ context.Context, d *client.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(d.Message.Payload) == 0 {
		h.removed[d.Topic]++
		delete(h.documents, d.Topic)
		h.forget(d.Topic, nil)
		return
	}
	if len(d.User) > 0 || !d.Message.Raw {
		h.problems = append(h.problems, "a document with user properties or in an envelope")
	}
	if h.vandals {
		return
	}
	h.documents[d.Topic] = string(d.Message.Payload)
	var doc map[string]any
	if err := json.Unmarshal(d.Message.Payload, &doc); err != nil {
		h.problems = append(h.problems, d.Topic+": "+err.Error())
		return
	}
	if !strings.Contains(d.Topic, "/device/") {
		id, _ := doc["unique_id"].(string)
		h.configs[id] = doc
		doc["topic"] = d.Topic
		return
	}
	h.problems = append(h.problems, homeassistant.Check(d.Message.Payload)...)
	components, _ := doc["components"].(map[string]any)
	there := map[string]bool{}
	for key, value := range components {
		c := maps.Clone(value.(map[string]any))
		if len(c) == 1 {
			h.gone[key]++
			continue
		}
		for _, shared := range []string{"availability", "availability_mode", "qos"} {
			if _, own := c[shared]; !own {
				c[shared] = doc[shared]
			}
		}
		c["topic"] = d.Topic
		id := c["unique_id"].(string)
		there[id] = true
		h.configs[id] = c
		for name, v := range c {
			if strings.HasSuffix(name, "_topic") && !strings.HasSuffix(name, "command_topic") {
				h.ask(v.(string))
			}
		}
		for _, a := range c["availability"].([]any) {
			h.ask(a.(map[string]any)["topic"].(string))
		}
	}
	h.forget(d.Topic, there)
}

// forget removes the entities of a topic of discovery that are not there any more.
func (h *home) forget(name string, there map[string]bool) {
	maps.DeleteFunc(h.configs, func(id string, c map[string]any) bool { return c["topic"] == name && !there[id] })
}

func (h *home) ask(name string) {
	if _, known := h.asked[name]; !known {
		h.asked[name] = struct{}{}
		h.open++
		h.want <- name
	}
}

func (h *home) hear(_ context.Context, d *client.Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !d.Message.Raw || len(d.User) > 0 && d.User[0][0] != "will" {
		h.problems = append(h.problems, fmt.Sprintf("%s is enveloped, compressed or signed: %v", d.Topic, d.User))
	}
	h.heard[d.Topic] = append(h.heard[d.Topic], string(d.Message.Payload))
	h.retained[d.Topic] = d.Retained
	var event map[string]any
	if json.Unmarshal(d.Message.Payload, &event) == nil && event["event_type"] != nil {
		if d.Retained {
			h.problems = append(h.problems, "an event is retained: "+d.Topic)
		}
		h.events[d.Topic] = append(h.events[d.Topic], event)
	}
}

// last returns the last payload on a topic.
func (h *home) last(name any) string {
	s, _ := name.(string)
	if list := h.heard[s]; len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

// render evaluates a template.
func render(template any, payload string) string {
	text, _ := template.(string)
	if text == "" {
		return payload
	}
	field, ok := strings.CutPrefix(text, "{{ value_json.")
	field, closed := strings.CutSuffix(field, " }}")
	var values map[string]any
	if !ok || !closed || json.Unmarshal([]byte(payload), &values) != nil {
		return "error: " + text + " of " + payload
	}
	switch v := values[field].(type) {
	case nil:
		return "None"
	case string:
		return v
	case float64:
		return strings.TrimSuffix(fmt.Sprint(v), ".0")
	default:
		return fmt.Sprint(v)
	}
}

// state returns what Home Assistant shows of an entity: "" if it is not there, unavailable, unknown, or its state.
func (h *home) state(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.configs["lawnberry_"+key]
	if c == nil {
		return ""
	}
	list, _ := c["availability"].([]any)
	for _, item := range list { // mode all
		a := item.(map[string]any)
		payload := h.last(a["topic"])
		if payload == "" || render(a["value_template"], payload) != "online" {
			return "unavailable"
		}
	}
	name, template := c["state_topic"], c["value_template"]
	if c["platform"] == "lawn_mower" {
		name, template = c["activity_state_topic"], c["activity_value_template"]
	}
	payload := h.last(name)
	if payload == "" {
		return "unknown"
	}
	switch s := render(template, payload); s {
	case "None", "none":
		return "unknown"
	default:
		if options, _ := c["options"].([]any); options != nil && !slices.Contains(options, any(s)) {
			return "invalid: " + s
		}
		return s
	}
}

// attributes returns the attributes of an entity.
func (h *home) attributes(key string) map[string]any {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.configs["lawnberry_"+key]
	if c == nil {
		return nil
	}
	payload := h.last(c["json_attributes_topic"])
	platform, _ := c["platform"].(string)
	if payload != "" {
		h.problems = append(h.problems, homeassistant.CheckAttributes(platform, []byte(payload))...)
	}
	var a map[string]any
	_ = json.Unmarshal([]byte(payload), &a)
	return a
}

// shows waits until an entity has a state.
func (h *home) shows(key, want string) {
	h.t.Helper()
	got := ""
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(quantum) {
		if got = h.state(key); got == want {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("%s is %q, never %q", key, got, want)
		}
	}
}

// settled waits until an entity is there, and all that its document names is subscribed to.
func (h *home) settled(key string) {
	h.t.Helper()
	eventually(h.t, key+" is there", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.configs["lawnberry_"+key] != nil && h.open == 0
	})
}

// press does what an entity's action does: it publishes what the document says.
func (h *home) press(key, action string) {
	h.t.Helper()
	h.mu.Lock()
	c := h.configs["lawnberry_"+key]
	h.mu.Unlock()
	if c == nil {
		h.t.Fatalf("there is no %s", key)
	}
	name, payload := c["command_topic"], "PRESS"
	if action != "" {
		name, payload = c[action+"_command_topic"], action
	}
	retain, _ := c["retain"].(bool)
	h.publish(name.(string), payload, retain)
}

func (h *home) publish(name, payload string, retain bool) {
	h.t.Helper()
	check(h.t, h.c.Publish(testContext(h.t), topic.Absolute(name), message.NewRaw([]byte(payload)), client.WithQoS(1), client.WithRetain(retain)))
}

// countEvents returns how many events of an entity there were.
func (h *home) countEvents(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events["homeassistant/lawnberry/lawnberry/"+key+"/state"])
}

// event waits for an event after the first n of an entity that has those values.
func (h *home) event(key string, n int, want map[string]any) map[string]any {
	h.t.Helper()
	var all []map[string]any
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(quantum) {
		h.mu.Lock()
		all = slices.Clone(h.events["homeassistant/lawnberry/lawnberry/"+key+"/state"])
		h.mu.Unlock()
		for _, e := range all[min(n, len(all)):] {
			fits := true
			for k, v := range want {
				fits = fits && fmt.Sprint(e[k]) == fmt.Sprint(v)
			}
			if fits {
				return e
			}
		}
		if time.Now().After(end) {
			h.t.Fatalf("no event of %s with %v among %v", key, want, all)
		}
	}
}

// fine fails the test if anything was not as Home Assistant wants it.
func (h *home) fine() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.problems {
		h.t.Error(p)
	}
}
