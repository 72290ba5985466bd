package app

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/owner"
)

// openTo lets a group of the system through the data directory, and nobody else but its owner: to connect to the socket is to be one of them. What it
// returns gives the socket to the group, once it is there. The empty name lets nobody through.
func (a *App) openTo(group string) (socket func() error, err error) {
	if group == "" {
		return func() error { return nil }, nil
	}
	fail := func(err error) error {
		return fmt.Errorf("broker.socket_group: %w; the user that runs the broker has to be in that group, and to own %s", err, a.dataDir)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil, fmt.Errorf("broker.socket_group: there is no group %q on this machine: add it with \"groupadd %s\", or leave the key out", group, group)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return nil, fmt.Errorf("broker.socket_group: the system calls the group %q %q, which is no number", group, g.Gid)
	}
	info, err := os.Stat(a.dataDir)
	if err != nil {
		return nil, fail(err)
	}
	if owner.Group(a.dataDir) != gid {
		if err := os.Chown(a.dataDir, -1, gid); err != nil {
			return nil, fail(err)
		}
	}
	if mode := info.Mode().Perm(); mode&0o010 == 0 || mode&0o007 != 0 {
		if err := os.Chmod(a.dataDir, (mode|0o010)&^0o007); err != nil {
			return nil, fail(err)
		}
	}
	return func() error {
		path := config.SocketPath(a.dataDir)
		if path == "" || owner.Group(path) == gid {
			return nil
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return fail(err)
		}
		return nil
	}, nil
}

// checkOwner refuses a data directory of another user's to root: what root writes there that user could not read, as when the service is started
// again.
func checkOwner(dir string) error {
	uid := owner.Of(dir)
	if os.Geteuid() != 0 || uid <= 0 {
		return nil
	}
	name := "user id " + strconv.Itoa(uid)
	as := "#" + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name, as = u.Username, u.Username
	}
	return fmt.Errorf("data directory %s belongs to %s, who could not read what root writes there: start it as that user (sudo -u '%s' lawnberry serve; "+
		"the installed service: systemctl start lawnberry), or choose another with --data-dir", dir, name, as)
}
