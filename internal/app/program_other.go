//go:build !linux

package app

// forgetProgram does nothing where the system does not say what is mapped.
func forgetProgram() {}
