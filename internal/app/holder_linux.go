package app

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portHolder describes the process that listens on a TCP port, such as "process 812 (mosquitto)". It is "" when no
// process can be named, for instance because it belongs to another user.
func portHolder(port int) string {
	if pid := portOwner(port); pid > 0 {
		return describeProcess(pid)
	}
	return ""
}

// portOwner returns the process that listens on a TCP port, 0 when none can be seen.
func portOwner(port int) int {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		inode := listeningInode(f, port)
		f.Close()
		if inode == "" {
			continue
		}
		if pid := socketOwner(inode); pid > 0 {
			return pid
		}
	}
	return 0
}

// unixOwner returns the process that listens on a Unix socket, 0 when none can be seen.
func unixOwner(path string) int {
	table, err := os.Open("/proc/net/unix")
	if err != nil {
		return 0
	}
	defer table.Close()
	const accepts = 1 << 16
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// num refcount protocol flags type st inode path
		f := strings.SplitN(strings.Join(strings.Fields(lines.Text()), " "), " ", 8)
		if len(f) < 8 || f[7] != path {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err == nil && flags&accepts != 0 {
			return socketOwner(f[6])
		}
	}
	return 0
}

// listeningInode finds the socket that listens on a port in a table of the form of /proc/net/tcp; "" is none.
func listeningInode(table io.Reader, port int) string {
	const listening = "0A"
	want := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
		f := strings.Fields(lines.Text())
		if len(f) >= 10 && f[3] == listening && strings.HasSuffix(f[1], want) {
			return f[9]
		}
	}
	return ""
}

// socketOwner returns the process that has a socket open, 0 when none can be seen.
func socketOwner(inode string) int {
	want := "socket:[" + inode + "]"
	processes, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range processes {
		descriptors, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or gone meanwhile
		}
		for _, d := range descriptors {
			if target, err := os.Readlink(filepath.Join(dir, d.Name())); err == nil && target == want {
				pid, _ := strconv.Atoi(strings.Split(dir, "/")[2])
				return pid
			}
		}
	}
	return 0
}

// describeProcess returns "process 812 (mosquitto)", or "process 812" when its name is not known.
func describeProcess(pid int) string {
	if pid == 0 {
		return "another process"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
