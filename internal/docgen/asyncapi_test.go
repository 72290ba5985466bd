package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// asyncAPISchema is the official schema of AsyncAPI documents, which make docs-check gets. Without it the structure is checked as far as is
// known here.
var asyncAPISchema = flag.String("asyncapi-schema", "", "validate the AsyncAPI documents against the JSON Schema in `FILE`, too")

// readAPI reads an AsyncAPI document.
func readAPI(t *testing.T, name string) map[string]any {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(body, &doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	// As JSON has it, with numbers of its own.
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	plain, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return plain.(map[string]any)
}

// at returns what a reference within a document refers to.
func at(doc any, ref string) (any, bool) {
	path, local := strings.CutPrefix(ref, "#/")
	if !local {
		return nil, false
	}
	for level := range strings.SplitSeq(path, "/") {
		m, _ := doc.(map[string]any)
		next, ok := m[strings.NewReplacer("~1", "/", "~0", "~").Replace(level)]
		if !ok {
			return nil, false
		}
		doc = next
	}
	return doc, true
}

// references calls f for each $ref below v, with where it stands.
func references(v any, where string, f func(where, ref string)) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			f(where, ref)
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			references(v[key], where+"/"+key, f)
		}
	case []any:
		for i, item := range v {
			references(item, fmt.Sprintf("%s/%d", where, i), f)
		}
	}
}

// TestAsyncAPI looks for references to nothing, for operations on messages that their channel has not, for parameters that are not in
// the address, and, with the official schema, for what is no AsyncAPI.
func TestAsyncAPI(t *testing.T) {
	for _, name := range []string{asyncAPIFile, "docs/asyncapi-websocket.yaml"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			doc := readAPI(t, name)
			found := 0
			references(doc, "#", func(where, ref string) {
				found++
				if _, ok := at(doc, ref); !ok {
					t.Errorf("%s refers to %s, which there is not", where, ref)
				}
			})
			if found < 20 {
				t.Errorf("only %d references", found)
			}
			operations, _ := doc["operations"].(map[string]any)
			for id, o := range operations {
				checkOperation(t, id, o.(map[string]any))
			}
			channels, _ := doc["channels"].(map[string]any)
			for id, c := range channels {
				checkAddress(t, id, c.(map[string]any))
			}
			if *asyncAPISchema != "" {
				validateOfficially(t, doc)
			}
			t.Logf("%d references, %d operations, %d channels", found, len(operations), len(channels))
		})
	}
}

func checkOperation(t *testing.T, id string, o map[string]any) {
	t.Helper()
	channel := o["channel"].(map[string]any)["$ref"].(string)
	references(o["messages"], id, func(where, ref string) {
		if !strings.HasPrefix(ref, channel+"/messages/") {
			t.Errorf("%s: %s is not a message of %s", where, ref, channel)
		}
	})
	reply, ok := o["reply"].(map[string]any)
	if !ok {
		return
	}
	channel = reply["channel"].(map[string]any)["$ref"].(string)
	references(reply["messages"], id+"/reply", func(where, ref string) {
		if !strings.HasPrefix(ref, channel+"/messages/") {
			t.Errorf("%s: %s is not a message of %s", where, ref, channel)
		}
	})
}

func checkAddress(t *testing.T, id string, c map[string]any) {
	t.Helper()
	var named []string
	for level := range strings.SplitSeq(c["address"].(string), "/") {
		if strings.HasPrefix(level, "{") {
			named = append(named, strings.Trim(level, "{}"))
		}
	}
	parameters, _ := c["parameters"].(map[string]any)
	if got := slices.Sorted(maps.Keys(parameters)); !slices.Equal(got, slices.Sorted(slices.Values(named))) {
		t.Errorf("%s: the address %s has the parameters %v", id, c["address"], got)
	}
}

// validateOfficially validates a document against the schema that make docs-check gets.
func validateOfficially(t *testing.T, doc map[string]any) {
	t.Helper()
	f, err := os.Open(*asyncAPISchema)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	schema, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://asyncapi.com/definitions/3.0.0/asyncapi.json"
	if got := schema.(map[string]any)["$id"]; got != url {
		t.Fatalf("%s is the schema %v, want %s", *asyncAPISchema, got, url)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(url, schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile(url)
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(doc); err != nil {
		t.Errorf("%v", err)
	}
	// A schema that took anything would be no test.
	doc["asyncapi"] = "3"
	if compiled.Validate(doc) == nil {
		t.Error("the schema takes a document of AsyncAPI 3")
	}
}
