package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// A Protocol is what an engine speaks.
type Protocol string

const (
	NATS Protocol = "nats"
	MQTT Protocol = "mqtt"
)

// An Engine is where the fleet meets, and how to get in.
type Engine struct {
	// URL is nats://host or tls://host for NATS, mqtt://host or mqtts://host for MQTT. Those of a NATS cluster's nodes are separated by commas.
	// With tls:// and mqtts:// the certificate is checked before anything is said.
	URL string
	// Credentials is a file that only its owner may read: for NATS what "lawnberry fleet enrol" has written, else a user name and a password, each on
	// a line of its own. No path is no login.
	Credentials string
	// CAFile has the certificates that the engine's must be signed by; no path trusts whom the system trusts. It makes nats:// tls://.
	CAFile string
	// CertFile and KeyFile are a certificate to show, for an engine that asks for one.
	CertFile, KeyFile string
	// Log gets what goes wrong on a connection by itself, by default slog's default.
	Log *slog.Logger
}

var schemes = map[string]struct {
	protocol Protocol
	safe     bool
}{"nats": {NATS, false}, "tls": {NATS, true}, "mqtt": {MQTT, false}, "mqtts": {MQTT, true}}

const maxCredentials = 64 << 10

// Servers returns the single URLs of an engine.
func (e Engine) Servers() []string {
	var all []string
	for u := range strings.SplitSeq(e.URL, ",") {
		if u = strings.TrimSpace(u); u != "" {
			all = append(all, u)
		}
	}
	return all
}

// Protocol returns what the engine speaks, by the scheme of its URL, or what is wrong with the URL.
func (e Engine) Protocol() (Protocol, error) {
	servers := e.Servers()
	if len(servers) == 0 {
		return "", errors.New("the URL of the engine is missing")
	}
	var first string
	for _, text := range servers {
		u, err := url.Parse(text)
		if err != nil {
			return "", fmt.Errorf("the engine's URL cannot be read: %w", withoutURL(err))
		}
		known, ok := schemes[u.Scheme]
		switch {
		case u.User != nil: // before the text is shown
			return "", errors.New("the engine's URL has a login in it, which others would see: put user name and password into a file, each on a line of its own, and name that")
		case !ok:
			return "", fmt.Errorf("%q is no URL of an engine: want nats://, tls://, mqtt:// or mqtts:// and a host", text)
		case u.Hostname() == "":
			return "", fmt.Errorf("%q has no host", text)
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			return "", fmt.Errorf("%q has something after host and port, which means nothing to an engine", text)
		case first == "":
			first = u.Scheme
		case u.Scheme != first:
			return "", fmt.Errorf("the URLs of an engine have one scheme, not %s and %s", first, u.Scheme)
		case known.protocol == MQTT:
			return "", errors.New("an MQTT engine has one URL: one name for all nodes of a cluster, or its load balancer")
		}
	}
	return schemes[first].protocol, nil
}

// withoutURL takes the URL, which may have a password in it, out of an error of package url.
func withoutURL(err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Private reports whether what is said to the engine can be read by nobody between: it goes over TLS, or does not leave this host.
func (e Engine) Private() bool {
	for _, text := range e.Servers() {
		u, err := url.Parse(text)
		if err != nil {
			return false
		}
		ip := net.ParseIP(u.Hostname())
		local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
		if !local && !schemes[u.Scheme].safe && (e.CAFile == "" || schemes[u.Scheme].protocol != NATS) {
			return false
		}
	}
	return true
}

// Check returns what is wrong with e, its files included, without a connection.
func (e Engine) Check() error {
	protocol, err := e.Protocol()
	if err != nil {
		return err
	}
	if (e.CertFile == "") != (e.KeyFile == "") {
		return errors.New("a certificate for the engine and its key belong together: one of the two is missing")
	}
	for _, file := range []string{e.CAFile, e.CertFile, e.KeyFile} {
		if file == "" {
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	text, err := e.credentials()
	if err != nil || text == nil {
		return err
	}
	if isCreds(text) {
		if protocol != NATS {
			return fmt.Errorf("credentials %s are for NATS, and the engine is an MQTT broker: want a user name and a password, each on a line of its own", e.Credentials)
		}
		return nil
	}
	_, _, err = e.Login()
	return err
}

// credentials reads the file, nil without one.
func (e Engine) credentials() ([]byte, error) {
	if e.Credentials == "" {
		return nil, nil
	}
	f, err := os.Open(e.Credentials)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("credentials %s are no file", e.Credentials)
	}
	if m := info.Mode().Perm(); runtime.GOOS != "windows" && m&0o077 != 0 {
		return nil, fmt.Errorf("credentials %s may be used by others than their owner (mode %04o): chmod 600 %s", e.Credentials, m, e.Credentials)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxCredentials))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, fmt.Errorf("credentials %s are empty", e.Credentials)
	}
	return text, nil
}

func isCreds(text []byte) bool { return bytes.Contains(text, []byte("-----BEGIN NATS USER JWT-----")) }

// Login returns user name and password, both "" without credentials. It is an error when the credentials are something else.
func (e Engine) Login() (user, password string, err error) {
	text, err := e.credentials()
	if err != nil || text == nil {
		return "", "", err
	}
	if isCreds(text) {
		return "", "", fmt.Errorf("credentials %s are for NATS, they have no password in them", e.Credentials)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	var found []string
	for lines.Scan() {
		found = append(found, strings.TrimSuffix(lines.Text(), "\r"))
	}
	if lines.Err() != nil || len(found) != 2 || found[0] == "" || found[1] == "" {
		return "", "", fmt.Errorf("credentials %s are neither a file of NATS nor a user name and a password, each on a line of its own", e.Credentials)
	}
	return found[0], found[1], nil
}

// Times of a connection to NATS.
const (
	natsDial  = 10 * time.Second // for an attempt: TCP, TLS and login, over a mobile network
	natsPing  = 10 * time.Second // two without an answer are a dead connection
	natsSend  = 30 * time.Second // for what the socket's buffer does not take at once, over a slow network
	natsFirst = time.Second      // between rounds of attempts
	natsMax   = 8 * time.Second
)

// DialNATS connects to an engine that speaks NATS. name tells the connection from others at the server.
//
// It returns at once, and the connection is made and made again for ever, also when the engine refuses the credentials: their file is read at each
// attempt, so a new one is enough. Between rounds over all servers it waits 1 s, 2 s, 4 s, at last 8 s and each time as much again at random at most, so that a
// hundred thousand mowers do not come back in the same moment. A connection that is dead is noticed within 30 s. What is published without a connection
// fails at once: nothing is kept for later. Servers that are not in the URL are not tried, whatever the engine tells of: they are often not to be
// reached from outside.
//
// opts come after all this, so they may change it: nats.RetryOnFailedConnect(false) waits for the first attempt and returns its error.
func (e Engine) DialNATS(name string, opts ...nats.Option) (*nats.Conn, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	if p, _ := e.Protocol(); p != NATS {
		return nil, fmt.Errorf("%s is no NATS", e.URL)
	}
	log := e.Log
	if log == nil {
		log = slog.Default()
	}
	all := []nats.Option{
		nats.Name(name),
		nats.Timeout(natsDial),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(natsPing),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(natsSend),
		nats.ReconnectOnFlusherError(),
		nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			attrs := []any{"err", err}
			if sub != nil {
				attrs = append(attrs, "subject", sub.Subject)
			}
			log.Warn("fleet engine", attrs...)
		}),
	}
	if e.CAFile != "" {
		all = append(all, nats.RootCAs(e.CAFile))
	}
	if e.CertFile != "" {
		all = append(all, nats.ClientCert(e.CertFile, e.KeyFile))
	}
	text, err := e.credentials()
	if err != nil {
		return nil, err
	}
	switch {
	case text == nil:
	case isCreds(text):
		all = append(all, nats.UserCredentials(e.Credentials))
	default:
		all = append(all, nats.UserInfoHandler(func() (string, string) {
			user, password, err := e.Login()
			if err != nil {
				log.Warn("fleet engine", "err", err)
			}
			return user, password
		}))
	}
	return nats.Connect(strings.Join(e.Servers(), ","), append(all, opts...)...)
}

// reconnectDelay is how long to wait after so many rounds over all servers.
func reconnectDelay(rounds int) time.Duration {
	base := min(natsFirst<<min(max(rounds-1, 0), 10), natsMax)
	return base + rand.N(base)
}
