package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

// A selection is the flags of sub that say which messages to print, and what of them.
type selection struct {
	senders  []string
	types    []string
	priority string
	fields   []string
	template string
}

func (s *selection) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.senders, "sender", nil, "print only what `ID` sent; may be repeated")
	f.StringArrayVarP(&s.types, "type", "t", nil, "print only messages of this `TYPE`; may be repeated: "+strings.Join(typeNames(), ", "))
	f.StringVar(&s.priority, "priority", "", "print only messages of this `PRIORITY` and above: low, normal, high or critical")
	f.StringArrayVarP(&s.fields, "field", "f", nil, "print only what stands at this `PATH` in what --json prints, such as payload.data.temperature; may be repeated")
	f.StringVar(&s.template, "template", "", "print each message as this Go `TEMPLATE` says")
}

// check finds what is wrong with the flags.
func (s *selection) check() error {
	for _, k := range s.types {
		if !slices.Contains(typeNames(), k) {
			return usagef("--type %q: want %s", k, strings.Join(typeNames(), ", "))
		}
	}
	if s.priority != "" {
		if _, err := parsePriority(s.priority); err != nil {
			return err
		}
	}
	for _, f := range s.fields {
		if slices.Contains(strings.Split(f, "."), "") {
			return usagef("--field %q: want names with dots between, such as payload.data.temperature", f)
		}
	}
	if s.template != "" && len(s.fields) > 0 {
		return usagef("--field and --template exclude each other")
	}
	return nil
}

// shower returns what prints a delivery that fits the selection.
func (s *selection) shower(t *tool, log *slog.Logger) (func(d *client.Delivery) (bool, error), error) {
	show := t.showMessage
	switch {
	case len(s.fields) > 0:
		show = func(d *client.Delivery) (bool, error) { return t.showFields(d, s.fields) }
	case s.template != "":
		if t.json {
			return nil, usagef("--template and --json exclude each other: the template has a function json")
		}
		layout, err := template.New("template").Funcs(template.FuncMap{"json": templateJSON}).Parse(s.template)
		if err != nil {
			return nil, usagef("--%v", strings.TrimPrefix(err.Error(), "template: "))
		}
		show = func(d *client.Delivery) (bool, error) { return t.showTemplate(d, layout, log) }
	}
	return func(d *client.Delivery) (bool, error) {
		if !s.wants(d) {
			return false, nil
		}
		return show(d)
	}, nil
}

// wants reports whether a delivery is among the selected ones. What has no metadata has no sender, no type and no priority.
func (s *selection) wants(d *client.Delivery) bool {
	if len(s.senders) == 0 && len(s.types) == 0 && s.priority == "" {
		return true
	}
	if d.Invalid != nil || d.Message.Raw {
		return false
	}
	m := d.Message.Metadata
	least, _ := parsePriority(cmp.Or(s.priority, "low")) // checked before
	return (len(s.senders) == 0 || slices.Contains(s.senders, m.Sender)) && (len(s.types) == 0 || slices.Contains(s.types, string(m.Type))) && m.Priority >= least
}

// showFields prints what stands at paths of a message, tab separated, and nothing of a message that has none of them.
func (t *tool) showFields(d *client.Delivery, paths []string) (bool, error) {
	body, err := encodeJSON(newRecord(d), "")
	if err != nil {
		return false, err
	}
	values := make(map[string]json.RawMessage, len(paths))
	shown := make([]string, len(paths))
	found := false
	for i, path := range paths {
		value, ok := lookUp(body, path)
		if values[path] = json.RawMessage("null"); !ok {
			continue
		}
		found = true
		values[path] = value
		var text string
		if json.Unmarshal(value, &text) != nil || string(value) == "null" {
			text = compact(value)
		}
		shown[i] = printable(text)
	}
	switch {
	case !found:
		return false, nil
	case t.json:
		return true, writeJSONLine(t.stdout, values)
	}
	_, err = fmt.Fprintln(t.stdout, strings.Join(shown, "\t"))
	return true, err
}

// lookUp returns what stands at a path of names, and of numbers in arrays, with dots between.
func lookUp(body json.RawMessage, path string) (json.RawMessage, bool) {
	for name := range strings.SplitSeq(path, ".") {
		body = bytes.TrimSpace(body)
		switch {
		case len(body) == 0:
			return nil, false
		case body[0] == '{':
			var object map[string]json.RawMessage
			if json.Unmarshal(body, &object) != nil {
				return nil, false
			}
			value, ok := object[name]
			if !ok {
				return nil, false
			}
			body = value
		case body[0] == '[':
			var list []json.RawMessage
			i, err := strconv.Atoi(name)
			if err != nil || json.Unmarshal(body, &list) != nil || i < 0 || i >= len(list) {
				return nil, false
			}
			body = list[i]
		default:
			return nil, false
		}
	}
	return body, true
}

// A templated is what a template sees of a delivery.
type templated struct {
	Topic    string
	Payload  any // of JSON what it decodes to, with numbers as they are written; else the text
	Metadata message.Metadata
	QoS      byte
	Retained bool
	Received time.Time
}

func templateJSON(v any) (string, error) {
	body, err := encodeJSON(v, "")
	return strings.TrimSuffix(string(body), "\n"), err
}

// showTemplate prints a message as a template says; of one that the template cannot print it logs why.
func (t *tool) showTemplate(d *client.Delivery, layout *template.Template, log *slog.Logger) (bool, error) {
	v := templated{Topic: d.Topic, Metadata: d.Message.Metadata, QoS: d.QoS, Retained: d.Retained, Received: d.Received}
	decoder := json.NewDecoder(bytes.NewReader(d.Message.Payload))
	decoder.UseNumber()
	if !json.Valid(d.Message.Payload) || decoder.Decode(&v.Payload) != nil {
		v.Payload = string(d.Message.Payload)
	}
	out := &bounded{most: maxTemplated}
	if err := layout.Execute(out, v); err != nil {
		log.Warn("message does not fit the template", "topic", d.Topic, "error", err)
		return false, nil
	}
	text := out.String()
	if isTerminal(t.stdout) || !utf8.ValidString(text) { // nobody's payload moves a cursor
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			cells := strings.Split(line, "\t")
			for j := range cells {
				cells[j] = printable(cells[j])
			}
			lines[i] = strings.Join(cells, "\t")
		}
		text = strings.Join(lines, "\n")
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := fmt.Fprint(t.stdout, text)
	return true, err
}

// maxTemplated is how many bytes a template may make of one message.
const maxTemplated = 1 << 20

// A bounded takes at most so many bytes.
type bounded struct {
	strings.Builder
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, errors.New("it makes too much of one message")
	}
	return b.Builder.Write(p)
}
