package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// object makes a YAML mapping of keys and values by turns. Values are strings, numbers, booleans, lists of strings and nodes; keys
// without a value (nil, "", an empty mapping) are left out.
func object(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(pairs); i += 2 {
		add(n, pairs[i].(string), pairs[i+1])
	}
	return n
}

// add adds a key to a mapping.
func add(n *yaml.Node, key string, value any) {
	v := node(value)
	if v == nil || v.Kind == yaml.MappingNode && len(v.Content) == 0 {
		return
	}
	n.Content = append(n.Content, scalar("!!str", key), v)
}

func node(value any) *yaml.Node {
	switch v := value.(type) {
	case nil:
		return nil
	case *yaml.Node:
		return v
	case string:
		if v == "" {
			return nil
		}
		return scalar("!!str", v)
	case int:
		return scalar("!!int", strconv.Itoa(v))
	case float64:
		return scalar("!!float", strconv.FormatFloat(v, 'g', -1, 64))
	case bool:
		return scalar("!!bool", strconv.FormatBool(v))
	case []string:
		n := list()
		for _, s := range v {
			n.Content = append(n.Content, scalar("!!str", s))
		}
		n.Style = yaml.FlowStyle
		return n
	}
	panic(fmt.Sprintf("no YAML for a %T", value))
}

func scalar(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

func list(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
}

// ref refers to another part of the document.
func ref(levels ...string) *yaml.Node {
	n := object("$ref", "#/"+strings.Join(levels, "/"))
	n.Style = yaml.FlowStyle
	return n
}

// refTo returns what n refers to, if it is a reference.
func refTo(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Value == "$ref" {
		return n.Content[1]
	}
	return nil
}

// fromJSON returns JSON as YAML, with its keys in their order.
func fromJSON(raw json.RawMessage) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 {
		return nil, fmt.Errorf("%s is no JSON", raw)
	}
	plain(doc.Content[0], 0)
	return doc.Content[0], nil
}

// plain takes the style of JSON from n, except for what is short, and below the first levels.
func plain(n *yaml.Node, depth int) {
	n.Style = 0
	simple := len(n.Content) > 0
	for _, c := range n.Content {
		plain(c, depth+1)
		simple = simple && c.Kind == yaml.ScalarNode
	}
	if simple && depth > 0 {
		n.Style = yaml.FlowStyle
	}
}

// encode writes a document.
func encode(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}
