// Command docgen writes the documents that follow from the code, so that they say what the code does:
//
//	docs/topics.md          the registry of package topic
//	docs/configuration.md   the keys of package config
//	docs/asyncapi.yaml      topics, messages, and the commands that services describe on the bus
//	docs/cli/               the verbs of package internal/cli
//
// and, with -man, the verbs as manual pages. It is run by make docs and make man. Its test fails when a document is not what it writes.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/cli"
	"github.com/lawnberry/lawnberry/topic"
)

// generateTime is what running the simulated mower may take, to be asked for its commands.
const generateTime = 2 * time.Minute

func main() {
	root := flag.String("root", ".", "the `DIR` of the module, whose docs are written")
	man := flag.String("man", "", "write manual pages to `DIR`, and nothing else")
	version := flag.String("version", "", "the `VERSION` that manual pages name")
	flag.Parse()
	err := fmt.Errorf("%q is one argument too many", flag.Arg(0))
	switch {
	case flag.NArg() > 0:
	case *man != "":
		err = writeManual(*man, *version)
	default:
		err = writeDocs(*root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

// A document is one file that follows from the code.
type document struct {
	path    string // relative to the module, with slashes
	content []byte
}

// madeDirs hold nothing but documents that are made here.
var madeDirs = []string{cliDir}

func writeDocs(root string) error {
	ctx, cancel := context.WithTimeout(context.Background(), generateTime)
	defer cancel()
	docs, err := documents(ctx)
	if err != nil {
		return err
	}
	for _, dir := range madeDirs {
		if err := os.RemoveAll(filepath.Join(root, filepath.FromSlash(dir))); err != nil {
			return err
		}
	}
	return writeAll(root, docs)
}

func writeManual(dir, version string) error {
	date, err := manualDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	return writeAll(dir, manual(cli.Command(), version, date))
}

func writeAll(dir string, docs []document) error {
	for _, d := range docs {
		path := filepath.Join(dir, filepath.FromSlash(d.path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, d.content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// documents returns all documents. It runs the simulated mower for a moment.
func documents(ctx context.Context) ([]document, error) {
	services, err := describeServices(ctx)
	if err != nil {
		return nil, err
	}
	return render(services)
}

// render returns all documents, with the commands of those services.
func render(services []described) ([]document, error) {
	registry, err := topic.New("")
	if err != nil {
		return nil, err
	}
	var topics bytes.Buffer
	topics.WriteString(made)
	if err := registry.WriteMarkdown(&topics); err != nil {
		return nil, err
	}
	api, err := asyncAPI(registry, services)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", asyncAPIFile, err)
	}
	docs := []document{
		{"docs/topics.md", topics.Bytes()},
		{"docs/configuration.md", configuration(config.Keys())},
		{asyncAPIFile, api},
	}
	return append(docs, verbPages(cli.Command())...), nil
}

// made begins a document in Markdown.
const made = "<!-- Made from the code by make docs: change the code, not this file. -->\n\n"
