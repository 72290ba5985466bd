package natstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// module is where the version of the server is pinned, below the root of the repository. It is a module of its own, so that the command
// of lawnberry has no server among its requirements.
const module = "tools/nats-server"

// BinaryEnv names a server to use instead of one that is built.
const BinaryEnv = "LAWNBERRY_TEST_NATS_SERVER"

var pinned = regexp.MustCompile(`(?m)^\s*github\.com/nats-io/nats-server/v2 (v\S+)`)

// Binary returns the path of nats-server, of the version that tools/nats-server pins. The first test on a machine that needs it builds it into
// the user's cache; others wait for that, also those in other processes.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := Build()
	if err != nil {
		t.Fatalf("nats-server: %v", err)
	}
	return path
}

// Build is [Binary] for who has no test at hand.
func Build() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	dir, err := moduleDirectory()
	if err != nil {
		return "", err
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	version := pinned.FindSubmatch(mod)
	if version == nil {
		return "", fmt.Errorf("%s names no version of it", filepath.Join(dir, "go.mod"))
	}
	cache, err := cacheDirectory()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "nats-server-"+string(version[1]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lock(path+".lock", true)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // somebody else was first
		return path, nil
	}
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(fresh)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", fresh, "github.com/nats-io/nats-server/v2")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in %s: %w\n%s", dir, err, out)
	}
	return path, os.Rename(fresh, path)
}

// moduleDirectory looks for the module from the working directory upwards: a test runs in the directory of its package.
func moduleDirectory() (string, error) {
	from, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := from; ; dir = filepath.Dir(dir) {
		candidate := filepath.Join(dir, module)
		if _, err := os.Stat(filepath.Join(candidate, "go.mod")); err == nil {
			return candidate, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("there is no %s above %s: %s can name a server", module, from, BinaryEnv)
		}
	}
}

func cacheDirectory() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil { // without a home
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Getuid()))
	}
	cache = filepath.Join(cache, "lawnberry-test")
	return cache, os.MkdirAll(cache, 0o700)
}

// lock takes the lock of a file, which ends with the process at the latest. Without wait it fails when another has it.
func lock(path string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// version returns what nats-server says about itself, such as v2.15.2.
func version(binary string) (string, error) {
	out, err := exec.Command(binary, "--version").Output()
	return strings.TrimSpace(strings.TrimPrefix(string(out), "nats-server: ")), err
}
