package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// The directory and the file of a machine's own bus, as the package installs it.
const (
	systemDir  = "/var/lib/lawnberry"
	systemFile = "/etc/lawnberry/lawnberry.yaml"
)

// DataDir returns the directory for what must outlive the program, as an absolute path: $LAWNBERRY_DATA_DIR, else
// /var/lib/lawnberry for root and for who may enter that (the members of the group it belongs to), else lawnberry in $XDG_STATE_HOME or
// ~/.local/state. environ is os.Environ(). The directory need not exist.
func DataDir(environ []string) (string, error) {
	return dataDir(environ, ofSystem())
}

// DefaultFile returns the configuration file of who names none: /etc/lawnberry/lawnberry.yaml where the data directory is the machine's own and
// that file exists, else "".
func DefaultFile(environ []string) string {
	if getenv(environ, "LAWNBERRY_DATA_DIR") != "" || !ofSystem() {
		return ""
	}
	if _, err := os.Stat(systemFile); err != nil {
		return ""
	}
	return systemFile
}

// ofSystem reports whether this user's bus is the machine's own.
func ofSystem() bool {
	if os.Geteuid() == 0 {
		return true
	}
	_, err := os.Stat(systemDir + "/.") // which needs the right to pass through it
	return err == nil
}

func dataDir(environ []string, system bool) (string, error) {
	if dir := getenv(environ, "LAWNBERRY_DATA_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if system {
		return systemDir, nil
	}
	// A relative path in an XDG variable is to be ignored, says the XDG base directory specification.
	if dir := getenv(environ, "XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lawnberry"), nil
	}
	if home := getenv(environ, "HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "lawnberry"), nil
	}
	return "", errors.New("no directory for data: HOME is not set; set LAWNBERRY_DATA_DIR, or give --data-dir")
}

// longestSocketPath is what every system we run on takes for the path of a Unix socket (108 bytes with its end on Linux).
const longestSocketPath = 103

// SocketPath returns the path of the broker's Unix socket in a data directory. It is "" when dataDir is, and when the
// path would be longer than a Unix socket's may be.
func SocketPath(dataDir string) string {
	path := filepath.Join(dataDir, "lawnberry.sock")
	if dataDir == "" || len(path) > longestSocketPath {
		return ""
	}
	return path
}

// getenv returns the value of name in environ, the last one given, and "" without one.
func getenv(environ []string, name string) string {
	value := ""
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			value = v
		}
	}
	return value
}
