package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/seal"
)

func (t *tool) keyVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Make and list the keys that sign and encrypt",
		Long: `key works on key files, which security.signing and security.encryption name. The newest active key of a file signs or
encrypts, all of them verify and decrypt. Programs take up a changed file within a second. Secrets are never printed.`,
		Example: `  lawnberry key new --file keys
  lawnberry key rotate --file keys --in 10m
  lawnberry key ls --file keys`,
	}
	asGroup(c)
	c.AddCommand(t.keyNew(), t.keyRotate(), t.keyLs(), t.keyPublic())
	return c
}

// keyFileFlag has a verb ask for a key file.
func keyFileFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "file", "", "the key `FILE`")
	inner := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if *file == "" {
			return &failure{exitUsage, fmt.Errorf("--file is missing"), helpHint(c)}
		}
		return inner(c, args)
	}
}

func checkAlgorithm(name string) (string, error) {
	a := strings.ToLower(name)
	if a != seal.HMAC && a != seal.Ed25519 && a != seal.AESGCM {
		return "", usagef("--algorithm %q: want %s, %s or %s", name, seal.HMAC, seal.Ed25519, seal.AESGCM)
	}
	return a, nil
}

const algorithmHelp = "`NAME`: hmac-sha256, ed25519 or aes-256-gcm"

func (t *tool) keyNew() *cobra.Command {
	var file, algorithm, identity string
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a key file with one key",
		Long: `new makes a file with one key, readable by its owner only. A file that is there already is not touched: rotate adds to it.
With --identity only messages of that sender may be signed with the key.`,
		Example: `  lawnberry key new --file /etc/lawnberry/keys
  lawnberry key new --file blade.keys --algorithm ed25519 --identity blade`,
		Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			algorithm, err := checkAlgorithm(algorithm)
			if err != nil {
				return err
			}
			k, err := seal.Generate(algorithm, identity, 0)
			if err != nil {
				return err
			}
			if err := seal.Create(file, k); err != nil {
				return err
			}
			return t.printKey("wrote", file, k)
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", seal.HMAC, algorithmHelp)
	c.Flags().StringVar(&identity, "identity", "", "whose key it is: the `ID` of a service or client (default: anybody's)")
	keyFileFlag(c, &file)
	return c
}

func (t *tool) keyRotate() *cobra.Command {
	var file, algorithm, identity string
	var in time.Duration
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Add a key that takes the place of the one in use",
		Long: `rotate adds a key to a file. The older keys still verify and decrypt; take them out of the file once nothing is on its way or
retained that needs them. Where several hosts have the file, --in leaves time to copy it: until then the key only verifies and decrypts.`,
		Example: `  lawnberry key rotate --file keys
  lawnberry key rotate --file keys --algorithm aes-256-gcm --in 10m`,
		Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			keys, err := seal.Load(file)
			if err != nil {
				return err
			}
			if algorithm == "" {
				if algorithm, err = onlyAlgorithm(keys); err != nil {
					return err
				}
			}
			if algorithm, err = checkAlgorithm(algorithm); err != nil {
				return err
			}
			if in < 0 || in > 365*24*time.Hour {
				return usagef("--in %s: want 0s to a year", in)
			}
			if old := seal.Newest(keys, algorithm, time.Now()); old != nil && identity == "" {
				identity = old.Identity
			}
			k, err := seal.Generate(algorithm, identity, in)
			if err != nil {
				return err
			}
			if err := seal.Add(file, k); err != nil {
				return err
			}
			return t.printKey("added to", file, k)
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", "", algorithmHelp+" (default: that of the keys in the file)")
	c.Flags().StringVar(&identity, "identity", "", "whose key it is (default: as the one before)")
	c.Flags().DurationVar(&in, "in", 0, "use it only after this `TIME`, such as 10m")
	keyFileFlag(c, &file)
	return c
}

// onlyAlgorithm returns the algorithm of keys that are all for one.
func onlyAlgorithm(keys []*seal.Key) (string, error) {
	a := keys[0].Algorithm
	for _, k := range keys {
		if k.Algorithm != a {
			return "", usagef("the file has keys for several algorithms: say which with --algorithm")
		}
	}
	return a, nil
}

// A keyInfo is what is shown of a key.
type keyInfo struct {
	ID        string    `json:"id"`
	Algorithm string    `json:"algorithm"`
	Identity  string    `json:"identity,omitempty"`
	Created   time.Time `json:"created"`
	Active    time.Time `json:"active"`
	Use       string    `json:"use"` // signs, encrypts, verifies, decrypts, later
}

func newKeyInfo(k *seal.Key, keys []*seal.Key) keyInfo {
	i := keyInfo{ID: k.ID, Algorithm: k.Algorithm, Identity: k.Identity, Created: k.Created.UTC(), Active: k.Active.UTC()}
	now := time.Now()
	does, did := "signs", "verifies"
	if k.Algorithm == seal.AESGCM {
		does, did = "encrypts", "decrypts"
	}
	switch {
	case seal.Newest(keys, k.Algorithm, now) == k:
		i.Use = does
	case k.Private() && k.Active.After(now):
		i.Use = did + ", " + does + " later"
	default:
		i.Use = did
	}
	return i
}

func (t *tool) printKey(did, file string, k *seal.Key) error {
	if t.json {
		return writeJSON(t.stdout, struct {
			File string `json:"file"`
			keyInfo
		}{file, newKeyInfo(k, []*seal.Key{k})})
	}
	_, err := fmt.Fprintf(t.stdout, "%s %s: %s key %s\n", did, printable(file), k.Algorithm, k.ID)
	return err
}

func (t *tool) keyLs() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List the keys of a file, without their secrets",
		Example: "  lawnberry key ls --file keys",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			keys, err := seal.Load(file)
			if err != nil {
				return err
			}
			infos := []keyInfo{}
			for _, k := range keys {
				infos = append(infos, newKeyInfo(k, keys))
			}
			if t.json {
				return writeJSON(t.stdout, infos)
			}
			rows := table{header: []string{"ID", "ALGORITHM", "IDENTITY", "ACTIVE FROM", "USE"}}
			for _, i := range infos {
				rows.add(text(i.ID), text(i.Algorithm), text(i.Identity), text(i.Active.Format(time.RFC3339)), text(i.Use))
			}
			rows.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
	keyFileFlag(c, &file)
	return c
}

func (t *tool) keyPublic() *cobra.Command {
	var file, identity string
	c := &cobra.Command{
		Use:     "public",
		Short:   "Print the public halves of the Ed25519 keys of a file",
		Long:    `public prints the lines that the key files of those who verify need: they know the signer by them and cannot sign themselves.`,
		Example: `  lawnberry key public --file blade.keys --identity blade >> known.keys`,
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			keys, err := seal.Load(file)
			if err != nil {
				return err
			}
			lines := seal.PublicLines(keys, identity)
			if len(lines) == 0 {
				return fmt.Errorf("%s has no ed25519 key, and others have no public half", file)
			}
			_, err = t.stdout.Write(lines)
			return err
		},
	}
	c.Flags().StringVar(&identity, "identity", "", "whose keys they are: the `ID` of a service or client (default: as in the file)")
	keyFileFlag(c, &file)
	return c
}
