package chaos

import "syscall"

// orphanless makes a process end with the test, however that ends.
func orphanless() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
