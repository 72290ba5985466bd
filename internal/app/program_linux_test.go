package app

import (
	"context"
	"net"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strings"
	"testing"
)

// TestForgetProgram has a process forget its program and then end, and call what comes from libraries of C if it can. With -race the test is a
// dynamic program: it was seen ending in a call to address 0, as pages were forgotten that the linker had written addresses into.
func TestForgetProgram(t *testing.T) {
	const child = "LAWNBERRY_TEST_FORGETS"
	if os.Getenv(child) != "" {
		for range 3 {
			forgetProgram()
		}
		if _, err := user.Current(); err != nil {
			t.Error(err)
		}
		if _, err := (&net.Resolver{}).LookupHost(context.Background(), "localhost"); err != nil {
			t.Log(err) // a machine need not know it
		}
		return
	}
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestForgetProgram$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=netdns=cgo")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS: TestForgetProgram") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

func TestUnwritten(t *testing.T) {
	const smaps = `00400000-01000000 r--p 00000000 08:01 42 /usr/bin/lawnberry
Size:              12288 kB
Rss:                4000 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
01000000-02000000 r-xp 00c00000 08:01 42 /usr/bin/lawnberry
Anonymous:             0 kB
02000000-02100000 r--p 01c00000 08:01 42 /usr/bin/lawnberry
Anonymous:             8 kB
02100000-02200000 rw-p 01d00000 08:01 42 /usr/bin/lawnberry
Anonymous:             0 kB
02200000-02300000 r--p 00000000 08:01 43 /usr/lib/libc.so.6
Anonymous:             0 kB
02300000-02400000 r--p 00000000 08:01 42 /usr/bin/lawnberry (deleted)
Anonymous:             0 kB
02400000-02500000 r--p 00000000 00:00 0
Anonymous:             0 kB
x r--p 00000000 08:01 42 /usr/bin/lawnberry
Anonymous:             0 kB

nonsense
`
	got := unwritten(strings.NewReader(smaps), "/usr/bin/lawnberry")
	if want := []mapping{{0x400000, 0x1000000}, {0x1000000, 0x2000000}}; !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if all := unwritten(now, self); len(all) < 2 {
		t.Errorf("of this process only %x are left to forget, want its code and its constants at least", all)
	}
}
