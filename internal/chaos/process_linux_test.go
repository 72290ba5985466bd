package chaos

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// sinceBoot is the time on the monotonic clock, which all processes share.
func sinceBoot() time.Duration {
	const monotonic = 1
	var now syscall.Timespec
	if _, _, err := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0); err != 0 {
		panic(err)
	}
	return time.Duration(now.Nano())
}

// process makes a process end with the test, however that ends. It runs as that user, unless user is 0.
func process(user uint32) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if user > 0 {
		a.Credential = &syscall.Credential{Uid: user, Gid: user}
	}
	return a
}

// smallDiskEnv is set for the process that holds a small disk: the directory to mount it on.
const smallDiskEnv = "LAWNBERRY_CHAOS_SMALL_DISK"

// smallDiskSize is in bytes.
const smallDiskSize = 48 << 20

// smallDiskProcess gives a process a mount namespace of its own.
func smallDiskProcess() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// holdSmallDisk mounts a small disk on dir, says so, and keeps it until its input ends. It is the process's whole life.
func holdSmallDisk(dir string) {
	err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	if err == nil {
		err = syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0777", smallDiskSize))
	}
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
