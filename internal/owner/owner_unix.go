//go:build unix

package owner

import (
	"fmt"
	"os"
	"syscall"
)

// Of returns the user id that a file or directory belongs to, -1 when that is not to be had.
func Of(path string) int {
	if s := stat(path); s != nil {
		return int(s.Uid)
	}
	return -1
}

// Group returns the id of the group that a file or directory belongs to, -1 when that is not to be had.
func Group(path string) int {
	if s := stat(path); s != nil {
		return int(s.Gid)
	}
	return -1
}

func stat(path string) *syscall.Stat_t {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	s, _ := info.Sys().(*syscall.Stat_t)
	return s
}

// give gives what root has made to the owner of the directory that it is in. What has another name elsewhere is no new file, and is refused.
func give(f *os.File, dir os.FileInfo) error {
	to, _ := dir.Sys().(*syscall.Stat_t)
	if os.Geteuid() != 0 || to == nil || to.Uid == 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if s, _ := info.Sys().(*syscall.Stat_t); s != nil && !info.IsDir() && s.Nlink > 1 {
		return fmt.Errorf("%s has another name elsewhere, and is not given away: look who made it (find / -xdev -inum %d)", f.Name(), s.Ino)
	}
	return f.Chown(int(to.Uid), int(to.Gid))
}
