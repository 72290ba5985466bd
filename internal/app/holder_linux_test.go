package app

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestPortHolder(t *testing.T) {
	port := occupy(t)
	if got, want := portHolder(port), "process "+strconv.Itoa(os.Getpid())+" ("; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q...", got, want)
	}
}

func TestPortOwner(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for name, got := range map[string]int{"port": PortOwner(occupy(t), ""), "Unix socket": PortOwner(0, socket)} {
		if got != os.Getpid() {
			t.Errorf("%s: process %d, want %d", name, got, os.Getpid())
		}
	}
	if got := PortOwner(0, socket+"2"); got != 0 {
		t.Errorf("a socket that nobody has: process %d", got)
	}
}

func TestListeningInode(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:075B 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0
   1: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0
   3: broken
`
	for port, want := range map[int]string{1883: "222", 80: "333", 0x75: "", 81: ""} {
		if got := listeningInode(strings.NewReader(table), port); got != want {
			t.Errorf("port %d: got %q, want %q", port, got, want)
		}
	}
}
