package enrol

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lawnberry/lawnberry/internal/fleet"
)

// Everything is for its owner's eyes, and nothing is overwritten.
func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "fleet")
	f, err := Init(dir, Config{Name: "golf", Nodes: Nodes("a.example", "a.example", "b.example")})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Config().URL(), "tls://a.example:4222,tls://a.example:4223,tls://b.example:4222"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	public := map[string]bool{"ca.pem": true, "n1.pem": true, "n2.pem": true, "n3.pem": true}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if m := info.Mode().Perm(); m&0o077 != 0 && !(filepath.Base(filepath.Dir(path)) == "tls" || strings.Contains(path, "issued")) && !public[d.Name()] {
			t.Errorf("%s has mode %04o", path, m)
		}
		if strings.HasSuffix(path, ".key") && strings.Contains(path, "/n1/") && d.Name() != "server.key" || strings.HasSuffix(path, ".nk") && filepath.Base(filepath.Dir(path)) != "keys" {
			t.Errorf("a key is where none belongs: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := Init(dir, Config{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoFleet) {
		t.Error(err)
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Nodes: Nodes("a", "b")}, "2 nodes make no sense"},
		{Config{Nodes: Nodes("a b")}, `host "a b" of node n1`},
		{Config{Nodes: []Node{{Name: "n1", Host: "a", Client: 1, Cluster: 1, Monitor: 2}}}, "a:1 is port 1 of node n1 and of node n1"},
		{Config{Nodes: []Node{{Name: "n1", Host: "a", Client: 1, Cluster: 70000, Monitor: 2}}}, "port 70000 for the cluster does not exist"},
		{Config{Name: "a/b"}, "the name of the cluster"},
	} {
		if _, err := Init(filepath.Join(t.TempDir(), "x"), tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	f, s := start(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "a.creds")
	first, err := f.Enrol(ctx, "a", file, false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := f.Enrol(ctx, "b", file, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("credentials are overwritten: %v", err)
	}
	other := file + "2"
	if _, err := f.Enrol(ctx, "a", other, false); !errors.Is(err, ErrEnrolled) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a second time there are credentials: %v", err)
	}
	if _, err := f.Enrol(ctx, "a.b", other, false); err == nil || !strings.Contains(err.Error(), "is no id of a mower") {
		t.Error(err)
	}
	if _, err := f.Revoke(ctx, "c", ""); !errors.Is(err, ErrNotEnrolled) {
		t.Error(err)
	}

	// Again: those who have the old ones are out.
	e := f.Engine()
	e.Credentials = file
	old := connectMower(t, e, "a")
	second, err := f.Enrol(ctx, "a", other, true)
	if err != nil {
		t.Fatal(err)
	}
	if second.Account == first.Account || len(second.Replaced) != 1 || second.Replaced[0] != first.Account {
		t.Errorf("%+v, then %+v", first, second)
	}
	until(t, "the old credentials are out", func() bool { return !old.IsConnected() })
	if c, err := e.DialNATS("old", nats.RetryOnFailedConnect(false)); err == nil {
		t.Error("the old credentials are let in")
		c.Close()
	}
	e.Credentials = other
	m := connectMower(t, e, "a")
	if _, err := m.js.Publish(ctx, fleet.HistorySubject("a", "power/battery"), nil); err != nil {
		t.Error(err)
	}

	// Nobody is locked out for a file that cannot be written.
	if _, err := f.Enrol(ctx, "a", filepath.Join(file, "below-a-file"), true); err == nil {
		t.Error("credentials were written beneath a file")
	}
	if _, err := m.js.Publish(ctx, fleet.HistorySubject("a", "power/battery"), nil); err != nil || !m.IsConnected() {
		t.Errorf("the mower is locked out, and nobody has other credentials: %v", err)
	}
	if all, err := f.List(ctx); err != nil || len(all) != 1 || all[0].Account != second.Account {
		t.Errorf("%+v, %v", all, err)
	}

	if _, err := f.Revoke(ctx, "a", "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Revoke(ctx, "a", "again"); err != nil {
		t.Errorf("twice: %v", err)
	}
	if _, err := f.Enrol(ctx, "a", file+"3", false); !errors.Is(err, ErrEnrolled) || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("after a revocation: %v", err)
	}
	if _, err := f.Enrol(ctx, "0", file+"0", false); err != nil {
		t.Error(err)
	}
	all, err := f.List(ctx)
	if err != nil || len(all) != 2 || all[0].Mower != "0" || all[0].Revoked != nil || all[1].Revoked == nil || all[1].Why != "stolen" ||
		all[1].By == "" || all[1].RevokedBy != all[1].By {
		t.Errorf("%+v, %v", all, err)
	}

	// What the servers know outlives them.
	s.Kill(0)
	s.Restart(0)
	s.WaitReady()
	if c, err := e.DialNATS("old", nats.RetryOnFailedConnect(false)); err == nil {
		t.Error("after a restart the revoked are let in")
		c.Close()
	}
	// Nothing of a mower costs the engine a consumer.
	operator := connect(t, f.Engine())
	for _, stream := range []string{fleet.BucketState, fleet.BucketPresence, fleet.BucketJobs, fleet.BucketMowers} {
		st, err := operator.js.Stream(ctx, "KV_"+stream)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.CachedInfo().State.Consumers; n != 0 {
			t.Errorf("%s has %d consumers", stream, n)
		}
	}
}

// A revoked mower's connections to every node are closed, and it does not get in again; neither at a node that was dead when that was decided.
// The times are logged.
func TestRevocation(t *testing.T) {
	t.Parallel()
	f, s := start(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	urls := strings.Split(f.Engine().URL, ",")
	e, stays := enrol(t, f, "a"), enrol(t, f, "b")
	var peers, others []*peer
	for _, url := range urls {
		e.URL, stays.URL = url, url
		peers = append(peers, connectMower(t, e, "a"))
		others = append(others, connectMower(t, stays, "b"))
	}
	began := time.Now()
	if _, err := f.Revoke(ctx, "a", "stolen"); err != nil {
		t.Fatal(err)
	}
	told := time.Since(began)
	for i, p := range peers {
		until(t, "the connection is closed", func() bool { return !p.IsConnected() })
		t.Logf("node %d: out %v after the beginning; every server had it after %v", i, time.Since(began), told)
		e.URL = urls[i]
		if c, err := e.DialNATS("again", nats.RetryOnFailedConnect(false)); err == nil {
			t.Errorf("node %d lets it in again", i)
			c.Close()
		}
	}
	for i, p := range others {
		if n := p.Statistics.Reconnects; !p.IsConnected() || n != 0 {
			t.Errorf("node %d has cut off another mower", i)
		}
	}

	// One node is dead meanwhile.
	s.Kill(2)
	revoked, err := f.Revoke(ctx, "b", "stolen")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(revoked.Unconfirmed, []string{"n3"}) {
		t.Errorf("%v are said not to have confirmed it", revoked.Unconfirmed)
	}
	s.Restart(2)
	back := time.Now()
	s.WaitReady()
	stays.URL = urls[2]
	until(t, "the node that was dead refuses it", func() bool {
		c, err := stays.DialNATS("late", nats.RetryOnFailedConnect(false))
		if err == nil {
			c.Close()
		}
		return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrMaxAccountConnectionsExceeded)
	})
	t.Logf("the node that was dead refuses it %v after its start, ready included", time.Since(back))
}
