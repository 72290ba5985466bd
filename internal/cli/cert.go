package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/internal/pki"
)

const day = 24 * time.Hour

func (t *tool) certVerbs() *cobra.Command {
	c := &cobra.Command{
		Use:   "cert",
		Short: "Certificates of the broker and its clients",
		Long: `cert is a certificate authority in the directory tls of the data directory. The certificate of a client is its identity: its
name is its user name, and it needs no password. Broker and clients take over new files while they run.`,
		Example: `  lawnberry cert init
  lawnberry cert issue --server --host mower.local --host 192.168.1.20
  lawnberry cert issue navigation
  lawnberry cert ls`,
	}
	asGroup(c)
	c.AddCommand(t.certInit(), t.certIssue(), t.certRenew(), t.certRevoke(), t.certLs())
	return c
}

// tlsDirectory is where the authority is.
func (t *tool) tlsDirectory() (string, error) {
	dir, err := t.dataDirectory()
	return filepath.Join(dir, "tls"), err
}

func (t *tool) authority() (*pki.Authority, error) {
	dir, err := t.tlsDirectory()
	if err != nil {
		return nil, err
	}
	a, err := pki.Open(dir)
	if errors.Is(err, pki.ErrNoAuthority) {
		return nil, &failure{exitFailed, err, `make one with "lawnberry cert init"`}
	}
	return a, err
}

// A keyValue is a key of the configuration and what to set it to.
type keyValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// printKeys says what to set.
func (t *tool) printKeys(where string, keys []keyValue) {
	fmt.Fprintf(t.stdout, "set in the configuration of %s:\n", where)
	for _, k := range keys {
		fmt.Fprintf(t.stdout, "  %s: %s\n", k.Key, printable(k.Value))
	}
}

func (t *tool) certInit() *cobra.Command {
	var name string
	var force bool
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a certificate authority",
		Long: `init makes a certificate authority (ECDSA P-256, valid for 10 years) in the directory tls of the data directory. Who has its
key, ca.key, can make himself anybody: it may be moved elsewhere, and is needed only to issue, renew and revoke.`,
		Example: `  lawnberry cert init`,
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			dir, err := t.tlsDirectory()
			if err != nil {
				return err
			}
			a, err := pki.Create(dir, name, force)
			if errors.Is(err, fs.ErrExist) {
				return &failure{exitFailed, err, "to replace it, and all certificates that it has issued, use --force"}
			}
			if err != nil {
				return err
			}
			keys := []keyValue{{"broker.tls.ca_file", a.CertFile()}, {"broker.tls.crl_file", a.RevokedFile()}}
			if t.json {
				return writeJSON(t.stdout, struct {
					CertFile string     `json:"cert_file"`
					CRLFile  string     `json:"crl_file"`
					Set      []keyValue `json:"set"`
				}{a.CertFile(), a.RevokedFile(), keys})
			}
			fmt.Fprintf(t.stdout, "made a certificate authority in %s\n", printable(dir))
			t.printKeys("the broker, to let clients show certificates", keys)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "Lawnberry CA", "`NAME` of the authority")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace an authority that is there")
	return c
}

// issued is what issue and renew say with --json.
type issued struct {
	pki.Certificate
	Set []keyValue `json:"set"`
}

// keysFor returns what to set for a certificate.
func keysFor(a *pki.Authority, c pki.Certificate) []keyValue {
	if c.Kind == "server" {
		return []keyValue{{"broker.tls.enabled", "true"}, {"broker.tls.cert_file", c.CertFile}, {"broker.tls.key_file", c.KeyFile}}
	}
	return []keyValue{
		{"client.tls.enabled", "true"}, {"client.tls.ca_certs", a.CertFile()}, {"client.tls.certfile", c.CertFile}, {"client.tls.keyfile", c.KeyFile},
	}
}

func (t *tool) certIssue() *cobra.Command {
	var server, force bool
	var hosts []string
	var days int
	c := &cobra.Command{
		Use:   "issue [NAME]",
		Short: "Issue a certificate for a client, or for the broker",
		Long: `issue makes a key (ECDSA P-256) and a certificate for it, NAME.key and NAME.pem in the directory tls of the data directory, valid
for a year. NAME is the identity of the client: it connects with this user name or with none. With --server it is the broker's, for
the hosts given (default the name of this machine) and for localhost; NAME is broker then unless given.`,
		Example: `  lawnberry cert issue navigation
  lawnberry cert issue --server --host mower.local --host 192.168.1.20`,
		Args: arguments(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			r := pki.Request{Server: server, Hosts: hosts, Force: force}
			switch {
			case len(args) == 1:
				r.Name = args[0]
			case server:
				r.Name = "broker"
			default:
				return &failure{exitUsage, errors.New("NAME is missing"), helpHint(c)}
			}
			if err := pki.CheckName(r.Name); err != nil {
				return usagef("%w", err)
			}
			if len(hosts) > 0 && !server {
				return usagef("--host is for --server: the certificate of a client has no host")
			}
			if server {
				r.Hosts = serverHosts(hosts)
			}
			var err error
			if r.Validity, err = validity(days); err != nil {
				return err
			}
			a, err := t.authority()
			if err != nil {
				return err
			}
			cert, err := a.Issue(r)
			if errors.Is(err, fs.ErrExist) {
				return &failure{exitFailed, err, fmt.Sprintf(`renew it with "lawnberry cert renew %s", or replace it with --force`, r.Name)}
			}
			if err != nil {
				return err
			}
			keys := keysFor(a, cert)
			if t.json {
				return writeJSON(t.stdout, issued{cert, keys})
			}
			t.printIssued("issued", cert)
			if server {
				t.printKeys("the broker", keys)
			} else {
				t.printKeys("the client", keys)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&server, "server", false, "for the broker")
	c.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address that clients connect to; may be given several times")
	c.Flags().IntVar(&days, "days", 0, "valid for so many `DAYS` (default 365)")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace a certificate and its key that are there")
	return c
}

// serverHosts adds to the hosts of a broker what clients on the same machine use.
func serverHosts(hosts []string) []string {
	if len(hosts) == 0 {
		if name, err := os.Hostname(); err == nil {
			hosts = []string{name}
		}
	}
	for _, local := range []string{"localhost", "127.0.0.1", "::1"} {
		if !slices.Contains(hosts, local) {
			hosts = append(hosts, local)
		}
	}
	return hosts
}

func validity(days int) (time.Duration, error) {
	if days < 0 || days > 36500 {
		return 0, usagef("--days %d: want 1 to 36500", days)
	}
	return time.Duration(days) * day, nil
}

func (t *tool) printIssued(did string, c pki.Certificate) {
	fmt.Fprintf(t.stdout, "%s the %s certificate %s, valid until %s: %s, %s\n", did, c.Kind, printable(c.Name), c.Expires.UTC().Format(time.DateOnly),
		printable(c.CertFile), printable(c.KeyFile))
}

func (t *tool) certRenew() *cobra.Command {
	var due bool
	var days int
	c := &cobra.Command{
		Use:   "renew NAME... | --due",
		Short: "Renew certificates, for the same names and with new keys",
		Long: `renew writes a new certificate and a new key in the place of the old. A broker or client that uses them takes them over; open
connections stay. The old certificate is good until it expires. --due renews what has less than 28 days left, and nothing else.`,
		Example: `  lawnberry cert renew broker
  lawnberry cert renew --due`,
		Args: arguments(0, -1),
		RunE: func(c *cobra.Command, names []string) error {
			if due == (len(names) > 0) {
				return &failure{exitUsage, errors.New("want either names or --due"), helpHint(c)}
			}
			span, err := validity(days)
			if err != nil {
				return err
			}
			a, err := t.authority()
			if err != nil {
				return err
			}
			if due {
				if names, err = dueNames(a); err != nil {
					return err
				}
			}
			all := []issued{}
			for _, name := range names {
				cert, err := a.Renew(name, span)
				if err != nil {
					return err
				}
				all = append(all, issued{cert, keysFor(a, cert)})
				if !t.json {
					t.printIssued("renewed", cert)
				}
			}
			switch {
			case t.json:
				return writeJSON(t.stdout, all)
			case len(all) == 0:
				fmt.Fprintln(t.stdout, "nothing is due")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&due, "due", false, "those with less than 28 days left")
	c.Flags().IntVar(&days, "days", 0, "valid for so many `DAYS` (default 365)")
	return c
}

// dueNames returns the certificates that are to be renewed; what is revoked is not.
func dueNames(a *pki.Authority) ([]string, error) {
	list, err := a.List()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list {
		if c.Kind != "authority" && c.State != pki.StateRevoked && c.State != pki.StateForeign && c.Left() < pki.DueWithin {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

func (t *tool) certRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Take certificates back",
		Long: `revoke puts every certificate that NAME has got, and that has not expired, on the list crl.pem. A broker whose
broker.tls.crl_file is that list closes its connections within two seconds, and lets it in no more.`,
		Example: `  lawnberry cert revoke navigation`,
		Args:    arguments(1, 1, "NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := t.authority()
			if err != nil {
				return err
			}
			certs, err := a.Revoke(args[0])
			if err != nil {
				return err
			}
			if t.json {
				return writeJSON(t.stdout, struct {
					CRLFile string            `json:"crl_file"`
					Revoked []pki.Certificate `json:"revoked"`
				}{a.RevokedFile(), certs})
			}
			fmt.Fprintf(t.stdout, "revoked %s of %s\n", plural(len(certs), "certificate"), printable(args[0]))
			t.printKeys("the broker, unless it is", []keyValue{{"broker.tls.crl_file", a.RevokedFile()}})
			return nil
		},
	}
}

// listed is a line of cert ls with --json.
type listed struct {
	pki.Certificate
	DaysLeft int `json:"days_left"`
}

func (t *tool) certLs() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List certificates with the days that they have left",
		Example: `  lawnberry cert ls`,
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			a, err := t.authority()
			if err != nil {
				return err
			}
			list, err := a.List()
			if err != nil {
				return err
			}
			all := []listed{}
			for _, c := range list {
				all = append(all, listed{c, int(math.Floor(c.Left().Hours() / 24))})
			}
			if t.json {
				return writeJSON(t.stdout, all)
			}
			out := &table{header: []string{"NAME", "KIND", "STATE", "EXPIRES", "DAYS", "HOSTS"}}
			for _, c := range all {
				s := green
				switch c.State {
				case pki.StateExpiring:
					s = yellow
				case pki.StateExpired, pki.StateRevoked, pki.StateForeign:
					s = red
				}
				out.add(text(c.Name), text(c.Kind), cell{c.State, s}, text(c.Expires.UTC().Format(time.DateOnly)), text(fmt.Sprint(c.DaysLeft)), text(strings.Join(c.Hosts, " ")))
			}
			out.write(t.stdout, t.colour(t.stdout))
			return nil
		},
	}
}
