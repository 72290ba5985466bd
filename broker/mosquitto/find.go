package mosquitto

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// find returns the program and its version.
func find(ctx context.Context, binary string) (path, version string, err error) {
	if path, err = look(binary); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-h") // which says the version, and ends with a status of its own in 2.0
	cmd.WaitDelay = time.Second
	help, err := cmd.CombinedOutput()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		return "", "", &BinaryError{Path: path, Err: err}
	}
	if ctx.Err() != nil {
		return "", "", &BinaryError{Path: path, Err: ctx.Err()}
	}
	m := versionLine.FindSubmatch(help[:min(len(help), 4096)])
	if m == nil {
		return "", "", &BinaryError{Path: path}
	}
	if major, err := strconv.Atoi(string(m[2])); err != nil || major < 2 {
		return "", "", &BinaryError{Path: path, Version: string(m[1])}
	}
	return path, string(m[1]), nil
}

var versionLine = regexp.MustCompile(`(?m)^mosquitto version ((\d{1,4})\.[0-9A-Za-z.+~-]{1,40})`)

func look(binary string) (string, error) {
	if binary != "" {
		path, err := exec.LookPath(binary)
		if err != nil {
			return "", &BinaryError{Path: binary, Err: err}
		}
		return path, nil
	}
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", &BinaryError{}
}
