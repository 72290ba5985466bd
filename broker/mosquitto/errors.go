package mosquitto

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// A BinaryError is a program that cannot be used.
type BinaryError struct {
	Path    string // "" when none was found
	Version string // "" when it does not say one
	Err     error  // why it could not be asked; nil when it was
}

func (e *BinaryError) Error() string {
	const instead = "name another in broker.mosquitto.binary, or set broker.engine to embedded"
	switch {
	case e.Path == "":
		return "Mosquitto is missing: install it (Debian: sudo apt-get install mosquitto), name it in broker.mosquitto.binary, or set broker.engine to embedded"
	case e.Err != nil:
		return fmt.Sprintf("Mosquitto %s cannot be run: %v; %s", e.Path, e.Err, instead)
	case e.Version == "":
		return fmt.Sprintf("%s does not say that it is Mosquitto: %s", e.Path, instead)
	}
	return fmt.Sprintf("%s is Mosquitto %s, and version 2 is needed: install a newer one, %s", e.Path, e.Version, instead)
}

func (e *BinaryError) Unwrap() error { return e.Err }

// A StartError is a Mosquitto that ended, or did not answer, instead of starting.
type StartError struct {
	Binary, File string   // the program, and the configuration that was written for it
	Said         []string // the last lines of its log, the errors if there were any
	Err          error    // how it ended
}

func (e *StartError) Error() string {
	said := strings.Join(e.Said, "; ")
	if said == "" {
		said = "it says nothing"
	}
	return fmt.Sprintf("Mosquitto (%s) does not start: %s (%v); %s", e.Binary, said, e.Err, e.fix(said))
}

// fix is what to do about what Mosquitto says.
func (e *StartError) fix(said string) string {
	for _, known := range []struct{ part, fix string }{
		{"ertificate", "look at the files of broker.tls"},
		{"key file", "look at the files of broker.tls"},
		{"CRL", "look at broker.tls.crl_file"},
		{"ebsockets support", "this Mosquitto was built without WebSocket: install Debian's, or set broker.websockets.enabled to false"},
		{"in-memory database", "what it kept cannot be read: move it away, or set broker.persistence to false"},
		{"Permission denied", "look at who owns the data directory"},
	} {
		if strings.Contains(said, known.part) {
			return known.fix
		}
	}
	return "its configuration is " + e.File + ", written from ours; broker.engine: embedded does without it"
}

func (e *StartError) Unwrap() error { return e.Err }

// A StaleError is a Mosquitto of an earlier run that is still there and cannot be taken over.
type StaleError struct {
	PID  int
	Hung bool // it does not answer; else it has another configuration
}

func (e *StaleError) Error() string {
	if e.Hung {
		return fmt.Sprintf("process %d is the Mosquitto of an earlier run, and does not answer: end it with \"kill -9 %d\"", e.PID, e.PID)
	}
	return fmt.Sprintf("process %d is the Mosquitto of an earlier run, started with another configuration: end it with \"kill %d\"", e.PID, e.PID)
}

// isMissingAddress reports whether an address cannot be listened on because this host does not have it.
func isMissingAddress(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
