package main

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/config"
)

const configurationIntro = `# Configuration

Every key of the configuration file, which is YAML: [examples/mower.yaml](../examples/mower.yaml) has them all,
` + "`lawnberry config init`" + ` writes a file with every key as a comment, ` + "`lawnberry config check`" + ` says what is wrong with one,
` + "`lawnberry config explain KEY`" + ` what a key is now, and ` + "`lawnberry config schema`" + ` is for editors. Every key is optional, and every key has been there since the first version.

A variable of the environment wins over the file: LAWNBERRY_ and the key in capitals, with _ in place of each dot, such as
LAWNBERRY_BROKER_PORT. It is there for every key whose type is not a mapping or a list of rules. MQTT_PASSWORD is the password of broker.auth and
client.auth.

*Live* keys are taken in by a running ` + "`lawnberry serve`" + ` at a SIGHUP, the others at its next start. A number of seconds may also be
written with units: 90s, 1m30s. Relative paths start at the file.

`

// configuration returns the reference of all keys, by section.
func configuration(keys iter.Seq[config.Key]) []byte {
	var sections []string // each before those in it
	members := map[string][]config.Key{}
	for k := range keys {
		section := k.Path // of a key that is in none
		for i, r := range k.Path {
			if r == '.' {
				section = k.Path[:i]
				if !slices.Contains(sections, section) {
					sections = append(sections, section)
				}
			}
		}
		if section == k.Path {
			sections = append(sections, section)
		}
		members[section] = append(members[section], k)
	}
	var b bytes.Buffer
	b.WriteString(made + configurationIntro)
	for i, section := range sections {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s %s\n", strings.Repeat("#", 2+strings.Count(section, ".")), section)
		if text := config.Section(section); text != "" {
			fmt.Fprintf(&b, "\n%s\n", markdown(text))
		}
		if len(members[section]) == 0 {
			continue
		}
		b.WriteString("\n| Key | Default | Type | Live | Meaning |\n|---|---|---|---|---|\n")
		for _, k := range members[section] {
			name := code(k.Path)
			if k.Unsupported != "" {
				name += " (does nothing)"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, code(k.Default), kindOf(k), yes(k.Live), meaning(k))
		}
	}
	return b.Bytes()
}

func kindOf(k config.Key) string {
	text := k.Type
	if k.Allowed != "" {
		text += ", " + k.Allowed
	}
	if k.Unit != "" {
		text += " " + k.Unit
	}
	return inTable(markdown(text))
}

func meaning(k config.Key) string {
	text := markdown(k.Description)
	if k.Unsupported != "" {
		text += " Not supported: " + markdown(k.Unsupported) + "."
	}
	if k.Example != "" {
		text += " For example " + code(k.Example) + "."
	}
	return inTable(text)
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// code returns text as code in a table, "" as nothing.
func code(text string) string {
	if text == "" {
		return ""
	}
	text = inTable(text)
	if !strings.Contains(text, "`") {
		return "`" + text + "`"
	}
	fence := "``"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + " " + text + " " + fence
}

// inTable makes text fit a cell.
func inTable(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.Join(strings.Fields(text), " "), `\|`, "|"), "|", `\|`)
}

// markdown returns text so that Markdown shows it as it is.
func markdown(text string) string {
	var b strings.Builder
	letters := []rune(text)
	for i, r := range letters {
		word := func(at int) bool {
			return at >= 0 && at < len(letters) && (letters[at] == '_' || letters[at] >= '0' && letters[at] <= '9' || isLetter(letters[at]))
		}
		switch {
		case slices.Contains([]rune{'\\', '*', '<', '>', '`', '[', ']'}, r):
			b.WriteRune('\\')
		case r == '_' && (!word(i-1) || !word(i+1)): // between letters it is no emphasis
			b.WriteRune('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isLetter(r rune) bool { return r|0x20 >= 'a' && r|0x20 <= 'z' || r > 127 }
