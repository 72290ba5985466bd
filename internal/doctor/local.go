package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/disk"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/app"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/pki"
)

const (
	certificateTime = pki.DueWithin // what lawnberry cert renew --due does something about
	slowSync        = 50 * time.Millisecond
)

func (x *examination) configuration() {
	file := x.o.Loaded.File
	if x.o.Failed != nil {
		x.find("config-unreadable", x.o.Failed.Error(), "file", file)
	}
	for _, p := range x.o.Loaded.Problems {
		id := "config-warning"
		switch {
		case p.Severity == config.SeverityError:
			id = "config-error"
		case strings.Contains(p.Text, "key is unknown"), strings.Contains(p.Text, "no key has this variable"):
			id = "config-unknown-key"
		}
		x.find(id, p.Error(), "file", file)
	}
	c := x.o.Loaded.Config
	for _, p := range c.CheckKeys() {
		file := c.Security.Signing.KeyFile
		if strings.HasPrefix(p.Key, "security.encryption") {
			file = c.Security.Encryption.KeyFile
		}
		if !x.open[file] {
			x.find("key-file", p.Error(), "file", file)
		}
	}
}

// certificates looks at all that the configuration names and at those of the data directory.
func (x *examination) certificates() {
	c := x.o.Loaded.Config
	files := map[string]bool{}
	if c.Broker.TLS.Enabled {
		files[c.Broker.TLS.CertFile], files[c.Broker.TLS.CAFile] = true, true
	}
	if c.Client.TLS.Enabled {
		files[c.Client.TLS.CertFile], files[c.Client.TLS.CACerts] = true, true
	}
	if x.o.DataDir != "" {
		more, _ := filepath.Glob(filepath.Join(x.o.DataDir, "tls", "*.pem")) // the pattern is right
		for _, f := range more {
			files[f] = filepath.Base(f) != "crl.pem" // that is the list of those that were revoked
		}
	}
	delete(files, "")
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !files[file] {
			continue
		}
		expires, err := expiry(file)
		left := expires.Sub(x.o.Now())
		switch {
		case err != nil:
			x.find("certificate-unreadable", err.Error())
		case left <= 0:
			x.find("certificate-expired", fmt.Sprintf("%s has expired on %s", file, expires.Format(time.DateOnly)))
		case left < certificateTime:
			x.find("certificate-expiring", fmt.Sprintf("%s expires on %s", file, expires.Format(time.DateOnly)))
		}
	}
}

// expiry returns when the first certificate of a PEM file to expire does so.
func expiry(file string) (first time.Time, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return first, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return first, fmt.Errorf("%s: %w", file, err)
		}
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	if first.IsZero() {
		return first, fmt.Errorf("there is no certificate in %s", file)
	}
	return first, nil
}

// permissions looks at files that are secrets, at the file with the configuration, and at the data directory.
func (x *examination) permissions() {
	c := x.o.Loaded.Config
	secrets := []string{c.Security.Signing.KeyFile, c.Security.Encryption.KeyFile, c.Broker.TLS.KeyFile, c.Client.TLS.KeyFile}
	if c.Integration.Fleet.Enabled {
		secrets = append(secrets, c.Integration.Fleet.Credentials, c.Integration.Fleet.KeysFile)
	}
	if x.o.DataDir != "" {
		keys, _ := filepath.Glob(filepath.Join(x.o.DataDir, "tls", "*.key")) // the pattern is right
		secrets = append(append(secrets, keys...), identity.Path(x.o.DataDir))
	}
	slices.Sort(secrets)
	for _, file := range slices.Compact(secrets) {
		if file == "" {
			continue
		}
		info, err := os.Stat(file)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			x.find("secret-unknown", err.Error())
		case err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0:
			x.open[file] = true
			x.find("secret-open", fmt.Sprintf("others may read or change %s (mode %04o)", file, info.Mode().Perm()), "file", file)
		}
	}
	if key := x.secretInFile(); key != "" {
		if info, err := os.Stat(x.o.Loaded.File); err == nil && info.Mode().Perm()&0o027 != 0 {
			x.find("config-open", fmt.Sprintf("%s has %s in it, and others may read or change it (mode %04o)", x.o.Loaded.File, key, info.Mode().Perm()),
				"file", x.o.Loaded.File)
		}
	}
	if info, err := os.Stat(x.o.DataDir); x.o.DataDir != "" && err == nil && info.Mode().Perm()&0o022 != 0 {
		x.find("directory-open", fmt.Sprintf("others may change %s (mode %04o)", x.o.DataDir, info.Mode().Perm()), "dir", x.o.DataDir)
	}
}

// secretInFile returns a key whose value is a secret that stands in the file of the configuration; "" when there is none.
func (x *examination) secretInFile() string {
	for k := range config.Keys() {
		if k.Secret && x.o.Loaded.Origin(k.Path).File != "" {
			return k.Path
		}
	}
	return ""
}

// users looks whether the users file can be used.
func (x *examination) users() {
	if x.o.DataDir == "" || x.open[identity.Path(x.o.DataDir)] {
		return
	}
	if _, err := identity.Load(x.o.DataDir); err != nil && !errors.Is(err, fs.ErrPermission) { // that was said
		x.find("users-unusable", err.Error())
	}
}

// disk measures the disk of the data directory.
func (x *examination) disk() {
	dir := x.o.DataDir
	if dir == "" {
		return
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		x.find("disk-new", dir+" does not exist yet")
		return
	}
	if u, err := disk.Usage(dir); err == nil {
		free := u.Free >> 20
		x.report.Figures.FreeMB = free
		const stops = 50 // MB
		switch what := fmt.Sprintf("%d MB are free for %s", free, dir); {
		case free < stops:
			x.find("disk-full", what, "dir", dir)
		case free < x.o.MinFree:
			x.find("disk-low", what, "dir", dir)
		}
	}
	took, err := measureSync(dir)
	if err != nil {
		x.find("disk-unwritable", err.Error(), "dir", dir)
		return
	}
	x.report.Figures.SyncMS = milliseconds(took)
	if took > x.o.SlowSync {
		x.find("disk-slow", fmt.Sprintf("a write to %s takes %.2f ms until it is durable", dir, milliseconds(took)))
	}
}

// measureSync returns the median time of a small durable write.
func measureSync(dir string) (median time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}()
	var all []time.Duration
	for range 9 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// ports looks whether somebody else has the ports of a broker that does not answer.
func (x *examination) ports() {
	c := x.o.Loaded.Config
	type port struct {
		key string
		n   int
	}
	wanted := []port{{"broker.port", c.Broker.Port}}
	if c.Broker.WebSockets.Enabled {
		wanted = append(wanted, port{"broker.websockets.port", c.Broker.WebSockets.Port})
	}
	if c.Integration.WebSocketBridge.Enabled {
		wanted = append(wanted, port{"integration.websocket_bridge.port", c.Integration.WebSocketBridge.Port})
	}
	for _, p := range wanted {
		if p.n == 0 {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.n)))
		if err == nil {
			_ = l.Close()
		} else if errors.Is(err, syscall.EADDRINUSE) {
			taken := &app.PortError{Port: p.n, Holder: app.PortHolder(p.n), Key: p.key}
			x.find("port-taken", taken.Error(), "key", p.key)
		}
	}
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
