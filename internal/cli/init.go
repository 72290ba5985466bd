package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/owner"
	"github.com/lawnberry/lawnberry/internal/pki"
)

// starters are the services of a mower, for who has defined none.
const starters = `service_definitions:
  hardware:
    service_type: hardware
    topics: {publish: [sensors/+/data, sensors/+/status], subscribe: [sensors/#]} # what its guard of the motors requires
  navigation:
    service_type: navigation
    dependencies: [hardware]
    topics: {publish: [navigation/+], subscribe: [sensors/#]}
  safety:
    service_type: safety
    dependencies: [hardware, navigation]
    topics: {publish: [safety/hazards], subscribe: [sensors/#, navigation/#]}
  power:
    service_type: power
    topics: {publish: [power/+], subscribe: [sensors/#]}
  vision:
    service_type: vision
    topics: {publish: [vision/+]}
  weather:
    service_type: weather
    topics: {publish: [weather/+]}
`

// A made thing is one that init has made, or found.
type made struct {
	What   string `json:"what"` // data_directory, configuration, user, certificate
	Name   string `json:"name"`
	Result string `json:"result"` // made, kept, replaced
	File   string `json:"file,omitempty"`
}

// An initialisation collects what init does.
type initialisation struct {
	t        *tool
	dir      string
	force    bool
	tls      bool
	made     []made
	set      []keyValue // what an existing configuration lacks
	password string     // the admin's, when it is new
	page     string     // URL of the dashboard, when the configuration is new
}

func (t *tool) initVerb() *cobra.Command {
	in := &initialisation{t: t}
	var hosts []string
	c := &cobra.Command{
		Use:   "init",
		Short: "Set a mower up: users, access control, certificates, configuration",
		Long: `init makes what a mower needs to be safe from its first day on: the data directory, a user admin and one for each service of
service_definitions, and a configuration with access control and the dashboard (the file of --config, else ` + defaultFile + `). With --tls it also makes a certificate
authority, a certificate for the broker and one for each service.

What a service needs to log in is in credentials/SERVICE.env in the data directory, in a form that a shell and systemd's EnvironmentFile
read. The password of admin is printed once, unless it comes from the environment as LAWNBERRY_PASSWORD.

It can be repeated, as after a service was added: what is there is kept. With --force passwords and certificates are made
anew. A configuration that is there is never changed; what it lacks is said.`,
		Example: `  lawnberry init
  lawnberry init --tls --host mower.local --host 192.168.1.20 --config mower.yaml`,
		Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if len(hosts) > 0 && !in.tls {
				return usagef("--host is for --tls: it stands in the certificate of the broker")
			}
			return in.run(hosts)
		},
	}
	c.Flags().BoolVar(&in.tls, "tls", false, "make certificates too")
	c.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address that clients connect to; may be given several times")
	c.Flags().BoolVarP(&in.force, "force", "f", false, "make anew what is there")
	return c
}

func (in *initialisation) run(hosts []string) error {
	t := in.t
	var err error
	if in.dir, err = t.dataDirectory(); err != nil {
		return err
	}
	path := t.configPath()
	if path == "" {
		path = defaultFile
	}
	loaded, err := config.Load(path, t.environ)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	if fresh {
		if loaded, err = config.Parse([]byte(starters), t.environ); err != nil {
			return err
		}
	}
	services := slices.Sorted(maps.Keys(loaded.Config.ServiceDefinitions))
	if err := in.directory(); err != nil {
		return err
	}
	var authority *pki.Authority
	if in.tls {
		if authority, err = in.certificates(services, hosts); err != nil {
			return err
		}
	}
	if err := in.users(services, authority); err != nil {
		return err
	}
	if err := in.configuration(path, fresh, loaded.Config, authority); err != nil {
		return err
	}
	if fresh {
		in.page = dashboard(loaded.Config.Integration.WebSocketBridge, in.tls)
	}
	return in.report(path)
}

func (in *initialisation) note(what, name, file string, kept, replaced bool) {
	result := "made"
	switch {
	case kept:
		result = "kept"
	case replaced:
		result = "replaced"
	}
	in.made = append(in.made, made{what, name, result, file})
}

func (in *initialisation) directory() error {
	_, err := os.Stat(in.dir)
	if err := owner.MkdirAll(filepath.Join(in.dir, "credentials")); err != nil {
		return err
	}
	in.note("data_directory", in.dir, in.dir, err == nil, false)
	info, err := os.Stat(in.dir)
	if err != nil {
		return err
	}
	return os.Chmod(in.dir, 0o700|info.Mode().Perm()&0o010) // a group that may pass through it to the socket goes on to
}

func (in *initialisation) certificates(services, hosts []string) (*pki.Authority, error) {
	dir, err := in.t.tlsDirectory()
	if err != nil {
		return nil, err
	}
	a, err := pki.Open(dir)
	switch there := err == nil; {
	case err != nil && !errors.Is(err, pki.ErrNoAuthority):
		return nil, err
	case there && !in.force:
		in.note("certificate", "authority", a.CertFile(), true, false)
	default:
		if a, err = pki.Create(dir, "Lawnberry CA", in.force); err != nil {
			return nil, err
		}
		in.note("certificate", "authority", a.CertFile(), false, there)
	}
	requests := []pki.Request{{Name: "broker", Server: true, Hosts: serverHosts(hosts), Force: in.force}}
	for _, s := range append([]string{identity.Admin}, services...) {
		requests = append(requests, pki.Request{Name: s, Force: in.force})
	}
	for _, r := range requests {
		_, statErr := os.Stat(in.certFile(r.Name))
		_, err := a.Issue(r)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		in.note("certificate", r.Name, in.certFile(r.Name), err != nil, statErr == nil)
	}
	return a, nil
}

func (in *initialisation) certFile(name string) string {
	return filepath.Join(in.dir, "tls", name+".pem")
}

// users adds those who are not there yet, each with what it needs to log in.
func (in *initialisation) users(services []string, authority *pki.Authority) error {
	given := in.t.getenv("LAWNBERRY_PASSWORD")
	if given != "" {
		if err := identity.CheckPassword(given); err != nil {
			return fmt.Errorf("LAWNBERRY_PASSWORD: %w", err)
		}
	}
	var notes []made
	files := map[string]string{}
	err := identity.Edit(in.dir, func(b *identity.Book) error {
		for _, name := range append([]string{identity.Admin}, services...) {
			role := access.Worker
			if name == identity.Admin {
				role = identity.Admin
			}
			there := b.Find(name) != nil
			if there && !in.force {
				notes = append(notes, made{"user", name, "kept", ""})
				continue
			}
			password := rand.Text()
			if name == identity.Admin && given != "" {
				password = given
			}
			hash := identity.Hash(password)
			var err error
			if there {
				err = b.Change(name, func(u *identity.User) { u.Hash = hash })
			} else {
				err = b.Add(name, role, hash)
			}
			if err != nil {
				return err
			}
			n := made{"user", name, "made", ""}
			if there {
				n.Result = "replaced"
			}
			if name == identity.Admin {
				if given == "" {
					in.password = password
				}
			} else {
				n.File = filepath.Join(in.dir, "credentials", name+".env")
				files[n.File] = in.credentials(name, password, authority)
			}
			notes = append(notes, n)
		}
		for _, path := range slices.Sorted(maps.Keys(files)) { // before the users count: without its file nobody knows the password
			if err := writePrivate(path, files[path]); err != nil {
				return err
			}
		}
		return nil
	})
	in.made = append(in.made, notes...)
	return err
}

// credentials is what a service finds in its environment.
func (in *initialisation) credentials(name, password string, authority *pki.Authority) string {
	lines := []string{
		"# What service " + name + " needs to log in. Whoever reads this can be " + name + ".",
		"LAWNBERRY_CLIENT_AUTH_ENABLED=true", "LAWNBERRY_CLIENT_AUTH_USERNAME=" + name, "LAWNBERRY_CLIENT_AUTH_PASSWORD=" + password,
	}
	if authority != nil {
		for _, k := range []keyValue{
			{"CLIENT_TLS_ENABLED", "true"}, {"CLIENT_TLS_CA_CERTS", authority.CertFile()},
			{"CLIENT_TLS_CERTFILE", in.certFile(name)}, {"CLIENT_TLS_KEYFILE", strings.TrimSuffix(in.certFile(name), ".pem") + ".key"},
		} {
			lines = append(lines, "LAWNBERRY_"+k.Key+"="+strconv.Quote(k.Value))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// writePrivate puts a file of its owner's in place as a whole.
func writePrivate(path, text string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = owner.Inherit(f, filepath.Dir(path))
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// configuration writes the file, or says what the one that is there lacks.
func (in *initialisation) configuration(path string, fresh bool, c *config.Config, authority *pki.Authority) error {
	keys := []keyValue{{"security.access_control.enabled", "true"}}
	if authority != nil {
		key := strings.TrimSuffix(in.certFile("broker"), ".pem") + ".key"
		keys = append(keys, keyValue{"broker.tls.enabled", "true"}, keyValue{"broker.tls.cert_file", in.certFile("broker")},
			keyValue{"broker.tls.key_file", key}, keyValue{"broker.tls.ca_file", authority.CertFile()}, keyValue{"broker.tls.crl_file", authority.RevokedFile()})
	}
	if !fresh {
		in.note("configuration", path, path, true, false)
		if !c.Security.AccessControl.Enabled {
			in.set = append(in.set, keys[0])
		}
		if b := c.Broker.TLS; authority != nil && (!b.Enabled || b.CAFile == "") {
			in.set = append(in.set, keys[1:]...)
		}
		return nil
	}
	var text strings.Builder
	text.WriteString("# Written by \"lawnberry init\". Every key there is: lawnberry config init -\n")
	if authority != nil {
		text.WriteString("broker:\n  tls:\n")
		for _, k := range keys[1:] {
			value := k.Value
			if value != "true" {
				value = strconv.Quote(value)
			}
			fmt.Fprintf(&text, "    %s: %s\n", strings.TrimPrefix(k.Key, "broker.tls."), value)
		}
	}
	text.WriteString("integration:\n  websocket_bridge: {enabled: true} # the dashboard, for browsers\n")
	text.WriteString("security:\n  access_control: {enabled: true} # who may do what: lawnberry acl ls\n" + starters)
	if err := writePrivate(path, text.String()); err != nil {
		return err
	}
	in.note("configuration", path, path, false, false)
	return nil
}

func (in *initialisation) report(path string) error {
	t := in.t
	if t.json {
		return writeJSON(t.stdout, struct {
			Made     []made     `json:"made"`
			Set      []keyValue `json:"set"` // what is missing in the configuration
			Password string     `json:"admin_password,omitempty"`
			Page     string     `json:"dashboard,omitempty"` // its URL
		}{in.made, append([]keyValue{}, in.set...), in.password, in.page})
	}
	rows := table{header: []string{"WHAT", "NAME", "RESULT", "FILE"}}
	for _, m := range in.made {
		style := green
		if m.Result == "kept" {
			style = plain
		}
		rows.add(text(strings.ReplaceAll(m.What, "_", " ")), text(m.Name), cell{m.Result, style}, text(m.File))
	}
	rows.write(t.stdout, t.colour(t.stdout))
	if len(in.set) > 0 {
		t.printKeys("the broker, which was there already", in.set)
	}
	if in.password != "" {
		fmt.Fprintf(t.stdout, "password of admin, shown this once: %s\n", in.password)
	}
	_, err := fmt.Fprintf(t.stdout, "start it with: lawnberry serve --config %s\n", printable(path))
	if in.page != "" {
		_, err = fmt.Fprintf(t.stdout, "and open, as admin: %s\n", in.page)
	}
	return err
}

// dashboard returns where the dashboard will be, "" when its port is the system's choice.
func dashboard(b config.WebSocketBridge, encrypted bool) string {
	if b.Port == 0 {
		return ""
	}
	scheme := "http"
	if encrypted {
		scheme = "https"
	}
	return fmt.Sprintf("%s://localhost:%d", scheme, b.Port)
}
