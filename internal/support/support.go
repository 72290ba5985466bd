// Package support makes a bundle of all that somebody needs who is to help with a mower, without its secrets.
//
// What is in a bundle is bounded: a file to 1 MiB, all of them to 16 MiB before they are compressed.
package support

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/doctor"
)

// Bounds of a bundle, in bytes before compression.
const (
	MaxFile   = 1 << 20
	MaxBundle = 16 << 20
	maxLog    = 512 << 10 // of the end of each log
	maxLogs   = 16
)

// folder is what a bundle unpacks to.
const folder = "lawnberry-support/"

// Options say what to collect from.
type Options struct {
	Loaded  *config.Loaded // of config.Salvage
	Failed  error          // why the configuration file could not be read; nil when it could
	Environ []string       // os.Environ()
	DataDir string         // "" is not looked at
	Client  client.Options // how the broker was reached; its login is a secret

	Version   any            // of the program, as JSON
	Explained any            // the keys of the configuration with what they are, as JSON
	Report    *doctor.Report // nil without
	Findings  string         // the report for people
	Unchecked error          // why there is no report

	Secrets []string // further ones, such as the password of a URL of the command line
	Logs    []string // files
	// Journal returns the end of the system's log of lawnberry serve; nil is not asked for.
	Journal func(ctx context.Context) (string, error)
	Now     time.Time
}

// A Missing is something that could not be had.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// A Manifest says what a bundle holds.
type Manifest struct {
	Format   int            `json:"format"` // 1
	Made     time.Time      `json:"made"`
	Files    []Entry        `json:"files"`
	Missing  []Missing      `json:"missing"`
	Redacted map[string]int `json:"redacted"` // how often something was left out, by rule
	Bounds   string         `json:"bounds"`
	Note     string         `json:"note"`
}

// An Entry is a file of a bundle.
type Entry struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	What  string `json:"what"`
	Cut   bool   `json:"cut,omitempty"` // only its end is here, or of data its beginning
}

// A Bundle is what was collected. Nothing in it is a secret as far as that can be known.
type Bundle struct {
	Manifest Manifest
	bodies   [][]byte // of Manifest.Files
}

// A collector is one run of Collect.
type collector struct {
	o     Options
	r     *redactor
	b     *Bundle
	total int
}

// Collect collects. What cannot be had is named in the manifest; only the end of ctx is an error.
func Collect(ctx context.Context, o Options) (*Bundle, error) {
	c := &collector{o: o, r: newRedactor(), b: &Bundle{Manifest: Manifest{
		Format: 1, Made: o.Now.UTC().Truncate(time.Second), Files: []Entry{}, Missing: []Missing{},
		Bounds: fmt.Sprintf("%d MiB a file, %d MiB in all, %d KiB of the end of each of at most %d logs", MaxFile>>20, MaxBundle>>20, maxLog>>10, maxLogs),
		Note: "What is known to be secret, or looks like it, was left out, and what is on the bus is here without the values of events. " +
			"Nobody can know of all that is secret to you: look through it before you give it away.",
	}}}
	c.learn()
	for _, part := range []struct {
		what string
		take func(ctx context.Context) error
	}{
		{"versions", c.versions}, {"configuration", c.configuration}, {"environment", c.environment}, {"doctor", c.doctor}, {"bus", c.bus},
		{"certificates", c.certificates}, {"data directory", c.directory}, {"process of lawnberry serve", c.process}, {"metrics", c.metrics}, {"logs",
			c.logs},
	} {
		if err := part.take(ctx); err != nil {
			c.miss(part.what, err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	for i := range c.b.Manifest.Files {
		c.b.Manifest.Files[i].What = c.r.text(c.b.Manifest.Files[i].What) // there are paths in it
	}
	c.b.Manifest.Redacted = maps.Clone(c.r.count)
	return c.b, nil
}

// miss notes what could not be had.
func (c *collector) miss(what string, why error) {
	c.b.Manifest.Missing = append(c.b.Manifest.Missing, Missing{c.r.text(what), c.r.text(why.Error())})
}

// add adds a file from which secrets were left out. Of a text that is too long the end is kept if tail, else the beginning.
func (c *collector) add(name, what, text string, tail bool) {
	text = c.r.literals(text) // as nothing is worse than one that has slipped through
	most := min(MaxFile, MaxBundle-c.total)
	cut := len(text) > most
	switch {
	case cut && tail:
		text = text[len(text)-most:]
		if _, rest, found := strings.Cut(text, "\n"); found {
			text = rest // a line that is cut may begin with half a secret
		}
	case cut:
		text = text[:most]
	}
	if most == 0 {
		c.miss(name, errors.New("the bundle is full"))
		return
	}
	c.total += len(text)
	c.b.Manifest.Files = append(c.b.Manifest.Files, Entry{Name: name, Bytes: len(text), What: what, Cut: cut})
	c.b.bodies = append(c.b.bodies, []byte(text))
}

// addJSON adds data. own is that its names are ours and none of secrets.
func (c *collector) addJSON(name, what string, data any, own bool) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	v, err := decode(text)
	if err != nil {
		return err
	}
	if own {
		v = c.r.own(v)
	} else {
		v = c.r.strange(v)
	}
	if text, err = json.MarshalIndent(v, "", "  "); err != nil {
		return err
	}
	c.add(name, what, string(text)+"\n", false)
	return nil
}

// Write writes the bundle as a gzipped tar archive, the manifest first.
func (b *Bundle) Write(w io.Writer) error {
	manifest, err := json.MarshalIndent(b.Manifest, "", "  ")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	write := func(name string, body []byte) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: folder + name, Mode: 0o600, Size: int64(len(body)), ModTime: b.Manifest.Made, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := t.Write(body)
		return err
	}
	if err := write("manifest.json", append(manifest, '\n')); err != nil {
		return err
	}
	for i, f := range b.Manifest.Files {
		if err := write(f.Name, b.bodies[i]); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// Names returns the names of all files, the manifest first.
func (b *Bundle) Names() []string {
	names := []string{"manifest.json"}
	for _, f := range b.Manifest.Files {
		names = append(names, f.Name)
	}
	return slices.Clip(names)
}
