package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/lawnberry/lawnberry/internal/pki"
)

// SyncInterval is how often a server asks the others for accounts that it has missed.
const SyncInterval = 5 * time.Second

// A Config is what a fleet is made with. The zero value is three nodes on this machine.
type Config struct {
	Name  string `json:"name"`  // of the cluster, by default fleet
	Nodes []Node `json:"nodes"` // by default three on 127.0.0.1
}

// A Node is a server.
type Node struct {
	Name    string `json:"name"`    // n1, n2 and so on
	Host    string `json:"host"`    // that mowers and the other nodes reach it at; a loopback address is not reached from elsewhere
	Client  int    `json:"client"`  // port for mowers and those who look after them
	Cluster int    `json:"cluster"` // port for the other nodes
	Monitor int    `json:"monitor"` // port for figures and health, on the loopback interface
}

// The ports of the first node. Nodes on one host count on from them.
const (
	clientPort  = 4222
	clusterPort = 6222
	monitorPort = 8222
)

// Nodes returns nodes at hosts, with the usual ports; those of one host have ports one after the other.
func Nodes(hosts ...string) []Node { return NodesFrom(hosts, clientPort, clusterPort, monitorPort) }

// NodesFrom is [Nodes] with other ports of the first node of each host.
func NodesFrom(hosts []string, client, cluster, monitor int) []Node {
	seen := make(map[string]int)
	var all []Node
	for i, host := range hosts {
		n := seen[host]
		seen[host]++
		all = append(all, Node{Name: fmt.Sprintf("n%d", i+1), Host: host, Client: client + n, Cluster: cluster + n, Monitor: monitor + n})
	}
	return all
}

// URL is where the engine is reached.
func (c Config) URL() string {
	var all []string
	for _, n := range c.Nodes {
		all = append(all, "tls://"+net.JoinHostPort(n.Host, strconv.Itoa(n.Client)))
	}
	return strings.Join(all, ",")
}

// Replicas is how many copies of a message the engine keeps.
func (c Config) Replicas() int {
	switch n := len(c.Nodes); {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	}
	return 1
}

// Check returns what is wrong with c.
func (c Config) Check() error {
	if err := pki.CheckName(c.Name); err != nil {
		return fmt.Errorf("the name of the cluster: %w", err)
	}
	if n := len(c.Nodes); n != 1 && n != 3 && n != 5 {
		return fmt.Errorf("%d nodes make no sense: want 1, 3 for a cluster that may lose one, or 5 for one that may lose two", n)
	}
	taken := make(map[string]string)
	for _, n := range c.Nodes {
		if err := pki.CheckName(n.Name); err != nil {
			return err
		}
		if n.Host == "" || strings.ContainsAny(n.Host, " \t\n\"/\\,[]{}") {
			return fmt.Errorf("host %q of node %s: want a host name or an address, without a port", n.Host, n.Name)
		}
		for what, port := range map[string]int{"clients": n.Client, "the cluster": n.Cluster, "the monitor": n.Monitor} {
			if port < 1 || port > 65535 {
				return fmt.Errorf("node %s: port %d for %s does not exist", n.Name, port, what)
			}
			at := net.JoinHostPort(n.Host, strconv.Itoa(port))
			if other := taken[at]; other != "" {
				return fmt.Errorf("%s is port %d of %s and of node %s", at, port, other, n.Name)
			}
			taken[at] = fmt.Sprintf("node %s", n.Name)
		}
	}
	return nil
}

// Init makes a fleet in a directory that is not there or empty, readable for its owner alone: keys, the configuration of each node in a directory of
// its own, and credentials for those who look after the fleet. It is an fs.ErrExist when something is there: keys are not overwritten, as all mowers
// would have to be enrolled again.
func Init(dir string, c Config) (*Fleet, error) {
	if c.Name == "" {
		c.Name = "fleet"
	}
	if len(c.Nodes) == 0 {
		c.Nodes = Nodes("127.0.0.1", "127.0.0.1", "127.0.0.1")
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s: %w, and a new fleet would overwrite keys: choose a directory that is not there", dir, fs.ErrExist)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it may have been there
		return nil, err
	}
	f := &Fleet{dir: dir, config: c}
	accounts, system, err := f.makeKeys()
	if err != nil {
		return nil, err
	}
	if err := f.makeNodes(accounts, system); err != nil {
		return nil, err
	}
	// Last: a directory with this file is complete.
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeNew(f.path(fleetFile), append(text, '\n'), 0o600); err != nil {
		return nil, err
	}
	return Open(dir)
}

// makeKeys returns the accounts that servers begin with, by their public keys, and which of them is the system's.
func (f *Fleet) makeKeys() (accounts map[string]string, system string, err error) {
	operator, operatorID, err := f.newKey(operatorKey, nkeys.CreateOperator)
	if err != nil {
		return nil, "", err
	}
	var signingID string
	if f.signing, signingID, err = f.newKey(signingKey, nkeys.CreateOperator); err != nil {
		return nil, "", err
	}
	sys, system, err := f.newKey(systemKey, nkeys.CreateAccount)
	if err != nil {
		return nil, "", err
	}
	if f.account, f.public, err = f.newKey(accountKey, nkeys.CreateAccount); err != nil {
		return nil, "", err
	}

	o := jwt.NewOperatorClaims(operatorID)
	o.Name, o.SystemAccount = f.config.Name, system
	o.SigningKeys.Add(signingID)
	token, err := o.Encode(operator)
	if err != nil {
		return nil, "", err
	}
	if err := writeNew(f.path(operatorJWT), []byte(token+"\n"), 0o600); err != nil {
		return nil, "", err
	}

	s := jwt.NewAccountClaims(system)
	s.Name = "SYS"
	systemToken, err := s.Encode(f.signing)
	if err != nil {
		return nil, "", err
	}
	fleetToken, err := f.fleetAccount()
	if err != nil {
		return nil, "", err
	}
	for name, key := range map[string]nkeys.KeyPair{systemCreds: sys, fleetCreds: f.account} {
		creds, _, err := credentials(key, strings.TrimSuffix(name, ".creds"), func(claims *jwt.UserClaims) {
			if name == systemCreds { // hands over accounts, and no more
				claims.Pub.Allow.Add("$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.LIST", "$SYS.REQ.SERVER.PING")
				claims.Sub.Allow.Add("_INBOX.>")
			}
		})
		if err != nil {
			return nil, "", err
		}
		if err := writeNew(f.path(name), creds, 0o600); err != nil {
			return nil, "", err
		}
	}
	return map[string]string{system: systemToken, f.public: fleetToken}, system, nil
}

// makeNodes writes what each node needs into a directory of its own, which may be taken to another machine.
func (f *Fleet) makeNodes(accounts map[string]string, system string) error {
	authority, err := pki.Create(f.path(tlsDirectory), "Lawnberry fleet "+f.config.Name, false)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(authority.CertFile())
	if err != nil {
		return err
	}
	operator, err := os.ReadFile(f.path(operatorJWT))
	if err != nil {
		return err
	}
	for i, n := range f.config.Nodes {
		cert, err := authority.Issue(pki.Request{Name: n.Name, Server: true, Peer: true, Hosts: []string{n.Host}})
		if err != nil {
			return err
		}
		files := []struct {
			name string
			text []byte
		}{{"ca.pem", ca}, {"operator.jwt", operator}, {"nats.conf", []byte(f.configuration(i, system))}}
		for name, from := range map[string]string{"server.pem": cert.CertFile, "server.key": cert.KeyFile} {
			text, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			files = append(files, struct {
				name string
				text []byte
			}{name, text})
		}
		for public, token := range accounts {
			files = append(files, struct {
				name string
				text []byte
			}{"accounts/" + public + ".jwt", []byte(token)})
		}
		for _, file := range files {
			if err := writeNew(filepath.Join(f.dir, n.Name, filepath.FromSlash(file.name)), file.text, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// listen is the address to listen at for a host: all interfaces, unless the host is this machine alone.
func listen(host string, port int) string {
	address := "0.0.0.0"
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil && ip.IsLoopback() {
		address = ip.String()
	} else if host == "localhost" {
		address = "127.0.0.1"
	}
	return net.JoinHostPort(address, strconv.Itoa(port))
}

// configuration returns nats.conf of a node.
func (f *Fleet) configuration(i int, system string) string {
	n := f.config.Nodes[i]
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Node %s of the fleet %s, made by \"lawnberry fleet init\". Paths are relative to the directory that nats-server is started in:", n.Name, f.config.Name)
	p("# cd %s && nats-server -c nats.conf", n.Name)
	p("server_name: %s", n.Name)
	p("listen: %q", listen(n.Host, n.Client))
	p("http: \"127.0.0.1:%d\" # health and figures: /healthz /varz /jsz /connz", n.Monitor)
	p("")
	p("# Mowers and people come over TLS only. Who they are is in their credentials.")
	p("tls { cert_file: \"server.pem\", key_file: \"server.key\" }")
	p("")
	p("# Whom the operator's signing key has signed is let in. accounts has the accounts; a server that has missed one gets it from the others.")
	p("operator: \"operator.jwt\"")
	p("system_account: %s", system)
	p("resolver { type: full, dir: \"accounts\", interval: \"%ds\" }", int(SyncInterval.Seconds()))
	p("")
	p("# A record that was acknowledged is with a majority of the nodes, in the page cache of each; it is on their disks within sync_interval. Nodes")
	p("# without power of their own each set it to always, which costs most of the speed.")
	p("jetstream { store_dir: \"jetstream\", max_memory_store: 1GB, sync_interval: \"10s\" }")
	if len(f.config.Nodes) > 1 {
		p("")
		p("cluster {")
		p("  name: %s", f.config.Name)
		p("  listen: %q", listen(n.Host, n.Cluster))
		p("  no_advertise: true # mowers go to the URLs that they have")
		p("  tls { cert_file: \"server.pem\", key_file: \"server.key\", ca_file: \"ca.pem\", verify: true }")
		p("  routes: [")
		for j, other := range f.config.Nodes {
			if j != i {
				p("    \"nats://%s\"", net.JoinHostPort(other.Host, strconv.Itoa(other.Cluster)))
			}
		}
		p("  ]")
		p("}")
	}
	return b.String()
}
