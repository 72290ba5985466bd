package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/support"
)

// journalTime is how long the system's journal may take.
const journalTime = 5 * time.Second

func (t *tool) supportVerb() *cobra.Command {
	var e examiner
	var output string
	var force bool
	var logs []string
	c := &cobra.Command{
		Use:   "support",
		Short: "Put all that a helper needs into a file, without secrets",
		Long: `support writes a bundle, a tar.gz file that only you may read: versions, configuration, what doctor finds, what the broker, the
services and the topics are, alerts, events, the emergency stop, certificates, names of files, process, figures, and the ends of logs. manifest.json in it says
what there is, what could not be had and why, and how much was left out. It works without a broker too.

Left out are passwords, keys, tokens, hashes, logins and keys in URLs, Wi-Fi names, places, hardware and mail addresses, comments in the
configuration, and values of events. Key files and the users file are never in it. Nobody can know of all that is secret to you: look
through it before you give it away. It is at most 16 MiB large when it is unpacked. docs/doctor.md says more.

serve logs to standard error. Where that goes to a file, name it with --log; the system's journal of the unit lawnberry is asked too.`,
		Example: `  lawnberry support
  lawnberry support --output mower.tar.gz --log /var/log/lawnberry.log
  lawnberry support --output - | ssh helper 'cat > mower.tar.gz'`,
		Args: arguments(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			name, err := t.bundleName(output, force)
			if err != nil {
				return err
			}
			b, err := t.collect(c.Context(), &e, logs)
			if err != nil {
				return err
			}
			if name == "-" {
				return b.Write(t.stdout)
			}
			var body bytes.Buffer
			if err := b.Write(&body); err != nil {
				return err
			}
			if err := writeBundle(name, body.Bytes(), force); err != nil {
				return err
			}
			return t.saidOfBundle(name, body.Len(), b)
		},
	}
	e.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "", "write to `FILE`; - is standard output (default lawnberry-support-TIME.tar.gz)")
	c.Flags().BoolVarP(&force, "force", "f", false, "overwrite a file that is there")
	c.Flags().StringArrayVar(&logs, "log", nil, "put the end of the log `FILE` in; may be repeated")
	return c
}

// bundleName returns where to write to, "-" for standard output. That nothing can be written there is said before anything is done.
func (t *tool) bundleName(output string, force bool) (string, error) {
	switch {
	case output == "-" && t.json:
		return "", usagef("--json and --output -: both want standard output")
	case output == "-" && isTerminal(t.stdout):
		return "", usagef("--output -: a terminal cannot show it, name a file")
	case output == "-":
		return "-", nil
	case output == "":
		output = "lawnberry-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
	}
	info, err := os.Lstat(output)
	switch {
	case err == nil && info.IsDir():
		return "", usagef("--output %s: it is a directory, name a file", output)
	case err == nil && !force:
		return "", there(output)
	case errors.Is(err, fs.ErrNotExist), err == nil:
		_, err = os.Stat(filepath.Dir(output))
	}
	return output, err
}

func there(path string) error {
	return fmt.Errorf("%s is there already: choose another name, or overwrite it with --force", path)
}

// collect takes together what there is.
func (t *tool) collect(ctx context.Context, e *examiner, logs []string) (*support.Bundle, error) {
	examined, err := e.options(t)
	if err != nil {
		return nil, err
	}
	given, _ := e.url(t) // it was checked
	o := support.Options{
		Loaded: examined.Loaded, Failed: examined.Failed, Environ: t.environ, DataDir: examined.DataDir, Client: examined.Client,
		Version: buildInfo(), Explained: explained(examined.Loaded, "all"), Secrets: secretsOf(given), Logs: logs, Journal: journal, Now: time.Now(),
	}
	r, err := e.examine(ctx, examined)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if o.Unchecked = err; err == nil {
		var text bytes.Buffer
		showReport(&text, r, false)
		o.Report, o.Findings = &r, text.String()
	}
	return support.Collect(ctx, o)
}

// secretsOf returns what is secret in a broker's URL, whatever it looks like.
func secretsOf(url string) []string {
	_, rest, _ := strings.Cut(url, "://")
	login, _, found := cutLast(rest, "@")
	if !found {
		return nil
	}
	_, password, _ := strings.Cut(login, ":")
	return []string{password}
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// journal returns the end of what the system's journal has of the unit lawnberry.
func journal(ctx context.Context) (string, error) {
	program, err := exec.LookPath("journalctl")
	if err != nil {
		return "", errors.New("this system has none")
	}
	ctx, cancel := context.WithTimeout(ctx, journalTime)
	defer cancel()
	c := exec.CommandContext(ctx, program, "--unit", "lawnberry", "--lines", "2000", "--no-pager", "--quiet", "--output", "short-iso")
	text, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("journalctl: %w", err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return "", errors.New("it has nothing of the unit lawnberry")
	}
	return string(text), nil
}

// writeBundle writes a file that only its owner may read, in the place of another only if it is to.
func writeBundle(path string, body []byte, force bool) error {
	if force {
		return writePrivate(path, string(body))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return there(path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// saidOfBundle says what was written.
func (t *tool) saidOfBundle(name string, size int, b *support.Bundle) error {
	if t.json {
		return writeJSON(t.stdout, struct {
			File    string            `json:"file"`
			Bytes   int               `json:"bytes"`
			Files   []string          `json:"files"`
			Missing []support.Missing `json:"missing"`
		}{name, size, b.Names(), b.Manifest.Missing})
	}
	fmt.Fprintf(t.stdout, "wrote %s (%d KiB, %s); look through it before you give it away\n", printable(name), (size+1023)/1024,
		plural(len(b.Names()), "file"))
	for _, m := range b.Manifest.Missing {
		fmt.Fprintf(t.stdout, "  without %s: %s\n", oneLine(m.What), oneLine(m.Why))
	}
	return nil
}
